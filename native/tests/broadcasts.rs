//! Broadcasts of several threads, while the thread of the engine subscribes, writes and asks: drawn from seeds, on every
//! engine.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "taken/mod.rs"]
mod taken;

use shardloop_native::abi;
use shardloop_native::audience::broadcast;
use shardloop_native::connection::Handle;
use shardloop_native::engine::{SocketEngine, Start, mio::MioEngine, tokio::TokioEngine};
use shardloop_native::net::addresses::Peer;
use shardloop_native::shard::ServerLimits;
use std::collections::HashMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use taken::{NothingPinned, Taken};

const CONNECTIONS: usize = 6;
const TOPICS: u8 = 3;
/// Threads that broadcast, beside that of the engine, and how often each does.
const SENDERS: u8 = 3;
const EACH: u32 = 400;
/// What the engine's thread does.
const STEPS: usize = 600;
/// In the place of a topic: what was written to one connection, and the last that it gets.
const WRITTEN: u8 = 100;
const LAST: u8 = 101;

/// Who has sent it, to which topic, and its number among those of that sender to that topic.
type Message = (u8, u8, u32);

fn bytes_of((sender, topic, number): Message) -> [u8; 6] {
    let [a, b, c, d] = number.to_ne_bytes();
    [sender, topic, a, b, c, d]
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Topics of a run are no other run's.
fn name(run: &str, topic: u8) -> String {
    format!("{run} {topic}")
}

fn collect(engine: &mut dyn SocketEngine, taken: &mut Taken) {
    engine.collect(Instant::now(), taken, &NothingPinned);
    engine.end_batch(Instant::now());
}

/// Reads what comes until the last message.
fn reader(mut peer: UnixStream) -> JoinHandle<Vec<Message>> {
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    thread::spawn(move || {
        let mut came = Vec::new();
        loop {
            let mut bytes = [0; 6];
            peer.read_exact(&mut bytes)
                .unwrap_or_else(|error| panic!("after {} messages: {error}", came.len()));
            let [sender, topic, number @ ..] = bytes;
            if topic == LAST {
                return came;
            }
            came.push((sender, topic, u32::from_ne_bytes(number)));
        }
    })
}

/// Broadcasts to topics that are drawn. How many to each.
fn sender(run: String, sender: u8, seed: u64) -> JoinHandle<[u32; TOPICS as usize]> {
    thread::spawn(move || {
        let (mut draw, mut counts) = (Draw(seed), [0; TOPICS as usize]);
        for _ in 0..EACH {
            let topic = draw.below(TOPICS.into()) as u8;
            let count = &mut counts[usize::from(topic)];
            assert_eq!(broadcast(&name(&run, topic), &bytes_of((sender, topic, *count)), None).refused, 0);
            *count += 1;
            (0..draw.below(50)).for_each(|_| std::hint::spin_loop());
        }
        counts
    })
}

/// What came from each sender to each topic, which is in order and nothing twice.
fn in_order(came: &[Message], run: &str) -> HashMap<(u8, u8), Vec<u32>> {
    let mut by_sender: HashMap<(u8, u8), Vec<u32>> = HashMap::new();
    for &(sender, topic, number) in came {
        let numbers = by_sender.entry((sender, topic)).or_default();
        let last = numbers.last();
        assert!(last.is_none_or(|&last| last < number), "{run}: {number} of {sender} came behind {last:?}");
        numbers.push(number);
    }
    by_sender
}

fn run(mut engine: Box<dyn SocketEngine>, run: String, seed: u64) {
    let mut draw = Draw(seed);
    let limits = ServerLimits {
        write_high_bytes: 64 << 10,
        write_low_bytes: 16 << 10,
        write_max_bytes: 8 << 20,
        idle_timeout_ms: 0,
    };
    engine.add_server(0, 0, limits);
    let (mut taken, mut handles, mut readers) = (Taken::default(), Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        readers.push(reader(theirs));
        engine.connect(Instant::now(), number as u32 + 1, 0, Start::With(ours.into(), Peer::Unix));
        while taken.0.is_empty() {
            collect(&mut *engine, &mut taken);
        }
        assert_eq!(taken.0[0].kind & abi::KIND_MASK, abi::EVENT_CONNECTED);
        handles.push(Handle::from_word(taken.0.pop().unwrap().handle));
    }
    // All hear of the end; the first also of everything else, from the first on, and the last of nothing.
    for handle in &handles {
        engine.subscribe(*handle, name(&run, LAST).into()).unwrap();
    }
    for topic in 0..TOPICS {
        engine.subscribe(handles[0], name(&run, topic).into()).unwrap();
    }
    let senders: Vec<_> =
        (0..SENDERS).map(|number| sender(run.clone(), number, seed ^ u64::from(number + 1))).collect();
    let own = SENDERS; // among the senders
    let mut own_counts = [0; TOPICS as usize];
    let mut written = [0; CONNECTIONS];
    // Of a connection and a topic that it is subscribed to: our broadcasts from this one on are its.
    let mut since: HashMap<(usize, u8), u32> = (0..TOPICS).map(|topic| ((0, topic), 0)).collect();
    for _ in 0..STEPS {
        let connection = 1 + draw.below(CONNECTIONS - 2);
        let topic = draw.below(TOPICS.into()) as u8;
        match draw.below(6) {
            0 => {
                engine.subscribe(handles[connection], name(&run, topic).into()).unwrap();
                since.entry((connection, topic)).or_insert(own_counts[usize::from(topic)]);
            }
            1 => {
                engine.unsubscribe(handles[connection], name(&run, topic).into());
                since.remove(&(connection, topic));
            }
            2 => {
                let count = &mut own_counts[usize::from(topic)];
                assert_eq!(broadcast(&name(&run, topic), &bytes_of((own, topic, *count)), None).refused, 0);
                *count += 1;
            }
            3 => {
                let connection = draw.below(CONNECTIONS);
                let message = (own, WRITTEN, written[connection]);
                engine.write(Instant::now(), handles[connection], &bytes_of(message), &());
                written[connection] += 1;
            }
            4 => _ = engine.queued_bytes(handles[connection]), // waits for an answer
            _ => collect(&mut *engine, &mut taken),
        }
    }
    // It sleeps until it is called, as its loop would.
    while !senders.iter().all(JoinHandle::is_finished) {
        wait(&mut *engine, &mut taken);
    }
    let sent: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    broadcast(&name(&run, LAST), &bytes_of((own, LAST, 0)), None);
    while !readers.iter().all(JoinHandle::is_finished) {
        wait(&mut *engine, &mut taken);
    }
    let came: Vec<_> = readers.into_iter().map(|reader| in_order(&reader.join().unwrap(), &run)).collect();
    for topic in 0..TOPICS {
        let of_topic = |counts: &[u32; TOPICS as usize]| counts[usize::from(topic)];
        for (sender, count) in sent.iter().chain([&own_counts]).map(of_topic).enumerate() {
            let numbers = came[0].get(&(sender as u8, topic)).map_or(0, Vec::len);
            assert_eq!(numbers, count as usize, "{run}: of sender {sender} to topic {topic}");
        }
    }
    for ((connection, topic), from) in since {
        let numbers = came[connection].get(&(own, topic)).map_or(&[][..], Vec::as_slice);
        let missing = (from..own_counts[usize::from(topic)]).find(|number| !numbers.contains(number));
        assert_eq!(missing, None, "{run}: {connection} has subscribed to {topic} before {from}");
    }
    for (connection, count) in written.into_iter().enumerate() {
        let numbers = came[connection].get(&(own, WRITTEN)).map_or(0, Vec::len);
        assert_eq!(numbers, count as usize, "{run}: what was written to {connection}");
    }
    let heard = came[CONNECTIONS - 1].keys().any(|&(_, topic)| topic < TOPICS);
    assert!(!heard, "{run}: who has subscribed to nothing hears nothing");
}

fn wait(engine: &mut dyn SocketEngine, taken: &mut Taken) {
    collect(engine, taken);
    let mut poll = libc::pollfd { fd: engine.pollable(), events: libc::POLLIN, revents: 0 };
    let timeout = if engine.has_backlog() { 0 } else { 20 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, timeout) };
}

#[test]
fn who_has_subscribed_gets_all_in_order_whatever_its_thread_does_meanwhile() {
    let (is_over, over) = mpsc::channel();
    let runs = thread::spawn(move || {
        for seed in 0..20 {
            run(Box::new(MioEngine::open(Arc::default(), None).unwrap()), format!("mio {seed}"), seed);
            run(Box::new(TokioEngine::open(Arc::default(), None).unwrap()), format!("tokio {seed}"), seed);
        }
        is_over.send(()).unwrap();
    });
    // A wake-up that gets lost lets a call wait for ever.
    if over.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("it takes for ever");
    }
    runs.join().unwrap();
}
