//! Receiving: many packets by one call, and of each the datagrams in it.

use super::super::datagram_address::AddressForm;
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::Control;
use super::empty_header;
use crate::limits::{DATAGRAM_BATCH, DATAGRAM_SLOT_BYTES};
use std::io;
use std::mem;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// What one call has received.
pub struct Received {
    /// A slot for each datagram, or several of one length. What was never used takes no memory: the system maps it when it is.
    memory: Box<[u8]>,
    /// From where each packet is, as the kernel writes it.
    names: Box<[libc::sockaddr_storage; DATAGRAM_BATCH]>,
    packets: Box<[Packet; DATAGRAM_BATCH]>,
    count: usize,
    /// The next datagram: its packet, and where in it.
    next: (usize, usize),
    /// Source of that packet.
    source: AddressForm,
}

#[derive(Debug, Clone, Copy, Default)]
struct Packet {
    name_length: libc::socklen_t,
    length: u32,
    /// Length of each datagram in it but the last, which may be shorter; above 0.
    stride: u32,
    is_truncated: bool,
}

impl Packet {
    /// Of `length` bytes, which the kernel may say more of than it has written.
    fn new(length: usize, stride: Option<usize>, name_length: libc::socklen_t, flags: libc::c_int) -> Self {
        let length = length.min(DATAGRAM_SLOT_BYTES) as u32;
        let stride = stride.map_or(length, |stride| stride.min(DATAGRAM_SLOT_BYTES) as u32).max(1);
        Self { name_length, length, stride, is_truncated: flags & libc::MSG_TRUNC != 0 }
    }
}

/// A datagram that was received.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// From where, as [`super::super::datagram_address`] has it.
    pub source: &'a [u8],
    /// What it has.
    pub payload: &'a [u8],
    /// It was longer than that.
    pub is_truncated: bool,
}

impl Default for Received {
    fn default() -> Self {
        // SAFETY: all-zero bytes are valid storage of an address.
        let name = unsafe { mem::zeroed() };
        Self {
            memory: vec![0; DATAGRAM_BATCH * DATAGRAM_SLOT_BYTES].into_boxed_slice(),
            names: Box::new([name; DATAGRAM_BATCH]),
            packets: Box::new([Packet::default(); DATAGRAM_BATCH]),
            count: 0,
            next: (0, 0),
            source: AddressForm::NONE,
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
        let end = (from + packet.stride as usize).min(packet.length as usize);
        Some(Datagram {
            source: self.source.as_bytes(),
            payload: &self.memory[start + from..start + end],
            is_truncated: packet.is_truncated,
        })
    }

    /// It is taken.
    #[inline]
    pub fn advance(&mut self) {
        let (index, from) = self.next;
        let packet = self.packets[index];
        let next = from + packet.stride as usize;
        if next < packet.length as usize {
            self.next = (index, next);
        } else {
            self.go_to(index + 1);
        }
    }

    /// Drops what was not taken.
    pub fn clear(&mut self) {
        self.count = 0;
        self.next = (0, 0);
    }

    /// `count` packets are there.
    fn begin(&mut self, count: usize) {
        self.count = count;
        self.go_to(0);
    }

    #[inline]
    fn go_to(&mut self, index: usize) {
        self.next = (index, 0);
        if index < self.count {
            // SAFETY: the kernel has written the name of each of `count` packets, to the length that the packet has.
            unsafe { read_name(&self.names[index], self.packets[index].name_length, &mut self.source) };
        }
    }
}

/// Receives up to `most` packets into `received`, which must be taken empty; how many. With `merged`, a packet may have several
/// datagrams (GRO). EINTR is tried again.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn receive(fd: BorrowedFd<'_>, received: &mut Received, most: usize, merged: bool) -> io::Result<usize> {
    let most = most.min(DATAGRAM_BATCH);
    received.clear();
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; DATAGRAM_BATCH];
    let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; DATAGRAM_BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; DATAGRAM_BATCH];
    for (index, slot) in received.memory.chunks_exact_mut(DATAGRAM_SLOT_BYTES).take(most).enumerate() {
        let piece = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        let mut header = empty_header();
        header.msg_name = (&raw mut received.names[index]).cast();
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
    for (packet, message) in received.packets.iter_mut().zip(&messages[..count]) {
        // SAFETY: the kernel has filled `count` of the headers that were written, and what they point to, to the lengths that
        // it says.
        *packet = unsafe {
            let message = message.assume_init_ref();
            let header = &message.msg_hdr;
            let stride = if merged { segment_length(header) } else { None };
            Packet::new(message.msg_len as usize, stride, header.msg_namelen, header.msg_flags)
        };
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
        let slot = &mut received.memory[count * DATAGRAM_SLOT_BYTES..][..DATAGRAM_SLOT_BYTES];
        let mut piece = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        let mut header = empty_header();
        header.msg_name = (&raw mut received.names[count]).cast();
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
        received.packets[count] = Packet::new(length, None, header.msg_namelen, header.msg_flags);
        count += 1;
    }
    received.begin(count);
    Ok(count)
}

/// Reads an address that the kernel has written.
///
/// # Safety
/// `length` bytes of it were written, or it was not touched at all and is zero or an earlier one.
#[inline]
unsafe fn read_name(name: &libc::sockaddr_storage, length: libc::socklen_t, into: &mut AddressForm) {
    let length = length as usize;
    let name = ptr::from_ref(name);
    if length < size_of::<libc::sa_family_t>() + mem::offset_of!(libc::sockaddr, sa_family) {
        *into = AddressForm::unix(&[]); // a Unix socket without a name
        return;
    }
    // SAFETY: by the caller, as many bytes are there as the family's address has; each is read through its own type only.
    unsafe {
        match i32::from((*name).ss_family) {
            libc::AF_INET => {
                let address = &*name.cast::<libc::sockaddr_in>();
                into.set_ipv4(address.sin_addr.s_addr.to_ne_bytes(), u16::from_be(address.sin_port));
            }
            libc::AF_INET6 => {
                let address = &*name.cast::<libc::sockaddr_in6>();
                let port = u16::from_be(address.sin6_port);
                *into = AddressForm::ipv6(address.sin6_addr.s6_addr, port, address.sin6_scope_id);
            }
            _ => {
                let start = mem::offset_of!(libc::sockaddr_un, sun_path);
                let length = length.clamp(start, size_of::<libc::sockaddr_storage>());
                let bytes = std::slice::from_raw_parts(name.cast::<u8>(), length);
                let name = &bytes[start..];
                // A path may have its closing zero with it; an abstract name begins with one, and has what it has.
                let is_path = name.first().is_some_and(|&byte| byte != 0);
                let end = if is_path { name.iter().position(|&byte| byte == 0) } else { None };
                // macOS gives an address of zero bytes to a socket that has none.
                let is_none = !is_path && cfg!(not(any(target_os = "linux", target_os = "android")));
                *into = AddressForm::unix(if is_none { &[] } else { &name[..end.unwrap_or(name.len())] });
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
