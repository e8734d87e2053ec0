//! A shard ends while handshakes are under way, or are done and JavaScript has not heard of it: another one goes on with the sessions
//! where they are, on either engine.

use crate::made::{Made, Received, client, deliver, take_outgoing};
use crate::shards::{NothingPinned, limits, listener};
use shardloop_native::abi;
use shardloop_native::connection::Handle;
use shardloop_native::engine::{SocketEngine, TlsAnswer, TlsQuestion, mio::MioEngine, tokio::TokioEngine};
use shardloop_native::inbox::{Delivery, Unserved};
use shardloop_native::limits::TLS_RECEIVE_BYTES;
use shardloop_native::link::ShardLink;
use shardloop_native::metrics::Metrics;
use shardloop_native::shard::{Commands, Event, ServerSecurity, Sink};
use shardloop_native::tls::server::ServerTls;
use shardloop_native::tls::session::{Outbox, Session};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The server's number in the process, and in the shards.
const SERVER: (u32, u16) = (7, 1);

/// What JavaScript has of a shard: it may be busy, and then takes nothing.
#[derive(Default)]
struct JavaScript {
    busy: bool,
    events: Vec<[i32; 3]>,
    buffer: Vec<u8>,
    bytes: Vec<u8>,
}

impl Sink for JavaScript {
    fn room(&self) -> usize {
        if self.busy { 0 } else { 1_000 }
    }
    fn event(&mut self, event: Event) {
        assert!(!self.busy, "{event:?} was told though there was no room");
        self.events.push([event.kind, event.handle, event.a]);
    }
    fn read_buffer(&mut self, _borrows: bool, hint: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        self.buffer.clear();
        self.buffer.reserve(hint + 1);
        Some((0, self.buffer.spare_capacity_mut()))
    }
    fn received(&mut self, _handle: i32, _slab: usize, length: usize) {
        // SAFETY: so many bytes of the spare capacity were written.
        unsafe { self.buffer.set_len(length) };
        self.bytes.extend_from_slice(&self.buffer);
    }
}

struct Command([i32; 4], &'static [u8]);

impl Commands for Command {
    fn len(&self) -> usize {
        1
    }
    fn record(&self, _index: usize) -> [i32; 4] {
        self.0
    }
    fn bytes(&self, _index: usize) -> Option<&[u8]> {
        Some(self.1)
    }
}

struct Shard {
    engine: Box<dyn SocketEngine>,
    link: Arc<ShardLink>,
    metrics: Arc<Metrics>,
    javascript: JavaScript,
}

impl Shard {
    fn new(open: Open, tls: Arc<ServerTls>) -> Self {
        let metrics = Arc::<Metrics>::default();
        let link = Arc::new(ShardLink::new(u32::MAX, metrics.clone()));
        let mut engine = open(metrics.clone(), link.clone());
        engine.add_server(SERVER.1, SERVER.0, limits());
        engine.secure_server(SERVER.1, ServerSecurity { tls, upgrade: false });
        Self { engine, link, metrics, javascript: JavaScript::default() }
    }

    /// Turns until that is so.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.engine.collect(Instant::now(), &mut self.javascript, &NothingPinned);
            self.engine.submit(Instant::now(), &());
            self.engine.end_batch(Instant::now());
            if done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: not within 10 seconds; {:?}", self.javascript.events);
            std::thread::yield_now();
        }
    }

    fn count(&self, metric: i32) -> u64 {
        self.metrics.read(metric)
    }

    /// The connection that is announced, which is served from then on.
    fn serve(&mut self, who: &mut Client) -> i32 {
        self.until("an announcement", |shard| {
            who.listen();
            shard.javascript.events.iter().any(|&[kind, ..]| kind == abi::EVENT_OPEN)
        });
        let [_, handle, _] = self.javascript.events[0];
        self.engine.submit(Instant::now(), &Command([abi::COMMAND_START, handle, 0, 0], b""));
        handle
    }
}

/// A peer whose session is driven by hand.
struct Client {
    socket: TcpStream,
    session: Session,
    is_tls12: bool,
    received: Received,
}

impl Client {
    fn connect(made: &Made, to: SocketAddr, receives_little: bool) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if receives_little {
            socket.set_recv_buffer_size(4_096).unwrap();
        }
        socket.connect(&SockAddr::from(to)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut session = client(made, "localhost");
        session.begin().unwrap();
        let is_tls12 = made.options().choices.max_version == "TLSv1.2";
        Self { socket: socket.into(), session, is_tls12, received: Received::default() }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn say_outgoing(&mut self) {
        let said = take_outgoing(&mut self.session);
        self.say(&said);
    }

    /// Takes what there is, without an answer.
    fn hear(&mut self) {
        let mut bytes = vec![0; TLS_RECEIVE_BYTES];
        match self.socket.read(&mut bytes) {
            Ok(length) => {
                assert!(length > 0, "the server ended the connection");
                deliver(&bytes[..length], &mut self.session, usize::MAX, &mut self.received).unwrap();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }

    /// Takes what there is, and answers.
    fn listen(&mut self) {
        self.hear();
        self.say_outgoing();
    }

    /// Says a record, and half of another, in one segment behind `first`; or the whole of that, and the end. What is owed still.
    fn say_data(&mut self, first: Vec<u8>, ends: bool) -> Vec<u8> {
        let mut said = [first, self.encrypted(TEXTS[0])].concat();
        let next = self.encrypted(TEXTS[1]);
        if ends {
            let mut outbox = Outbox::default();
            self.session.close(&mut outbox).unwrap();
            said.extend([&next[..], outbox.filled()].concat());
            self.say(&said);
            self.socket.shutdown(Shutdown::Write).unwrap();
            return Vec::new();
        }
        let (first, rest) = next.split_at(next.len() / 2);
        said.extend_from_slice(first);
        self.say(&said);
        rest.to_vec()
    }

    fn encrypted(&mut self, text: &[u8]) -> Vec<u8> {
        let mut outbox = Outbox::default();
        let length = self.session.encrypt(text, &mut outbox).unwrap();
        assert_eq!(length, text.len());
        outbox.filled().to_vec()
    }
}

/// How far a client has come when the shard ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Connected,
    HalfHello,
    /// The server's flight is with the client, whose answer is not.
    Hello,
    /// The server's flight is in part with the session still: the client does not read.
    HelloUnread,
    HalfFinished,
    Finished,
    /// And a record, and a part of one, which nobody has taken.
    Data,
    /// And the client's end behind that.
    End,
    /// The same two, in one segment with the end of the handshake: so the session has it, and not the kernel. In TLS 1.3 only.
    DataAtOnce,
    EndAtOnce,
}

const STAGES: [Stage; 10] = {
    use Stage::*;
    [Connected, HalfHello, Hello, HelloUnread, HalfFinished, Finished, Data, End, DataAtOnce, EndAtOnce]
};

impl Stage {
    /// Goes as far as that. What the client owes still.
    fn reach(self, shard: &mut Shard, who: &mut Client) -> Vec<u8> {
        shard.until("accepted", |shard| shard.count(abi::METRIC_CONNECTIONS_ACCEPTED) == 1);
        if self == Self::Connected {
            return take_outgoing(&mut who.session);
        }
        let hello = take_outgoing(&mut who.session);
        if self == Self::HalfHello {
            let (first, rest) = hello.split_at(hello.len() / 2);
            who.say(first);
            has_read(shard, first.len());
            return rest.to_vec();
        }
        who.say(&hello);
        has_read(shard, hello.len());
        if self == Self::HelloUnread {
            return Vec::new();
        }
        shard.until("the server's flight", |_| {
            who.hear();
            // In TLS 1.3 a client has something to say that is not it yet.
            who.session.is_established() || (who.is_tls12 && !who.session.outgoing().is_empty())
        });
        let finished = take_outgoing(&mut who.session);
        match self {
            Self::Hello => return finished,
            Self::HalfFinished => {
                let (first, rest) = finished.split_at(finished.len() / 2);
                who.say(first);
                has_read(shard, hello.len() + first.len());
                return rest.to_vec();
            }
            Self::DataAtOnce | Self::EndAtOnce => {
                let owed = who.say_data(finished, self == Self::EndAtOnce);
                shard.until("a handshake", |shard| shard.count(abi::METRIC_TLS_HANDSHAKES) == 1);
                return owed;
            }
            _ => who.say(&finished),
        }
        shard.until("a handshake", |shard| shard.count(abi::METRIC_TLS_HANDSHAKES) == 1);
        shard.until("the client's side of it", |_| {
            who.hear();
            who.session.is_established()
        });
        // What nobody knows of is not read from.
        if self == Self::Finished { Vec::new() } else { who.say_data(Vec::new(), self == Self::End) }
    }

    fn is_established(self) -> bool {
        !matches!(
            self,
            Self::Connected | Self::HalfHello | Self::Hello | Self::HelloUnread | Self::HalfFinished
        )
    }
}

const TEXTS: [&[u8]; 2] = [b"some text, ", b"more text"];

fn has_read(shard: &mut Shard, count: usize) {
    shard.until("read", |shard| shard.count(abi::METRIC_BYTES_READ) == count as u64);
}

type Open = fn(Arc<Metrics>, Arc<ShardLink>) -> Box<dyn SocketEngine>;

const ENGINES: [(&str, Open); 2] = [
    ("mio", |metrics, link| Box::new(MioEngine::open(metrics, Some(link)).unwrap())),
    ("tokio", |metrics, link| Box::new(TokioEngine::open(metrics, Some(link)).unwrap())),
];

/// A server whose certificate comes with so many others that its flight is longer than what the kernel takes.
fn made(version: &'static str) -> Made {
    let others: Vec<u8> =
        (0..100).flat_map(|_| Made::new(|_| {}).options().certificates.remove(0).cert).collect();
    Made::new(move |options| {
        options.choices.min_version = version.into();
        options.choices.max_version = version.into();
        options.certificates[0].cert.extend_from_slice(&others);
    })
}

fn is_handed_over(made: &Made, stage: Stage, open: Open, abandons: bool) {
    let tls = Arc::new(ServerTls::new(&made.options()).unwrap());
    let mut dying = Shard::new(open, tls.clone());
    let mut heir = Shard::new(open, tls);
    dying.javascript.busy = true;
    let listener = listener();
    let address = listener.address().ip().unwrap();
    if stage == Stage::HelloUnread {
        let socket = socket2::SockRef::from(&*listener);
        socket.set_send_buffer_size(4_096).unwrap(); // those that are accepted have the same
    }
    dying.engine.listen(SERVER.1, listener).unwrap();
    let mut who = Client::connect(made, address, stage == Stage::HelloUnread);
    let owed = stage.reach(&mut dying, &mut who);
    let mut left = if abandons { dying.engine.abandon() } else { dying.engine.retire() };
    assert_eq!(left.len(), 1);
    let unserved: Unserved = left.remove(0);
    let session = unserved.tls.as_deref().unwrap();
    assert_eq!(session.is_established(), stage.is_established());
    if stage == Stage::HelloUnread {
        assert!(!session.outgoing().is_empty(), "the kernel has taken all of it");
    }
    match stage {
        Stage::DataAtOnce => assert_eq!(session.pending(), TEXTS[0]),
        Stage::EndAtOnce => assert!(session.pending() == TEXTS.concat() && session.is_peer_closed()),
        _ => assert!(!session.has_input()),
    }
    assert_eq!(dying.count(abi::METRIC_CONNECTIONS_HANDED_OVER), 1);
    drop(dying.engine);
    heir.link.inbox.push(Delivery::Connection(unserved)).unwrap();
    who.say(&owed);
    let handle = heir.serve(&mut who);
    let texts: Vec<u8> = match stage {
        Stage::Data | Stage::End | Stage::DataAtOnce | Stage::EndAtOnce => TEXTS.concat(),
        _ => {
            let record = who.encrypted(TEXTS[0]);
            who.say(&record);
            TEXTS[0].to_vec()
        }
    };
    heir.until("the text", |heir| heir.javascript.bytes.len() >= texts.len());
    assert_eq!(heir.javascript.bytes, texts);
    if matches!(stage, Stage::End | Stage::EndAtOnce) {
        heir.until("the end", |heir| heir.javascript.events.iter().any(|&[kind, ..]| kind == abi::EVENT_EOF));
    }
    let answer = b"the heir's answer";
    heir.engine
        .submit(Instant::now(), &Command([abi::COMMAND_WRITE, handle, 0, answer.len() as i32], answer));
    heir.until("the answer", |_| {
        who.hear();
        who.received.bytes.len() >= answer.len()
    });
    assert_eq!(who.received.bytes, answer);
    let TlsAnswer::Facts(facts) = heir.engine.inspect_tls(TlsQuestion::Facts(Handle::from_word(handle)))
    else {
        panic!("there is no session")
    };
    assert_eq!(facts.server_name.as_deref(), Some("localhost"));
    assert_eq!(heir.count(abi::METRIC_TAKEN_OVER), 1);
    assert_eq!(heir.javascript.events.iter().filter(|[kind, ..]| *kind == abi::EVENT_CLOSED).count(), 0);
}

#[test]
fn another_shard_goes_on_where_a_handshake_was_when_its_shard_ended() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let made = made(version);
        for (name, open) in ENGINES {
            for stage in STAGES {
                if version == "TLSv1.2" && matches!(stage, Stage::DataAtOnce | Stage::EndAtOnce) {
                    continue; // nothing is said before the server's last word
                }
                for abandons in [false, true] {
                    println!("{version}, {name}, {stage:?}, abandons: {abandons}");
                    is_handed_over(&made, stage, open, abandons);
                }
            }
        }
    }
}
