//! Records that a server skips: early data that it has rejected (RFC 8446 section 4.2.10).
//!
//! A server has no keys for them. It tries to decrypt each record that comes, up to as many bytes as it allows, until one is of the
//! handshake. rustls does so, but neither tells of a record that it has skipped nor lets go of it before one that it has not, and counts
//! it again whenever it is shown it. So the cipher suites of servers note here what they could not decrypt, and whoever shows rustls bytes
//! takes them away.
#![forbid(unsafe_code)]

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{ConnectionTrafficSecrets, Error, SupportedCipherSuite, Tls13CipherSuite};
use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    /// Where the last of them ended in memory; 0: there was none.
    static END: Cell<usize> = const { Cell::new(0) };
}

/// Has rustls look at bytes: what it says, and how many bytes at their front are behind the last record that it has skipped of them.
pub fn watch<R>(start: *const u8, look: impl FnOnce() -> R) -> (R, usize) {
    END.set(0);
    let seen = look();
    (seen, END.take().saturating_sub(start as usize))
}

/// Has the cipher suites of a server note what is skipped.
pub fn note(provider: &mut CryptoProvider) {
    static SUITES: OnceLock<Vec<&Tls13CipherSuite>> = OnceLock::new();
    let suites = SUITES.get_or_init(|| {
        let suites = super::provider().cipher_suites.iter().filter_map(SupportedCipherSuite::tls13);
        suites.map(|suite| super::with_aead(suite, Box::new(Noting(suite.aead_alg)))).collect()
    });
    for suite in &mut provider.cipher_suites {
        if let Some(noting) = suites.iter().find(|noting| noting.common.suite == suite.suite()) {
            *suite = (*noting).into();
        }
    }
}

struct Noting<T>(T);

impl Tls13AeadAlgorithm for Noting<&'static dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }
    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Noting(self.0.decrypter(key, iv)))
    }
    fn key_len(&self) -> usize {
        self.0.key_len()
    }
    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }
    fn fips(&self) -> bool {
        self.0.fips()
    }
}

impl MessageDecrypter for Noting<Box<dyn MessageDecrypter>> {
    fn decrypt<'a>(
        &mut self,
        record: InboundOpaqueMessage<'a>,
        number: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let end = record.payload.as_ptr_range().end as usize;
        let decrypted = self.0.decrypt(record, number);
        // Only in front of all that this key has decrypted: of what follows rustls keeps places in the bytes that it was shown, which
        // must not be moved then.
        if number == 0 {
            END.set(if decrypted.is_err() { end } else { 0 });
        }
        decrypted
    }
}
