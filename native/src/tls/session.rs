//! One connection's TLS: bytes and plaintext in, plaintext and bytes out. No socket, no clock.
//!
//! What is received lies in memory that all connections of a shard share, and is decrypted into that of whoever takes it; what is sent
//! is encrypted into shared memory. A session itself keeps what cannot be finished: of a record in part its bytes ([`Session::lend`],
//! [`Session::keep`]), plaintext that nobody could take ([`Session::pending`]), bytes that were not sent ([`Session::outgoing`]).
//! So an idle one has no buffers.
#![forbid(unsafe_code)]

mod half;
mod outbox;

pub use outbox::Outbox;

use super::client::ClientTls;
use super::failure::{Failure, looks_like_tls};
use super::identity;
use super::server::ServerTls;
use crate::limits::{TLS_INCOMING_MAX_BYTES, TLS_RECORD_SMALL_BYTES, TLS_RECORDS_SMALL_BYTES};
use crate::pipe::write_copy;
use crate::timer::Tick;
use half::{Progress, Seen, Writes, work, write};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::EncryptError;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use std::mem::{self, MaybeUninit};
use std::time::Duration;

/// Who takes plaintext.
pub trait Plaintext {
    /// Memory of this length, neither more nor less; `None` when there is none now. It may be asked for in vain: then what is in it is
    /// nobody's.
    fn room(&mut self, length: usize) -> Option<&mut [MaybeUninit<u8>]>;
    /// The first `length` bytes of the room that was asked for last are plaintext.
    fn took(&mut self, length: usize);
    /// Takes a copy. False when it cannot be taken now: then the session keeps it.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.room(bytes.len()) else { return false };
        write_copy(room, bytes);
        self.took(bytes.len());
        true
    }
}

/// Takes none: what comes is for later, when somebody knows of the connection.
pub struct Later;

impl Plaintext for Later {
    fn room(&mut self, _length: usize) -> Option<&mut [MaybeUninit<u8>]> {
        None
    }
    fn took(&mut self, _length: usize) {}
}

/// What a session is, once and for all.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's IANA name.
    pub cipher: String,
    /// The group in which keys were exchanged; none when a session of TLS 1.2 was resumed.
    pub group: Option<String>,
    /// By ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// It went on from an earlier session.
    pub resumed: bool,
    /// Bytes were taken before the client had proved that it is there (RFC 8446 section 8): they may be a repetition.
    pub early_data: bool,
    /// The peer's certificates in DER, its own first.
    pub peer_certificates: Vec<Vec<u8>>,
}

/// See the module.
pub struct Session {
    side: Side,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that are sent.
    sent: usize,
    pending: Vec<u8>,
    server_name: Option<Box<str>>,
    failure: Option<Box<Failure>>,
    /// How long the handshake may take.
    timeout: Duration,
    /// The idle timeout that counts when it is done, where JavaScript has set one meanwhile.
    pub idle_timeout_ms: Option<u32>,
    /// When the shard sent something of it last.
    pub sent_at: Tick,
    /// Bytes that are still to go in small records.
    small_bytes: usize,
    began: bool,
    had_respite: bool,
    late: bool,
    established: bool,
    peer_closed: bool,
    wrote_behind_end: bool,
    close_sent: bool,
    early_data: bool,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl Session {
    /// A server's, which begins with what the client sends.
    pub fn server(tls: &ServerTls) -> Result<Self, Failure> {
        let connection = UnbufferedServerConnection::new(tls.config())?;
        Ok(Self::new(Side::Server(Box::new(connection)), None, tls.handshake_timeout))
    }

    /// A client's, for a server of that name.
    pub fn client(tls: &ClientTls, server: ServerName<'static>) -> Result<Self, Failure> {
        let name = match &server {
            ServerName::DnsName(name) => Some(name.as_ref().into()),
            _ => None,
        };
        let connection = UnbufferedClientConnection::new(tls.config(), server)?;
        Ok(Self::new(Side::Client(Box::new(connection)), name, tls.handshake_timeout))
    }

    fn new(side: Side, server_name: Option<Box<str>>, timeout: Duration) -> Self {
        Self {
            side,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            pending: Vec::new(),
            server_name,
            failure: None,
            timeout,
            idle_timeout_ms: None,
            sent_at: 0,
            small_bytes: TLS_RECORDS_SMALL_BYTES,
            began: false,
            had_respite: false,
            late: false,
            established: false,
            peer_closed: false,
            wrote_behind_end: false,
            close_sent: false,
            early_data: false,
        }
    }

    /// Whether the handshake is done, so that plaintext may come and go.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// How long the handshake may take.
    pub fn handshake_timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether its handshake may have that time again; true once.
    pub fn take_respite(&mut self) -> bool {
        !mem::replace(&mut self.had_respite, true)
    }

    /// Whether what is to be sent at the end of the handshake is nothing that the peer waits for: a server's tickets (RFC 8446 section
    /// 4.6.1). In TLS 1.2 it is the end of the handshake, and a client's always is.
    pub fn waits_for_first_write(&self) -> bool {
        !self.is_client()
            && !self.common().is_handshaking()
            && self.common().protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Whether the client's side is ours.
    pub fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// Whether the peer has said that it sends no more, and nothing was written for it since.
    pub fn has_peer_parted(&self) -> bool {
        self.peer_closed && !self.wrote_behind_end
    }

    /// Whether the peer has said that it sends no more.
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Why it ended, if it failed.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_deref()
    }

    /// It has failed: by what it is told.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert_with(|| Box::new(failure));
    }

    /// Bytes that were received earlier go to the front of `memory`, for the rest of their record to be received behind them: how
    /// many.
    pub fn lend(&mut self, memory: &mut [u8]) -> usize {
        let length = self.incoming.len();
        memory[..length].copy_from_slice(&self.incoming);
        if length > 0 {
            self.incoming = Vec::new();
        }
        length
    }

    /// Takes bytes that were not consumed, for [`Session::lend`] to give back.
    pub fn keep(&mut self, bytes: &[u8]) {
        debug_assert!(self.incoming.is_empty(), "bytes that were kept have not been lent");
        debug_assert!(bytes.len() <= TLS_INCOMING_MAX_BYTES, "rustls asks for more than a message may have");
        if !bytes.is_empty() {
            self.incoming = bytes.to_vec();
        }
    }

    /// Works through bytes that were received, in place, those of [`Session::lend`] at their front: how many are done with. Those
    /// behind them are to be kept. What comes to be sent is in [`Session::outgoing`] then, an alert for a failure included.
    pub fn receive(&mut self, bytes: &mut [u8], to: &mut dyn Plaintext) -> Result<usize, Failure> {
        let first = !bytes.is_empty() && !mem::replace(&mut self.began, true);
        if first && !looks_like_tls(bytes) {
            return Err(Failure::NotTls);
        }
        let mut seen = Seen { outgoing: &mut self.outgoing, pending: &mut self.pending, to, early: false };
        let result = match &mut self.side {
            Side::Server(half) if !self.established => {
                identity::ASKED_NAME.set(None);
                let result = work(half.as_mut(), bytes, &mut seen);
                if let Some(name) = identity::ASKED_NAME.take() {
                    self.server_name = Some(name);
                }
                result
            }
            Side::Server(half) => work(half.as_mut(), bytes, &mut seen),
            Side::Client(half) => work(half.as_mut(), bytes, &mut seen),
        };
        self.early_data |= seen.early;
        let Progress { consumed, peer_closed } = result?;
        self.peer_closed |= peer_closed;
        self.established = self.established || seen.early || !self.common().is_handshaking();
        Ok(consumed)
    }

    /// A client's first words.
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.receive(&mut [], &mut Later).map(|_| ())
    }

    /// Encrypts as much of `plaintext` as goes into one turn, behind what is in `outbox`: how many bytes of it.
    pub fn encrypt(&mut self, plaintext: &[u8], outbox: &mut Outbox) -> Result<usize, Failure> {
        let length = if self.small_bytes > 0 {
            plaintext.len().min(TLS_RECORD_SMALL_BYTES)
        } else {
            plaintext.len().min(crate::limits::TLS_ENCRYPT_BYTES)
        };
        self.small_bytes = self.small_bytes.saturating_sub(length);
        self.wrote_behind_end |= self.peer_closed;
        self.write(outbox, |writer, outbox| writer.app_data(&plaintext[..length], outbox))?;
        Ok(length)
    }

    /// What follows goes in small records first again: it was quiet for a while, and the path's window may be small.
    pub fn begin_burst(&mut self) {
        self.small_bytes = TLS_RECORDS_SMALL_BYTES;
    }

    /// Says to the peer that nothing more is sent, once. False when it was said.
    pub fn close(&mut self, outbox: &mut Outbox) -> Result<bool, Failure> {
        if mem::replace(&mut self.close_sent, true) {
            return Ok(false);
        }
        self.write(outbox, |writer, outbox| writer.close_notify(outbox))?;
        Ok(true)
    }

    /// Whether [`Session::close`] has been called.
    pub fn is_close_sent(&self) -> bool {
        self.close_sent
    }

    fn write(
        &mut self,
        outbox: &mut Outbox,
        what: impl FnMut(&mut dyn Writes, &mut Outbox) -> Result<(), EncryptError>,
    ) -> Result<(), Failure> {
        match &mut self.side {
            Side::Server(half) => write(half.as_mut(), &mut self.incoming, &mut self.pending, outbox, what),
            Side::Client(half) => write(half.as_mut(), &mut self.incoming, &mut self.pending, outbox, what),
        }
    }

    /// Bytes that are to be sent before anything else is.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// They can wait for what the program sends first; see [`Session::is_late`].
    pub fn delay_outgoing(&mut self) {
        self.late = !self.outgoing.is_empty();
    }

    /// Whether [`Session::outgoing`] is nothing that the peer waits for, and was not tried to be sent yet: tickets.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// Such bytes go in front of what is encrypted next.
    pub fn move_late(&mut self, outbox: &mut Outbox) {
        if mem::take(&mut self.late) {
            outbox.append(self.outgoing());
            self.sent(self.outgoing().len());
        }
    }

    /// Bytes of them were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        self.late = false;
        debug_assert!(self.sent <= self.outgoing.len(), "more was sent than there is");
        if self.sent == self.outgoing.len() {
            self.outgoing = Vec::new(); // an idle session holds no buffer
            self.sent = 0;
        }
    }

    /// Takes what could not be sent at once.
    pub fn keep_outgoing(&mut self, bytes: &[u8]) {
        self.late = false;
        self.outgoing.extend_from_slice(bytes);
    }

    /// Whether there is something to be told that no socket announces: plaintext, or the peer's end.
    pub fn has_input(&self) -> bool {
        !self.pending.is_empty() || self.peer_closed
    }

    /// Plaintext that nobody could take yet; see [`Session::take_pending`].
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// So much of it was taken.
    pub fn take_pending(&mut self, count: usize) {
        if count == self.pending.len() {
            self.pending = Vec::new();
        } else {
            self.pending.drain(..count);
        }
    }

    /// What it is; of an established one.
    pub fn facts(&self) -> Facts {
        let common = self.common();
        let text = |value: &dyn std::fmt::Debug| super::choices::iana_name(&format!("{value:?}"));
        Facts {
            version: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: common.negotiated_cipher_suite().map(|suite| text(&suite.suite())).unwrap_or_default(),
            group: common.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            server_name: self.server_name.as_deref().map(str::to_owned),
            resumed: self.is_resumed(),
            early_data: self.early_data,
            peer_certificates: common
                .peer_certificates()
                .map(|chain| chain.iter().map(|certificate| certificate.to_vec()).collect())
                .unwrap_or_default(),
        }
    }

    /// Whether it went on from an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Server(half) => half,
            Side::Client(half) => half,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("established", &self.established).finish_non_exhaustive()
    }
}
