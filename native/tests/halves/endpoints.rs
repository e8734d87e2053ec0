//! Drawn runs of endpoints through both halves of an engine, in one thread: the seed says when the back turns, how much
//! JavaScript takes, and what its peers do. The sockets are the kernel's; that they are ready is told once, as edges are.

use crate::taken::NothingPinned;
use crate::world::{Edges, Given, Watched};
use shardloop_native::abi;
use shardloop_native::engine::Engine;
use shardloop_native::engine::remote::{Back, Caller, Driver, Front, PipeSizes, halves};
use shardloop_native::net::datagram_address::AddressForm;
use shardloop_native::net::udp::DatagramSocket;
use shardloop_native::shard::{EndpointLimits, Event, Sink};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::{self, MaybeUninit};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RUNS: u64 = 60;
const STEPS: usize = 1_500;
const NUMBERS: u32 = 4;
/// Turns without a pause that nothing explains.
const TURNS_MAX: usize = 500;

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

type Behind = Rc<RefCell<Option<Back<Edges>>>>;

/// Turns the back when the front waits for it.
struct InTurns(Behind);

impl Driver for InTurns {
    fn wake(&self) {}
    fn wait(&mut self) {
        self.0.borrow_mut().as_mut().unwrap().turn(Instant::now());
    }
    fn silence(&self) {}
}

struct Nobody;

impl Caller for Nobody {
    fn ring(&self) {}
    fn resume(&self) {}
}

/// What JavaScript takes in one batch.
struct Taken {
    room: usize,
    datagrams: usize,
    events: Vec<Event>,
    came: Vec<(u32, u32)>,
}

impl Sink for Taken {
    fn room(&self) -> usize {
        self.room
    }
    fn event(&mut self, event: Event) {
        self.room -= 1;
        self.events.push(event);
    }
    fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        None
    }
    fn received(&mut self, _: i32, _: usize, _: usize) {}
    fn datagram(&mut self, endpoint: i32, _: &[u8], payload: &[u8]) -> bool {
        if self.datagrams == 0 {
            return false;
        }
        self.datagrams -= 1;
        self.room -= 1;
        self.came.push((endpoint as u32, u32::from_ne_bytes(*payload.first_chunk().unwrap())));
        true
    }
}

/// An endpoint, and who is at its other end.
struct Live {
    peer: UnixDatagram,
    /// The peer has sent so many, and JavaScript has had so many.
    sent: u32,
    came: u32,
    /// JavaScript has sent so many; the peer has had so many, and the last of them; so many were told to be dropped.
    out: u32,
    out_came: u32,
    out_last: Option<u32>,
    dropped: u32,
    paused_writing: bool,
    closing: bool,
    aborted: bool,
}

struct World {
    draw: Draw,
    front: Front<Edges, InTurns>,
    back: Behind,
    watched: Rc<RefCell<Watched>>,
    live: BTreeMap<u32, Live>,
    closed: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut draw = Draw(seed);
        let entries = [16, 32, 64, 1024][draw.below(4)];
        let sizes = PipeSizes { entries, event_bytes: 1 << 14, command_bytes: 1 << 19 };
        let (back, watched) = (Behind::default(), Rc::<RefCell<Watched>>::default());
        let (front, seed) = halves(InTurns(back.clone()), sizes).unwrap();
        let grown = seed.grow(
            Edges { watched: watched.clone(), ..Edges::default() },
            Arc::default(),
            None,
            Box::new(Nobody),
            Instant::now(),
        );
        *back.borrow_mut() = Some(grown);
        Self { draw, front, back, watched, live: BTreeMap::new(), closed: 0 }
    }

    fn step(&mut self) {
        let number = self.draw.below(NUMBERS as usize) as u32;
        let much = 1 + self.draw.below(80);
        match self.draw.below(12) {
            0 => self.open(number),
            1 | 2 => self.peer_sends(number, much),
            3 | 4 => self.peer_receives(number, much),
            5 => {
                let operations = [
                    abi::COMMAND_DATAGRAM_START,
                    abi::COMMAND_DATAGRAM_START,
                    abi::COMMAND_DATAGRAM_PAUSE,
                    abi::COMMAND_DATAGRAM_RESUME,
                ];
                let operation = operations[self.draw.below(operations.len())];
                self.command(operation, number);
            }
            6 | 7 => self.send(number, much),
            8 if self.draw.below(4) == 0 => self.end(number),
            9 | 10 => self.collect(),
            _ => self.turn(),
        }
    }

    fn open(&mut self, number: u32) {
        if self.live.contains_key(&number) {
            return;
        }
        let (ours, peer) = UnixDatagram::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let socket = Arc::new(DatagramSocket::adopt(ours.into(), false).unwrap());
        let limits =
            EndpointLimits { write_high_bytes: 2_000, write_low_bytes: 500, write_max_bytes: 20_000 };
        let now = Instant::now();
        self.front
            .call_for_endpoint(move |back| back.shard_mut().add_endpoint(now, number, socket, limits))
            .unwrap();
        let live = Live {
            peer,
            sent: 0,
            came: 0,
            out: 0,
            out_came: 0,
            out_last: None,
            dropped: 0,
            paused_writing: false,
            closing: false,
            aborted: false,
        };
        self.live.insert(number, live);
    }

    fn command(&mut self, operation: i32, number: u32) {
        self.front.submit(Instant::now(), &Given(vec![([operation, number as i32, 0, 0], Vec::new())]));
    }

    fn send(&mut self, number: u32, count: usize) {
        let Some(live) = self.live.get_mut(&number).filter(|live| !live.closing) else { return };
        let datagrams = (0..count as u32).map(|index| {
            let bytes = [AddressForm::NONE.as_bytes(), &(live.out + index).to_ne_bytes()].concat();
            ([abi::COMMAND_DATAGRAM, number as i32, 0, bytes.len() as i32], bytes)
        });
        let commands = Given(datagrams.collect());
        live.out += count as u32;
        self.front.submit(Instant::now(), &commands);
    }

    fn end(&mut self, number: u32) {
        let aborts = self.draw.below(3) == 0;
        let Some(live) = self.live.get_mut(&number) else { return };
        live.closing = true;
        live.aborted |= aborts;
        self.command(if aborts { abi::COMMAND_DATAGRAM_ABORT } else { abi::COMMAND_DATAGRAM_CLOSE }, number);
    }

    fn peer_sends(&mut self, number: u32, most: usize) {
        // Sending to one that is closed would drop what the kernel has for the peer.
        let Some(live) = self.live.get_mut(&number).filter(|live| !live.closing) else { return };
        for _ in 0..most {
            if live.peer.send(&live.sent.to_ne_bytes()).is_err() {
                break; // full
            }
            live.sent += 1;
        }
        self.watched.borrow_mut().changed.insert(number);
    }

    fn peer_receives(&mut self, number: u32, most: usize) {
        if let Some(live) = self.live.get_mut(&number) {
            live.receive(most);
            self.watched.borrow_mut().changed.insert(number);
        }
    }

    /// Until the back sleeps.
    fn turn(&mut self) {
        let mut back = self.back.borrow_mut();
        let back = back.as_mut().unwrap();
        back.wake_up();
        for turns in 0.. {
            back.turn(Instant::now());
            if back.fall_asleep() && self.watched.borrow().changed.is_empty() {
                return;
            }
            back.wake_up();
            assert!(turns < TURNS_MAX, "it turns for nothing");
        }
    }

    fn collect(&mut self) {
        let mut taken = Taken {
            room: 1 + self.draw.below(100),
            datagrams: self.draw.below(50),
            events: Vec::new(),
            came: Vec::new(),
        };
        self.front.collect(Instant::now(), &mut taken, &NothingPinned);
        self.front.end_batch(Instant::now());
        for (number, datagram) in taken.came {
            let live = self.live.get_mut(&number).expect("it is not over");
            assert_eq!(datagram, live.came, "of {number}: in order, and none is left out");
            live.came += 1;
        }
        for Event { kind, handle, a, b } in taken.events {
            let number = handle as u32;
            let live = self.live.get_mut(&number).expect("it is not over");
            match kind & abi::KIND_MASK {
                abi::EVENT_DATAGRAM_FAILED => {
                    assert_eq!(a, abi::DATAGRAM_OVERFLOW);
                    live.dropped += b as u32;
                }
                abi::EVENT_DATAGRAM_PAUSE => assert!(!mem::replace(&mut live.paused_writing, true)),
                abi::EVENT_DATAGRAM_RESUME => assert!(mem::replace(&mut live.paused_writing, false)),
                abi::EVENT_DATAGRAM_CLOSED => {
                    assert!(live.closing && a == 0, "{number} is over for {a}");
                    let mut live = self.live.remove(&number).unwrap();
                    live.receive(usize::MAX);
                    let all = live.out_came + live.dropped;
                    assert!(all == live.out || live.aborted, "{all} of {} were sent or dropped", live.out);
                    self.closed += 1;
                }
                other => panic!("event {other}"),
            }
        }
    }

    /// All that is on its way arrives, then everything ends.
    fn finish(&mut self) {
        for number in 0..NUMBERS {
            self.command(abi::COMMAND_DATAGRAM_START, number);
            self.command(abi::COMMAND_DATAGRAM_RESUME, number);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_heard = |live: &Live| live.closing || live.came == live.sent;
        while !self.live.values().all(is_heard) {
            self.turn();
            self.collect();
            assert!(Instant::now() < deadline, "what was sent does not come");
        }
        for number in self.live.keys().copied().collect::<Vec<_>>() {
            self.live.get_mut(&number).unwrap().closing = true;
            self.command(abi::COMMAND_DATAGRAM_CLOSE, number);
        }
        while !self.live.is_empty() {
            (0..NUMBERS).for_each(|number| self.peer_receives(number, 1000));
            self.turn();
            self.collect();
            assert!(Instant::now() < deadline, "they do not end");
        }
        assert!(!self.front.is_alive());
        assert!(self.watched.borrow().endpoints.is_empty());
    }
}

impl Live {
    fn receive(&mut self, most: usize) {
        for _ in 0..most {
            let mut bytes = [0; 4];
            match self.peer.recv(&mut bytes) {
                Ok(4) => {}
                _ => return, // empty, or over
            }
            let number = u32::from_ne_bytes(bytes);
            assert!(self.out_last.is_none_or(|last| last < number), "{number} behind {:?}", self.out_last);
            self.out_last = Some(number);
            self.out_came += 1;
        }
    }
}

#[test]
fn every_endpoint_hears_and_is_heard_in_order_and_ends_once_and_nothing_turns_for_nothing() {
    let mut closed = 0;
    for seed in 0..RUNS {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..STEPS).for_each(|_| world.step());
            world.finish();
            world.closed
        });
        closed += run.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(closed > 500, "only {closed} endpoints have come and gone");
}
