//! Native core of shardloop: one I/O loop per worker thread, nested in that thread's libuv loop.
//!
//! Layers, each knowing only those below it:
//! `bind` (all that knows napi) → `host` (batches; `nested` and `uv` nest it in libuv) → `engine` (commands in, events out)
//! → `shard` (connections: what all engines share) → `net`, `tls`, `write_queue`, `timer`, `metrics`,
//! `busy_poll`, `moderation` (and `back_off`, how both give up), `malloc`, `slice`, `limits`. Beside the shard, `alarm` wakes a thread's JavaScript at a given time,
//! and `mail` when another thread has something to say (`mailbox`, `stack`; `turn`: what is done before it looks for more).
//! Any of them may write to the log (`log`), whose records JavaScript fetches by `bind`.

pub mod abi;
pub mod alarm;
pub mod audience;
pub mod back_off;
pub mod bind;
pub mod busy_poll;
pub mod children;
pub mod connection;
pub mod engine;
pub mod error;
pub mod guardian;
pub mod host;
pub mod inbox;
pub mod limits;
pub mod link;
pub mod log;
pub mod mail;
pub mod mailbox;
pub mod malloc;
pub mod metrics;
pub mod moderation;
pub mod nested;
pub mod net;
pub mod pipe;
pub mod pulse;
pub mod ring;
pub mod shard;
pub mod slice;
pub mod stack;
pub mod sync;
pub mod system;
pub mod timer;
pub mod tls;
pub mod topics;
pub mod turn;
pub mod uv;
pub mod watcher;
pub mod write_queue;
