//! Sockets: the only place where they are made, inspected and tuned.

pub mod addresses;
pub mod connect;
pub mod listen;
pub mod options;
pub mod pipes;
pub mod stream;
pub mod unix;
