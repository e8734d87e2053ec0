//! Watches over connections that no shard would take: those in the queue of a shard that is stuck in JavaScript, and of
//! one that is down; and connections that a dying shard had accepted but never shown to JavaScript.
//!
//! - A listener whose shard is down is *adopted*: a live shard accepts from it beside its own, until a replacement
//!   listens and takes it back.
//! - The queue of a shard that has been running for [`STALL_MS`](crate::limits::STALL_MS) without a look at its poll is accepted here, and its
//!   connections are handed to live shards.
//! - Whoever wants to know learns that a shard is stuck, and that it turns again.
//!
//! It costs the shards a store per turn ([`crate::pulse`]). Its thread sleeps without a timeout while every shard waits in its
//! poll: then it watches the polls themselves (a poll's descriptor is readable when its loop has something to do) and the
//! listeners, and the kernel wakes it with the first of them. A loop that a timer wakes says so itself ([`wake_if_asleep`]).
//! While shards turn as they should it only looks, a few times a second, or every `STALL_MS` while connections come; and
//! every [`GUARDIAN_BRISK_MS`](crate::limits::GUARDIAN_BRISK_MS) for a while after a death.
//!
//! Here: who serves what, as shards and the supervisor tell it. In `watch`: the thread.
#![forbid(unsafe_code)]

mod watch;

use crate::inbox::{Delivery, Unserved};
use crate::limits::{GUARDIAN_ACCEPTS, GUARDIAN_BRISK_FOR_MS, UNSERVED_MAX};
use crate::link::ShardLink;
use crate::net::listen::{self, Listener};
use crate::net::stream::{self, AcceptFailure};
use mio::unix::SourceFd;
use mio::{Poll, Registry, Waker};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watch::{Guardian, WAKE};

/// What the guardian tells of a stuck shard, twice.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// The shard's.
    pub token: u32,
    /// Of its life.
    pub life: u32,
    /// For how long it has been stuck, or was.
    pub stuck_for: Duration,
    /// It turns again.
    pub over: bool,
}

/// A listener that one shard at a time accepts from.
#[derive(Debug)]
struct Post {
    token: u32,
    listener: Arc<Listener>,
    /// Who accepts from it.
    holder: Option<u32>,
    /// Whether the guardian's poll watches it. Not while its holder turns and takes connections: each would wake us.
    armed: bool,
    /// A connection has just come by it, and its holder turns: not watched again before. Under load each would wake us.
    rests_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Guarded {
    posts: Vec<Post>,
    /// Shards that serve it.
    members: Vec<u32>,
}

#[derive(Debug, Default)]
struct State {
    shards: HashMap<u32, Watched>,
    servers: HashMap<u32, Guarded>,
    unserved: VecDeque<Unserved>,
    /// Shards that die or have died, and until when that is a reason to look often: at most until a replacement serves one
    /// of their servers.
    missed: HashMap<u32, Instant>,
    stall_after: Option<Duration>,
    ends: bool,
}

#[derive(Debug)]
struct Watched {
    link: Arc<ShardLink>,
    /// Turns of its loop at our last look.
    turns: u64,
    /// When we last saw it turn, or wait in its poll.
    turned_at: Instant,
    /// Since when it has been stuck, as was told.
    stuck_since: Option<Instant>,
    /// The guardian's poll watches this descriptor, of the loop's own poll.
    poll: Option<RawFd>,
}

impl Watched {
    /// Ends the watch of its loop's poll, which is still open.
    fn unwatch(&self) {
        if let Some(fd) = self.poll
            && let Some(thread) = &*THREAD.lock()
        {
            _ = thread.registry.deregister(&mut SourceFd(&fd)); // it fails when that watch has ended
        }
    }
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
static THREAD: Mutex<Option<Thread>> = Mutex::new(None);
/// The guardian sleeps without a timeout. Read by every shard on every turn, written when it changes.
static ASLEEP: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Thread {
    waker: Waker,
    registry: Registry,
    handle: JoinHandle<()>,
}

/// Starts the guardian. `report` is called on its thread.
pub fn start(report: impl Fn(Report) + Send + 'static) -> io::Result<()> {
    STATE.lock().ends = false; // the state's lock comes before the thread's, everywhere
    let mut thread = THREAD.lock();
    if thread.is_some() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the guardian runs"));
    }
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let registry = poll.registry().try_clone()?;
    let handle = std::thread::Builder::new()
        .name("guardian".into())
        .spawn(move || Guardian::new(poll).run(&report))?;
    *thread = Some(Thread { waker, registry, handle });
    Ok(())
}

/// Ends it. Connections that still wait for a shard are reset.
pub fn stop() {
    let thread = THREAD.lock().take();
    let Some(Thread { waker, handle, .. }) = thread else { return };
    STATE.lock().ends = true;
    _ = waker.wake(); // it fails when the thread is about to look anyway
    _ = handle.join();
    let mut state = STATE.lock();
    state.servers.clear();
    state.missed.clear();
    state.unserved.drain(..).for_each(reset);
}

/// A shard is reported when it has been stuck for this long; never without.
pub fn report_after(stall_after: Option<Duration>) {
    STATE.lock().stall_after = stall_after;
    wake();
}

/// Has the guardian look around.
fn wake() {
    if let Some(thread) = &*THREAD.lock() {
        _ = thread.waker.wake();
    }
}

/// A shard's loop has left its poll. Called once a turn.
#[inline]
pub fn wake_if_asleep() {
    if ASLEEP.load(Ordering::SeqCst) && ASLEEP.swap(false, Ordering::SeqCst) {
        wake();
    }
}

/// Makes a shard known by its metrics token.
pub fn join(link: Arc<ShardLink>) {
    let mut state = STATE.lock();
    let token = link.token;
    let watched = Watched { link, turns: 0, turned_at: Instant::now(), stuck_since: None, poll: None };
    // A thread may have a new loop before its last one is through with its last connections.
    if let Some(last) = state.shards.insert(token, watched) {
        last.unwatch();
    }
    wake();
}

/// A shard serves nothing any more, though it is still there: its listeners and what it leaves unserved are for the others.
/// How many connections nobody can serve any more, which are reset. Called on its thread.
pub fn retire(link: &ShardLink, unserved: Vec<Unserved>) -> usize {
    let lost = STATE.lock().bequeath(link, unserved);
    wake();
    lost
}

/// A shard whose JavaScript is stuck has accepted connections that it has not seen. `take` is called with whether others
/// serve a server, and returns those that they shall have. How many are reset all the same. From any thread.
pub fn take_back(link: &ShardLink, take: impl FnOnce(&dyn Fn(u32) -> bool) -> Vec<Unserved>) -> usize {
    let mut state = STATE.lock();
    // Under the lock from the question to the keeping: nobody stops to serve in between.
    let taken = take(&|server| {
        let others = state.servers.get(&server).map_or(&[][..], |guarded| &guarded.members);
        state.serves(link, server)
            && state.members(others).any(|other| other.token != link.token && other.is_live())
    });
    if taken.is_empty() {
        return 0;
    }
    let lost = taken.into_iter().map(|connection| state.keep(connection)).filter(|&kept| !kept).count();
    state.hand_out(false);
    drop(state);
    wake();
    lost
}

/// A shard is gone; as [`retire`]. Called on its thread, once.
pub fn leave(link: &Arc<ShardLink>, unserved: Vec<Unserved>) -> usize {
    link.pulse.close();
    let mut state = STATE.lock();
    if state.shards.get(&link.token).is_some_and(|shard| Arc::ptr_eq(&shard.link, link))
        && let Some(shard) = state.shards.remove(&link.token)
    {
        shard.unwatch();
    }
    let lost = state.bequeath(link, unserved);
    drop(state);
    wake();
    lost
}

/// Guards a server: its listeners, each of which one shard at a time accepts from.
pub fn guard(server: u32, listeners: &[u32]) {
    let posts = listeners.iter().filter_map(|&token| {
        Some(Post { token, listener: listen::find(token)?, holder: None, armed: false, rests_until: None })
    });
    let guarded = Guarded { posts: posts.collect(), members: Vec::new() };
    STATE.lock().servers.insert(server, guarded);
}

/// The server takes no more connections. What waits in the queues of shards that are stuck or down is handed to the
/// others first; then nobody takes the place of another any more. The queue of one that is down is for the others even
/// when all of them are stuck: they take it when they hear that the server stops. When there is none it is lost.
pub fn unguard(server: u32) {
    let mut state = STATE.lock();
    let state = &mut *state;
    let Some(mut guarded) = state.servers.remove(&server) else { return };
    for shard in state.shards.values() {
        shard.link.set_neighbours(server, Vec::new());
    }
    for mut post in guarded.posts.drain(..) {
        if let Some(thread) = &*THREAD.lock() {
            post.disarm(&thread.registry);
        }
        if state.holder_is_live(&post) {
            continue;
        }
        let taken = loop {
            match state.take_over(server, &guarded.members, &post.listener) {
                Taken::Limit => {}
                taken => break taken,
            }
        };
        if taken == Taken::None
            && state.holder_is_gone(&post)
            && let Some(heir) = state.members(&guarded.members).min_by_key(|link| link.load())
        {
            // Refused only by one that is gone.
            _ = heir.inbox.push(Delivery::Adopt { server, listener: post.listener.clone() });
        }
    }
    state.servers.insert(server, guarded);
    state.hand_out(true);
    state.servers.remove(&server);
    for connection in mem::take(&mut state.unserved) {
        state.keep(connection); // or resets it, as its server is not there any more
    }
}

/// A shard serves a server, and accepts from these listeners of its own. Who had adopted them lets go.
pub fn serve(link: &ShardLink, server: u32, listeners: &[u32]) {
    let mut state = STATE.lock();
    let state = &mut *state;
    let Some(guarded) = state.servers.get_mut(&server) else { return };
    guarded.members.push(link.token);
    state.missed.remove(&link.token);
    for post in guarded.posts.iter_mut().filter(|post| listeners.contains(&post.token)) {
        let adopter = post.holder.replace(link.token).and_then(|token| state.shards.get(&token));
        if let Some(adopter) = adopter
            && adopter.link.token != link.token
        {
            // Refused only by one that is gone, which accepts from nothing.
            _ = adopter.link.inbox.push(Delivery::Release(post.listener.clone()));
            log::debug!(server = server, listener = post.token, "aboutShard" = adopter.link.shard; "a shard is to release a listener: its own serves again");
        }
    }
    log::debug!(server = server, "aboutShard" = link.shard; "a shard serves");
    state.introduce(server);
    state.hand_out(false);
    wake();
}

/// A shard is about to stop serving a server: it is handed nothing more for it. Called on its thread.
pub fn resign(link: &ShardLink, server: u32) {
    STATE.lock().resign(link, server);
}

/// Whether this life of a shard lasts.
pub fn lives(token: u32, life: u32) -> bool {
    STATE.lock().shards.get(&token).is_some_and(|shard| shard.link.life == life)
}

/// For how long a shard has been running without a look at its poll; `None` while it waits in it, and when there is no
/// shard of that token.
pub fn running_for(token: u32) -> Option<Duration> {
    let link = STATE.lock().shards.get(&token)?.link.clone();
    link.pulse.running_for()
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// The queue is empty.
    All,
    /// As many as one look takes.
    Limit,
    /// Nobody can have them, or there are no descriptors: they stay in the queue.
    None,
}

impl State {
    fn holder_is_live(&self, post: &Post) -> bool {
        post.holder.and_then(|token| self.shards.get(&token)).is_some_and(|shard| shard.link.is_live())
    }

    fn holder_is_gone(&self, post: &Post) -> bool {
        post.holder.is_none_or(|token| !self.shards.contains_key(&token))
    }

    /// Those of these shards that are there.
    fn members<'all>(&'all self, members: &'all [u32]) -> impl Iterator<Item = &'all Arc<ShardLink>> {
        members.iter().filter_map(|member| self.shards.get(member)).map(|shard| &shard.link)
    }

    /// The live one among these with the fewest connections.
    fn least_loaded(&self, members: &[u32]) -> Option<Arc<ShardLink>> {
        self.members(members).filter(|link| link.is_live()).min_by_key(|link| link.load()).cloned()
    }

    /// Accepts from the queue of a shard that does not.
    fn take_over(&mut self, server: u32, members: &[u32], listener: &Arc<Listener>) -> Taken {
        let mut connections = 0;
        let taken = self.accept_for(server, members, listener, &mut connections);
        if connections > 0 {
            log::debug!(server = server, listener = listener.token(), connections = connections; "accepted for a shard that is stuck or down, and handed to live ones");
        }
        taken
    }

    fn accept_for(
        &mut self,
        server: u32,
        members: &[u32],
        listener: &Arc<Listener>,
        connections: &mut u32,
    ) -> Taken {
        for _ in 0..GUARDIAN_ACCEPTS {
            let Some(link) = self.least_loaded(members) else { return Taken::None };
            if link.inbox.is_full() || self.unserved.len() >= UNSERVED_MAX {
                return Taken::None;
            }
            match stream::accept(listener.as_fd()) {
                Ok((fd, peer)) => {
                    *connections += 1;
                    let delivery = Delivery::Connection(Unserved { server, fd, peer, tls: None });
                    if let Err(Delivery::Connection(connection)) = link.inbox.push(delivery) {
                        self.unserved.push_back(connection); // another shard filled it just now
                    }
                }
                Err(error) => match stream::accept_failure(&error) {
                    AcceptFailure::Empty => return Taken::All,
                    AcceptFailure::Connection => {}
                    AcceptFailure::Exhausted | AcceptFailure::Other => return Taken::None,
                },
            }
        }
        Taken::Limit
    }

    fn resign(&mut self, link: &ShardLink, server: u32) {
        let Some(guarded) = self.servers.get_mut(&server) else { return };
        guarded.members.retain(|&member| member != link.token);
        for post in guarded.posts.iter_mut().filter(|post| post.holder == Some(link.token)) {
            post.holder = None;
        }
        link.set_neighbours(server, Vec::new());
        self.introduce(server);
    }

    /// Leaves to the others what a shard served and what nobody has begun to serve. How many connections of that are lost.
    fn bequeath(&mut self, link: &ShardLink, unserved: Vec<Unserved>) -> usize {
        let left = link.inbox.close().into_iter().filter_map(|item| match item {
            Delivery::Connection(connection) => Some(connection),
            Delivery::Adopt { .. } | Delivery::Release(_) => None,
        });
        let servers: Vec<u32> =
            self.servers.keys().copied().filter(|&server| self.serves(link, server)).collect();
        for &server in &servers {
            self.resign(link, server);
            let Some(mut guarded) = self.servers.remove(&server) else { continue };
            if !guarded.members.is_empty() {
                // One that ends in good order has resigned before.
                let until = Instant::now() + Duration::from_millis(GUARDIAN_BRISK_FOR_MS);
                self.missed.insert(link.token, until);
            }
            for index in 0..guarded.posts.len() {
                self.adopt(server, &mut guarded, index); // or the guardian does, once it can
            }
            self.servers.insert(server, guarded);
        }
        let lost = left.chain(unserved).map(|connection| self.keep(connection)).filter(|&kept| !kept).count();
        if !servers.is_empty() {
            log::debug!("aboutShard" = link.shard, servers = servers.len(), waiting = self.unserved.len(), lost = lost; "a shard is down");
        }
        self.hand_out(false);
        lost
    }

    /// Whether a shard serves a server. Not the earlier loop of a thread that has a new one, which does.
    fn serves(&self, link: &ShardLink, server: u32) -> bool {
        let is_other = self.shards.get(&link.token).is_some_and(|shard| shard.link.life != link.life);
        !is_other && self.servers.get(&server).is_some_and(|guarded| guarded.members.contains(&link.token))
    }

    /// Has a live shard accept from a listener that nobody accepts from; when there is none, it is tried again.
    fn adopt(&self, server: u32, guarded: &mut Guarded, index: usize) {
        if !self.holder_is_gone(&guarded.posts[index]) {
            return;
        }
        let Some(adopter) = self.adopter(guarded) else { return };
        let post = &mut guarded.posts[index];
        // Refused by one that is just going.
        if adopter.inbox.push(Delivery::Adopt { server, listener: post.listener.clone() }).is_ok() {
            post.holder = Some(adopter.token);
            log::debug!(server = server, listener = post.token, "aboutShard" = adopter.shard; "a shard is to adopt the listener of one that is down");
        }
    }

    /// The live member that accepts from the fewest listeners.
    fn adopter(&self, guarded: &Guarded) -> Option<Arc<ShardLink>> {
        let held =
            |link: &ShardLink| guarded.posts.iter().filter(|post| post.holder == Some(link.token)).count();
        self.members(&guarded.members).filter(|link| link.is_live()).min_by_key(|link| held(link)).cloned()
    }

    /// Tells the members of a server of each other.
    fn introduce(&self, server: u32) {
        let members = self.servers.get(&server).map_or(&[][..], |guarded| &guarded.members);
        for link in self.members(members) {
            let others =
                self.members(members).filter(|other| other.token != link.token).map(Arc::downgrade).collect();
            link.set_neighbours(server, others);
        }
    }

    /// Has a connection wait for a shard; false when there will be none, and it was reset.
    fn keep(&mut self, connection: Unserved) -> bool {
        let kept = self.servers.contains_key(&connection.server) && self.unserved.len() < UNSERVED_MAX;
        if kept {
            self.unserved.push_back(connection);
        } else {
            reset(connection);
        }
        kept
    }

    /// Gives the connections that nobody serves to live shards; with `even_stuck`, to stuck ones when no other is there.
    fn hand_out(&mut self, even_stuck: bool) {
        let waiting = self.unserved.len();
        self.hand_out_each(even_stuck);
        let handed_out = waiting - self.unserved.len();
        if handed_out > 0 {
            log::debug!(connections = handed_out, left = self.unserved.len(); "connections that nobody served are handed to shards");
        }
    }

    fn hand_out_each(&mut self, even_stuck: bool) {
        for _ in 0..self.unserved.len() {
            let Some(connection) = self.unserved.pop_front() else { return };
            let members = self.servers.get(&connection.server).map_or(&[][..], |guarded| &guarded.members);
            let able = self
                .members(members)
                .map(|link| (!link.is_live(), link))
                .filter(|&(stuck, _)| even_stuck || !stuck);
            let target = able.min_by_key(|&(stuck, link)| (stuck, link.load())).map(|(_, link)| link);
            let refused = match target {
                Some(link) => link.inbox.push(Delivery::Connection(connection)).err(),
                None => Some(Delivery::Connection(connection)),
            };
            if let Some(Delivery::Connection(connection)) = refused {
                self.unserved.push_back(connection);
            }
        }
    }
}

/// Ends a connection that nobody will serve, so that its peer can tell.
fn reset(connection: Unserved) {
    log::debug!(server = connection.server, peer:% = connection.peer; "a connection is reset, as nobody will serve it");
    stream::reset_on_close(connection.fd.as_fd());
}
