//! A filter of system calls that ends the process for asking for a slice. In a process of its own, which would end.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use shardloop_native::slice::ServingSlice;

/// Kills the process for sched_getattr and sched_setattr, on the calling thread and what it starts.
fn forbid_slices() {
    // Of `struct seccomp_data` the first word is the system call's number.
    let is = |number: libc::c_long| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32);
    let (get, set) = (is(libc::SYS_sched_getattr), is(libc::SYS_sched_setattr));
    // SAFETY: plain numbers are made of plain numbers.
    let mut program = unsafe {
        [
            libc::BPF_STMT((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0),
            libc::BPF_JUMP(get.0 as u16, get.1, 1, 0),
            libc::BPF_JUMP(set.0 as u16, set.1, 0, 1),
            libc::BPF_STMT((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_KILL_PROCESS),
            libc::BPF_STMT((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_ALLOW),
        ]
    };
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which is valid for the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

#[test]
fn where_asking_for_a_slice_is_deadly_it_is_not_asked_for() {
    std::thread::spawn(|| {
        let before = ServingSlice::begin();
        forbid_slices();
        drop(before);
        drop(ServingSlice::begin());
        shardloop_native::slice::ending();
    })
    .join()
    .unwrap();
}
