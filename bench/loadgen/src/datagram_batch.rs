//! Datagrams of a connected socket: on Linux several by one system call (recvmmsg, sendmmsg), elsewhere by one each.

use std::{io, os::fd::AsRawFd};

/// Room for datagrams that are sent or received together.
pub struct DatagramBatch {
    slot_bytes: usize,
    bytes: Box<[u8]>,
    lengths: Box<[usize]>,
    #[cfg(target_os = "linux")]
    calls: linux::Calls,
}

impl DatagramBatch {
    /// Room for `slots` datagrams of at most `slot_bytes`.
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        Self {
            slot_bytes,
            bytes: vec![0; slots * slot_bytes].into_boxed_slice(),
            lengths: vec![0; slots].into_boxed_slice(),
            #[cfg(target_os = "linux")]
            calls: linux::Calls::new(slots),
        }
    }

    /// How many it has room for.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Where a datagram that is to be sent is written.
    pub fn slot(&mut self, index: usize) -> &mut [u8] {
        &mut self.bytes[index * self.slot_bytes..][..self.slot_bytes]
    }

    /// A datagram of the last [`Self::receive`]; of one that is too long what there was room for.
    pub fn received(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.slot_bytes..][..self.lengths[index]]
    }

    /// Receives what is there, up to `most`, which is 1 to the number of slots. Fewer: there was no more.
    ///
    /// # Errors
    /// The system's, `WouldBlock` when there is nothing.
    pub fn receive(&mut self, socket: &impl AsRawFd, most: usize) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if most > 1 {
            let (bytes, lengths) = (&mut self.bytes, &mut self.lengths[..most]);
            return self.calls.receive(socket.as_raw_fd(), bytes, self.slot_bytes, lengths);
        }
        self.receive_each(socket.as_raw_fd(), most)
    }

    /// Sends the first `count` slots whole. Tells how many the kernel has taken, fewer when it has room for no more.
    ///
    /// # Errors
    /// The system's, when it has taken none.
    pub fn send(&mut self, socket: &impl AsRawFd, count: usize) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if count > 1 {
            return self.calls.send(socket.as_raw_fd(), &mut self.bytes, self.slot_bytes, count);
        }
        self.send_each(socket.as_raw_fd(), count)
    }

    /// One call for each, which of a single one costs less than the other.
    fn receive_each(&mut self, fd: libc::c_int, most: usize) -> io::Result<usize> {
        for index in 0..most {
            let slot = self.slot(index);
            // SAFETY: the slot is exclusively borrowed for the call, which writes at most its length.
            let length = unsafe { libc::recv(fd, slot.as_mut_ptr().cast(), slot.len(), 0) };
            if length < 0 {
                return if index > 0 { Ok(index) } else { Err(io::Error::last_os_error()) };
            }
            self.lengths[index] = length as usize;
        }
        Ok(most)
    }

    fn send_each(&mut self, fd: libc::c_int, count: usize) -> io::Result<usize> {
        for index in 0..count {
            let slot = self.slot(index);
            // SAFETY: the slot is borrowed for the call, which reads its length.
            let sent = unsafe { libc::send(fd, slot.as_ptr().cast(), slot.len(), 0) };
            if sent < 0 {
                return if index > 0 { Ok(index) } else { Err(io::Error::last_os_error()) };
            }
        }
        Ok(count)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, ptr};

    /// The headers of the calls. Their pointers are written anew for each call, and mean nothing between two.
    pub(super) struct Calls {
        vectors: Box<[libc::iovec]>,
        headers: Box<[libc::mmsghdr]>,
    }

    impl Calls {
        pub(super) fn new(slots: usize) -> Self {
            // SAFETY: all-zero bytes are a valid mmsghdr: null pointers, and lengths of 0.
            let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
            Self {
                vectors: vec![vector; slots].into_boxed_slice(),
                headers: vec![header; slots].into_boxed_slice(),
            }
        }

        pub(super) fn receive(
            &mut self,
            fd: libc::c_int,
            bytes: &mut [u8],
            slot_bytes: usize,
            lengths: &mut [usize],
        ) -> io::Result<usize> {
            let slots = lengths.len();
            self.point_at(bytes, slot_bytes, slots);
            // SAFETY: the first `slots` headers point at vectors, and these at slots of `bytes`, all of which are
            // exclusively borrowed until the call is over; no timeout is given.
            let received = unsafe {
                libc::recvmmsg(
                    fd,
                    self.headers.as_mut_ptr(),
                    slots as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            if received < 0 {
                return Err(io::Error::last_os_error());
            }
            for (length, header) in lengths.iter_mut().zip(&self.headers).take(received as usize) {
                *length = header.msg_len as usize;
            }
            Ok(received as usize)
        }

        pub(super) fn send(
            &mut self,
            fd: libc::c_int,
            bytes: &mut [u8],
            slot_bytes: usize,
            count: usize,
        ) -> io::Result<usize> {
            self.point_at(bytes, slot_bytes, count);
            // SAFETY: as above, for the first `count` headers; the call reads the slots.
            let sent = unsafe {
                libc::sendmmsg(fd, self.headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT as _)
            };
            if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
        }

        /// One header and one vector for each of the first `count` slots.
        fn point_at(&mut self, bytes: &mut [u8], slot_bytes: usize, count: usize) {
            let slots = bytes.chunks_exact_mut(slot_bytes);
            for ((slot, vector), header) in slots.zip(&mut self.vectors).zip(&mut self.headers).take(count) {
                vector.iov_base = slot.as_mut_ptr().cast();
                vector.iov_len = slot_bytes;
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
            }
        }
    }
}
