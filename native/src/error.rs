//! Errors of the native core.
#![forbid(unsafe_code)]

use std::any::Any;
use std::io;

/// A system call that failed, with its name, so that JavaScript can build Node's own error shape.
#[derive(Debug, thiserror::Error)]
#[error("{syscall}: {source}")]
pub struct SystemError {
    /// The call, by POSIX's name.
    pub syscall: &'static str,
    /// What it said.
    pub source: io::Error,
}

impl SystemError {
    /// The system's error number; EIO for an error that has none.
    pub fn errno(&self) -> i32 {
        errno(&self.source)
    }
}

/// Names the call that failed.
pub trait During<T> {
    /// Adds the name.
    fn during(self, syscall: &'static str) -> Result<T, SystemError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, syscall: &'static str) -> Result<T, SystemError> {
        self.map_err(|source| SystemError { syscall, source })
    }
}

/// The number of a system error; EIO for an error that has none.
pub fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// What a caught panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
