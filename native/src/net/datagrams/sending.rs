//! Sending: many datagrams by one call, those in a row to one destination as one packet.

use super::super::datagram_address::{self, Form};
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::Control;
use super::empty_header;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::limits::{DATAGRAM_BATCH, GSO_SEGMENT_MAX_BYTES, GSO_SEGMENTS_MAX};
use socket2::SockAddr;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// A datagram to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where to, as [`datagram_address`] has it.
    pub destination: &'a [u8],
    /// What.
    pub payload: &'a [u8],
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
    let mut names = [const { MaybeUninit::<SockAddr>::uninit() }; DATAGRAM_BATCH];
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
        match name_of(datagrams[from].destination) {
            Ok(Some(name)) => point_at(&mut header, names[count].write(name)),
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
        let mut place = MaybeUninit::<SockAddr>::uninit();
        let (base, length) = (datagram.payload.as_ptr(), datagram.payload.len());
        let mut piece = libc::iovec { iov_base: base.cast_mut().cast(), iov_len: length };
        let mut header = empty_header();
        match name_of(datagram.destination) {
            Ok(Some(name)) => point_at(&mut header, place.write(name)),
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

/// A destination as the kernel has it; none for a connected socket. A name that is too long is EINVAL.
#[inline]
fn name_of(destination: &[u8]) -> io::Result<Option<SockAddr>> {
    match datagram_address::read(destination) {
        Form::None => Ok(None),
        Form::Ip(address) => Ok(Some(address.into())),
        Form::Unix(name) => SockAddr::unix(OsStr::from_bytes(name)).map(Some),
    }
}

/// The message goes there.
#[inline]
fn point_at(header: &mut libc::msghdr, name: &SockAddr) {
    header.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len();
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

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::super::super::datagram_address::AddressForm;
    use super::*;

    #[test]
    fn a_run_is_of_one_destination_and_length_and_may_end_with_a_shorter_one() {
        let (here, there) = (AddressForm::ipv4([127, 0, 0, 1], 1), AddressForm::ipv4([127, 0, 0, 1], 2));
        let payloads = [7; GSO_SEGMENTS_MAX * 2000];
        let to = |form, length| Outgoing {
            destination: AddressForm::as_bytes(form),
            payload: &payloads[..length],
        };
        let length_of_run =
            |lengths: &[usize]| run(&lengths.iter().map(|&length| to(&here, length)).collect::<Vec<_>>());
        assert_eq!(length_of_run(&[64, 64, 64]), 3);
        assert_eq!(length_of_run(&[64, 64, 10, 64]), 3);
        assert_eq!(length_of_run(&[64, 65]), 1);
        assert_eq!(length_of_run(&[0, 0]), 1);
        assert_eq!(length_of_run(&[64, 0]), 1);
        assert_eq!(length_of_run(&[9000, 9000]), 1);
        assert_eq!(length_of_run(&[1452; 64]), 65_507 / 1452);
        assert_eq!(length_of_run(&[8; 100]), GSO_SEGMENTS_MAX);
        assert_eq!(run(&[to(&here, 64), to(&there, 64)]), 1);
    }
}
