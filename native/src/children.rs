//! The child processes that threads of this process have started, so that none outlives its thread.
//!
//! libuv starts them, and reaps them for as long as the loop lives on which they were started. When that thread ends first
//! (its shard crashes, calls `process.exit`, is terminated), nobody would: what is left is killed here, and reaped by a thread
//! of its own, once.
//!
//! A thread can be interrupted between the start and its word of it. So on Linux the kernel is asked before a start which
//! children the thread has: one that there is more in the end was being started.
//!
//! A number is another process's once its own is reaped, which libuv does before its thread knows. So a process is signalled
//! here only by the thread that would reap it, when it has just been found to be unreaped and, where the kernel tells (proc(5)),
//! that thread's own child; and it is waited for by a pidfd, where there are any.

use crate::limits::CHILDREN_MAX;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::thread::{self, ThreadId};

/// Those of the whole process.
static CHILDREN: Mutex<Option<Children>> = Mutex::new(None);

/// See the module.
#[derive(Debug)]
struct Children {
    /// Whose each is, by its number.
    owners: HashMap<libc::pid_t, ThreadId>,
    /// Threads that are about to start one, with the children that each had before, if the system told.
    starting: HashMap<ThreadId, Option<Vec<libc::pid_t>>>,
    /// How many there may be.
    limit: usize,
}

impl Children {
    fn new(limit: usize) -> Self {
        Self { owners: HashMap::new(), starting: HashMap::new(), limit }
    }

    fn count(&self) -> usize {
        self.owners.len() + self.starting.len()
    }

    fn reserve(&mut self, thread: ThreadId, before: Option<Vec<libc::pid_t>>) -> bool {
        let has_room = self.count() < self.limit;
        if has_room {
            self.starting.insert(thread, before);
        }
        has_room
    }

    fn release(&mut self, thread: ThreadId) {
        self.starting.remove(&thread);
    }

    /// A number that is there already was given up by the kernel: its process is reaped, and its thread does not know yet.
    fn enter(&mut self, thread: ThreadId, pid: libc::pid_t) {
        self.release(thread);
        self.owners.insert(pid, thread);
    }

    fn leave(&mut self, thread: ThreadId, pid: libc::pid_t) {
        if self.owners.get(&pid) == Some(&thread) {
            self.owners.remove(&pid);
        }
    }

    /// Takes all of a thread out. `now` is which children it has, should it have been about to start one.
    fn take(&mut self, thread: ThreadId, now: &[libc::pid_t]) -> Vec<libc::pid_t> {
        let mut all: Vec<_> =
            self.owners.extract_if(|_, owner| *owner == thread).map(|(pid, _)| pid).collect();
        if let Some(Some(before)) = self.starting.remove(&thread) {
            let started = now.iter().filter(|pid| !before.contains(pid) && !all.contains(pid));
            all.extend(started.copied().collect::<Vec<_>>());
        }
        all
    }
}

fn with_children<T>(work: impl FnOnce(&mut Children) -> T) -> T {
    work(CHILDREN.lock().get_or_insert_with(|| Children::new(CHILDREN_MAX)))
}

/// The children that the calling thread has started, by whatever means, and that are not reaped (proc(5)); none where the
/// system does not tell.
fn children_of_thread() -> Option<Vec<libc::pid_t>> {
    let text = std::fs::read_to_string("/proc/thread-self/children").ok()?;
    Some(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Makes room for one that the calling thread is about to start: [`started`] or [`not_started`] follows before it starts
/// anything else. False when there are too many.
pub fn reserve() -> bool {
    let before = children_of_thread();
    with_children(|children| children.reserve(thread::current().id(), before))
}

/// It runs.
pub fn started(pid: i32) {
    with_children(|children| children.enter(thread::current().id(), pid));
}

/// It could not be started.
pub fn not_started() {
    with_children(|children| children.release(thread::current().id()));
}

/// It was reaped.
pub fn reaped(pid: i32) {
    with_children(|children| children.leave(thread::current().id(), pid));
}

/// Another limit than [`CHILDREN_MAX`], for tests. The one before.
pub fn set_limit(limit: usize) -> usize {
    with_children(|children| std::mem::replace(&mut children.limit, limit))
}

/// The calling thread's loop has ended: kills what it has left, and has it reaped. How many there were.
pub fn end_of_thread() -> usize {
    let own = children_of_thread();
    let mut left =
        with_children(|children| children.take(thread::current().id(), own.as_deref().unwrap_or_default()));
    // The number of one that libuv has reaped may be that of a process which another thread has just started.
    left.retain(|pid| own.as_ref().is_none_or(|own| own.contains(pid)));
    // One that has ended already is reaped by the look. One that cannot be asked for is nobody's child any more.
    left.retain(|&pid| matches!(reap(pid, libc::WNOHANG), Ok(0)));
    if left.is_empty() {
        return 0;
    }
    let running: Vec<_> = left.into_iter().map(Running::new).collect();
    running.iter().for_each(Running::kill);
    let count = running.len();
    log::warn!(count; "child processes were left by a thread that has ended: they are killed");
    let all = Arc::new(running);
    let its = all.clone();
    let wait_for = |all: &[Running]| all.iter().for_each(Running::wait);
    if thread::Builder::new().name("child-reaper".into()).spawn(move || wait_for(&its)).is_err() {
        wait_for(&all); // SIGKILL lets none of them take long
    }
    count
}

/// A child of the calling thread that was just found to be unreaped.
struct Running {
    pid: libc::pid_t,
    /// Names it for ever, whoever reaps it: libuv might, as long as its loop runs on. None where there are none (Linux before
    /// 5.3, other systems), or no descriptor is free.
    pidfd: Option<OwnedFd>,
}

impl Running {
    fn new(pid: libc::pid_t) -> Self {
        Self { pid, pidfd: pidfd(pid) }
    }

    fn kill(&self) {
        // SAFETY: a plain call; the number is our child's, which only this thread would reap.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Reaps it, unless somebody has. Also from another thread.
    fn wait(&self) {
        if !self.pidfd.as_ref().is_some_and(|pidfd| wait_by(pidfd.as_fd())) {
            _ = reap(self.pid, 0);
        }
    }
}

#[cfg(target_os = "linux")]
fn pidfd(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: a plain call; what it returns is ours alone. It is close-on-exec.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}

#[cfg(not(target_os = "linux"))]
fn pidfd(_pid: libc::pid_t) -> Option<OwnedFd> {
    None
}

/// waitid by a pidfd, until its process is reaped, by whomever. False where the kernel does not know how (Linux 5.3). EINTR is
/// tried again.
#[cfg(target_os = "linux")]
fn wait_by(pidfd: BorrowedFd<'_>) -> bool {
    loop {
        // SAFETY: zeros are a valid siginfo_t, which is valid for the call.
        let failed = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &mut info, libc::WEXITED) < 0
        };
        let errno = if failed { io::Error::last_os_error().raw_os_error() } else { None };
        if errno != Some(libc::EINTR) {
            return errno != Some(libc::EINVAL);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn wait_by(_pidfd: BorrowedFd<'_>) -> bool {
    false
}

/// waitpid: the number once it was reaped, 0 when it runs on (WNOHANG). EINTR is tried again.
fn reap(pid: libc::pid_t, options: libc::c_int) -> io::Result<libc::pid_t> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for the call.
        let result = unsafe { libc::waitpid(pid, &mut status, options) };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    #[cfg(target_os = "linux")]
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    /// A process that ends with its input, and runs for as long as that is kept.
    fn start() -> std::process::Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn past_the_limit_none_is_started_until_one_is_over() {
        let [here, other, third] = [(); 3].map(|()| thread::spawn(|| {}).thread().id());
        let mut children = Children::new(2);
        assert!(children.reserve(here, Some(vec![])) && children.reserve(other, Some(vec![])));
        assert!(!children.reserve(third, Some(vec![])));
        children.enter(here, 1);
        assert!(!children.reserve(here, Some(vec![])));
        children.release(other);
        assert!(children.reserve(here, Some(vec![])));
        children.enter(here, 2);
        children.leave(here, 1);
        assert!(children.reserve(here, Some(vec![])));
        assert_eq!(children.take(here, &[]), [2]);
        assert_eq!(children.count(), 0);
    }

    #[test]
    fn a_number_that_is_used_again_is_its_new_owners() {
        let [here, other] = [(); 2].map(|()| thread::spawn(|| {}).thread().id());
        let mut children = Children::new(2);
        children.enter(here, 1);
        children.enter(other, 1);
        children.leave(here, 1);
        assert_eq!(children.take(here, &[]), []);
        assert_eq!(children.take(other, &[]), [1]);
    }

    #[test]
    fn one_that_was_being_started_is_found_and_none_that_others_have_started() {
        let here = thread::current().id();
        let mut children = Children::new(4);
        children.enter(here, 1);
        assert!(children.reserve(here, Some(vec![1, 2])));
        assert_eq!(children.take(here, &[1, 2, 3]), [1, 3]);
        children.enter(here, 1);
        assert_eq!(children.take(here, &[1, 2, 3]), [1], "nothing was being started");
        assert!(children.reserve(here, None));
        assert_eq!(children.take(here, &[1, 2, 3]), [], "nobody knows which");
    }

    /// Starts one on a thread of its own, which does not end before this process does.
    #[cfg(target_os = "linux")]
    fn start_elsewhere() -> std::process::Child {
        let (sender, started) = mpsc::channel();
        thread::spawn(move || {
            _ = sender.send(start());
            loop {
                thread::park();
            }
        });
        started.recv().unwrap()
    }

    /// Until nobody has this number, which is that of a process which was killed.
    fn until_reaped(pid: libc::pid_t) {
        let deadline = Instant::now() + Duration::from_secs(10);
        // SAFETY: signal 0 only asks.
        while unsafe { libc::kill(pid, 0) } == 0 {
            assert!(Instant::now() < deadline, "it was not reaped");
            thread::yield_now();
        }
    }

    #[test]
    fn what_a_thread_leaves_is_killed_and_reaped_and_what_it_has_reaped_is_left_alone() {
        let mut foreign = start();
        let running = thread::spawn(|| {
            let (left, mut over) = (start(), start());
            let running = left.id() as i32;
            assert!(reserve());
            started(running);
            started(over.id() as i32);
            drop(over.stdin.take());
            over.wait().unwrap();
            started(std::process::id() as i32); // no child of ours: it is not signalled
            assert_eq!(end_of_thread(), 1);
            running
        });
        until_reaped(running.join().unwrap());
        assert!(foreign.try_wait().unwrap().is_none(), "another thread's was killed");
        drop(foreign.stdin.take());
        foreign.wait().unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")] // elsewhere no system tells whose child a process is
    fn a_number_that_has_become_that_of_another_threads_child_is_not_killed() {
        let mut reused = start_elsewhere();
        let pid = reused.id() as i32;
        // The thread that has started it has not said so yet.
        let ended = thread::spawn(move || {
            assert!(reserve());
            started(pid);
            end_of_thread()
        });
        assert_eq!(ended.join().unwrap(), 0);
        assert!(reused.try_wait().unwrap().is_none(), "it was killed");
        drop(reused.stdin.take());
        assert!(reused.wait().unwrap().success());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_waits_for_one_that_somebody_else_has_reaped_waits_for_nobody_else() {
        let mut child = start();
        let running = Running::new(child.id() as i32);
        running.kill();
        child.wait().unwrap();
        running.wait();
    }
}
