//! Certificates and their keys, and which of them is for which name.
#![forbid(unsafe_code)]

use super::{ConfigError, provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, DnsName, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

thread_local! {
    /// The name that the client of the handshake in progress on this thread has asked for. rustls tells it nobody but who chooses
    /// the certificate, which happens within [`super::session::Session::receive`].
    pub(super) static ASKED_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// What JavaScript gives of one.
#[derive(Debug)]
pub struct IdentityOptions {
    /// The names it is for; none: for all others.
    pub names: Vec<String>,
    /// A chain in PEM, or one certificate in DER.
    pub cert: Vec<u8>,
    /// In PEM or DER: PKCS#8, PKCS#1 or SEC1.
    pub key: Vec<u8>,
    /// An OCSP response in DER, to be stapled.
    pub ocsp: Option<Vec<u8>>,
}

impl IdentityOptions {
    /// Reads it, and checks that key and certificate belong together.
    pub fn read(&self) -> Result<CertifiedKey, ConfigError> {
        let what = match self.names.first() {
            Some(name) => format!("the certificate for {name}"),
            None => "the certificate".to_owned(),
        };
        let chain = certificates(&self.cert).map_err(|why| ConfigError::of(&what, why))?;
        let key = private_key(&self.key).map_err(|why| ConfigError(format!("the key of {what}: {why}")))?;
        let mut identity = CertifiedKey::from_der(chain, key, provider()).map_err(|why| {
            ConfigError(match why {
                rustls::Error::InconsistentKeys(_) => {
                    format!("the key does not belong to {what}: another key, or another certificate first in the chain?")
                }
                why => format!("{what} and its key: {why}"),
            })
        })?;
        identity.ocsp.clone_from(&self.ocsp);
        Ok(identity)
    }
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).take(64 * 1024).any(|window| window == b"-----BEGIN ")
}

/// As [`certificates`], of authorities: theirs may be older than X.509 v3, and are looked at when they are taken.
pub fn authorities(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = if is_pem(bytes) {
        CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?
    } else {
        vec![CertificateDer::from(bytes.to_vec())]
    };
    if found.is_empty() {
        return Err("there is no certificate in it (-----BEGIN CERTIFICATE-----)".into());
    }
    Ok(found)
}

/// All certificates of a PEM text, or the one in DER.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = authorities(bytes)?;
    for certificate in &found {
        webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| format!("it is no X.509 certificate: {error}"))?;
    }
    Ok(found)
}

/// All lists of revoked certificates of a PEM text, or the one in DER.
pub fn revocation_lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    if is_pem(bytes) {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
        let lists = lists.map_err(|error| error.to_string())?;
        if lists.is_empty() {
            Err("there is no list in it (-----BEGIN X509 CRL-----)".into())
        } else {
            Ok(lists)
        }
    } else {
        Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())])
    }
}

fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    if is_pem(bytes) {
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "there is no key in it that can be read (-----BEGIN PRIVATE KEY-----; an encrypted one needs its passphrase)".into()
            }
            error => error.to_string(),
        })
    } else {
        PrivateKeyDer::try_from(bytes.to_vec())
            .map_err(|_| "it is neither PEM nor a key in DER (PKCS#8, PKCS#1 or SEC1)".into())
    }
}

/// Which certificate is for which name: the exact one, then a wildcard for its first label (RFC 6125 section 6.4.3), then the default
/// one.
pub struct Identities {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Identities {
    /// Reads all of them.
    pub fn read(options: &[IdentityOptions]) -> Result<Self, ConfigError> {
        let mut identities = Self { exact: HashMap::new(), wildcards: HashMap::new(), default: None };
        for option in options {
            let identity = Arc::new(option.read()?);
            if option.names.is_empty() {
                identities.default = Some(identity.clone());
            }
            for name in &option.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut identities.wildcards, parent),
                    None => (&mut identities.exact, name.as_str()),
                };
                if DnsName::try_from(name).is_err() {
                    let why = "it is no DNS name; a wildcard stands for the whole first label: *.example.com";
                    return Err(ConfigError::of(&format!("the name {name}"), why));
                }
                names.insert(name.to_ascii_lowercase().into(), identity.clone());
            }
        }
        Ok(identities)
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let parent = name.split_once('.').map(|(_, parent)| parent);
            self.exact.get(name.as_str()).or_else(|| self.wildcards.get(parent?))
        });
        named.or(self.default.as_ref())
    }
}

impl fmt::Debug for Identities {
    /// Without the keys.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identities").field("names", &self.exact.keys()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        ASKED_NAME.set(name.map(Into::into));
        self.find(name).cloned()
    }
}
