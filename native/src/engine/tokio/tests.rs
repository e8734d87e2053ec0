//! The shard layer on tokio's reactor in one thread, so that a test says what happens between the reactor's word and the
//! shard's look.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::shard::{Commands, Event, ServerLimits, Shard, Sink};
use crate::write_queue;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Default)]
struct Taken(Vec<Event>);

impl Sink for Taken {
    fn room(&self) -> usize {
        100
    }
    fn event(&mut self, event: Event) {
        self.0.push(event);
    }
    fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        None
    }
    fn received(&mut self, _: i32, _: usize, _: usize) {}
}

struct NothingPinned;

impl PinnedMemory for NothingPinned {
    fn bytes(&self, _: write_queue::Pin, _: usize, _: usize) -> Option<&[u8]> {
        None
    }
}

/// One write.
struct Write<'a>(i32, &'a [u8]);

impl Commands for Write<'_> {
    fn len(&self) -> usize {
        1
    }
    fn record(&self, _: usize) -> [i32; 4] {
        [abi::COMMAND_WRITE, self.0, 0, self.1.len() as i32]
    }
    fn bytes(&self, _: usize) -> Option<&[u8]> {
        Some(self.1)
    }
}

struct Bench {
    shard: Shard<TokioSystem>,
    ready: Arc<ReadyList>,
    taken: Taken,
    /// Dropped last.
    runtime: Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let ready = Arc::<ReadyList>::default();
        let system = TokioSystem {
            ready: ready.clone(),
            woken: Vec::new(),
            listeners: Vec::new(),
            endpoints: Endpoints::default(),
            link: None,
            seat: None,
            seat_number: Seat::number(),
        };
        let mut shard = Shard::new(system, Arc::default(), Instant::now());
        let limits = ServerLimits {
            write_high_bytes: 64 << 10,
            write_low_bytes: 16 << 10,
            write_max_bytes: 8 << 20,
            idle_timeout_ms: 0,
        };
        shard.add_server(0, 0, limits);
        Self { shard, ready, taken: Taken::default(), runtime }
    }

    /// The reactor hears what the kernel has to tell.
    fn hear(&self) {
        self.runtime.block_on(tokio::task::yield_now());
    }

    /// The shard looks.
    fn turn(&mut self) {
        let _context = self.runtime.enter();
        self.shard.turn(Instant::now(), &mut self.taken, &NothingPinned);
    }

    fn is_quiet(&self) -> bool {
        self.ready.sources.lock().is_empty() && !self.shard.has_backlog()
    }
}

struct Fifo(PathBuf);

impl Fifo {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("shardloop-{}-{name}", std::process::id()));
        _ = std::fs::remove_file(&path);
        let bytes = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a name that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(bytes.as_ptr(), 0o600) }, 0);
        Self(path)
    }

    fn open(&self, options: &mut OpenOptions) -> File {
        options.custom_flags(libc::O_NONBLOCK).open(&self.0 as &Path).unwrap()
    }

    fn reader(&self) -> File {
        self.open(OpenOptions::new().read(true))
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_fifo_whose_reader_has_come_back_is_written_on_and_costs_no_turns() {
    let fifo = Fifo::new("comes-back");
    let mut bench = Bench::new();
    let reader = fifo.reader();
    let writer = fifo.open(OpenOptions::new().write(true));
    {
        let _context = bench.runtime.enter();
        bench.shard.connect(Instant::now(), 1, 0, writer.into(), Peer::Reader, true);
    }
    bench.turn();
    let handle = bench.taken.0.pop().unwrap().handle;
    drop(reader);
    bench.hear();
    let mut reader = fifo.reader();
    bench.turn();
    for _ in 0..5 {
        bench.hear();
        bench.turn();
    }
    bench.hear();
    assert!(bench.is_quiet(), "its turns have no end");
    assert!(bench.taken.0.is_empty(), "it is not closed");
    // Room is told as before, and the end.
    let bytes = vec![7; 200_000];
    bench.shard.submit(Instant::now(), &Write(handle, &bytes));
    let mut came = Vec::new();
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while came.len() < bytes.len() {
        _ = reader.read_to_end(&mut came); // EAGAIN
        bench.hear();
        bench.turn();
        assert!(Instant::now() < deadline, "only {} bytes came", came.len());
    }
    assert!(came == bytes);
    bench.taken.0.clear();
    drop(reader);
    bench.hear();
    bench.turn();
    assert_eq!(bench.taken.0.last().map(|event| (event.kind, event.a)), Some((abi::EVENT_CLOSED, 0)));
}
