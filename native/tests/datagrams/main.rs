//! What an engine owes to endpoints, driven without JavaScript. Every test runs on every engine.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bench;
mod busy;

#[cfg(target_os = "linux")]
use bench::refuse;
use bench::{Bench, Given, Narrow, NoPins, bound, on_every_engine};
use shardloop_native::abi;
use shardloop_native::engine::{Engine, SocketEngine, mio::MioEngine};
use shardloop_native::limits::{
    DATAGRAM_CLOSE_MS, DATAGRAM_READS_PER_BATCH, DATAGRAM_RETRY_MAX_MS, DATAGRAM_SLOT_BYTES, ENDPOINTS_MAX,
};
use shardloop_native::metrics::Metrics;
use shardloop_native::net::addresses::Address;
use shardloop_native::net::datagram_address::{self, AddressForm, Form};
#[cfg(target_os = "linux")]
use shardloop_native::net::datagrams::{self, Outgoing, Received};
use shardloop_native::net::udp::{DatagramSocket, OpenOptions};
use shardloop_native::shard::{EndpointLimits, SIGNALS_MAX};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn what_the_sink_cannot_take_is_kept_and_comes_in_order_with_its_source() {
    on_every_engine(|mut bench| {
        bench.room = 3;
        let (socket, address) = bound();
        bench.add(5, socket, 1 << 20);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..500u32 {
            client.send_to(&number.to_ne_bytes(), address).unwrap();
        }
        bench.until(|seen| seen.came.len() == 500);
        for (number, (endpoint, source, payload)) in bench.seen.came.iter().enumerate() {
            assert_eq!((*endpoint, &payload[..]), (5, &(number as u32).to_ne_bytes()[..]));
            assert_eq!(datagram_address::read(source), Form::Ip(client.local_addr().unwrap()));
        }
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_RECEIVED), 500);
        bench.close(5);
    });
}

#[test]
fn datagrams_of_one_flush_leave_by_few_calls_in_order_each_to_its_destination() {
    on_every_engine(|mut bench| {
        let (socket, _) = bound();
        bench.add(0, socket, 1 << 20);
        let clients = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
        let forms = clients.each_ref().map(|client| {
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            AddressForm::of(&Address::Ip(client.local_addr().unwrap()))
        });
        for number in 0..128u8 {
            bench.send(0, &forms[usize::from(number % 3 == 0)], &[number; 20]);
        }
        bench.flush();
        for (index, client) in clients.iter().enumerate() {
            for number in (0..128u8).filter(|number| usize::from(number % 3 == 0) == index) {
                let mut buffer = [0; 100];
                let length = client.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], [number; 20]);
            }
        }
        let bench = bench.close(0);
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_SENT), 128);
        assert_eq!(bench.metrics.read(abi::METRIC_WRITES), 2);
    });
}

#[test]
fn a_datagram_that_is_too_long_is_dropped_told_and_counted_and_the_next_comes() {
    on_every_engine(|mut bench| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        socket2::SockRef::from(&theirs).set_send_buffer_size(1 << 20).unwrap();
        let socket = DatagramSocket::adopt(ours.into(), true).unwrap();
        bench.add(1, socket, 1 << 20);
        if theirs.send(&vec![1; DATAGRAM_SLOT_BYTES + 1]).is_err() {
            return; // macOS has no such
        }
        theirs.send(b"next").unwrap();
        bench.until(|seen| seen.came.len() == 1);
        assert_eq!(bench.seen.came[0].2, b"next");
        bench.until(|seen| !seen.events.is_empty());
        let [event] = bench.events(abi::EVENT_DATAGRAM_FAILED)[..] else { panic!("it is told once") };
        assert_eq!((event.a, event.b), (abi::DATAGRAM_TRUNCATED, 1));
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_TRUNCATED), 1);
        bench.close(1);
    });
}

#[test]
fn what_there_is_no_room_for_waits_up_to_the_limit_and_each_datagram_is_sent_or_counted() {
    on_every_engine(|mut bench| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let socket = DatagramSocket::adopt(ours.into(), true).unwrap();
        bench.add(1, socket, 20_000);
        let all = 2_000;
        for number in 0..all as u32 {
            bench.send(1, &AddressForm::NONE, &number.to_ne_bytes());
        }
        bench.flush();
        bench.until(|seen| seen.events.iter().any(|event| event.kind == abi::EVENT_DATAGRAM_PAUSE));
        assert!(bench.engine.endpoint_queued_bytes(1) > 2_000);
        let dropped: i32 = bench.events(abi::EVENT_DATAGRAM_FAILED).iter().map(|event| event.b).sum();
        assert!(
            dropped > 0
                && bench
                    .events(abi::EVENT_DATAGRAM_FAILED)
                    .iter()
                    .all(|event| event.a == abi::DATAGRAM_OVERFLOW)
        );
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8];
            (0..all - dropped)
                .map(|_| theirs.recv(&mut buffer).map(|_| buffer[0]))
                .filter(Result::is_ok)
                .count()
        });
        bench.until(|seen| seen.events.iter().any(|event| event.kind == abi::EVENT_DATAGRAM_RESUME));
        let bench = bench.close(1);
        assert_eq!(reader.join().unwrap() as i32, all - dropped);
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_DROPPED), dropped as u64);
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_SENT), (all - dropped) as u64);
    });
}

#[test]
fn each_icmp_error_is_told_also_the_second() {
    on_every_engine(|mut bench| {
        let (gone, address) = bound();
        drop(gone);
        let remote = Some(Address::Ip(address));
        let socket = DatagramSocket::open(&OpenOptions { remote, ..OpenOptions::default() }).unwrap();
        bench.add(2, socket, 1 << 20);
        for round in 1..=3 {
            bench.send(2, &AddressForm::NONE, b"nobody");
            bench.flush();
            bench.until(|seen| {
                let told = seen.events.iter().filter(|event| event.a == libc::ECONNREFUSED);
                told.map(|event| event.b).sum::<i32>() >= round
            });
        }
        let bench = bench.close(2);
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_SENT), 3);
    });
}

#[test]
fn the_error_of_one_that_does_not_receive_is_told_and_costs_no_turns() {
    on_every_engine(|mut bench| {
        let (gone, address) = bound();
        drop(gone);
        let remote = Some(Address::Ip(address));
        let socket = DatagramSocket::open(&OpenOptions { remote, ..OpenOptions::default() }).unwrap();
        bench.add(2, socket, 1 << 20);
        bench.command(abi::COMMAND_DATAGRAM_PAUSE, 2);
        for round in 1..=3 {
            bench.send(2, &AddressForm::NONE, b"nobody");
            bench.flush();
            bench.until(|seen| {
                let told = seen.events.iter().filter(|event| event.a == libc::ECONNREFUSED);
                told.map(|event| event.b).sum::<i32>() >= round
            });
        }
        assert!(bench.polls_during(Duration::from_millis(200)) < 200);
        bench.close(2);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn an_error_that_stands_whoever_asks_costs_few_turns_and_datagrams_come() {
    on_every_engine(|mut bench| {
        let (gone, nowhere) = bound();
        drop(gone);
        let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = plain.local_addr().unwrap();
        let on: libc::c_int = 1;
        let (value, length) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the option is one int, which `value` points to.
        let set =
            unsafe { libc::setsockopt(plain.as_raw_fd(), libc::SOL_IP, libc::IP_RECVERR, value, length) };
        assert_eq!(set, 0);
        // Its error queue, which nobody reads.
        plain.send_to(b"nobody", nowhere).unwrap();
        bench.add(4, DatagramSocket::adopt(plain.into(), true).unwrap(), 1 << 20);
        bench.until(|seen| seen.events.iter().any(|event| event.a == libc::ECONNREFUSED));
        assert!(bench.polls_during(Duration::from_millis(200)) < 200);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", address).unwrap();
        bench.until(|seen| seen.came.len() == 1);
        bench.close(4);
    });
}

#[test]
fn a_number_that_is_in_use_or_beyond_the_limit_is_refused_and_the_others_go_on() {
    on_every_engine(|mut bench| {
        let (socket, address) = bound();
        bench.add(0, socket, 1 << 20);
        let limits = EndpointLimits { write_high_bytes: 1, write_low_bytes: 1, write_max_bytes: 1 };
        for (number, errno) in [(0, libc::EEXIST), (ENDPOINTS_MAX as u32, libc::EMFILE)] {
            let refused = bench.engine.add_endpoint(Instant::now(), number, Arc::new(bound().0), limits);
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(errno));
        }
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", address).unwrap();
        bench.until(|seen| seen.came.len() == 1);
        bench.close(0);
    });
}

#[test]
#[cfg(target_os = "linux")] // kqueue takes the second for the first under another name
fn a_socket_that_is_watched_already_is_lost_as_the_second_and_stays_the_firsts() {
    on_every_engine(|mut bench| {
        let (socket, address) = bound();
        let socket = Arc::new(socket);
        let limits = EndpointLimits { write_high_bytes: 1, write_low_bytes: 1, write_max_bytes: 1 };
        for number in 0..2 {
            bench.engine.add_endpoint(Instant::now(), number, socket.clone(), limits).unwrap();
        }
        bench.until(|seen| !seen.events.is_empty());
        let [event] = bench.events(abi::EVENT_DATAGRAM_CLOSED)[..] else { panic!("one is lost") };
        assert_eq!((event.handle, event.a), (1, libc::EEXIST));
        bench.seen.events.clear();
        bench.command(abi::COMMAND_DATAGRAM_START, 0);
        bench.flush();
        // The first look finds nothing: so the second datagram comes only if the kernel tells of it.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for count in 1..=2 {
            client.send_to(b"hello", address).unwrap();
            bench.until(|seen| seen.came.len() == count);
        }
        bench.close(0);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn what_the_kernel_does_not_take_as_one_is_sent_one_by_one_and_the_next_is_merged_again() {
    let to = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(datagrams::merge_received(to.as_fd()));
    let (from, _) = bound();
    let without_checksums = |on: libc::c_int| {
        let (fd, value) = (from.as_fd().as_raw_fd(), (&raw const on).cast());
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option is one int, which `value` points to.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, value, length) }
    };
    let destination = AddressForm::of(&Address::Ip(to.local_addr().unwrap()));
    let one = Outgoing { destination: destination.as_bytes(), payload: &[7; 100] };
    let mut received = Received::default();
    // Where there are no checksums the kernel refuses to cut: EINVAL.
    for (refuses, packets) in [(0, 1), (1, 5), (0, 1)] {
        assert_eq!(without_checksums(refuses), 0);
        assert_eq!(from.send(&[one; 5]).unwrap(), 5);
        assert_eq!(datagrams::receive(to.as_fd(), &mut received, 64, true).unwrap(), packets);
    }
}

#[test]
fn a_socket_from_elsewhere_is_not_handed_on_to_other_programs() {
    let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
    let flags = |fd, call, argument: libc::c_int| {
        // SAFETY: a descriptor that is open, and a number.
        unsafe { libc::fcntl(fd, call, argument) }
    };
    assert_eq!(flags(plain.as_raw_fd(), libc::F_SETFD, 0), 0);
    let socket = DatagramSocket::adopt(plain.into(), true).unwrap();
    assert_eq!(flags(socket.as_fd().as_raw_fd(), libc::F_GETFD, 0), libc::FD_CLOEXEC);
}

/// A Unix socket with a name that nobody reads from yet.
fn named(name: &str) -> (UnixDatagram, std::path::PathBuf) {
    let path = std::env::temp_dir().join(format!("shardloop-{}-{name}", std::process::id()));
    _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (socket, path)
}

fn form_of(path: &std::path::Path) -> AddressForm {
    AddressForm::unix(path.as_os_str().as_bytes())
}

#[test]
fn a_peer_that_does_not_read_delays_no_other_and_gets_all_in_order_when_it_does() {
    on_every_engine(|mut bench| {
        let ((slow, slow_path), (quick, quick_path)) = (named("slow"), named("quick"));
        let plain = UnixDatagram::unbound().unwrap();
        bench.add(1, DatagramSocket::adopt(plain.into(), true).unwrap(), 1 << 20);
        let all = 600u32; // more than a queue has room for (net.unix.max_dgram_qlen, 10 to 512)
        let mut buffer = [0; 8];
        let reads = |socket: &UnixDatagram, buffer: &mut [u8; 8]| {
            socket.recv(buffer).unwrap();
            u32::from_ne_bytes(*buffer.first_chunk().unwrap())
        };
        for number in 0..all {
            bench.send(1, &form_of(&slow_path), &number.to_ne_bytes());
        }
        // Of the same flush, and of a later one.
        for number in 0..2u32 {
            bench.send(1, &form_of(&quick_path), &number.to_ne_bytes());
            bench.flush();
            assert_eq!(reads(&quick, &mut buffer), number);
        }
        assert!(bench.engine.endpoint_queued_bytes(1) > 0);
        let reader = std::thread::spawn(move || (0..all).all(|number| reads(&slow, &mut [0; 8]) == number));
        bench.until(|seen| seen.events.iter().any(|event| event.kind == abi::EVENT_DATAGRAM_RESUME));
        let bench = bench.close(1);
        assert!(reader.join().unwrap(), "in order");
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_SENT), u64::from(all) + 2);
        for path in [slow_path, quick_path] {
            std::fs::remove_file(path).unwrap();
        }
    });
}

#[test]
fn a_closed_endpoint_without_room_is_tried_seldom_and_ends_at_its_deadline() {
    let metrics = Arc::<Metrics>::default();
    let mut engine = MioEngine::open(metrics.clone(), None).unwrap(); // which has its time from here
    let (_deaf, path) = named("deaf");
    let socket = DatagramSocket::adopt(UnixDatagram::unbound().unwrap().into(), true).unwrap();
    let limits = EndpointLimits { write_high_bytes: 1 << 20, write_low_bytes: 0, write_max_bytes: 1 << 20 };
    let mut now = Instant::now();
    engine.add_endpoint(now, 1, Arc::new(socket), limits).unwrap();
    let bytes = [form_of(&path).as_bytes(), b"x"].concat();
    let datagram = ([abi::COMMAND_DATAGRAM, 1, 0, bytes.len() as i32], bytes);
    let mut commands = vec![datagram; 600];
    commands.push(([abi::COMMAND_DATAGRAM_CLOSE, 1, 0, 0], Vec::new()));
    engine.submit(now, &Given(commands));
    let (closed, tries) = (now, metrics.read(abi::METRIC_WRITES));
    let mut seen = Narrow { takes: 0, room: 100, events: Vec::new(), came: Vec::new() };
    while seen.events.is_empty() {
        now = engine.next_wake().expect("time alone ends it");
        assert!(now - closed <= Duration::from_millis(DATAGRAM_CLOSE_MS), "it is tried for ever");
        engine.collect(now, &mut seen, &NoPins);
        engine.end_batch(now);
    }
    let [event] = seen.events[..] else { panic!("nothing else is told") };
    assert_eq!((event.kind, event.a), (abi::EVENT_DATAGRAM_CLOSED, libc::ETIMEDOUT));
    assert_eq!(now - closed, Duration::from_millis(DATAGRAM_CLOSE_MS));
    let (sent, dropped) = (abi::METRIC_DATAGRAMS_SENT, abi::METRIC_DATAGRAMS_DROPPED);
    assert_eq!(metrics.read(sent) + metrics.read(dropped), 600);
    let most = DATAGRAM_CLOSE_MS / DATAGRAM_RETRY_MAX_MS + 8;
    assert!(metrics.read(abi::METRIC_WRITES) - tries < most);
    std::fs::remove_file(path).unwrap();
}

/// In a network of its own, whose loopback has a smaller MTU than a segment. False where that is not allowed.
#[cfg(target_os = "linux")]
fn enter_narrow_network() -> bool {
    // SAFETY: it concerns this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return false;
    }
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_mtu = 1000;
    // SAFETY: the calls read a request, of an interface that there is.
    assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw mut request) }, 0);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) }, 0);
    true
}

#[test]
#[cfg(target_os = "linux")]
fn segments_beyond_the_mtu_of_a_path_are_sent_one_by_one() {
    let sent = std::thread::spawn(|| {
        if !enter_narrow_network() {
            return; // needs CAP_SYS_ADMIN
        }
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let destination = AddressForm::of(&Address::Ip(to.local_addr().unwrap()));
        let one = Outgoing { destination: destination.as_bytes(), payload: &[7; 1200] };
        let (from, _) = bound();
        assert_eq!(from.send(&[one; 5]).unwrap(), 5);
        for _ in 0..5 {
            assert_eq!(to.recv(&mut [0; 2000]).unwrap(), 1200);
        }
    });
    sent.join().unwrap();
}

#[test]
fn a_number_is_free_once_its_end_was_told_and_what_was_left_of_the_old_one_is_not_the_new_ones() {
    on_every_engine(|mut bench| {
        bench.room = 1;
        let (socket, address) = bound();
        bench.add(0, socket, 1 << 20);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            client.send_to(b"old", address).unwrap();
        }
        bench.until(|seen| seen.came.len() == 2);
        let mut bench = bench.close(0);
        bench.seen.events.clear();
        let before = bench.seen.came.len();
        let (socket, address) = bound();
        bench.add(0, socket, 1 << 20);
        client.send_to(b"new", address).unwrap();
        bench.until(|seen| seen.came.len() > before);
        assert_eq!(bench.seen.came[before].2, b"new");
        bench.close(0);
    });
}

#[test]
fn a_number_that_is_used_again_and_again_is_received_from_once_in_a_batch() {
    let mut bench = Bench { room: 0, ..Bench::on_mio() }; // whose batches are as long as is said here
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    // What the first has received finds no room: the other is listed, as often as it is opened.
    let (socket, address) = bound();
    bench.add(0, socket, 1 << 20);
    client.send_to(b"first", address).unwrap();
    bench.engine.collect(Instant::now(), &mut bench.seen, &NoPins);
    for _ in 0..20 {
        bench.add(1, bound().0, 1 << 20);
        bench.command(abi::COMMAND_DATAGRAM_ABORT, 1);
        bench.flush();
        bench.seen.events.clear();
        while bench.events(abi::EVENT_DATAGRAM_CLOSED).is_empty() {
            bench.engine.collect(Instant::now(), &mut bench.seen, &NoPins);
        }
    }
    let (socket, address) = bound();
    bench.add(1, socket, 1 << 20);
    for _ in 0..100 {
        client.send_to(b"other", address).unwrap();
    }
    bench.seen.takes = 1000;
    // One datagram is received by a call, so that none of them finds the end.
    bench.seen.room = SIGNALS_MAX + 1;
    bench.engine.collect(Instant::now(), &mut bench.seen, &NoPins);
    for _ in 0..3 {
        let before = bench.seen.came.len();
        bench.engine.collect(Instant::now(), &mut bench.seen, &NoPins);
        assert_eq!(bench.seen.came.len() - before, DATAGRAM_READS_PER_BATCH);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_the_kernel_has_no_memory_for_waits_with_what_follows_and_is_tried_again_in_order() {
    let test = || {
        // Of three packets.
        if !refuse(libc::SYS_sendmmsg, 2, 3, libc::ENOBUFS) {
            return;
        }
        let mut bench = Bench { room: 0, ..Bench::on_mio() }; // which sends on this thread
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let to = AddressForm::of(&Address::Ip(client.local_addr().unwrap()));
        let local = Some(Address::Ip("127.0.0.1:0".parse().unwrap()));
        let socket = DatagramSocket::open(&OpenOptions { local, ..OpenOptions::default() }).unwrap();
        bench.add(0, socket, 1 << 20);
        (0..3u8).for_each(|number| bench.send(0, &to, &[number]));
        bench.flush();
        let tries = bench.metrics.read(abi::METRIC_WRITES);
        let waiting = bench.engine.endpoint_queued_bytes(0);
        assert!(waiting > 0);
        // Again and again, with pauses in between, and for nothing.
        let (began, metrics) = (Instant::now(), bench.metrics.clone());
        bench.until(|_| metrics.read(abi::METRIC_WRITES) >= tries + 4);
        assert!(
            began.elapsed()
                >= Duration::from_millis(shardloop_native::limits::DATAGRAM_RETRY_MS * (1 + 2 + 4))
        );
        assert_eq!(bench.engine.endpoint_queued_bytes(0), waiting);
        bench.send(0, &to, &[3]);
        bench.flush();
        let bench = bench.close(0);
        for number in 0..4 {
            let mut buffer = [0; 8];
            assert_eq!(client.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], number);
        }
        assert!(bench.events(abi::EVENT_DATAGRAM_FAILED).is_empty(), "nothing has failed");
        assert_eq!(bench.metrics.read(abi::METRIC_DATAGRAMS_DROPPED), 0);
    };
    std::thread::spawn(test).join().unwrap();
}
