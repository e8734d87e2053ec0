//! How the process's allocator treats memory that is freed.

/// What glibc's malloc reads its thresholds from, and any tunable of malloc: who sets one has decided for himself.
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
const SETTINGS: [(&str, &str); 5] = [
    ("MALLOC_TRIM_THRESHOLD_", ""),
    ("MALLOC_MMAP_THRESHOLD_", ""),
    ("MALLOC_TOP_PAD_", ""),
    ("MALLOC_MMAP_MAX_", ""),
    ("GLIBC_TUNABLES", "glibc.malloc."),
];

/// The values that malloc's own adaptation ends with, once a program has freed a block of this size (mallopt(3)).
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
const MMAP_THRESHOLD_BYTES: libc::c_int = 32 << 20;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
const TRIM_THRESHOLD_BYTES: libc::c_int = 2 * MMAP_THRESHOLD_BYTES;

/// Has freed memory kept for the next allocation: up to 64 MiB at the top of each arena, of which a shard has its own.
///
/// V8 frees slabs some 30 MiB at a time, after each scavenge. By its defaults glibc gives most of that back to the
/// kernel, and the next reads fault it in again, page by page: 35,000 faults a second under load, a tenth of the CPU,
/// and more on a virtual machine whose host takes the pages away. Nothing is changed with other allocators.
///
/// The addon calls it when it is loaded first, on the main thread of a program that imports shardloop: reading the
/// environment while another thread changes it is not safe in C.
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
pub fn keep_freed_memory() {
    let decided = SETTINGS.iter().any(|(name, part)| {
        std::env::var_os(name).is_some_and(|value| value.to_string_lossy().contains(part))
    });
    if decided {
        return;
    }
    // SAFETY: plain calls, which take malloc's lock. Both values are in range, so they do not fail; a malloc that was
    // put before glibc's does not see them.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
    }
}

/// Nothing to do: other allocators have no such threshold.
#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
pub fn keep_freed_memory() {}
