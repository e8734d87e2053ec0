//! A certificate for servers on this machine.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::error::LoadError;

/// Names that it is for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Writes `cert.pem`, signed by itself, and `key.pem`, on P-256, into a directory. Files that are there already are kept,
/// and it fails.
///
/// # Errors
/// [`LoadError::Certificate`] and [`LoadError::File`].
pub fn write(directory: &Path) -> Result<(), LoadError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = CertificateParams::new(NAMES.map(str::to_owned))?.self_signed(&key)?;
    for (name, text) in [("key.pem", key.serialize_pem()), ("cert.pem", certificate.pem())] {
        let path = directory.join(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| LoadError::File { option: "certificate", path, source })?;
    }
    Ok(())
}
