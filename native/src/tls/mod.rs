//! TLS by rustls, as a layer of its own between the shard layer and its sockets.
//!
//! ```text
//! socket ── bytes ──► Session::receive ── plaintext ──► events          pure: bytes and plaintext in, plaintext and bytes out
//! socket ◄── bytes ── Session::encrypt ◄── plaintext ── writes, queue   (session.rs); what is made of it is `shard/securing.rs`'s
//! ```
//!
//! | file | has |
//! |---|---|
//! | [`session`] | one connection's state machine: no socket, no clock, no thread |
//! | [`failure`] | why one ended, as JavaScript is told it |
//! | [`server`], [`client`] | what is configured: one for all shards, named by a token, the server's replaceable while it serves |
//! | [`identity`] | certificates, keys, and which of them is for which name |
//! | [`choices`] | versions, cipher suites and groups by their names |
//! | `protection` | records without copies: the cipher suites of TLS 1.3, into memory that is lent |
//! | `skipped` | early data that a server has rejected, and must not look at again |
//! | [`scratch`] | memory that a shard's sessions share |
//! | [`key_log`] | secrets into a file, where that is asked for |
//! | [`ktls`] | whether this kernel would encrypt what is sent |
//!
//! It runs on whichever thread does the shard's I/O. What threads share is immutable, or rustls' (tickets' keys, stored sessions).

pub mod choices;
pub mod client;
pub mod failure;
pub mod identity;
pub mod key_log;
pub mod ktls;
mod protection;
pub mod scratch;
pub mod server;
pub mod session;
mod skipped;

use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::Tls13AeadAlgorithm;
use rustls::{CipherSuiteCommon, Tls13CipherSuite};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// The cryptography that this build has.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        #[cfg(feature = "aws-lc-rs")]
        let provider = protection::aws_lc::on(rustls::crypto::aws_lc_rs::default_provider());
        #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
        let provider = rustls::crypto::ring::default_provider();
        Arc::new(provider)
    })
}

/// A suite as another, with an AEAD of its own. It is never freed: once in a process for each.
fn with_aead(
    suite: &'static Tls13CipherSuite,
    aead: Box<dyn Tls13AeadAlgorithm>,
) -> &'static Tls13CipherSuite {
    Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: Box::leak(aead),
        quic: suite.quic,
    }))
}

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("TLS needs the feature aws-lc-rs (the default) or ring");

/// A configuration that is wrong, in words for whoever wrote it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    /// With what it is about in front.
    pub fn of(what: &str, why: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

/// What is shared by all threads of the process, by tokens above 0.
#[derive(Debug)]
pub struct Registry<T> {
    next: AtomicU32,
    entries: RwLock<Option<HashMap<u32, Arc<T>>>>,
}

impl<T> Registry<T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { next: AtomicU32::new(1), entries: RwLock::new(None) }
    }

    /// Enters one: its token.
    pub fn register(&self, entry: Arc<T>) -> u32 {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.entries.write().get_or_insert_default().insert(token, entry);
        token
    }

    /// The one of a token.
    pub fn find(&self, token: u32) -> Option<Arc<T>> {
        self.entries.read().as_ref()?.get(&token).cloned()
    }

    /// Takes one out. Whoever has found it before keeps it.
    pub fn remove(&self, token: u32) {
        if let Some(entries) = self.entries.write().as_mut() {
            entries.remove(&token);
        }
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}
