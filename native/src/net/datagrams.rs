//! System calls on sockets of datagrams: many of them in one (recvmmsg, sendmmsg), and on Linux several in what the kernel
//! handles as one packet (GSO and GRO, udp(7)).
//!
//! Why this is not `quinn-udp`, which is made for QUIC: its `send` (0.6.3) is one sendmsg for each transmit, and there is no
//! sendmmsg; it forbids fragmentation on every socket, so that what is longer than the path's MTU could not be sent; it asks
//! the kernel for time, destination and TOS of each datagram; it does not say which were truncated; it has no Unix sockets.

use super::datagram_address::{self, AddressForm, Form};
use crate::limits::{DATAGRAM_BATCH, DATAGRAM_SLOT_BYTES};
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::limits::{GSO_SEGMENT_MAX_BYTES, GSO_SEGMENTS_MAX};
use socket2::SockAddr;
use std::ffi::OsStr;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// What one call has received.
pub struct Received {
    /// A slot for each datagram, or several of one length. What was never used takes no memory: the system maps it when it is.
    memory: Box<[u8]>,
    packets: Box<[Packet; DATAGRAM_BATCH]>,
    count: usize,
    /// The next datagram: its packet, and where in it.
    next: (usize, usize),
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    source: AddressForm,
    length: usize,
    /// Length of each datagram in it but the last, which may be shorter.
    stride: usize,
    is_truncated: bool,
}

/// A datagram that was received.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// From where, as [`datagram_address`] has it.
    pub source: &'a [u8],
    /// What it has.
    pub payload: &'a [u8],
    /// It was longer than that.
    pub is_truncated: bool,
}

impl Default for Received {
    fn default() -> Self {
        let none = Packet { source: AddressForm::NONE, length: 0, stride: 0, is_truncated: false };
        Self {
            memory: vec![0; DATAGRAM_BATCH * DATAGRAM_SLOT_BYTES].into_boxed_slice(),
            packets: Box::new([none; DATAGRAM_BATCH]),
            count: 0,
            next: (0, 0),
        }
    }
}

impl Received {
    /// The next datagram that was not taken.
    #[inline]
    pub fn peek(&self) -> Option<Datagram<'_>> {
        let (index, from) = self.next;
        let packet = self.packets[..self.count].get(index)?;
        let start = index * DATAGRAM_SLOT_BYTES;
        let end = (from + packet.stride.max(1)).min(packet.length);
        Some(Datagram {
            source: packet.source.as_bytes(),
            payload: &self.memory[start + from..start + end],
            is_truncated: packet.is_truncated,
        })
    }

    /// It is taken.
    #[inline]
    pub fn advance(&mut self) {
        let (index, from) = self.next;
        let Packet { length, stride, .. } = self.packets[index];
        let next = from + stride.max(1);
        self.next = if next < length { (index, next) } else { (index + 1, 0) };
    }

    /// Drops what was not taken.
    pub fn clear(&mut self) {
        self.count = 0;
        self.next = (0, 0);
    }

    fn set(&mut self, index: usize, packet: Packet) {
        self.packets[index] = packet;
    }

    /// `count` packets are there.
    fn begin(&mut self, count: usize) {
        self.count = count;
        self.next = (0, 0);
    }
}

/// A datagram to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where to, as [`datagram_address`] has it.
    pub destination: &'a [u8],
    /// What.
    pub payload: &'a [u8],
}

/// Of control messages, aligned as the kernel wants them: GSO's or GRO's, which is a header and an int, and what the kernel puts
/// before it when whoever opened a socket asked for it (SO_TIMESTAMPING, SO_RXQ_OVFL, SO_RCVMARK).
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 256]);

/// Room for any of the addresses, and how much of it is used.
type Name = (MaybeUninit<libc::sockaddr_storage>, libc::socklen_t);

/// A message header without anything.
fn empty_header() -> libc::msghdr {
    // SAFETY: null pointers and zero lengths are a valid header; some systems' have padding, which must be zero.
    unsafe { mem::zeroed() }
}

/// Receives up to `most` packets into `received`, which must be taken empty; how many. With `merged`, a packet may have several
/// datagrams (GRO). EINTR is tried again.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn receive(fd: BorrowedFd<'_>, received: &mut Received, most: usize, merged: bool) -> io::Result<usize> {
    let most = most.min(DATAGRAM_BATCH);
    received.clear();
    let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; DATAGRAM_BATCH];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; DATAGRAM_BATCH];
    let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; DATAGRAM_BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; DATAGRAM_BATCH];
    for (index, slot) in received.memory.chunks_exact_mut(DATAGRAM_SLOT_BYTES).take(most).enumerate() {
        let piece = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        let mut header = empty_header();
        header.msg_name = names[index].as_mut_ptr().cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = pieces[index].write(piece);
        header.msg_iovlen = 1;
        if merged {
            header.msg_control = controls[index].as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        messages[index].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
    }
    let count = loop {
        // SAFETY: the first `most` headers were written above; what they point to is valid for writes of the lengths that
        // they have, for the length of the call. `fd` is open, as it is borrowed.
        let count = unsafe {
            let (fd, first) = (fd.as_raw_fd(), messages.as_mut_ptr().cast());
            libc::recvmmsg(fd, first, most as _, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        match usize::try_from(count) {
            Ok(count) => break count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    for (index, message) in messages[..count].iter().enumerate() {
        // SAFETY: the kernel has filled `count` of the headers that were written, and the names that they point to, to the
        // lengths that it says.
        let (length, flags, source, stride) = unsafe {
            let message = message.assume_init_ref();
            let header = &message.msg_hdr;
            let stride = if merged { segment_length(header) } else { None };
            let source = form_of(header.msg_name.cast(), header.msg_namelen);
            (message.msg_len as usize, header.msg_flags, source, stride)
        };
        let length = length.min(DATAGRAM_SLOT_BYTES);
        let is_truncated = flags & libc::MSG_TRUNC != 0;
        received.set(index, Packet { source, length, stride: stride.unwrap_or(length), is_truncated });
    }
    received.begin(count);
    Ok(count)
}

/// As above, by a call for each.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn receive(fd: BorrowedFd<'_>, received: &mut Received, most: usize, _merged: bool) -> io::Result<usize> {
    received.clear();
    let mut count = 0;
    while count < most.min(DATAGRAM_BATCH) {
        let mut name = MaybeUninit::<libc::sockaddr_storage>::uninit();
        let slot = &mut received.memory[count * DATAGRAM_SLOT_BYTES..][..DATAGRAM_SLOT_BYTES];
        let mut piece = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        let mut header = empty_header();
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &mut piece;
        header.msg_iovlen = 1;
        // SAFETY: the header points to memory that is valid for writes of the lengths that it has, for the length of the
        // call. `fd` is open, as it is borrowed, and non-blocking.
        let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, 0) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                // An error comes with the next call, or is gone, as it was told by what it was an error of.
                _ if count > 0 => break,
                _ => return Err(error),
            }
        };
        // SAFETY: the kernel has filled the name to the length that it says.
        let source = unsafe { form_of(name.as_ptr(), header.msg_namelen) };
        let is_truncated = header.msg_flags & libc::MSG_TRUNC != 0;
        received.set(count, Packet { source, length, stride: length, is_truncated });
        count += 1;
    }
    received.begin(count);
    Ok(count)
}

/// The form of an address that the kernel has written.
///
/// # Safety
/// `length` bytes of it are there, and it is aligned as storage is.
#[inline]
unsafe fn form_of(name: *const libc::sockaddr_storage, length: libc::socklen_t) -> AddressForm {
    let length = length as usize;
    if length < size_of::<libc::sa_family_t>() + mem::offset_of!(libc::sockaddr, sa_family) {
        return AddressForm::unix(&[]); // a Unix socket without a name
    }
    // SAFETY: by the caller, as many bytes are there as the family's address has; each is read through its own type only.
    unsafe {
        match i32::from((*name.cast::<libc::sockaddr>()).sa_family) {
            libc::AF_INET => {
                let address = &*name.cast::<libc::sockaddr_in>();
                AddressForm::ipv4(address.sin_addr.s_addr.to_ne_bytes(), u16::from_be(address.sin_port))
            }
            libc::AF_INET6 => {
                let address = &*name.cast::<libc::sockaddr_in6>();
                let port = u16::from_be(address.sin6_port);
                AddressForm::ipv6(address.sin6_addr.s6_addr, port, address.sin6_scope_id)
            }
            _ => {
                let start = mem::offset_of!(libc::sockaddr_un, sun_path);
                let bytes = std::slice::from_raw_parts(name.cast::<u8>(), length.max(start));
                let name = &bytes[start..];
                // A path may have its closing zero with it; an abstract name begins with one, and has what it has.
                let is_path = name.first().is_some_and(|&byte| byte != 0);
                let end = if is_path { name.iter().position(|&byte| byte == 0) } else { None };
                // macOS gives an address of zero bytes to a socket that has none.
                let is_none = !is_path && cfg!(not(any(target_os = "linux", target_os = "android")));
                AddressForm::unix(if is_none { &[] } else { &name[..end.unwrap_or(name.len())] })
            }
        }
    }
}

/// The length of the datagrams in a packet, when the kernel has put several into it and there was room to say so.
///
/// # Safety
/// The header is one that the kernel has filled, and its control messages are where it points to.
#[cfg(any(target_os = "linux", target_os = "android"))]
unsafe fn segment_length(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: by the caller; the macros stay within the length that the header has.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            if message.cmsg_level == libc::SOL_UDP && message.cmsg_type == libc::UDP_GRO {
                if message.cmsg_len < libc::CMSG_LEN(size_of::<libc::c_int>() as libc::c_uint) as _ {
                    return None; // cut (MSG_CTRUNC)
                }
                let length = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(length).ok();
            }
            next = libc::CMSG_NXTHDR(header, message);
        }
        None
    }
}

/// How many of the datagrams, which are not none, go into one packet: those to one destination that are of one length, and
/// one behind them that is shorter.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn run(datagrams: &[Outgoing<'_>]) -> usize {
    let first = &datagrams[0];
    let length = first.payload.len();
    if length == 0 || length > GSO_SEGMENT_MAX_BYTES {
        return 1;
    }
    let most = GSO_SEGMENTS_MAX.min(crate::limits::DATAGRAM_MAX_BYTES / length).max(1);
    let fits = |next: &&Outgoing<'_>| next.payload.len() == length && next.destination == first.destination;
    let count = datagrams.iter().take(most).take_while(fits).count();
    match datagrams.get(count).filter(|_| count < most) {
        Some(last) if !last.payload.is_empty() && last.payload.len() < length => {
            count + usize::from(last.destination == first.destination)
        }
        _ => count,
    }
}

/// Sends datagrams, of which there is one at least and [`DATAGRAM_BATCH`] at most. How many the kernel took, or why it did not
/// take the first. With `merge`, what goes to one destination is one packet to it (GSO). EINTR is tried again.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn send(fd: BorrowedFd<'_>, datagrams: &[Outgoing<'_>], merge: bool) -> io::Result<usize> {
    debug_assert!(!datagrams.is_empty() && datagrams.len() <= DATAGRAM_BATCH, "an odd number of datagrams");
    let datagrams = &datagrams[..datagrams.len().min(DATAGRAM_BATCH)];
    let mut names: [MaybeUninit<Name>; DATAGRAM_BATCH] = [const { MaybeUninit::uninit() }; DATAGRAM_BATCH];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; DATAGRAM_BATCH];
    let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; DATAGRAM_BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; DATAGRAM_BATCH];
    let mut runs = [0u8; DATAGRAM_BATCH];
    for (piece, datagram) in pieces.iter_mut().zip(datagrams) {
        let (base, length) = (datagram.payload.as_ptr(), datagram.payload.len());
        piece.write(libc::iovec { iov_base: base.cast_mut().cast(), iov_len: length });
    }
    let (mut count, mut from) = (0, 0);
    while from < datagrams.len() {
        let length = if merge { run(&datagrams[from..]) } else { 1 };
        let mut header = empty_header();
        match write_name(&mut names[count], datagrams[from].destination) {
            Ok(Some((name, length))) => {
                header.msg_name = name;
                header.msg_namelen = length;
            }
            Ok(None) => {}
            Err(error) if count == 0 => return Err(error),
            Err(_) => break, // what is before it is sent, and the next call is told
        }
        header.msg_iov = pieces[from].as_mut_ptr();
        header.msg_iovlen = length as _;
        if length > 1 {
            header.msg_control = controls[count].as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
            // SAFETY: the header has room for the control message, which is written as the kernel reads it.
            unsafe { write_segment_length(&mut header, datagrams[from].payload.len() as u16) };
        }
        messages[count].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        runs[count] = length as u8;
        count += 1;
        from += length;
    }
    loop {
        // SAFETY: the first `count` headers were written above; what they point to is valid for reads of the lengths that
        // they have, for the length of the call. `fd` is open, as it is borrowed.
        let sent = unsafe {
            let (fd, first) = (fd.as_raw_fd(), messages.as_mut_ptr().cast());
            libc::sendmmsg(fd, first, count as _, (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _)
        };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(runs[..sent].iter().map(|&length| usize::from(length)).sum()),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// As above, by a call for each.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn send(fd: BorrowedFd<'_>, datagrams: &[Outgoing<'_>], _merge: bool) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(datagram) = datagrams.get(sent) {
        let mut place: MaybeUninit<Name> = MaybeUninit::uninit();
        let (base, length) = (datagram.payload.as_ptr(), datagram.payload.len());
        let mut piece = libc::iovec { iov_base: base.cast_mut().cast(), iov_len: length };
        let mut header = empty_header();
        match write_name(&mut place, datagram.destination) {
            Ok(Some((name, length))) => {
                header.msg_name = name;
                header.msg_namelen = length;
            }
            Ok(None) => {}
            Err(error) if sent == 0 => return Err(error),
            Err(_) => return Ok(sent), // the next call is told
        }
        header.msg_iov = &mut piece;
        header.msg_iovlen = 1;
        // SAFETY: the header points to memory that is valid for reads of the lengths that it has, for the length of the call.
        // `fd` is open, as it is borrowed, and non-blocking.
        if unsafe { libc::sendmsg(fd.as_raw_fd(), &header, 0) } >= 0 {
            sent += 1;
            continue;
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            _ if sent > 0 => return Ok(sent), // the first of the next call fails as this one did
            _ => return Err(error),
        }
    }
    Ok(sent)
}

/// Writes a destination as the kernel has it; none for a connected socket. A name that is too long is EINVAL.
fn write_name(
    place: &mut MaybeUninit<Name>,
    destination: &[u8],
) -> io::Result<Option<(*mut libc::c_void, libc::socklen_t)>> {
    let address: SockAddr = match datagram_address::read(destination) {
        Form::None => return Ok(None),
        Form::Ip(address) => address.into(),
        Form::Unix(name) => SockAddr::unix(OsStr::from_bytes(name))?,
    };
    let place = place.write((MaybeUninit::uninit(), address.len()));
    // SAFETY: an address is no longer than storage, and the two do not overlap.
    unsafe {
        let (from, into) = (address.as_ptr().cast::<u8>(), place.0.as_mut_ptr().cast::<u8>());
        ptr::copy_nonoverlapping(from, into, address.len() as usize);
    }
    Ok(Some((place.0.as_mut_ptr().cast(), place.1)))
}

/// Has the kernel cut what a message has into datagrams of this length (UDP_SEGMENT).
///
/// # Safety
/// The header has room for it in its control messages.
#[cfg(any(target_os = "linux", target_os = "android"))]
unsafe fn write_segment_length(header: &mut libc::msghdr, length: u16) {
    // SAFETY: by the caller; the first message is at the beginning of that room, which is aligned for it.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as libc::c_uint) as _;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(length);
        header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as libc::c_uint) as _;
    }
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
    use super::*;
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
    #[cfg(target_os = "linux")]
    fn a_run_is_of_one_destination_and_length_and_may_end_with_a_shorter_one() {
        let (one, other) = pair();
        let (here, there) = (form(&one), form(&other));
        let length_of_run = |lengths: &[usize]| run(&outgoing(&payloads(lengths), &here));
        assert_eq!(length_of_run(&[64, 64, 64]), 3);
        assert_eq!(length_of_run(&[64, 64, 10, 64]), 3);
        assert_eq!(length_of_run(&[64, 65]), 1);
        assert_eq!(length_of_run(&[0, 0]), 1);
        assert_eq!(length_of_run(&[64, 0]), 1);
        assert_eq!(length_of_run(&[9000, 9000]), 1);
        assert_eq!(length_of_run(&[1452; 64]), 65_507 / 1452);
        assert_eq!(length_of_run(&[8; 100]), GSO_SEGMENTS_MAX);
        let payloads = payloads(&[64, 64]);
        let mut mixed = outgoing(&payloads, &here);
        mixed[1].destination = there.as_bytes();
        assert_eq!(run(&mixed), 1);
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
