//! Sockets: the only place where they are made, inspected and tuned.

pub mod addresses;
pub mod connect;
pub mod datagram_address;
pub mod datagrams;
pub mod listen;
pub mod options;
pub mod pipes;
pub mod raw;
pub mod stream;
pub mod udp;
pub mod unix;
