//! Load generator: echo, churn, HTTP, idle and listening connections, and datagrams, from one thread.
//!
//! It must cost less than the server it measures, so it is one mio loop, edge-triggered, with one read buffer and
//! one write per batch of messages. Every byte that comes back is compared with what was sent; of HTTP, every response is read
//! strictly.
//!
//! - [`echo`], [`churn`], [`http`], [`idle`], [`listen`], [`datagrams`]: the kinds of load, one loop each.
//! - [`pattern`], [`broadcast`], [`datagram_text`], [`in_flight`], [`schedule`]: pure parts, unit-tested without a network.
//! - [`datagram_batch`]: many datagrams by one system call.
//! - [`target`], [`address`], [`stream`]: where the load goes, from which source addresses, and over what.
//! - [`tls`]: the same by TLS; [`certificate`]: a certificate for the servers.
//! - [`cpu`]: processor time of the server, of this process and of the machine around the measured window.
//! - [`raw_server`]: what the raw echo servers beside it, the ceilings of the benchmark, have in common.
//! - [`outcome`]: what a run found, as one JSON line or as a table; [`trace`]: what became of every connection, as a file.

pub mod address;
pub mod broadcast;
pub mod certificate;
pub mod churn;
pub mod cpu;
pub mod datagram_batch;
pub mod datagram_text;
pub mod datagrams;
pub mod echo;
pub mod error;
pub mod http;
pub mod idle;
pub mod in_flight;
pub mod limits;
pub mod listen;
pub mod outcome;
pub mod pattern;
pub mod progress;
pub mod raw_server;
pub mod schedule;
pub mod stream;
pub mod target;
pub mod tls;
pub mod trace;
