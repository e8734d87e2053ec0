//! System calls on sockets of datagrams: many of them in one (recvmmsg, sendmmsg), and on Linux several in what the kernel
//! handles as one packet (GSO and GRO, udp(7)).
//!
//! Why this is not `quinn-udp`, which is made for QUIC: its `send` (0.6.3) is one sendmsg for each transmit, and there is no
//! sendmmsg; it forbids fragmentation on every socket, so that what is longer than the path's MTU could not be sent; it asks
//! the kernel for time, destination and TOS of each datagram; it does not say which were truncated; it has no Unix sockets.

mod receiving;
mod sending;

pub use receiving::{Datagram, Received, receive};
pub use sending::{Outgoing, send};

use std::io;
use std::mem;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

/// Of control messages, aligned as the kernel wants them: GSO's or GRO's, which is a header and an int, and what the kernel puts
/// before it when whoever opened a socket asked for it (SO_TIMESTAMPING, SO_RXQ_OVFL, SO_RCVMARK).
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 256]);

/// A message header without anything.
fn empty_header() -> libc::msghdr {
    // SAFETY: null pointers and zero lengths are a valid header; some systems' have padding, which must be zero.
    unsafe { mem::zeroed() }
}

/// Has the kernel put datagrams of one source and length into one packet (UDP_GRO). False where it cannot.
pub fn merge_received(fd: BorrowedFd<'_>) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let on: libc::c_int = 1;
        let (value, length) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the option is one int, which `value` points to; `fd` is open, as it is borrowed.
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, value, length) == 0 }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = fd;
        false
    }
}

/// Packets that the kernel had no room for in a socket's receive buffer, and dropped. Linux only (SO_MEMINFO, since 4.12).
pub fn kernel_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        const SO_MEMINFO: libc::c_int = 55;
        const DROPS: usize = 8; // SK_MEMINFO_DROPS of linux/sock_diag.h
        let mut values = [0u32; DROPS + 1];
        let mut length = size_of_val(&values) as libc::socklen_t;
        let (fd, into) = (fd.as_raw_fd(), values.as_mut_ptr().cast());
        // SAFETY: the kernel writes no more than `length` bytes, which there are; `fd` is open, as it is borrowed.
        if unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_MEMINFO, into, &raw mut length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(values[DROPS])
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = fd;
        Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT))
    }
}

/// The number of an interface by its name; 0 when there is none.
pub fn interface_index(name: &std::ffi::CStr) -> u32 {
    // SAFETY: a text that ends with a zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::super::datagram_address::AddressForm;
    use super::*;
    use crate::limits::{DATAGRAM_BATCH, DATAGRAM_SLOT_BYTES};
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair() -> (UdpSocket, UdpSocket) {
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        one.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        (one, other)
    }

    fn form(socket: &UdpSocket) -> AddressForm {
        AddressForm::of(&super::super::addresses::Address::Ip(socket.local_addr().unwrap()))
    }

    fn taken(received: &mut Received) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(datagram) = received.peek() {
            all.push(datagram.payload.to_vec());
            received.advance();
        }
        all
    }

    fn payloads(lengths: &[usize]) -> Vec<Vec<u8>> {
        lengths.iter().enumerate().map(|(index, &length)| vec![index as u8; length]).collect()
    }

    fn outgoing<'a>(payloads: &'a [Vec<u8>], destination: &'a AddressForm) -> Vec<Outgoing<'a>> {
        let destination = destination.as_bytes();
        payloads.iter().map(|payload| Outgoing { destination, payload }).collect()
    }

    #[test]
    fn a_batch_arrives_datagram_by_datagram_with_its_source_whether_or_not_the_kernel_merges() {
        for (merge, merged) in [(false, false), (true, false), (false, true), (true, true)] {
            let (from, to) = pair();
            let merged = merged && merge_received(to.as_fd());
            let payloads = payloads(&[64, 64, 64, 10, 0, 64, 1, 1, 1, 1, 9000, 64]);
            let destination = form(&to);
            let mut outgoing = &outgoing(&payloads, &destination)[..];
            while !outgoing.is_empty() {
                outgoing = &outgoing[send(from.as_fd(), outgoing, merge).unwrap()..];
            }
            let (mut received, mut all) = (Received::default(), Vec::new());
            while receive(to.as_fd(), &mut received, DATAGRAM_BATCH, merged).is_ok() {
                assert_eq!(received.peek().unwrap().source, form(&from).as_bytes());
                all.extend(taken(&mut received));
            }
            assert_eq!(all, payloads, "merge {merge}, merged {merged}");
        }
    }

    #[test]
    fn an_empty_queue_and_an_unreachable_port_are_told_as_the_kernel_does() {
        let (from, to) = pair();
        let mut received = Received::default();
        let error = receive(to.as_fd(), &mut received, 1, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        from.connect(to.local_addr().unwrap()).unwrap();
        drop(to);
        let nowhere = [Outgoing { destination: AddressForm::NONE.as_bytes(), payload: b"x" }];
        assert_eq!(send(from.as_fd(), &nowhere, true).unwrap(), 1);
        let refused = receive(from.as_fd(), &mut received, 1, false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_unix_datagram_beyond_the_slot_is_told_as_truncated_and_one_of_its_size_is_not() {
        let (from, to) = std::os::unix::net::UnixDatagram::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        SocketBuffer::widen(&from);
        for (length, truncated) in [(DATAGRAM_SLOT_BYTES, false), (DATAGRAM_SLOT_BYTES + 1, true)] {
            if from.send(&vec![7; length]).is_err() {
                return; // macOS takes no more than its net.local.dgram.maxdgram
            }
            let mut received = Received::default();
            assert_eq!(receive(to.as_fd(), &mut received, 9, false).unwrap(), 1);
            let datagram = received.peek().unwrap();
            assert_eq!((datagram.is_truncated, datagram.payload.len()), (truncated, DATAGRAM_SLOT_BYTES));
            assert_eq!(datagram.source, AddressForm::unix(&[]).as_bytes());
        }
    }

    #[test]
    fn a_name_that_no_kernel_takes_ends_the_batch_and_is_told_by_the_next() {
        let (from, to) = pair();
        let (good, odd) = (form(&to), AddressForm::unix(&[b'n'; 120]));
        let one = |form| Outgoing { destination: AddressForm::as_bytes(form), payload: b"x" };
        let batch = [one(&good), one(&good), one(&odd), one(&good)];
        assert_eq!(send(from.as_fd(), &batch, true).unwrap(), 2);
        assert!(send(from.as_fd(), &batch[2..], true).is_err());
        assert_eq!(send(from.as_fd(), &batch[3..], true).unwrap(), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_length_of_merged_datagrams_is_found_behind_other_control_messages() {
        let (from, to) = pair();
        assert!(merge_received(to.as_fd()));
        let on: libc::c_int = 1;
        let (value, length) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        for option in [libc::SO_TIMESTAMP, libc::SO_RXQ_OVFL] {
            // SAFETY: the option is one int, which `value` points to.
            let set = unsafe { libc::setsockopt(to.as_raw_fd(), libc::SOL_SOCKET, option, value, length) };
            assert_eq!(set, 0);
        }
        let (payloads, destination) = (payloads(&[64, 64, 64, 10]), form(&to));
        assert_eq!(send(from.as_fd(), &outgoing(&payloads, &destination), true).unwrap(), 4);
        let mut received = Received::default();
        assert_eq!(receive(to.as_fd(), &mut received, DATAGRAM_BATCH, true).unwrap(), 1);
        assert_eq!(taken(&mut received), payloads);
    }

    struct SocketBuffer;
    impl SocketBuffer {
        fn widen(socket: &std::os::unix::net::UnixDatagram) {
            socket2::SockRef::from(socket).set_send_buffer_size(1 << 20).unwrap();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_the_kernel_drops_is_counted() {
        let (from, to) = pair();
        socket2::SockRef::from(&to).set_recv_buffer_size(4096).unwrap();
        let payloads = payloads(&[1000; 50]);
        let destination = form(&to);
        for chunk in outgoing(&payloads, &destination).chunks(10) {
            assert_eq!(send(from.as_fd(), chunk, false).unwrap(), chunk.len());
        }
        let mut received = Received::default();
        let count = receive(to.as_fd(), &mut received, DATAGRAM_BATCH, false).unwrap();
        assert_eq!(count + kernel_drops(to.as_fd()).unwrap() as usize, 50);
    }
}
