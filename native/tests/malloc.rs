//! What `keep_freed_memory` does to glibc's malloc, in processes of its own: the settings are a process's.
#![cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]

use std::hint::black_box;
use std::process::Command;

const CHILD: &str = "SHARDLOOP_TEST_MALLOC_CHILD";
/// More than malloc's own first threshold (128 KiB) and less than ours.
const BLOCK_BYTES: usize = 8 << 20;
/// As much as V8 frees at a time, in blocks of the size of slabs.
const USED_BYTES: usize = 32 << 20;
const SMALL_BYTES: usize = 512 << 10;

/// What the child tells of a fact, `NAME: true` or `NAME: false`.
fn told(name: &str, settings: &[(&str, &str)]) -> bool {
    let program = std::env::current_exe().expect("a test has a program");
    let mut child = Command::new(program);
    child.args(["--exact", "child", "--nocapture"]).env(CHILD, "1").envs(settings.iter().copied());
    let output = child.output().expect("the child starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    match (text.contains(&format!("{name}: true")), text.contains(&format!("{name}: false"))) {
        (true, false) => true,
        (false, true) => false,
        _ => panic!("the child did not tell: {text}"),
    }
}

/// Whether a block of [`BLOCK_BYTES`] was mapped on its own, to be given back at once when it is freed.
fn maps_large_blocks(settings: &[(&str, &str)]) -> bool {
    told("mapped", settings)
}

/// Resident pages of this process.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages = text.split(' ').nth(1).expect("statm has several numbers");
    // SAFETY: a plain call.
    pages.parse::<usize>().expect("of pages") * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize
}

/// How much more is resident when a thread has ended that used [`USED_BYTES`] in small blocks, and freed them.
fn left_by_a_thread(gives_back: bool) -> usize {
    let before = resident_bytes();
    let thread = std::thread::spawn(move || {
        if gives_back {
            shardloop_native::malloc::give_back_at_end();
        }
        let blocks: Vec<_> =
            (0..USED_BYTES / SMALL_BYTES).map(|_| black_box(vec![1u8; SMALL_BYTES])).collect();
        drop(blocks);
    });
    thread.join().expect("the thread ends");
    resident_bytes().saturating_sub(before)
}

#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return; // what the other tests start
    }
    shardloop_native::malloc::keep_freed_memory();
    // SAFETY: a plain call.
    let mapped = || unsafe { libc::mallinfo() }.hblks;
    let before = mapped();
    let block = black_box(vec![1u8; BLOCK_BYTES]);
    println!("mapped: {}", mapped() > before);
    drop(block);
    // First what gives back: the next thread gets the arena of the one before.
    let [given_back, kept] = [true, false].map(left_by_a_thread);
    println!("{given_back} bytes left by a thread that gives back, {kept} by one that does not");
    println!("gives back: {}", given_back < USED_BYTES / 8);
    println!("keeps: {}", kept > USED_BYTES * 7 / 8);
}

#[test]
fn freed_memory_of_the_size_of_slabs_stays_with_the_process() {
    assert!(!maps_large_blocks(&[]));
}

#[test]
fn a_thread_of_a_shard_leaves_nothing_behind() {
    assert!(told("keeps", &[]), "else there is nothing to show");
    assert!(told("gives back", &[]));
}

#[test]
fn who_sets_malloc_himself_keeps_his_settings() {
    for setting in [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_MAX_", "65536"),
        ("MALLOC_TOP_PAD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072"),
    ] {
        assert!(maps_large_blocks(&[setting]), "{setting:?}");
    }
    assert!(!maps_large_blocks(&[("GLIBC_TUNABLES", "glibc.rtld.nns=4")]), "a tunable that is not malloc's");
}
