//! TLS of the load generator's connections, by rustls.
//!
//! It is for servers on this machine and accepts whatever certificate they have: neither the certificate nor the signature
//! made with its key is looked at. That the handshake's keys agree is still proven by its last messages. Not verifying also
//! makes a handshake cheaper here than at the server, which is who is measured.
//!
//! All servers are offered the same: one protocol version, one cipher suite, X25519, so that what they choose is no part
//! of what is compared. The suite is TLS_AES_128_GCM_SHA256, the one that all implementations must have (RFC 8446 section 9.1)
//! and that browsers ask for first.

pub mod arguments;
mod sessions;
mod stream;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};

use self::sessions::Sessions;
pub use self::stream::TlsStream;
use crate::outcome::{Outcome, show_count};

/// The name that servers are asked for.
const SERVER_NAME: &str = "localhost";

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsVersion {
    /// With TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
    #[value(name = "1.2")]
    V1_2,
    /// With TLS_AES_128_GCM_SHA256.
    #[value(name = "1.3")]
    V1_3,
}

/// What all TLS connections of a run have in common. Clones share their sessions and counts.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    version: TlsVersion,
    sessions: Option<Arc<Sessions>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    handshakes: AtomicU64,
    resumed: AtomicU64,
}

/// Handshakes that were completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Of both kinds.
    pub all: u64,
    /// Those that went on with an earlier session.
    pub resumed: u64,
}

impl Handshakes {
    /// Those that came after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self { all: self.all - earlier.all, resumed: self.resumed - earlier.resumed }
    }
}

impl TlsClient {
    /// With `resumes` a connection goes on with the session of an earlier one as soon as there is one.
    ///
    /// # Errors
    /// rustls' own, when it does not accept the suite for the version.
    pub fn new(version: TlsVersion, resumes: bool) -> Result<Self, rustls::Error> {
        // The groups of TLS 1.2 are also those that a certificate may be on.
        let (suite, kx_groups) = match version {
            TlsVersion::V1_2 => (
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                vec![kx_group::X25519, kx_group::SECP256R1],
            ),
            TlsVersion::V1_3 => (cipher_suite::TLS13_AES_128_GCM_SHA256, vec![kx_group::X25519]),
        };
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![suite],
            kx_groups,
            ..aws_lc_rs::default_provider()
        });
        let versions = match version {
            TlsVersion::V1_2 => [&TLS12],
            TlsVersion::V1_3 => [&TLS13],
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let sessions: Option<Arc<Sessions>> = resumes.then(Arc::default);
        config.resumption = match &sessions {
            Some(sessions) => Resumption::store(Arc::<Sessions>::clone(sessions)),
            None => Resumption::disabled(),
        };
        Ok(Self { config: Arc::new(config), version, sessions, counts: Arc::default() })
    }

    /// Whether connections go on with the sessions of earlier ones.
    pub fn resumes(&self) -> bool {
        self.sessions.is_some()
    }

    /// With true all handshakes are full, and the sessions that they bring are kept, until this is called with false.
    pub fn only_collect_sessions(&self, on: bool) {
        if let Some(sessions) = &self.sessions {
            sessions.only_collect(on);
        }
    }

    /// Completed handshakes so far.
    pub fn handshakes(&self) -> Handshakes {
        Handshakes { all: self.counts.handshakes.load(Relaxed), resumed: self.counts.resumed.load(Relaxed) }
    }

    /// Adds what was agreed on, and how often, to what a run found.
    pub fn tell(&self, outcome: &mut Outcome, handshakes: Handshakes) {
        let (version, suite) = match self.version {
            TlsVersion::V1_2 => ("1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            TlsVersion::V1_3 => ("1.3", "TLS_AES_128_GCM_SHA256"),
        };
        let Handshakes { all, resumed } = handshakes;
        outcome
            .field(
                "tls",
                serde_json::json!({
                    "version": version, "cipherSuite": suite, "handshakes": all, "resumed": resumed,
                }),
            )
            .row(
                "TLS",
                format!(
                    "{version}, {suite}, {} handshakes, {} of them resumed",
                    show_count(all as f64),
                    show_count(resumed as f64)
                ),
            );
    }

    fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        let name = ServerName::try_from(SERVER_NAME).expect("the name is a constant that is a DNS name");
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)?;
        // Its user bounds what it sends.
        connection.set_buffer_limit(None);
        Ok(connection)
    }

    fn count(&self, kind: Option<HandshakeKind>) {
        self.counts.handshakes.fetch_add(1, Relaxed);
        if kind == Some(HandshakeKind::Resumed) {
            self.counts.resumed.fetch_add(1, Relaxed);
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
