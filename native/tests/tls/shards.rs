//! What every shard of these tests has.

use shardloop_native::net::listen::{ListenOptions, Listener, bind};
use shardloop_native::shard::ServerLimits;
use shardloop_native::write_queue::{Pin, PinnedMemory};
use std::sync::Arc;

pub struct NothingPinned;

impl PinnedMemory for NothingPinned {
    fn bytes(&self, _pin: Pin, _start: usize, _end: usize) -> Option<&[u8]> {
        None
    }
}

pub fn limits() -> ServerLimits {
    ServerLimits {
        write_high_bytes: 64 << 10,
        write_low_bytes: 16 << 10,
        write_max_bytes: 1 << 20,
        idle_timeout_ms: 0,
    }
}

/// On a port of its own.
pub fn listener() -> Arc<Listener> {
    let options = ListenOptions {
        host: [127, 0, 0, 1].into(),
        port: 0,
        backlog: 512,
        reuse_port: false,
        ipv6_only: false,
        no_delay: true,
        exclusive: false,
    };
    Arc::new(bind(&options).unwrap())
}
