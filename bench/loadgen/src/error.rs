//! Everything that can end a run early, and the failures of single connections.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{address::Address, http::response::Malformed};

/// Why a run could not start or go on. Not the server's answers: those are [`Failure`]s.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// `--addr` is neither HOST:PORT nor unix:PATH, or does not resolve.
    #[error("--addr {given}: {reason}; expected HOST:PORT, for example 127.0.0.1:7000, or unix:PATH")]
    Address {
        /// What was given.
        given: String,
        /// Why it is refused.
        reason: String,
    },
    /// `--url` is none, or does not resolve.
    #[error(
        "--url {given}: {reason}; expected http://HOST[:PORT][/PATH], the same with https:, or unix:PATH"
    )]
    Url {
        /// What was given.
        given: String,
        /// Why it is refused.
        reason: String,
    },
    /// `--addr` is not on this machine and `--allow-remote` was not given.
    #[error(
        "{addr} is not a loopback address; load on another machine needs its owner's consent and --allow-remote"
    )]
    Remote {
        /// The resolved address.
        addr: SocketAddr,
    },
    /// An option's value is out of bounds, or two options contradict each other.
    #[error("{0}")]
    Option(String),
    /// More connections than this process may have descriptors.
    #[error(
        "{needed} descriptors are needed and the hard limit is {available}; raise it (ulimit -Hn as root, or LimitNOFILE) \
         or ask for fewer connections"
    )]
    Descriptors {
        /// Connections and what the process holds besides.
        needed: u64,
        /// The hard RLIMIT_NOFILE.
        available: u64,
    },
    /// No free source port is left.
    #[error(
        "no source port is left towards {addr} (connections in TIME_WAIT hold them for a minute): use --sources N with a \
         larger N, or --close rst"
    )]
    PortsExhausted {
        /// The server.
        addr: Address,
    },
    /// The server has other listeners than ours: fewer after a wait, or more.
    #[error("the server has accepted {accepted} listeners, and {wanted} are wanted")]
    NotAccepted {
        /// By the server's count.
        accepted: usize,
        /// By ours.
        wanted: usize,
    },
    /// A system call failed that has nothing to do with the server.
    #[error("{call}: {source}")]
    System {
        /// The call's name.
        call: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// rustls does not accept what it is told.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A certificate cannot be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A file cannot be written.
    #[error("{option} {}: {source}", path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `--server-pid` names no process, or this is not Linux.
    #[error("processor time of process {pid} cannot be read: {source}")]
    ServerPid {
        /// The process.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
}

impl LoadError {
    /// Names the call that failed; for `map_err`.
    pub fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }
}

/// What went wrong with one connection. The server's fault or the network's, never ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The connect was refused or timed out.
    #[error("connection {connection} was not established: {source}")]
    Connect {
        /// Number of the connection within the run, from 0.
        connection: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The server closed before every answer was in.
    #[error("connection {connection} was closed by the server after {received} of {sent} bytes")]
    Closed {
        /// Number of the connection.
        connection: u64,
        /// Bytes that came back.
        received: u64,
        /// Bytes sent.
        sent: u64,
    },
    /// A read or write failed.
    #[error("connection {connection} broke after {received} of {sent} bytes: {source}")]
    Broken {
        /// Number of the connection.
        connection: u64,
        /// Bytes that came back.
        received: u64,
        /// Bytes sent.
        sent: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A byte came back that was not sent at this place: lost, doubled, reordered or foreign bytes.
    #[error(
        "connection {connection} got a wrong byte at position {position}: {found:#04x} instead of {expected:#04x}"
    )]
    WrongByte {
        /// Number of the connection.
        connection: u64,
        /// Position in the connection's stream, from 0.
        position: u64,
        /// The byte that was sent there.
        expected: u8,
        /// The byte that came back.
        found: u8,
    },
    /// More bytes came back than were sent.
    #[error("connection {connection} got {received} bytes back though only {sent} were sent")]
    Surplus {
        /// Number of the connection.
        connection: u64,
        /// Bytes that came back.
        received: u64,
        /// Bytes sent.
        sent: u64,
    },
    /// A datagram came back that was not sent on this socket: another length, a changed byte, a number that is too high.
    #[error("socket {socket} got a datagram of {length} bytes that it has not sent")]
    WrongDatagram {
        /// Number of the socket within the run, from 0.
        socket: u64,
        /// Bytes that came, at most one more than were sent.
        length: usize,
    },
    /// The system says that datagrams do not arrive.
    #[error("socket {socket} failed after {sent} datagrams: {source}")]
    DatagramsRefused {
        /// Number of the socket.
        socket: u64,
        /// Datagrams sent on it.
        sent: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The server closed or reset a connection that had requests out, before a byte of the next response.
    #[error("connection {connection} was closed with {requests} requests in flight{}", because(source))]
    ClosedInFlight {
        /// Number of the connection.
        connection: u64,
        /// Requests without a response.
        requests: u32,
        /// What the system said; none after an orderly end.
        source: Option<io::Error>,
    },
    /// A response ended before it was whole.
    #[error("connection {connection} was closed {received} bytes into a response{}", because(source))]
    CutShort {
        /// Number of the connection.
        connection: u64,
        /// Bytes of that response.
        received: u64,
        /// What the system said; none after an orderly end.
        source: Option<io::Error>,
    },
    /// What came is no HTTP response.
    #[error("connection {connection} got a malformed response: {reason}")]
    Malformed {
        /// Number of the connection.
        connection: u64,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// Bytes came before a request had gone out.
    #[error("connection {connection} got a response that it has not asked for")]
    Unrequested {
        /// Number of the connection.
        connection: u64,
    },
    /// A response says that the request failed.
    #[error("{request} was answered with status {status}")]
    Status {
        /// The request's method and path.
        request: Arc<str>,
        /// 400 and above.
        status: u16,
    },
    /// Responses were still missing after the wait at the end of the run.
    #[error(
        "connection {connection} is missing {requests} responses {waited_secs} s after the end of the run"
    )]
    NoResponse {
        /// Number of the connection.
        connection: u64,
        /// Requests without a response.
        requests: u32,
        /// Length of the wait.
        waited_secs: u64,
    },
    /// Answers were still missing after the wait at the end of the run.
    #[error("connection {connection} is missing {missing} bytes {waited_secs} s after the end of the run")]
    Unanswered {
        /// Number of the connection.
        connection: u64,
        /// Bytes that did not come back.
        missing: u64,
        /// Length of the wait.
        waited_secs: u64,
    },
}

impl Failure {
    /// True when content was wrong: no `--tolerate` forgives that.
    pub fn is_corruption(&self) -> bool {
        matches!(
            self,
            Self::WrongByte { .. }
                | Self::Surplus { .. }
                | Self::WrongDatagram { .. }
                | Self::Malformed { .. }
                | Self::Unrequested { .. }
        )
    }
}

fn because(source: &Option<io::Error>) -> String {
    source.as_ref().map_or_else(String::new, |error| format!(": {error}"))
}
