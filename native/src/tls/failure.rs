//! Why a TLS session ended.
#![forbid(unsafe_code)]

use crate::abi;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved};
use std::fmt;

/// Why a session ended, or never began.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Failure {
    /// The handshake took longer than it may.
    Timeout,
    /// The connection ended without the peer's close_notify: what came may not be all (RFC 8446 section 6.1).
    Truncated,
    /// The connection ended during the handshake.
    Abandoned,
    /// What came first is no TLS record.
    NotTls,
    /// rustls refused what came.
    Refused(Error),
    /// The peer's certificate has none of the keys that were pinned.
    Pin,
    /// The session was asked for what it cannot do (any more).
    Internal(&'static str),
}

impl Failure {
    /// The reason that JavaScript is told, see `abi`.
    pub fn reason(&self) -> i32 {
        match self {
            Self::Timeout => abi::TLS_TIMEOUT,
            Self::Truncated => abi::TLS_TRUNCATED,
            Self::Abandoned => abi::TLS_ABANDONED,
            Self::NotTls => abi::TLS_NOT_TLS,
            Self::Refused(error) => refusal(error),
            Self::Pin => abi::TLS_CERT_PIN,
            Self::Internal(_) => abi::TLS_INTERNAL,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => formatter.write_str("the handshake took longer than it may"),
            Self::Truncated => formatter
                .write_str("the connection ended without close_notify: what was received may not be all"),
            Self::Abandoned => formatter.write_str("the connection ended during the handshake"),
            Self::NotTls => formatter.write_str("what came first is no TLS record"),
            Self::Refused(error) => error.fmt(formatter),
            Self::Pin => formatter.write_str("the certificate's key is none of those that are pinned"),
            Self::Internal(what) => formatter.write_str(what),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            // By the verifier of pins, which has no error of its own.
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => Self::Pin,
            _ => Self::Refused(error),
        }
    }
}

fn refusal(error: &Error) -> i32 {
    match error {
        Error::AlertReceived(AlertDescription::CloseNotify) => abi::TLS_ABANDONED,
        Error::AlertReceived(alert) => abi::TLS_ALERT - i32::from(u8::from(*alert)),
        Error::InvalidCertificate(error) => certificate(error),
        Error::InvalidCertRevocationList(_) => abi::TLS_CERT_INVALID,
        Error::NoCertificatesPresented => abi::TLS_CERT_MISSING,
        Error::NoApplicationProtocol => abi::TLS_NO_ALPN,
        Error::PeerIncompatible(
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon,
        ) => abi::TLS_NO_CERTIFICATE,
        Error::PeerIncompatible(_) => abi::TLS_INCOMPATIBLE,
        // How rustls says that no certificate was found for a name, or none that the client understands.
        Error::General(what)
            if what == "no server certificate chain resolved" || what == "incompatible signing key" =>
        {
            abi::TLS_NO_CERTIFICATE
        }
        Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => abi::TLS_NO_ALPN,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::InvalidEncryptedClientHello(_)
        | Error::DecryptError
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => abi::TLS_MALFORMED,
        _ => abi::TLS_INTERNAL,
    }
}

fn certificate(error: &CertificateError) -> i32 {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => abi::TLS_CERT_EXPIRED,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            abi::TLS_CERT_NOT_YET_VALID
        }
        CertificateError::Revoked => abi::TLS_CERT_REVOKED,
        // An authority may have the name of one that is trusted, and another key.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            abi::TLS_CERT_UNTRUSTED
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            abi::TLS_CERT_NAME
        }
        CertificateError::ApplicationVerificationFailure => abi::TLS_CERT_PIN,
        // webpki takes a certificate of a CA that is no leaf, as a self-signed one is, for this.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            abi::TLS_CERT_UNTRUSTED
        }
        _ => abi::TLS_CERT_INVALID,
    }
}

/// The counter of handshakes that ended for a reason.
pub fn failure_metric(reason: i32) -> i32 {
    match reason {
        abi::TLS_TIMEOUT => abi::METRIC_TLS_FAILED_TIMEOUT,
        abi::TLS_TRUNCATED | abi::TLS_ABANDONED => abi::METRIC_TLS_FAILED_ABANDONED,
        abi::TLS_INCOMPATIBLE | abi::TLS_NO_ALPN | abi::TLS_NO_CERTIFICATE => {
            abi::METRIC_TLS_FAILED_INCOMPATIBLE
        }
        abi::TLS_CERT_PIN..=abi::TLS_CERT_EXPIRED => abi::METRIC_TLS_FAILED_CERTIFICATE,
        ..=abi::TLS_ALERT => abi::METRIC_TLS_FAILED_ALERT,
        // The connection failed below.
        1.. => abi::METRIC_TLS_FAILED_ABANDONED,
        _ => abi::METRIC_TLS_FAILED_PROTOCOL,
    }
}

/// Whether a reason is one of TLS.
pub fn is_of_tls(reason: i32) -> bool {
    reason <= abi::TLS_TIMEOUT
}

/// Whether bytes can begin a TLS record of a handshake: its type, the version's first byte and the length (RFC 8446 sections 5.1
/// and 5.2), as far as they are there.
pub fn looks_like_tls(bytes: &[u8]) -> bool {
    let length_can_be =
        |length: &[u8]| matches!(u16::from_be_bytes([length[0], length[1]]), 1..=RECORD_MAX_BYTES);
    bytes.first().is_none_or(|&kind| kind == 22 || kind == 21)
        && bytes.get(1).is_none_or(|&major| major == 3)
        && bytes.get(3..5).is_none_or(length_can_be)
}

/// What a record may hold where it is encrypted by TLS 1.2 (RFC 5246 section 6.2.3), the longest.
const RECORD_MAX_BYTES: u16 = (16 << 10) + 2048;
