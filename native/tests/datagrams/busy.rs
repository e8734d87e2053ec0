//! Endpoints that have something again and again, which are not watched meanwhile.

use crate::bench::{Bench, bound, on_every_engine};
#[cfg(target_os = "linux")]
use crate::bench::{NoPins, refuse};
use shardloop_native::abi;
use shardloop_native::limits::DATAGRAM_POLLING_AFTER;
#[cfg(target_os = "linux")]
use shardloop_native::limits::{DATAGRAM_POLLING_US, DATAGRAM_RETRY_MS};
use shardloop_native::net::datagram_address::AddressForm;
use shardloop_native::net::udp::DatagramSocket;
#[cfg(target_os = "linux")]
use shardloop_native::net::{addresses::Address, udp::OpenOptions};
use std::net::{SocketAddr, UdpSocket};
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Whether the engine's poll has a socket, as the kernel says.
#[cfg(target_os = "linux")]
fn is_watched(poll: i32, socket: i32) -> bool {
    let watched = std::fs::read_to_string(format!("/proc/self/fdinfo/{poll}")).unwrap();
    watched.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("tfd:") && words.next() == Some(&socket.to_string())
    })
}

/// Sends datagrams one by one, each once the last was received: so many that the endpoint is not watched, and that it was worth it.
fn make_busy(bench: &mut Bench, send: impl Fn(&[u8])) {
    let before = bench.seen.came.len();
    for count in before + 1..=before + 2 * DATAGRAM_POLLING_AFTER as usize + 4 {
        send(&count.to_ne_bytes());
        bench.until(|seen| seen.came.len() == count);
    }
}

/// The same until the kernel says that it is not watched: this thread may have been away in between.
#[cfg(target_os = "linux")]
fn make_unwatched(bench: &mut Bench, socket: i32, send: impl Fn(&[u8])) {
    let began = Instant::now();
    while is_watched(bench.engine.pollable(), socket) {
        assert!(began.elapsed() < Duration::from_secs(10), "it is watched however busy it is");
        make_busy(bench, &send);
    }
}

fn to(address: SocketAddr) -> impl Fn(&[u8]) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    move |bytes| assert_eq!(client.send_to(bytes, address).unwrap(), bytes.len())
}

/// An endpoint on mio, its descriptor, and who sends to it.
#[cfg(target_os = "linux")]
fn one_on_mio() -> (Bench, i32, impl Fn(&[u8])) {
    let mut bench = Bench::on_mio();
    let (socket, address) = bound();
    let socket_fd = socket.as_fd().as_raw_fd();
    bench.add(0, socket, 1 << 20);
    (bench, socket_fd, to(address))
}

#[test]
#[cfg(target_os = "linux")] // where the kernel tells what is watched
fn one_that_is_busy_is_not_watched_until_it_has_had_nothing_for_a_moment() {
    let (mut bench, socket_fd, send) = one_on_mio();
    let poll = bench.engine.pollable();
    for _ in 0..3 {
        assert!(is_watched(poll, socket_fd));
        make_unwatched(&mut bench, socket_fd, &send);
        assert!(bench.engine.has_backlog());
        let idle_since = Instant::now();
        bench.until(|_| is_watched(poll, socket_fd));
        assert!(idle_since.elapsed() >= Duration::from_micros(DATAGRAM_POLLING_US));
        assert!(bench.polls_during(Duration::from_millis(50)) <= 15, "it costs turns though nothing comes");
        // And the kernel tells of the next.
        send(b"next");
        let count = bench.seen.came.len() + 1;
        bench.until(|seen| seen.came.len() == count);
        std::thread::sleep(Duration::from_millis(3)); // so that it is not in a row with the ones before
    }
    bench.close(0);
}

#[test]
#[cfg(target_os = "linux")]
fn one_that_is_hardly_busy_is_watched_more_and_more() {
    let (mut bench, socket_fd, send) = one_on_mio();
    let poll = bench.engine.pollable();
    let mut unwatched = 0;
    for count in 1..=1000 {
        send(b"one");
        bench.until(|seen| seen.came.len() == count);
        if !is_watched(poll, socket_fd) {
            unwatched += 1;
            bench.until(|_| is_watched(poll, socket_fd)); // nothing more comes in time
        }
    }
    // After 16, 32, 64 …
    assert!((1..=6).contains(&unwatched), "{unwatched} times of a thousand");
    bench.close(0);
}

#[test]
fn one_that_is_busy_can_be_paused_resumed_and_closed() {
    on_every_engine(|mut bench| {
        let (socket, address) = bound();
        let send = to(address);
        bench.add(3, socket, 1 << 20);
        make_busy(&mut bench, &send);
        bench.command(abi::COMMAND_DATAGRAM_PAUSE, 3);
        bench.flush();
        let count = bench.seen.came.len();
        send(b"while it is paused");
        assert!(bench.polls_during(Duration::from_millis(50)) <= 15, "it costs turns though it is paused");
        assert_eq!(bench.seen.came.len(), count);
        bench.command(abi::COMMAND_DATAGRAM_RESUME, 3);
        bench.flush();
        bench.until(|seen| seen.came.len() == count + 1);
        make_busy(&mut bench, &send);
        bench.close(3);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn an_error_is_told_of_one_that_was_busy_when_it_was_paused() {
    let mut bench = Bench::on_mio();
    let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = Some(Address::Ip(theirs.local_addr().unwrap()));
    let socket = DatagramSocket::open(&OpenOptions { remote, ..OpenOptions::default() }).unwrap();
    let (ours, socket_fd) = (socket.local_address().unwrap().ip().unwrap(), socket.as_fd().as_raw_fd());
    bench.add(0, socket, 1 << 20);
    make_unwatched(&mut bench, socket_fd, |bytes| {
        assert_eq!(theirs.send_to(bytes, ours).unwrap(), bytes.len())
    });
    drop(theirs);
    bench.command(abi::COMMAND_DATAGRAM_PAUSE, 0);
    bench.send(0, &AddressForm::NONE, b"to nobody");
    bench.flush();
    bench.until(|seen| !seen.events.is_empty());
    assert_eq!(bench.events(abi::EVENT_DATAGRAM_FAILED)[0].a, libc::ECONNREFUSED);
    bench.close(0);
}

#[test]
#[cfg(target_os = "linux")]
fn the_number_of_one_that_ended_while_it_was_busy_can_be_anothers() {
    let mut bench = Bench::on_mio();
    for _ in 0..5 {
        let (socket, address) = bound();
        let socket_fd = socket.as_fd().as_raw_fd();
        let send = to(address);
        bench.add(0, socket, 1 << 20);
        make_unwatched(&mut bench, socket_fd, &send);
        send(b"too late");
        bench.command(abi::COMMAND_DATAGRAM_ABORT, 0);
        bench.flush();
        let count = bench.seen.came.len();
        bench.until(|seen| !seen.events.is_empty());
        assert_eq!(bench.events(abi::EVENT_DATAGRAM_CLOSED).len(), 1);
        assert_eq!(bench.seen.came.len(), count);
        assert!(!bench.engine.has_backlog());
        bench.seen.events.clear();
    }
}

#[test]
fn one_that_always_fills_the_batch_keeps_no_other_waiting() {
    let mut bench = Bench { room: 10, ..Bench::on_mio() }; // whose batches are as long as is said here
    let (flooded, flooded_at) = bound();
    let (other, other_at) = bound();
    let (flood, send) = (to(flooded_at), to(other_at));
    for _ in 0..1_000 {
        flood(b"flood");
    }
    send(b"the other's");
    bench.add(0, flooded, 1 << 20);
    bench.add(1, other, 1 << 20);
    bench.until(|seen| seen.came.len() == 1_001);
    let place = bench.seen.came.iter().position(|(endpoint, _, _)| *endpoint == 1).unwrap();
    assert!(place < 100, "it came behind {place} of the first's");
}

#[test]
fn one_that_is_busy_is_told_of_room() {
    on_every_engine(|mut bench| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        bench.add(1, DatagramSocket::adopt(ours.into(), true).unwrap(), 1 << 20);
        make_busy(&mut bench, |bytes| assert_eq!(theirs.send(bytes).unwrap(), bytes.len()));
        for number in 0..2_000u32 {
            bench.send(1, &AddressForm::NONE, &number.to_ne_bytes());
        }
        bench.flush();
        bench.until(|seen| seen.events.iter().any(|event| event.kind == abi::EVENT_DATAGRAM_PAUSE));
        let reader = std::thread::spawn(move || {
            for number in 0..2_000u32 {
                let mut buffer = [0; 8];
                let length = theirs.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], number.to_ne_bytes());
            }
        });
        bench.until(|seen| seen.events.iter().any(|event| event.kind == abi::EVENT_DATAGRAM_RESUME));
        bench.close(1); // which sends what is left
        reader.join().unwrap();
    });
}

#[test]
fn bursts_and_pauses_of_any_length_come_whole_and_in_order() {
    on_every_engine(|mut bench| {
        let mut drawn = 7u32;
        let mut draw = |below: u32| {
            drawn = drawn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (drawn >> 8) % below
        };
        let (socket, address) = bound();
        let send = to(address);
        bench.add(0, socket, 1 << 20);
        let mut sent = 0;
        for _ in 0..400 {
            for _ in 0..=draw(80) {
                send(&(sent as u32).to_ne_bytes());
                sent += 1;
            }
            if draw(8) == 0 {
                bench.command(abi::COMMAND_DATAGRAM_PAUSE, 0);
                bench.command(abi::COMMAND_DATAGRAM_RESUME, 0);
                bench.flush();
            }
            let end = Instant::now() + Duration::from_micros([0, 20, 40, 500, 3_000][draw(5) as usize]);
            bench.until(|seen| seen.came.len() == sent && Instant::now() >= end);
        }
        for (number, (_, _, payload)) in bench.seen.came.iter().enumerate() {
            assert_eq!(payload, &(number as u32).to_ne_bytes());
        }
        bench.close(0);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn one_that_cannot_be_watched_for_want_of_memory_is_received_from_all_the_same() {
    let test = || {
        let (mut bench, socket_fd, send) = one_on_mio();
        let poll = bench.engine.pollable();
        make_unwatched(&mut bench, socket_fd, &send);
        if !refuse(libc::SYS_epoll_ctl, 1, libc::EPOLL_CTL_ADD as u32, libc::ENOMEM) {
            return;
        }
        let began = Instant::now();
        while bench.engine.next_wake().is_none() {
            bench.engine.collect(Instant::now(), &mut bench.seen, &NoPins);
            assert!(began.elapsed() < Duration::from_secs(10), "it is not tried again");
        }
        let retried_at = bench.engine.next_wake().unwrap();
        assert!(
            retried_at > began && retried_at <= Instant::now() + Duration::from_millis(DATAGRAM_RETRY_MS)
        );
        for _ in 0..3 {
            send(b"all the same");
            let count = bench.seen.came.len() + 1;
            bench.until(|seen| seen.came.len() == count);
            assert!(!is_watched(poll, socket_fd));
        }
        bench.close(0);
    };
    std::thread::spawn(test).join().unwrap();
}
