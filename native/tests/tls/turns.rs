//! How much of TLS is done in one turn of a shard, with sockets.

use crate::made::{Made, client};
use crate::reads::{NothingPinned, Seen, engine};
use shardloop_native::abi;
use shardloop_native::engine::{Engine, SocketEngine};
use shardloop_native::limits::TLS_HANDSHAKE_STEPS_PER_TURN;
use shardloop_native::net::listen::{ListenOptions, bind};
use shardloop_native::shard::ServerSecurity;
use shardloop_native::tls::server::ServerTls;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

#[test]
fn a_turn_takes_some_handshakes_and_the_next_ones_the_others() {
    const CLIENTS: usize = 30;
    let made = Made::new(|_| {});
    let (mut engine, metrics) = engine();
    let listener = bind(&ListenOptions {
        host: [127, 0, 0, 1].into(),
        port: 0,
        backlog: 512,
        reuse_port: false,
        ipv6_only: false,
        no_delay: true,
        exclusive: false,
    })
    .unwrap();
    let address = listener.address().ip().unwrap();
    let tls = Arc::new(ServerTls::new(&made.options()).unwrap());
    engine.secure_server(0, ServerSecurity { tls, upgrade: false });
    engine.listen(0, Arc::new(listener)).unwrap();
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut session = client(&made, "localhost");
            session.begin().unwrap();
            stream.write_all(session.outgoing()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let mut seen = Seen::new();
    let mut each_turn = Vec::new();
    let mut answered = 0;
    while answered < CLIENTS {
        if !engine.has_backlog() {
            wait(engine.pollable());
        }
        engine.collect(Instant::now(), &mut seen, &NothingPinned);
        let before = clients.len();
        // A client that has its answer has no second step here.
        clients.retain_mut(|stream| stream.read(&mut [0; 16]).is_err());
        answered += before - clients.len();
        each_turn.push(before - clients.len());
        assert!(each_turn.len() < 1_000, "of {CLIENTS} handshakes {answered} have gone on");
    }
    let most = TLS_HANDSHAKE_STEPS_PER_TURN as usize;
    assert!(each_turn.iter().all(|&count| count <= most), "handshakes in each turn: {each_turn:?}");
    assert_eq!(metrics.read(abi::METRIC_TLS_HANDSHAKES), 0, "none has been finished by its client");
}

fn wait(descriptor: i32) {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&mut poll, 1, 10_000) };
    assert_eq!(ready, 1, "nothing happened for 10 seconds");
}
