//! TLS configurations, as JavaScript makes them, and what a shard's connections have of TLS.

use super::shard::NativeShard;
use crate::connection::Handle;
use crate::engine::{TlsAnswer, TlsQuestion};
use crate::net::addresses::{self, Peer};
use crate::shard::ServerSecurity;
use crate::tls::choices::{self, Choices};
use crate::tls::client::{CLIENTS, ClientTls, ClientTlsOptions, server_name};
use crate::tls::identity::IdentityOptions;
use crate::tls::server::{SERVERS, ServerTls, ServerTlsOptions};
use crate::tls::session::Session;
use crate::tls::{ConfigError, ktls};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::sync::Arc;
use std::time::Instant;

/// A certificate with its key.
#[napi(object, use_nullable = true)]
pub struct NativeCertificate {
    /// The names it is for, `*.` in front of one for all in that domain; none: for all others.
    pub names: Vec<String>,
    /// A chain in PEM, or one certificate in DER.
    pub cert: Uint8Array,
    /// In PEM or DER: PKCS#8, PKCS#1 or SEC1.
    pub key: Uint8Array,
    /// An OCSP response in DER, to be stapled.
    pub ocsp: Option<Uint8Array>,
}

/// What a server's TLS is made of; see `tls::server`.
#[napi(object, use_nullable = true)]
pub struct NativeTlsServer {
    /// Certificates with their keys.
    pub certificates: Vec<NativeCertificate>,
    /// Protocols by ALPN, in the order of preference.
    pub alpn: Vec<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub min_version: String,
    /// Likewise.
    pub max_version: String,
    /// Cipher suites in the order of preference; null: all.
    pub ciphers: Option<Vec<String>>,
    /// Groups in the order of preference; null: all.
    pub groups: Option<Vec<String>>,
    /// `none`, `optional` or `required`.
    pub client_certificates: String,
    /// Bundles of authorities.
    pub ca: Vec<Uint8Array>,
    /// Lists of revoked certificates.
    pub crl: Vec<Uint8Array>,
    /// `tickets`, `stateful` or `none`.
    pub sessions: String,
    /// Stored sessions.
    pub session_cache_size: u32,
    /// Bytes that a client that resumes may send ahead.
    pub early_data_bytes: u32,
    /// A file that secrets are written to.
    pub key_log: Option<String>,
    /// Milliseconds.
    pub handshake_timeout_ms: u32,
    /// Of one shard at a time.
    pub max_handshakes: u32,
}

/// What a client's TLS is made of; see `tls::client`.
#[napi(object, use_nullable = true)]
pub struct NativeTlsClient {
    /// Bundles of authorities; null: the platform's.
    pub ca: Option<Vec<Uint8Array>>,
    /// Lists of revoked certificates.
    pub crl: Vec<Uint8Array>,
    /// Our certificate.
    pub identity: Option<NativeCertificate>,
    /// Protocols by ALPN, in the order of preference.
    pub alpn: Vec<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub min_version: String,
    /// Likewise.
    pub max_version: String,
    /// Cipher suites in the order of preference; null: all.
    pub ciphers: Option<Vec<String>>,
    /// Groups in the order of preference; null: all.
    pub groups: Option<Vec<String>>,
    /// SHA-256 of keys of which the server's must be one; empty: any.
    pub pins: Vec<Uint8Array>,
    /// Takes whatever certificate comes.
    pub accept_any_certificate: bool,
    /// Takes a good certificate that is for another name.
    pub accept_any_name: bool,
    /// Servers whose sessions are kept; 0: none.
    pub session_cache_size: u32,
    /// A file that secrets are written to.
    pub key_log: Option<String>,
    /// Milliseconds.
    pub handshake_timeout_ms: u32,
}

impl NativeCertificate {
    fn read(self) -> IdentityOptions {
        IdentityOptions {
            names: self.names,
            cert: self.cert.to_vec(),
            key: self.key.to_vec(),
            ocsp: self.ocsp.map(|ocsp| ocsp.to_vec()),
        }
    }
}

fn bytes(all: Vec<Uint8Array>) -> Vec<Vec<u8>> {
    all.iter().map(|one| one.to_vec()).collect()
}

impl NativeTlsServer {
    fn read(self) -> ServerTlsOptions {
        let Self { min_version, max_version, ciphers, groups, .. } = self;
        ServerTlsOptions {
            certificates: self.certificates.into_iter().map(NativeCertificate::read).collect(),
            alpn: self.alpn,
            choices: Choices { min_version, max_version, ciphers, groups },
            client_certificates: self.client_certificates,
            ca: bytes(self.ca),
            crl: bytes(self.crl),
            sessions: self.sessions,
            session_cache_size: self.session_cache_size,
            early_data_bytes: self.early_data_bytes,
            key_log: self.key_log,
            handshake_timeout_ms: self.handshake_timeout_ms,
            max_handshakes: self.max_handshakes,
        }
    }
}

impl NativeTlsClient {
    fn read(self) -> ClientTlsOptions {
        let Self { min_version, max_version, ciphers, groups, .. } = self;
        ClientTlsOptions {
            ca: self.ca.map(bytes),
            crl: bytes(self.crl),
            identity: self.identity.map(NativeCertificate::read),
            alpn: self.alpn,
            choices: Choices { min_version, max_version, ciphers, groups },
            pins: bytes(self.pins),
            accept_any_certificate: self.accept_any_certificate,
            accept_any_name: self.accept_any_name,
            session_cache_size: self.session_cache_size,
            key_log: self.key_log,
            handshake_timeout_ms: self.handshake_timeout_ms,
        }
    }
}

const CLOSED: &str = "the TLS configuration is closed";

fn refused(error: ConfigError) -> Error {
    Error::new(Status::InvalidArg, error.0)
}

/// A server's TLS, for all threads of the process. Keys and files are the registry's, so that they go when it is closed, and not when
/// garbage is collected.
#[napi]
pub struct TlsServer {
    token: u32,
}

#[napi]
impl TlsServer {
    /// Throws what is wrong with the options.
    #[napi(constructor, catch_unwind)]
    pub fn new(options: NativeTlsServer) -> Result<Self> {
        let tls = ServerTls::new(&options.read()).map_err(refused)?;
        Ok(Self { token: SERVERS.register(Arc::new(tls)) })
    }

    /// Names it in every thread.
    #[napi(catch_unwind)]
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Replaces what new handshakes see, on all shards at once. Throws what is wrong, also that it is closed; then the old goes on.
    #[napi(catch_unwind)]
    pub fn reload(&self, options: NativeTlsServer) -> Result<()> {
        let tls = SERVERS.find(self.token).ok_or_else(|| Error::new(Status::InvalidArg, CLOSED))?;
        tls.reload(&options.read()).map_err(refused)
    }

    /// No thread finds it any more; servers that have it keep it.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        SERVERS.remove(self.token);
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.close();
    }
}

/// A client's TLS.
#[napi]
pub struct TlsClient {
    token: u32,
}

#[napi]
impl TlsClient {
    /// Throws what is wrong with the options.
    #[napi(constructor, catch_unwind)]
    pub fn new(options: NativeTlsClient) -> Result<Self> {
        let tls = ClientTls::new(&options.read()).map_err(refused)?;
        Ok(Self { token: CLIENTS.register(Arc::new(tls)) })
    }

    /// Names it in every thread.
    #[napi(catch_unwind)]
    pub fn token(&self) -> u32 {
        self.token
    }

    /// No thread finds it any more; connections that have it keep it.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        CLIENTS.remove(self.token);
    }
}

impl Drop for TlsClient {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a connection's session is.
#[napi(object, use_nullable = true)]
pub struct NativeTlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// The cipher suite's IANA name.
    pub cipher: String,
    /// The group in which keys were exchanged.
    pub group: Option<String>,
    /// By ALPN.
    pub alpn: Option<String>,
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// It went on from an earlier session.
    pub resumed: bool,
    /// Bytes were taken before the client had proved that it is there.
    pub early_data: bool,
    /// The peer's certificates in DER, its own first.
    pub peer_certificates: Vec<Buffer>,
}

#[napi]
impl NativeShard {
    /// The connection of this request, which is to begin next, gets TLS. Null, or why it cannot.
    #[napi(catch_unwind)]
    pub fn secure_request(&self, request: u32, client: u32, server_name: Option<String>) -> Option<String> {
        match client_session(client, server_name) {
            Ok(session) => {
                self.host().with_engine(|engine| engine.secure_request(request, session));
                None
            }
            Err(error) => Some(error),
        }
    }

    /// Ends the handshakes of a server: each of them fails, and is told.
    #[napi(catch_unwind)]
    pub fn abort_handshakes(&self, server: u16) {
        self.host().with_engine(|engine| engine.abort_handshakes(server));
    }

    /// A connection gets TLS. What was written before goes out as it is; EVENT_TLS_READY says that nothing more is received as plain
    /// text, and then `feedTls` begins the handshake. Null, or why it cannot.
    #[napi(catch_unwind)]
    pub fn start_tls(
        &self,
        handle: i32,
        token: u32,
        is_server: bool,
        server_name: Option<String>,
    ) -> Option<String> {
        let session = if is_server { server_session(token) } else { client_session(token, server_name) };
        match session {
            Ok(session) => {
                self.host().start_tls(Handle::from_word(handle), session);
                None
            }
            Err(error) => Some(error),
        }
    }

    /// What was received of a connection's TLS before EVENT_TLS_READY: its handshake begins with that.
    #[napi(catch_unwind)]
    pub fn feed_tls(&self, handle: i32, bytes: Uint8Array) {
        let bytes = bytes.to_vec();
        self.host().with_engine(|engine| engine.feed_tls(Instant::now(), Handle::from_word(handle), bytes));
    }

    /// What a connection's session is; null without one.
    #[napi(catch_unwind)]
    pub fn tls_info(&self, handle: i32) -> Option<NativeTlsInfo> {
        match self.ask_tls(TlsQuestion::Facts(Handle::from_word(handle))) {
            TlsAnswer::Facts(facts) => Some(NativeTlsInfo {
                version: facts.version.into(),
                cipher: facts.cipher,
                group: facts.group,
                alpn: facts.alpn.map(|alpn| String::from_utf8_lossy(&alpn).into_owned()),
                server_name: facts.server_name,
                resumed: facts.resumed,
                early_data: facts.early_data,
                peer_certificates: facts.peer_certificates.into_iter().map(Buffer::from).collect(),
            }),
            _ => None,
        }
    }

    /// Why a connection's session failed, in words, until the end of the connection was handled.
    #[napi(catch_unwind)]
    pub fn tls_detail(&self, handle: i32) -> Option<String> {
        text(self.ask_tls(TlsQuestion::Detail(Handle::from_word(handle))))
    }

    /// Why that of a request failed; asked once.
    #[napi(catch_unwind)]
    pub fn request_detail(&self, request: u32) -> Option<String> {
        text(self.ask_tls(TlsQuestion::RequestDetail(request)))
    }

    /// The peer of a connection of EVENT_HANDSHAKE_FAILED, as `peer` of the hot calls tells it, until that was handled.
    #[napi(catch_unwind)]
    pub fn handshake_peer(&self, handle: i32) -> Option<String> {
        match self.ask_tls(TlsQuestion::Peer(Handle::from_word(handle))) {
            TlsAnswer::Peer(Peer::Ip(peer)) => {
                let (address, family, port) = addresses::parts(peer);
                Some(format!("{family} {port} {address}"))
            }
            TlsAnswer::Peer(_) => Some("Unix".into()),
            _ => None,
        }
    }
}

impl NativeShard {
    fn ask_tls(&self, what: TlsQuestion) -> TlsAnswer {
        self.host().with_engine(|engine| engine.inspect_tls(what)).unwrap_or(TlsAnswer::None)
    }
}

fn text(answer: TlsAnswer) -> Option<String> {
    match answer {
        TlsAnswer::Text(text) => Some(text),
        _ => None,
    }
}

/// How a server gets TLS; `None` for token 0. It must not be without because its configuration is closed.
pub(super) fn security(token: u32, upgrade: bool) -> Result<Option<ServerSecurity>> {
    if token == 0 {
        return Ok(None);
    }
    match SERVERS.find(token) {
        Some(tls) => Ok(Some(ServerSecurity { tls, upgrade })),
        None => Err(Error::new(Status::InvalidArg, CLOSED)),
    }
}

fn server_session(token: u32) -> std::result::Result<Box<Session>, String> {
    let tls = SERVERS.find(token).ok_or(CLOSED)?;
    Session::server(&tls).map(Box::new).map_err(|failure| failure.to_string())
}

fn client_session(token: u32, name: Option<String>) -> std::result::Result<Box<Session>, String> {
    let tls = CLIENTS.find(token).ok_or(CLOSED)?;
    let name =
        name.ok_or("servername: the name or address that the server's certificate is for is needed")?;
    let name = server_name(&name).map_err(|error| error.0)?;
    Session::client(&tls, name).map(Box::new).map_err(|failure| failure.to_string())
}

/// The cipher suites of this build, in the order of preference.
#[napi(catch_unwind)]
pub fn tls_cipher_names() -> Vec<String> {
    choices::suite_names()
}

/// The groups of this build, in the order of preference.
#[napi(catch_unwind)]
pub fn tls_group_names() -> Vec<String> {
    choices::group_names()
}

/// Null when the kernel would encrypt what is sent (kTLS); else why not.
#[napi(catch_unwind)]
pub fn ktls_probe() -> Option<String> {
    ktls::probe()
}
