//! Clients' configurations: whom they trust, as whom they come, and the sessions that they can go on with.
#![forbid(unsafe_code)]

use super::choices::Choices;
use super::identity::IdentityOptions;
use super::key_log::KeyLogFile;
use super::server::{Provider, revoked, roots};
use super::{ConfigError, Registry};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// By their tokens.
pub static CLIENTS: Registry<ClientTls> = Registry::new();

/// What JavaScript gives.
#[derive(Debug)]
pub struct ClientTlsOptions {
    /// Whose certificates servers may have; none: those that the platform trusts.
    pub ca: Option<Vec<Vec<u8>>>,
    /// Which of them are revoked.
    pub crl: Vec<Vec<u8>>,
    /// Our certificate.
    pub identity: Option<IdentityOptions>,
    /// Protocols by ALPN, in the order of preference.
    pub alpn: Vec<String>,
    /// Versions, ciphers, groups.
    pub choices: Choices,
    /// SHA-256 of the keys (SubjectPublicKeyInfo) of which the server's must be one; empty: any.
    pub pins: Vec<Vec<u8>>,
    /// Takes whatever certificate comes.
    pub accept_any_certificate: bool,
    /// Takes a good certificate that is for another name.
    pub accept_any_name: bool,
    /// Servers whose sessions are kept; 0: none.
    pub session_cache_size: u32,
    /// Where secrets are logged.
    pub key_log: Option<String>,
    /// How long a handshake may take.
    pub handshake_timeout_ms: u32,
}

/// See the module.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
}

impl ClientTls {
    /// Reads options.
    pub fn new(options: &ClientTlsOptions) -> Result<Self, ConfigError> {
        let provider = Arc::new(options.choices.provider()?);
        let verifier = Arc::new(Checks {
            inner: if options.accept_any_certificate { None } else { Some(verifier(options, &provider)?) },
            any_name: options.accept_any_name,
            pins: pins(&options.pins)?,
            provider: provider.clone(),
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&options.choices.versions()?)
            .map_err(|error| ConfigError(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &options.identity {
            Some(identity) => {
                let identity = Arc::new(identity.read()?);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        config.resumption = match options.session_cache_size {
            0 => Resumption::disabled(),
            size => Resumption::in_memory_sessions(size as usize),
        };
        if let Some(path) = &options.key_log {
            config.key_log = Arc::new(KeyLogFile::open(path)?);
        }
        let handshake_timeout = Duration::from_millis(options.handshake_timeout_ms.into());
        Ok(Self { config: Arc::new(config), handshake_timeout })
    }

    /// What a handshake sees.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClientTls")
    }
}

/// A name or an address as certificates have it.
pub fn server_name(name: &str) -> Result<ServerName<'static>, ConfigError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| ConfigError(format!("servername: expected a DNS name or an IP address, given '{name}'")))
}

fn verifier(
    options: &ClientTlsOptions,
    provider: &Provider,
) -> Result<Arc<dyn ServerCertVerifier>, ConfigError> {
    let Some(ca) = &options.ca else {
        if options.accept_any_name && cfg!(target_vendor = "apple") {
            // The system tells one thing that is wrong, behind which others may hide.
            return Err(ConfigError(
                "dangerouslyAcceptAnyName: on this platform it needs ca beside it".into(),
            ));
        }
        if !options.crl.is_empty() {
            return Err(ConfigError("crl: it needs ca beside it, whose certificates it is about".into()));
        }
        return platform_verifier(provider);
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?.into(), provider.clone())
        .with_crls(revoked(&options.crl)?)
        .enforce_revocation_expiration()
        .build();
    verifier.map(|verifier| verifier as _).map_err(|error| ConfigError::of("ca", error))
}

/// Reads the platform's certificates once. (With the provider's signatures: which ciphers were chosen makes no difference.)
fn platform_verifier(provider: &Provider) -> Result<Arc<dyn ServerCertVerifier>, ConfigError> {
    static PLATFORM: OnceLock<Arc<Verifier>> = OnceLock::new();
    if let Some(verifier) = PLATFORM.get() {
        return Ok(verifier.clone());
    }
    let verifier = Verifier::new(provider.clone())
        .map_err(|error| ConfigError::of("the platform's certificates", error))?;
    Ok(PLATFORM.get_or_init(|| Arc::new(verifier)).clone())
}

fn pins(given: &[Vec<u8>]) -> Result<Vec<[u8; 32]>, ConfigError> {
    let pin = |pin: &Vec<u8>| {
        <[u8; 32]>::try_from(pin.as_slice())
            .map_err(|_| ConfigError("pinnedSpki: expected SHA-256, which has 32 bytes".into()))
    };
    given.iter().map(pin).collect()
}

/// What is asked of a server's certificate.
struct Checks {
    /// None: nothing.
    inner: Option<Arc<dyn ServerCertVerifier>>,
    any_name: bool,
    pins: Vec<[u8; 32]>,
    provider: Provider,
}

impl Checks {
    /// Of the server's own certificate. Others that it sends along prove nothing: whoever has one can send it.
    fn check_pins(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        let sha256 =
            self.provider.cipher_suites.iter().chain(&super::provider().cipher_suites).find(|suite| {
                matches!(
                    suite.suite(),
                    CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                )
            });
        let hash = sha256
            .and_then(|suite| suite.tls13())
            .ok_or_else(|| Error::General("this build has no SHA-256".into()))?
            .common
            .hash_provider;
        let is_pinned = |certificate: &CertificateDer<'_>| {
            webpki::EndEntityCert::try_from(certificate).is_ok_and(|certificate| {
                let key = hash.hash(certificate.subject_public_key_info().as_ref());
                self.pins.iter().any(|pin| pin == key.as_ref())
            })
        };
        if self.pins.is_empty() || is_pinned(end_entity) {
            return Ok(());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Checks")
    }
}

impl ServerCertVerifier for Checks {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(inner) = &self.inner {
            match inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
                // The name is what is looked at last.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) if self.any_name => {}
                verified => _ = verified?,
            }
        }
        self.check_pins(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
