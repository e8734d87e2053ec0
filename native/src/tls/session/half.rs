//! What a session asks of rustls, whichever side it is: its states, until it waits for the peer or has written.
#![forbid(unsafe_code)]

use super::{Outbox, Plaintext};
use crate::tls::failure::Failure;
use crate::tls::{protection, skipped};
use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, ReadEarlyData, UnbufferedStatus};
use std::mem::{self, MaybeUninit};
use std::ops::Deref;

/// Either side of rustls.
pub(super) trait Half: Deref<Target: Deref<Target = CommonState>> {
    type Data;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// What was sent ahead: bytes to discard beyond those that are told already.
    fn early(data: ReadEarlyData<'_, '_, Self::Data>, seen: &mut Seen<'_>) -> Result<usize, rustls::Error>;
}

impl Half for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        let (mut status, skipped) = skipped::watch(bytes.as_ptr(), || self.process_tls_records(bytes));
        status.discard = status.discard.max(skipped);
        status
    }
    fn early(
        mut data: ReadEarlyData<'_, '_, Self::Data>,
        seen: &mut Seen<'_>,
    ) -> Result<usize, rustls::Error> {
        seen.early = true;
        let mut discard = 0;
        while let Some(record) = data.next_record() {
            let record = record?;
            discard += record.discard;
            seen.plaintext(record.payload);
        }
        Ok(discard)
    }
}

impl Half for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
    /// Only servers are sent something ahead.
    fn early(_data: ReadEarlyData<'_, '_, Self::Data>, _seen: &mut Seen<'_>) -> Result<usize, rustls::Error> {
        Ok(0)
    }
}

/// Where what is received goes.
pub(super) struct Seen<'a> {
    pub outgoing: &'a mut Vec<u8>,
    pub pending: &'a mut Vec<u8>,
    pub to: &'a mut dyn Plaintext,
    /// Whether some of it was sent ahead of the handshake.
    pub early: bool,
}

impl Seen<'_> {
    /// Where the plaintext of the first of these records may be decrypted to.
    fn room(&mut self, records: &[u8]) -> Option<&mut [MaybeUninit<u8>]> {
        let length = protection::room_for(records).filter(|_| self.pending.is_empty())?;
        self.to.room(length)
    }

    fn plaintext(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() && (!self.pending.is_empty() || !self.to.take(bytes)) {
            self.pending.extend_from_slice(bytes);
        }
    }
}

/// How far [`work`] came.
pub(super) struct Progress {
    pub consumed: usize,
    pub peer_closed: bool,
}

/// Shows rustls bytes until it waits for more. What was consumed is at their front.
pub(super) fn work<H: Half>(
    half: &mut H,
    bytes: &mut [u8],
    seen: &mut Seen<'_>,
) -> Result<Progress, rustls::Error> {
    let mut progress = Progress { consumed: 0, peer_closed: false };
    loop {
        let bytes = &mut bytes[progress.consumed..];
        let room = if half.is_handshaking() { None } else { seen.room(bytes) };
        let (UnbufferedStatus { mut discard, state }, mut opened) = match room {
            Some(room) => protection::open_into(room, || half.process(bytes)),
            None => (half.process(bytes), 0),
        };
        let mut waits = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    match mem::take(&mut opened) {
                        0 => seen.plaintext(record.payload),
                        length => seen.to.took(length),
                    }
                }
            }
            Ok(ConnectionState::ReadEarlyData(data)) => discard += H::early(data, seen)?,
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(|into| data.encode(into), seen.outgoing);
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(), // it is sent before anything else is
            Ok(ConnectionState::PeerClosed) => progress.peer_closed = true,
            Ok(
                ConnectionState::BlockedHandshake
                | ConnectionState::WriteTraffic(_)
                | ConnectionState::Closed,
            ) => {
                waits = true;
            }
            Ok(_) => waits = true,
            Err(error) => {
                // What it has to say of that, and what was to be said before, is to be had still. It is not shown the bytes again,
                // and asked no more than that: it would panic.
                while half.wants_write() {
                    match half.process(&mut []).state {
                        Ok(ConnectionState::EncodeTlsData(mut data)) => {
                            encode(|into| data.encode(into), seen.outgoing);
                        }
                        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                            while traffic.next_record().is_some() {}
                        }
                        _ => break,
                    }
                }
                return Err(error);
            }
        }
        progress.consumed += discard;
        if waits {
            return Ok(progress);
        }
    }
}

/// Appends a message to what is to be sent.
fn encode(mut message: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, outgoing: &mut Vec<u8>) {
    let start = outgoing.len();
    let needed = match message(&mut []) {
        Err(EncodeError::InsufficientSize(error)) => error.required_size,
        _ => return, // an empty one
    };
    outgoing.resize(start + needed, 0);
    let written = message(&mut outgoing[start..]);
    debug_assert!(written.is_ok_and(|length| length == needed), "rustls asked for another size");
}

/// What can be written by a session that may send.
pub(super) trait Writes {
    fn app_data(&mut self, plaintext: &[u8], outbox: &mut Outbox) -> Result<(), EncryptError>;
    fn close_notify(&mut self, outbox: &mut Outbox) -> Result<(), EncryptError>;
}

impl<Data> Writes for rustls::unbuffered::WriteTraffic<'_, Data> {
    fn app_data(&mut self, plaintext: &[u8], outbox: &mut Outbox) -> Result<(), EncryptError> {
        let length = protection::sealed_length(plaintext.len());
        let room = &mut outbox.room(length)[..length];
        match protection::seal_into(plaintext.len(), room, |into| self.encrypt(plaintext, into)) {
            Err(EncryptError::InsufficientSize(_)) => {} // not TLS 1.3, or something else is to be sent in front
            sealed => return sealed.map(|()| outbox.wrote(length)),
        }
        put(outbox, length + RECORD_OVERHEAD_BYTES, |into| self.encrypt(plaintext, into))
    }
    fn close_notify(&mut self, outbox: &mut Outbox) -> Result<(), EncryptError> {
        put(outbox, RECORD_OVERHEAD_BYTES, |into| self.queue_close_notify(into))
    }
}

/// Puts records behind what is in an outbox, of so many bytes perhaps.
fn put(
    outbox: &mut Outbox,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), EncryptError> {
    loop {
        match write(outbox.room(room)) {
            Err(EncryptError::InsufficientSize(error)) => room = error.required_size,
            result => return result.map(|length| outbox.wrote(length)),
        }
    }
}

/// More than the header, nonce, type and tag of one record have together.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Has rustls write. `incoming` is less than a message, as [`Session::receive`](super::Session::receive) leaves it; rustls wants to see it
/// each time.
pub(super) fn write<H: Half>(
    half: &mut H,
    incoming: &mut Vec<u8>,
    pending: &mut Vec<u8>,
    outbox: &mut Outbox,
    mut what: impl FnMut(&mut dyn Writes, &mut Outbox) -> Result<(), EncryptError>,
) -> Result<(), Failure> {
    loop {
        let UnbufferedStatus { discard, state } = half.process(incoming);
        let mut done = false;
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                what(&mut traffic, outbox)
                    .map_err(|_| Failure::Internal("the session's keys are used up"))?;
                done = true;
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let mut message = Vec::new();
                encode(|into| data.encode(into), &mut message);
                outbox.append(&message);
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    pending.extend_from_slice(record?.payload);
                }
            }
            ConnectionState::PeerClosed => {}
            _ => return Err(Failure::Internal("the session cannot send (any more)")),
        }
        if discard > 0 {
            incoming.drain(..discard);
        }
        if done {
            return Ok(());
        }
    }
}
