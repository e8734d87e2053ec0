//! The guardian's decisions, with shards that are only links: who adopts which queue, and who is handed what.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use parking_lot::{Mutex, MutexGuard};
use shardloop_native::guardian;
use shardloop_native::inbox::{Delivery, Unserved};
use shardloop_native::link::ShardLink;
use shardloop_native::net::addresses::Peer;
use shardloop_native::net::listen::{self, ListenOptions};
use shardloop_native::net::stream;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// There is one guardian in a process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());
static NUMBERS: AtomicU32 = AtomicU32::new(1);

fn number() -> u32 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// Runs a test beside the guardian.
fn guarded(test: impl FnOnce()) {
    let _alone = ALONE.lock();
    guardian::start(|_| {}).unwrap();
    test();
    guardian::stop();
}

fn listener() -> (u32, SocketAddr) {
    let listener = listen::bind(&ListenOptions {
        host: IpAddr::from([127, 0, 0, 1]),
        port: 0,
        backlog: 16,
        reuse_port: false,
        ipv6_only: false,
        no_delay: true,
        exclusive: false,
    });
    let listener = listener.unwrap();
    let address = listener.address().ip().unwrap();
    (listen::register(listener), address)
}

fn shard() -> Arc<ShardLink> {
    let link = Arc::new(ShardLink::new(number(), Arc::default()));
    guardian::join(link.clone());
    link
}

fn unserved(server: u32) -> (Unserved, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (fd, peer) = stream::accept(listener.as_fd()).unwrap();
    (Unserved { server, fd, peer, tls: None }, client)
}

/// The next delivery, which the guardian's thread may still be about to make.
fn next(link: &ShardLink) -> Delivery {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(delivery) = link.inbox.pop() {
            return delivery;
        }
        assert!(Instant::now() < deadline, "nothing was delivered");
        std::thread::yield_now();
    }
}

fn adopted(delivery: Delivery) -> u32 {
    let Delivery::Adopt { listener, .. } = delivery else { panic!("{delivery:?} is no adoption") };
    listener.token()
}

fn released(delivery: Delivery) -> u32 {
    let Delivery::Release(listener) = delivery else { panic!("{delivery:?} is no release") };
    listener.token()
}

#[test]
fn a_listener_without_a_shard_is_adopted_until_its_shard_is_back() {
    guarded(|| {
        let (server, first, second) = (number(), listener().0, listener().0);
        guardian::guard(server, &[first, second]);
        let alpha = shard();
        guardian::serve(&alpha, server, &[first]);
        assert_eq!(adopted(next(&alpha)), second);
        let beta = shard();
        guardian::serve(&beta, server, &[second]);
        assert_eq!(released(next(&alpha)), second);
        guardian::leave(&alpha, Vec::new());
        assert_eq!(adopted(next(&beta)), first);
        // Its own too: nobody is left, and whoever comes serves all.
        guardian::leave(&beta, Vec::new());
        let gamma = shard();
        guardian::serve(&gamma, server, &[first]);
        assert_eq!(adopted(next(&gamma)), second);
        guardian::leave(&gamma, Vec::new());
        guardian::unguard(server);
        [first, second].into_iter().for_each(listen::unregister);
        assert!(listen::find(first).is_none() && listen::find(second).is_none());
    });
}

#[test]
fn orphans_are_spread_over_the_shards_that_live() {
    let _alone = ALONE.lock();
    let server = number();
    let tokens: Vec<u32> = (0..6).map(|_| listener().0).collect();
    let shards = [shard(), shard()];
    guardian::guard(server, &tokens);
    guardian::serve(&shards[0], server, &tokens[..1]);
    guardian::serve(&shards[1], server, &tokens[1..2]);
    guardian::start(|_| {}).unwrap();
    let mut adoptions: Vec<u32> =
        shards.iter().flat_map(|shard| [adopted(next(shard)), adopted(next(shard))]).collect();
    adoptions.sort_unstable();
    assert_eq!(adoptions, tokens[2..]);
    for shard in &shards {
        guardian::leave(shard, Vec::new());
    }
    guardian::stop();
    tokens.into_iter().for_each(listen::unregister);
}

#[test]
fn what_a_dying_shard_leaves_goes_to_another_or_waits_for_one() {
    guarded(|| {
        let (server, token) = (number(), listener().0);
        guardian::guard(server, &[token]);
        let dying = shard();
        guardian::serve(&dying, server, &[token]);
        let (left, _client) = unserved(server);
        let (waiting, _other_client) = unserved(server);
        let peers = [left.peer, waiting.peer];
        dying.inbox.push(Delivery::Connection(waiting)).unwrap();
        guardian::leave(&dying, vec![left]);
        let heir = shard();
        guardian::serve(&heir, server, &[token]);
        let mut inherited = Vec::new();
        while inherited.len() < 2 {
            let Delivery::Connection(connection) = next(&heir) else { panic!("a listener was its own") };
            inherited.push(connection.peer);
        }
        assert!(peers.iter().all(|peer| inherited.contains(peer)));
        assert!(dying.inbox.push(next_release()).is_err(), "a shard that is gone takes nothing");
        guardian::leave(&heir, Vec::new());
        guardian::unguard(server);
        listen::unregister(token);
    });
}

/// How often the guardian's thread went to sleep. A thread that has just begun has no name yet.
#[cfg(target_os = "linux")]
fn guardian_wakes() -> u64 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < deadline, "there is no thread of that name");
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let statuses =
            tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
        if let Some(status) = statuses.into_iter().find(|status| status.starts_with("Name:\tguardian\n")) {
            let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return wakes.unwrap().trim().parse().unwrap();
        }
    }
}

/// The same, counted for some time.
#[cfg(target_os = "linux")]
fn guardian_wakes_in(time: Duration) -> u64 {
    let (began, before) = (Instant::now(), guardian_wakes());
    while began.elapsed() < time {
        std::thread::yield_now();
    }
    guardian_wakes() - before
}

#[cfg(target_os = "linux")]
#[test]
fn it_looks_often_after_a_death_until_the_replacement_serves_and_not_for_long() {
    const WINDOW: Duration = Duration::from_millis(100);
    const OFTEN: u64 = 40;
    guarded(|| {
        let (server, token) = (number(), listener().0);
        guardian::guard(server, &[token]);
        let alpha = shard();
        guardian::serve(&alpha, server, &[token]);
        let beta = || {
            let link = Arc::new(ShardLink::new(u32::MAX, Arc::default()));
            guardian::join(link.clone());
            guardian::serve(&link, server, &[]);
            link
        };
        let calms_down = || {
            let deadline = Instant::now() + Duration::from_secs(10);
            while guardian_wakes_in(WINDOW) >= OFTEN {
                assert!(Instant::now() < deadline, "it looks often for ever");
            }
        };
        calms_down();
        // Nobody comes in its place.
        guardian::leave(&beta(), Vec::new());
        assert!(guardian_wakes_in(WINDOW) >= OFTEN);
        calms_down();
        // Somebody does.
        guardian::leave(&beta(), Vec::new());
        let later = beta();
        assert!(guardian_wakes_in(WINDOW) < OFTEN);
        // It ends in good order.
        guardian::resign(&later, server);
        guardian::leave(&later, Vec::new());
        assert!(guardian_wakes_in(WINDOW) < OFTEN);
        // It was the only one.
        guardian::leave(&alpha, Vec::new());
        assert!(guardian_wakes_in(WINDOW) < OFTEN);
        guardian::unguard(server);
        listen::unregister(token);
    });
}

fn next_release() -> Delivery {
    let token = listener().0;
    let listener = listen::find(token).unwrap();
    listen::unregister(token);
    Delivery::Release(listener)
}

#[test]
fn connections_that_nobody_can_serve_any_more_are_reset() {
    for ends_by_stop in [false, true] {
        guarded(|| {
            let (server, token) = (number(), listener().0);
            guardian::guard(server, &[token]);
            let dying = shard();
            guardian::serve(&dying, server, &[token]);
            let (left, mut client) = unserved(server);
            guardian::leave(&dying, vec![left]);
            if ends_by_stop {
                guardian::stop();
            } else {
                guardian::unguard(server);
            }
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
            listen::unregister(token);
        });
    }
}

/// A server of two shards, of which the one is gone, with a client in its queue.
struct HalfDown {
    server: u32,
    alpha: Arc<ShardLink>,
    client: TcpStream,
    /// Of the listeners: the living shard's, and that of the other.
    tokens: [u32; 2],
    _alone: MutexGuard<'static, ()>,
}

/// Without the guardian's thread, which might be quicker than what is tested.
fn half_down() -> HalfDown {
    let _alone = ALONE.lock();
    let (server, first, (second, address)) = (number(), listener().0, listener());
    guardian::guard(server, &[first, second]);
    let beta = shard();
    guardian::serve(&beta, server, &[second]);
    let client = TcpStream::connect(address).unwrap();
    guardian::leave(&beta, Vec::new());
    // It comes when the other one is gone, or would have adopted what that one left.
    let alpha = shard();
    guardian::serve(&alpha, server, &[first]);
    HalfDown { server, alpha, client, tokens: [first, second], _alone }
}

#[test]
fn the_queue_of_a_shard_that_is_down_is_handed_over_when_its_server_stops() {
    let HalfDown { server, alpha, client, tokens, _alone } = half_down();
    guardian::unguard(server);
    let Some(Delivery::Connection(connection)) = alpha.inbox.pop() else { panic!("nothing was handed over") };
    assert_eq!(connection.peer, Peer::Ip(client.local_addr().unwrap()));
    assert!(alpha.inbox.pop().is_none());
    guardian::leave(&alpha, Vec::new());
    tokens.into_iter().for_each(listen::unregister);
}

#[test]
fn an_inbox_that_is_full_when_the_server_stops_gets_the_queue_itself() {
    let HalfDown { server, alpha, client: _client, tokens, _alone } = half_down();
    let listener = listen::find(tokens[0]).unwrap();
    while !alpha.inbox.is_full() {
        alpha.inbox.push(Delivery::Release(listener.clone())).unwrap();
    }
    guardian::unguard(server);
    let last = std::iter::from_fn(|| alpha.inbox.pop()).last();
    assert_eq!(last.map(adopted), Some(tokens[1]));
    guardian::leave(&alpha, Vec::new());
    tokens.into_iter().for_each(listen::unregister);
}

#[test]
fn what_a_shard_leaves_when_its_javascript_ends_is_taken_at_once_and_once() {
    let _alone = ALONE.lock(); // and no guardian's thread, which would do it later
    let (server, first, second) = (number(), listener().0, listener().0);
    guardian::guard(server, &[first, second]);
    let (alpha, beta) = (shard(), shard());
    guardian::serve(&alpha, server, &[first]);
    guardian::serve(&beta, server, &[second]);
    let (left, _client) = unserved(server);
    let peer = left.peer;
    assert_eq!(guardian::retire(&beta, vec![left]), 0);
    assert_eq!(alpha.inbox.pop().map(adopted), Some(second));
    let Some(Delivery::Connection(connection)) = alpha.inbox.pop() else { panic!("nothing was handed over") };
    assert_eq!(connection.peer, peer);
    assert!(beta.inbox.push(Delivery::Connection(connection)).is_err(), "it takes nothing any more");
    assert!(guardian::lives(beta.token, beta.life), "it may get stuck in its last moments");
    assert_eq!(guardian::leave(&beta, Vec::new()), 0);
    assert!(!guardian::lives(beta.token, beta.life));
    assert!(alpha.inbox.pop().is_none());
    guardian::leave(&alpha, Vec::new());
    guardian::unguard(server);
    [first, second].into_iter().for_each(listen::unregister);
}

#[test]
fn the_end_of_an_earlier_loop_of_a_thread_leaves_its_shard_where_it_is() {
    let _alone = ALONE.lock();
    let (server, token) = (number(), listener().0);
    guardian::guard(server, &[token]);
    let earlier = shard();
    let later = Arc::new(ShardLink::new(earlier.token, Arc::default()));
    guardian::join(later.clone());
    guardian::serve(&later, server, &[token]);
    assert_eq!(guardian::leave(&earlier, Vec::new()), 0);
    assert!(guardian::lives(later.token, later.life) && !guardian::lives(earlier.token, earlier.life));
    let (left, _client) = unserved(server);
    let dying = shard();
    assert_eq!(guardian::leave(&dying, vec![left]), 0);
    assert!(matches!(later.inbox.pop(), Some(Delivery::Connection(_))), "it serves the server still");
    guardian::leave(&later, Vec::new());
    guardian::unguard(server);
    listen::unregister(token);
}

#[test]
fn what_nobody_can_serve_when_a_shard_dies_is_counted() {
    let _alone = ALONE.lock();
    let (left, mut client) = unserved(number());
    let dying = shard();
    assert_eq!(guardian::leave(&dying, vec![left]), 1);
    assert_eq!(client.read(&mut [0]).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
}
