//! How the process's allocator treats memory that is freed. Only glibc's has such settings; with others nothing is done.

pub use imp::{give_back_at_end, keep_freed_memory};

#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod imp {
    use std::sync::atomic::{AtomicBool, Ordering};

    /// What glibc's malloc reads its thresholds from, and any tunable of malloc: who sets one has decided for himself.
    const SETTINGS: [(&str, &str); 5] = [
        ("MALLOC_TRIM_THRESHOLD_", ""),
        ("MALLOC_MMAP_THRESHOLD_", ""),
        ("MALLOC_TOP_PAD_", ""),
        ("MALLOC_MMAP_MAX_", ""),
        ("GLIBC_TUNABLES", "glibc.malloc."),
    ];
    /// The values that malloc's own adaptation ends with, once a program has freed a block of this size (mallopt(3)).
    const MMAP_THRESHOLD_BYTES: libc::c_int = 32 << 20;
    const TRIM_THRESHOLD_BYTES: libc::c_int = 2 * MMAP_THRESHOLD_BYTES;
    /// What a thread takes to give it back, in blocks: all that may be kept. Large enough that few calls do it, and small
    /// enough to find what lies between others' blocks.
    const BLOCK_BYTES: usize = 4 << 20;
    const BLOCKS: usize = TRIM_THRESHOLD_BYTES as usize / BLOCK_BYTES;

    /// Freed memory is kept, because `keep_freed_memory` has seen to it.
    static KEEPS: AtomicBool = AtomicBool::new(false);

    /// Has freed memory kept for the next allocation: up to 64 MiB at the top of each arena, of which a thread of a shard
    /// has its own.
    ///
    /// V8 frees slabs some 30 MiB at a time, after each scavenge. By its defaults glibc gives most of that back to the
    /// kernel, and the next reads fault it in again, page by page: 35,000 faults a second under load, a tenth of the CPU,
    /// and more on a virtual machine whose host takes the pages away.
    ///
    /// The addon calls it when it is loaded first, on the main thread of a program that imports shardloop: reading the
    /// environment while another thread changes it is not safe in C.
    pub fn keep_freed_memory() {
        let decided = SETTINGS.iter().any(|(name, part)| {
            std::env::var_os(name).is_some_and(|value| value.to_string_lossy().contains(part))
        });
        if decided {
            return;
        }
        KEEPS.store(true, Ordering::Relaxed);
        // SAFETY: plain calls, which take malloc's lock. Both values are in range, so they do not fail; a malloc that was
        // put before glibc's does not see them.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
        }
    }

    /// Has what is kept so in this thread's arena given back when the thread ends, which is after V8 has freed its slabs.
    /// An arena goes from a thread that ends to one that starts: without this each keeps what its greediest thread left,
    /// so deaths of shards made the process grow, up to that for every arena. The main thread ends with all.
    pub fn give_back_at_end() {
        thread_local!(static AT_END: GiveBack = const { GiveBack });
        // SAFETY: plain calls.
        let is_main = unsafe { libc::gettid() == libc::getpid() };
        let keeps = KEEPS.load(Ordering::Relaxed);
        log::debug!(keeps = keeps, "givesBackAtEnd" = keeps && !is_main; "malloc keeps freed memory, unless it is tuned by others");
        if keeps && !is_main {
            AT_END.with(|_| ()); // only what was used is dropped
        }
    }

    struct GiveBack;

    impl Drop for GiveBack {
        fn drop(&mut self) {
            give_back();
        }
    }

    /// Takes all that is kept, and tells the kernel that the pages are not needed. malloc_trim(3) would not do: it leaves
    /// the tops of all arenas but the main one alone; and a lower M_TRIM_THRESHOLD would be everybody's for the moment.
    fn give_back() {
        // SAFETY: blocks of our own, which nobody uses and whose bytes are worth nothing. What is advised lies in whole
        // pages inside of them: the header of the block behind is not touched. Pages that stay are none the worse.
        unsafe {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(1 << 16);
            let blocks: [*mut libc::c_void; BLOCKS] = std::array::from_fn(|_| libc::malloc(BLOCK_BYTES));
            for block in blocks.into_iter().filter(|block| !block.is_null()) {
                let start = block.align_offset(page);
                let length = (BLOCK_BYTES - start) / page * page;
                libc::madvise(block.byte_add(start), length, libc::MADV_DONTNEED);
            }
            blocks.into_iter().for_each(|block| libc::free(block));
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
mod imp {
    /// Nothing to do.
    pub fn keep_freed_memory() {}

    /// Nothing to do.
    pub fn give_back_at_end() {}
}
