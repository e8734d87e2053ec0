//! How much of TLS is done in one turn of a shard, with sockets.

use crate::made::{Made, client};
use crate::reads::{Seen, engine};
use crate::shards::{NothingPinned, listener};
use shardloop_native::abi;
use shardloop_native::engine::{Engine, SocketEngine};
use shardloop_native::limits::{
    TLS_HANDSHAKE_STEP_US, TLS_HANDSHAKE_STEPS_MAX, TLS_HANDSHAKE_STEPS_PER_TURN,
};
use shardloop_native::shard::ServerSecurity;
use shardloop_native::tls::server::ServerTls;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many of as many hellos as are in the kernel are answered in each turn, with so much time between turns.
fn answered_each_turn(clients: usize, between: Duration) -> Vec<u64> {
    let made = Made::new(|_| {});
    let (mut engine, metrics) = engine();
    let listener = listener();
    let address = listener.address().ip().unwrap();
    let tls = Arc::new(ServerTls::new(&made.options()).unwrap());
    engine.secure_server(0, ServerSecurity { tls, upgrade: false });
    engine.listen(0, listener).unwrap();
    let _clients: Vec<TcpStream> = (0..clients)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut session = client(&made, "localhost");
            session.begin().unwrap();
            stream.write_all(session.outgoing()).unwrap();
            stream
        })
        .collect();
    let mut seen = Seen::new();
    let mut each_turn = Vec::new();
    let mut now = Instant::now();
    let answers = || metrics.read(abi::METRIC_WRITES);
    while answers() < clients as u64 {
        if !engine.has_backlog() {
            wait(engine.pollable());
        }
        let before = answers();
        engine.collect(now, &mut seen, &NothingPinned);
        now += between;
        each_turn.push(answers() - before);
        assert!(each_turn.len() < 1_000, "of {clients} handshakes {} have gone on", answers());
    }
    assert_eq!(metrics.read(abi::METRIC_TLS_HANDSHAKES), 0, "none has been finished by its client");
    each_turn.retain(|&count| count > 0);
    each_turn
}

#[test]
fn a_turn_takes_some_handshakes_and_the_next_ones_the_others() {
    let each_turn = answered_each_turn(30, Duration::ZERO);
    let most = TLS_HANDSHAKE_STEPS_PER_TURN;
    assert!(each_turn.iter().all(|&count| count <= most), "handshakes in each turn: {each_turn:?}");
}

#[test]
fn a_turn_takes_more_handshakes_the_longer_the_last_one_is_ago() {
    let each_turn = answered_each_turn(60, Duration::from_micros(10 * TLS_HANDSHAKE_STEP_US));
    // All have been accepted, and have spoken, before the second turn.
    assert!(
        each_turn[1..each_turn.len() - 1].iter().all(|&count| count == 10),
        "in each turn: {each_turn:?}"
    );
    let each_turn = answered_each_turn(90, Duration::from_secs(1));
    assert!(each_turn.iter().all(|&count| count <= TLS_HANDSHAKE_STEPS_MAX), "in each turn: {each_turn:?}");
}

fn wait(descriptor: i32) {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&mut poll, 1, 10_000) };
    assert_eq!(ready, 1, "nothing happened for 10 seconds");
}
