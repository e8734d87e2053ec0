//! Secrets of sessions into a file (NSS key log format), for whoever asks for it: with it all that was said can be read.
#![forbid(unsafe_code)]

use super::ConfigError;
use parking_lot::Mutex;
use rustls::KeyLog;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// A file, appended to.
pub struct KeyLogFile(Mutex<File>);

impl KeyLogFile {
    /// Opens it; a new one is its owner's alone.
    pub fn open(path: &str) -> Result<Self, ConfigError> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        file.map(|file| Self(Mutex::new(file)))
            .map_err(|why| ConfigError::of(&format!("keyLog: {path}"), why))
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        if let Err(error) = self.0.lock().write_all(line.as_bytes()) {
            log::warn!("a secret could not be written to the key log: {error}");
        }
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyLogFile")
    }
}
