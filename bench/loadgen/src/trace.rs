//! `--trace FILE`: a line for every connection, as CSV with a head: when it was opened, in microseconds of the Unix epoch
//! (with `--rate` when it was meant to be), and how long until it was echoed, in microseconds; nothing there when it failed.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::error::LoadError;

/// An open trace.
pub struct Trace {
    path: PathBuf,
    file: BufWriter<File>,
    /// The first write that failed.
    failed: Option<io::Error>,
}

impl Trace {
    /// Makes the file, or empties it.
    ///
    /// # Errors
    /// [`LoadError::File`].
    pub fn create(path: &Path) -> Result<Self, LoadError> {
        let open = || {
            let mut file = BufWriter::new(File::create(path)?);
            writeln!(file, "opened_unix_us,until_echoed_us")?;
            Ok(file)
        };
        let file =
            open().map_err(|source| LoadError::File { option: "--trace", path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, failed: None })
    }

    /// Notes a connection that was opened `opened_ns` after `clock`, as it ends. What cannot be written is told by
    /// [`Self::finish`], for a full disk must not disturb the load.
    pub fn connection(&mut self, clock: Instant, opened_ns: u64, latency_ns: Option<u64>) {
        // Both clocks are read now, so that a step of the system's clock moves what comes after it, and nothing else.
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let age_us = (clock.elapsed().as_nanos() as u64).saturating_sub(opened_ns) / 1000;
        let opened_us = now_us - age_us;
        let written = match latency_ns {
            Some(latency_ns) => writeln!(self.file, "{opened_us},{}", latency_ns as f64 / 1000.0),
            None => writeln!(self.file, "{opened_us},"),
        };
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// [`LoadError::File`] when some of it could not be written.
    pub fn finish(mut self) -> Result<(), LoadError> {
        let flushed = self.file.flush();
        match self.failed.map_or(flushed, Err) {
            Ok(()) => Ok(()),
            Err(source) => Err(LoadError::File { option: "--trace", path: self.path, source }),
        }
    }
}
