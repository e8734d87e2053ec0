//! What `keep_freed_memory` does to glibc's malloc, in processes of its own: the settings are a process's.
#![cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]

use std::hint::black_box;
use std::process::Command;

const CHILD: &str = "SHARDLOOP_TEST_MALLOC_CHILD";
/// More than malloc's own first threshold (128 KiB) and less than ours.
const BLOCK_BYTES: usize = 8 << 20;

/// Whether a block of [`BLOCK_BYTES`] was mapped on its own, to be given back at once when it is freed.
fn maps_large_blocks(settings: &[(&str, &str)]) -> bool {
    let program = std::env::current_exe().expect("a test has a program");
    let mut child = Command::new(program);
    child.args(["--exact", "child", "--nocapture"]).env(CHILD, "1").envs(settings.iter().copied());
    let output = child.output().expect("the child starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    match (text.contains("mapped: true"), text.contains("mapped: false")) {
        (true, false) => true,
        (false, true) => false,
        _ => panic!("the child did not tell: {text}"),
    }
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
}

#[test]
fn freed_memory_of_the_size_of_slabs_stays_with_the_process() {
    assert!(!maps_large_blocks(&[]));
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
