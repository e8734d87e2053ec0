//! Certificates that are made for a test, and two sessions that talk to each other.

use rcgen::PublicKeyData as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use shardloop_native::limits::{TLS_INCOMING_MAX_BYTES, TLS_RECEIVE_BYTES};
use shardloop_native::tls::choices::Choices;
use shardloop_native::tls::client::{ClientTls, ClientTlsOptions, server_name};
use shardloop_native::tls::failure::Failure;
use shardloop_native::tls::identity::IdentityOptions;
use shardloop_native::tls::server::{ServerTls, ServerTlsOptions};
use shardloop_native::tls::session::{Outbox, Plaintext, Session};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// No two authorities have one name.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A server, and clients that trust it.
pub struct Made {
    pub server: ServerTls,
    pub client: ClientTls,
    make: Box<dyn Fn() -> ServerTlsOptions>,
    /// SHA-256 of the server's key.
    pub key_hash: Vec<u8>,
    /// Whom its clients trust, in PEM.
    pub ca: Vec<u8>,
    make_client: Box<dyn Fn(Vec<Vec<u8>>) -> ClientTls>,
}

impl Made {
    pub fn new(change: impl Fn(&mut ServerTlsOptions) + 'static) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca_params = CertificateParams::new(Vec::new()).unwrap();
        let name = format!("authority {}", NUMBER.fetch_add(1, Relaxed));
        ca_params.distinguished_name.push(DnType::CommonName, name);
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = ca_params.self_signed(&ca_key).unwrap().pem().into_bytes();
        let issuer = Issuer::new(ca_params, ca_key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap().pem().into_bytes();
        let key_hash = sha256(&key.subject_public_key_info());
        let key = key.serialize_pem().into_bytes();
        let make = move || {
            let (cert, key) = (cert.clone(), key.clone());
            let mut options = ServerTlsOptions {
                certificates: vec![IdentityOptions { names: Vec::new(), cert, key, ocsp: None }],
                alpn: Vec::new(),
                choices: choices(),
                client_certificates: "none".into(),
                ca: Vec::new(),
                crl: Vec::new(),
                sessions: "tickets".into(),
                session_cache_size: 0,
                early_data_bytes: 0,
                key_log: None,
                handshake_timeout_ms: 10_000,
                max_handshakes: 100,
            };
            change(&mut options);
            options
        };
        let options = make();
        let (min_version, max_version) =
            (options.choices.min_version.clone(), options.choices.max_version.clone());
        let trusted = ca.clone();
        let make_client = move |pins| {
            let client = ClientTlsOptions {
                ca: Some(vec![trusted.clone()]),
                crl: Vec::new(),
                identity: None,
                alpn: Vec::new(),
                choices: Choices {
                    min_version: min_version.clone(),
                    max_version: max_version.clone(),
                    ..choices()
                },
                pins,
                accept_any_certificate: false,
                accept_any_name: false,
                session_cache_size: 16,
                key_log: None,
                handshake_timeout_ms: 10_000,
            };
            ClientTls::new(&client).unwrap()
        };
        Self {
            server: ServerTls::new(&options).unwrap(),
            client: make_client(Vec::new()),
            make: Box::new(make),
            key_hash,
            ca,
            make_client: Box::new(make_client),
        }
    }

    /// A client that knows the server's key.
    pub fn client_with_pin(&self, pin: &[u8]) -> ClientTls {
        (self.make_client)(vec![pin.to_vec()])
    }

    pub fn options(&self) -> ServerTlsOptions {
        (self.make)()
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suites = &shardloop_native::tls::provider().cipher_suites;
    let suite =
        suites.iter().find(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256).unwrap();
    suite.tls13().unwrap().common.hash_provider.hash(bytes).as_ref().to_vec()
}

fn choices() -> Choices {
    Choices { min_version: "TLSv1.2".into(), max_version: "TLSv1.3".into(), ciphers: None, groups: None }
}

pub fn server(made: &Made) -> Session {
    Session::server(&made.server).unwrap()
}

pub fn client(made: &Made, name: &str) -> Session {
    Session::client(&made.client, server_name(name).unwrap()).unwrap()
}

pub fn pair(made: &Made) -> (Session, Session) {
    (client(made, "localhost"), server(made))
}

/// What a session has told.
#[derive(Default)]
pub struct Received {
    pub bytes: Vec<u8>,
    pub first: usize,
    pub largest: usize,
    pub refuses: bool,
    /// It has no room to decrypt into, and takes copies.
    pub copies: bool,
    /// How often what it took was a copy.
    pub copied: usize,
    pub memory: Vec<MaybeUninit<u8>>,
}

impl Plaintext for Received {
    fn room(&mut self, length: usize) -> Option<&mut [MaybeUninit<u8>]> {
        self.memory.resize(length, MaybeUninit::new(0));
        (!self.refuses && !self.copies).then_some(&mut self.memory)
    }

    fn took(&mut self, length: usize) {
        // SAFETY: so much of it was just written.
        let bytes: Vec<u8> = self.memory[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        self.push(&bytes);
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        if !self.refuses {
            self.copied += 1;
            self.push(bytes);
        }
        !self.refuses
    }
}

impl Received {
    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() {
            self.first = bytes.len();
        }
        self.largest = self.largest.max(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }
}

#[derive(Debug)]
pub struct Failed {
    pub by_client: Option<Failure>,
    pub by_server: Option<Failure>,
}

/// Has bytes come in pieces of at most `step`.
pub fn deliver(bytes: &[u8], to: &mut Session, step: usize, received: &mut Received) -> Result<(), Failure> {
    let mut memory = vec![0; TLS_INCOMING_MAX_BYTES + TLS_RECEIVE_BYTES];
    for piece in bytes.chunks(step.min(TLS_RECEIVE_BYTES)) {
        let kept = to.lend(&mut memory);
        memory[kept..kept + piece.len()].copy_from_slice(piece);
        let consumed = to.receive(&mut memory[..kept + piece.len()], received)?;
        to.keep(&memory[consumed..kept + piece.len()]);
    }
    Ok(())
}

pub fn take_outgoing(from: &mut Session) -> Vec<u8> {
    let bytes = from.outgoing().to_vec();
    from.sent(bytes.len());
    bytes
}

/// Lets both talk until neither has anything to say.
pub fn exchange(client: &mut Session, server: &mut Session, step: usize) -> Result<(), Box<Failed>> {
    let mut failed = Box::new(Failed { by_client: client.begin().err(), by_server: None });
    for _ in 0..20 {
        let said = take_outgoing(client);
        if failed.by_server.is_none() {
            failed.by_server = deliver(&said, server, step, &mut Received::default()).err();
        }
        let answered = take_outgoing(server);
        if failed.by_client.is_none() {
            failed.by_client = deliver(&answered, client, step, &mut Received::default()).err();
        }
        if said.is_empty() && answered.is_empty() {
            break;
        }
    }
    if failed.by_client.is_some() || failed.by_server.is_some() { Err(failed) } else { Ok(()) }
}

/// Encrypts a text and has it come.
pub fn send(
    from: &mut Session,
    text: &[u8],
    to: &mut Session,
    step: usize,
    received: &mut Received,
) -> Result<(), Failure> {
    let mut rest = text;
    let mut outbox = Outbox::default();
    while !rest.is_empty() {
        let count = from.encrypt(rest, &mut outbox)?;
        rest = &rest[count..];
    }
    deliver(outbox.filled(), to, step, received)
}
