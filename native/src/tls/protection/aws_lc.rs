//! The cipher suites of TLS 1.3 with AWS-LC's AEADs, as rustls has them, but into memory that was lent.
#![forbid(unsafe_code)]

use super::{
    APPLICATION_DATA, FOR_PLAINTEXT, FOR_RECORDS, HEADER_BYTES, Lent, OPENED, PLAINTEXT_MAX_BYTES, TAG_BYTES,
    TRAILER_BYTES,
};
use crate::tls::with_aead;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, TlsProtocolId, TlsRecordSealingKey, UnboundKey};
use aws_lc_rs::error::Unspecified;
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundChunks, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::{CipherSuite, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion};

/// Rustls' provider, with such suites.
pub fn on(mut provider: CryptoProvider) -> CryptoProvider {
    for suite in &mut provider.cipher_suites {
        let Some(of_rustls) = suite.tls13() else { continue };
        let algorithm = match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => &aead::AES_128_GCM,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => &aead::AES_256_GCM,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &aead::CHACHA20_POLY1305,
            _ => continue,
        };
        *suite = with_aead(of_rustls, Box::new(Aead { algorithm, of_rustls: of_rustls.aead_alg })).into();
    }
    provider
}

struct Aead {
    algorithm: &'static aead::Algorithm,
    of_rustls: &'static dyn Tls13AeadAlgorithm,
}

#[expect(clippy::unwrap_used, reason = "rustls' keys are as long as key_len says")]
impl Aead {
    fn key(&self, key: &AeadKey) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(self.algorithm, key.as_ref()).unwrap())
    }

    fn sealing_key(&self, key: &AeadKey) -> SealingKey {
        if *self.algorithm == aead::CHACHA20_POLY1305 {
            return SealingKey::Plain(self.key(key));
        }
        let counting = TlsRecordSealingKey::new(self.algorithm, TlsProtocolId::TLS13, key.as_ref());
        SealingKey::Counting(counting.unwrap())
    }
}

impl Tls13AeadAlgorithm for Aead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Encrypter { key: self.sealing_key(&key), iv })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Decrypter { key: self.key(&key), iv })
    }

    fn key_len(&self) -> usize {
        self.algorithm.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.of_rustls.extract_keys(key, iv)
    }
}

/// RFC 8446 section 5.3. Numbers do not come twice with a key: rustls counts them.
fn nonce(iv: &Iv, number: u64) -> aead::Nonce {
    aead::Nonce::assume_unique_for_key(Nonce::new(iv, number).0)
}

enum SealingKey {
    /// It refuses a number that it has passed already.
    Counting(TlsRecordSealingKey),
    Plain(LessSafeKey),
}

struct Encrypter {
    key: SealingKey,
    iv: Iv,
}

impl Encrypter {
    /// Encrypts a record's plaintext and its type: into as many bytes, and the trailer behind them.
    fn seal(
        &mut self,
        number: u64,
        plaintext: &[u8],
        typ: ContentType,
        into: &mut [u8],
    ) -> Result<(), Error> {
        let nonce = nonce(&self.iv, number);
        let aad = Aad::from(make_tls13_aad(into.len()));
        let (ciphertext, trailer) = into.split_at_mut(plaintext.len());
        let typ = typ.to_array();
        match &mut self.key {
            SealingKey::Counting(key) => {
                key.seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &typ, trailer)
            }
            SealingKey::Plain(key) => {
                key.seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &typ, trailer)
            }
        }
        .map_err(|_| Error::EncryptError)
    }

    /// The same into what is lent for it, with a header: `None` where nothing is.
    fn seal_lent(&mut self, number: u64, message: &OutboundPlainMessage<'_>) -> Option<Result<(), Error>> {
        let (ContentType::ApplicationData, OutboundChunks::Single(plaintext)) =
            (message.typ, &message.payload)
        else {
            return None;
        };
        let length = plaintext.len() + TRAILER_BYTES;
        FOR_RECORDS.with(|lent| {
            lent.fill(HEADER_BYTES + length, |record| {
                let (header, payload) = record.split_at_mut(HEADER_BYTES);
                // Its version is that of TLS 1.2 (RFC 8446 section 5.2).
                header[..3].copy_from_slice(&[APPLICATION_DATA, 3, 3]);
                header[3..].copy_from_slice(&(length as u16).to_be_bytes());
                (self.seal(number, plaintext, message.typ, payload), true)
            })
        })
    }
}

impl MessageEncrypter for Encrypter {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        number: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let payload = match self.seal_lent(number, &message) {
            Some(sealed) => sealed.map(|()| PrefixedPayload::with_capacity(0))?,
            None => {
                let plaintext = message.payload.to_vec();
                let mut payload = PrefixedPayload::with_capacity(plaintext.len() + TRAILER_BYTES);
                payload.extend_from_slice(&plaintext); // its place
                payload.extend_from_slice(&[0; TRAILER_BYTES]);
                self.seal(number, &plaintext, message.typ, payload.as_mut())?;
                payload
            }
        };
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    /// rustls asks before it encrypts application data, for the size of what it will copy.
    fn encrypted_payload_len(&self, length: usize) -> usize {
        if FOR_RECORDS.with(Lent::is_lent) { 0 } else { length + TRAILER_BYTES }
    }
}

struct Decrypter {
    key: LessSafeKey,
    iv: Iv,
}

impl Decrypter {
    /// Decrypts a record: the length of its plaintext, the type and the padding behind it included.
    fn open(&self, number: u64, payload: &mut [u8]) -> Result<usize, Unspecified> {
        let nonce = nonce(&self.iv, number);
        let aad = Aad::from(make_tls13_aad(payload.len()));
        self.key.open_in_place(nonce, aad, payload).map(|plaintext| plaintext.len())
    }

    /// The same into what is lent for it, if that has room. Of application data there are a byte and the type then.
    fn open_lent(&self, number: u64, payload: &mut [u8]) -> Option<Result<usize, Unspecified>> {
        if OPENED.get() > 0 {
            return None; // rustls looks at one only; what is known of it is its length
        }
        let nonce = nonce(&self.iv, number);
        let aad = Aad::from(make_tls13_aad(payload.len()));
        let length = payload.len() - TAG_BYTES;
        let (ciphertext, tag) = payload.split_at_mut(length);
        let open = |plaintext: &mut [u8]| {
            if let Err(error) = self.key.open_separate_gather(nonce, aad, ciphertext, tag, plaintext) {
                return (Err(error), false);
            }
            match plaintext.iter().rposition(|&byte| byte != 0) {
                Some(end @ 1..=PLAINTEXT_MAX_BYTES) if plaintext[end] == APPLICATION_DATA => {
                    OPENED.set(end);
                    ciphertext[..2].copy_from_slice(&[plaintext[0], APPLICATION_DATA]);
                    (Ok(2), true)
                }
                _ => {
                    ciphertext.copy_from_slice(plaintext);
                    (Ok(length), false)
                }
            }
        };
        FOR_PLAINTEXT.with(|lent| lent.fill(length, open))
    }
}

impl MessageDecrypter for Decrypter {
    fn decrypt<'a>(
        &mut self,
        mut record: InboundOpaqueMessage<'a>,
        number: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut record.payload;
        if payload.len() < TAG_BYTES {
            return Err(Error::DecryptError);
        }
        let opened = self.open_lent(number, payload).unwrap_or_else(|| self.open(number, payload));
        payload.truncate(opened.map_err(|_| Error::DecryptError)?);
        record.into_tls13_unpadded_message()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::tls::protection::{open_into, room_for, seal_into, sealed_length};
    use std::mem::MaybeUninit;

    /// With keys of 32 bytes, as nobody else can make others.
    #[test]
    fn what_is_lent_has_the_records_that_the_suites_of_rustls_make_and_their_plaintext() {
        let theirs = rustls::crypto::aws_lc_rs::default_provider();
        let ours = on(theirs.clone());
        for (theirs, ours) in theirs.cipher_suites.iter().zip(&ours.cipher_suites) {
            let (Some(theirs), Some(ours)) = (theirs.tls13(), ours.tls13()) else { continue };
            if ours.aead_alg.key_len() != 32 {
                continue;
            }
            let made = |suite: &'static rustls::Tls13CipherSuite| {
                let key = || AeadKey::from([7; 32]);
                let iv = || Iv::new([9; 12]);
                (suite.aead_alg.encrypter(key(), iv()), suite.aead_alg.decrypter(key(), iv()))
            };
            let ((mut theirs, _), (mut ours, mut opener)) = (made(theirs), made(ours));
            for number in 0..3 {
                let text = vec![3 + number as u8; 1000];
                let message = || OutboundPlainMessage {
                    typ: ContentType::ApplicationData,
                    version: ProtocolVersion::TLSv1_2,
                    payload: OutboundChunks::Single(&text),
                };
                let expected = theirs.encrypt(message(), number).unwrap().encode();
                let mut room = vec![0; sealed_length(text.len())];
                seal_into(text.len(), &mut room, |into| {
                    assert_eq!(ours.encrypted_payload_len(text.len()), 0);
                    let empty = ours.encrypt(message(), number)?.encode();
                    into.copy_from_slice(&empty);
                    Ok::<_, Error>(empty.len())
                })
                .unwrap();
                assert_eq!(room, expected);

                let length = room_for(&room).unwrap();
                let mut memory = vec![MaybeUninit::new(0); length];
                let (shown, opened) = open_into(&mut memory, || {
                    let record = InboundOpaqueMessage::new(
                        ContentType::ApplicationData,
                        ProtocolVersion::TLSv1_2,
                        &mut room[HEADER_BYTES..],
                    );
                    opener.decrypt(record, number).unwrap().payload.to_vec()
                });
                assert_eq!((shown, opened), (text[..1].to_vec(), text.len()));
            }
        }
    }
}
