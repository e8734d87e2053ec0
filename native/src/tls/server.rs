//! Servers' configurations: one for all shards, which can be replaced while they serve.
#![forbid(unsafe_code)]

use super::choices::Choices;
use super::identity::{self, Identities, IdentityOptions};
use super::key_log::KeyLogFile;
use super::{ConfigError, Registry, skipped};
use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// By their tokens.
pub static SERVERS: Registry<ServerTls> = Registry::new();

/// What JavaScript gives.
#[derive(Debug)]
pub struct ServerTlsOptions {
    /// Certificates with their keys.
    pub certificates: Vec<IdentityOptions>,
    /// Protocols by ALPN, in the order of preference.
    pub alpn: Vec<String>,
    /// Versions, ciphers, groups.
    pub choices: Choices,
    /// `none`, `optional` or `required`.
    pub client_certificates: String,
    /// Whose certificates clients may have.
    pub ca: Vec<Vec<u8>>,
    /// Which of them are revoked.
    pub crl: Vec<Vec<u8>>,
    /// `tickets`, `stateful` or `none`.
    pub sessions: String,
    /// Stored sessions.
    pub session_cache_size: u32,
    /// Bytes that a client that resumes may send ahead.
    pub early_data_bytes: u32,
    /// Where secrets are logged.
    pub key_log: Option<String>,
    /// How long a handshake may take.
    pub handshake_timeout_ms: u32,
    /// Handshakes of one shard at a time.
    pub max_handshakes: u32,
}

/// See the module.
pub struct ServerTls {
    current: RwLock<Current>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes of one shard at a time.
    pub max_handshakes: usize,
}

struct Current {
    config: Arc<ServerConfig>,
    /// Whose sessions may go on: with other authorities a session may be of somebody who would be refused now.
    trust: Trust,
    resumption: Resumption,
}

#[derive(PartialEq, Eq, Clone)]
struct Trust {
    client_certificates: String,
    ca: Vec<Vec<u8>>,
    crl: Vec<Vec<u8>>,
}

/// By what sessions go on, on any shard.
#[derive(Clone)]
struct Resumption {
    kind: String,
    size: u32,
    tickets: Option<Arc<dyn ProducesTickets>>,
    store: Arc<dyn StoresServerSessions>,
}

impl ServerTls {
    /// Reads options.
    pub fn new(options: &ServerTlsOptions) -> Result<Self, ConfigError> {
        Ok(Self {
            handshake_timeout: Duration::from_millis(options.handshake_timeout_ms.into()),
            max_handshakes: options.max_handshakes as usize,
            current: RwLock::new(Current::new(options, None)?),
        })
    }

    /// Replaces what new handshakes see. When that fails the old goes on. (The limits of handshakes stay what they are.)
    pub fn reload(&self, options: &ServerTlsOptions) -> Result<(), ConfigError> {
        let next = Current::new(options, Some(&self.current.read()))?;
        *self.current.write() = next;
        Ok(())
    }

    /// What a new handshake sees.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.read().config.clone()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ServerTls")
    }
}

impl Current {
    fn new(options: &ServerTlsOptions, earlier: Option<&Current>) -> Result<Self, ConfigError> {
        let trust = Trust {
            client_certificates: options.client_certificates.clone(),
            ca: options.ca.clone(),
            crl: options.crl.clone(),
        };
        let resumption = earlier
            .filter(|earlier| earlier.trust == trust)
            .map(|earlier| earlier.resumption.clone())
            .filter(|known| known.kind == options.sessions && known.size == options.session_cache_size)
            .map_or_else(|| Resumption::new(options), Ok)?;
        let mut provider = options.choices.provider()?;
        skipped::note(&mut provider);
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&options.choices.versions()?)
            .map_err(|error| ConfigError(error.to_string()))?;
        let builder = match options.client_certificates.as_str() {
            "none" => builder.with_no_client_auth(),
            kind => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots(&options.ca)?.into(), provider.clone())
                        .with_crls(revoked(&options.crl)?)
                        .enforce_revocation_expiration();
                let verifier = if kind == "optional" { verifier.allow_unauthenticated() } else { verifier };
                let verifier = verifier.build().map_err(|error| ConfigError::of("ca", error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Identities::read(&options.certificates)?));
        config.alpn_protocols = options.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        config.session_storage = resumption.store.clone();
        if let Some(tickets) = &resumption.tickets {
            config.ticketer = tickets.clone();
        }
        if resumption.kind == "none" {
            config.send_tls13_tickets = 0;
        }
        // Tickets could be used again and again; what is stored is used once, which keeps early data from being repeated (RFC 8446
        // section 8.1). rustls takes none with tickets.
        config.max_early_data_size = options.early_data_bytes;
        // Who takes early data answers it before the client has proved that it is there.
        config.send_half_rtt_data = options.early_data_bytes > 0;
        if let Some(path) = &options.key_log {
            config.key_log = Arc::new(KeyLogFile::open(path)?);
        }
        Ok(Self { config: Arc::new(config), trust, resumption })
    }
}

impl Resumption {
    fn new(options: &ServerTlsOptions) -> Result<Self, ConfigError> {
        let none = || Arc::new(NoServerSessionStorage {}) as Arc<dyn StoresServerSessions>;
        let (tickets, store) = match options.sessions.as_str() {
            "tickets" => (Some(ticketer()?), none()),
            "stateful" => (None, ServerSessionMemoryCache::new(options.session_cache_size as usize) as _),
            _ => (None, none()),
        };
        Ok(Self { kind: options.sessions.clone(), size: options.session_cache_size, tickets, store })
    }
}

/// Keys that change every six hours; those before the last ones serve as long once more.
fn ticketer() -> Result<Arc<dyn ProducesTickets>, ConfigError> {
    #[cfg(feature = "aws-lc-rs")]
    let made = rustls::crypto::aws_lc_rs::Ticketer::new();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let made = rustls::crypto::ring::Ticketer::new();
    made.map_err(|error| ConfigError::of("sessions", error))
}

/// Authorities from bundles.
pub fn roots(bundles: &[Vec<u8>]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for bundle in bundles {
        let found: Vec<CertificateDer<'static>> =
            identity::authorities(bundle).map_err(|why| ConfigError::of("ca", why))?;
        for certificate in found {
            roots.add(certificate).map_err(|error| ConfigError::of("ca", error))?;
        }
    }
    Ok(roots)
}

/// Revoked certificates from lists.
pub fn revoked(lists: &[Vec<u8>]) -> Result<Vec<CertificateRevocationListDer<'static>>, ConfigError> {
    let mut all = Vec::new();
    for list in lists {
        all.extend(identity::revocation_lists(list).map_err(|why| ConfigError::of("crl", why))?);
    }
    Ok(all)
}

/// What cryptography a verifier uses.
pub(super) type Provider = Arc<CryptoProvider>;
