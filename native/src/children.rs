//! The child processes that threads of this process have started, so that none outlives its thread.
//!
//! libuv starts them, and reaps them for as long as the loop lives on which they were started. When that thread ends first
//! (its shard crashes, calls `process.exit`, is terminated), nobody would: what is left is killed here, and reaped by a thread
//! of its own, once.
//!
//! A thread can be interrupted between the start and its word of it. So on Linux the kernel is asked before a start which
//! children the thread has: one that there is more in the end was being started.
//!
//! A process is signalled here only by the thread that would reap it, when it has just been found to be unreaped; so its
//! number cannot be another one's by then.

use crate::limits::CHILDREN_MAX;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::thread::{self, ThreadId};

/// Those of the whole process.
static CHILDREN: Mutex<Option<Children>> = Mutex::new(None);

/// See the module.
#[derive(Debug)]
struct Children {
    /// Whose each is, by its number.
    owners: HashMap<libc::pid_t, ThreadId>,
    /// Threads that are about to start one, with the children that each had before.
    starting: HashMap<ThreadId, Vec<libc::pid_t>>,
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

    fn reserve(&mut self, thread: ThreadId, before: Vec<libc::pid_t>) -> bool {
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

    /// Takes all of a thread out. `now` tells which children it has, should it have been about to start one.
    fn take(&mut self, thread: ThreadId, now: impl FnOnce() -> Vec<libc::pid_t>) -> Vec<libc::pid_t> {
        let mut all: Vec<_> =
            self.owners.extract_if(|_, owner| *owner == thread).map(|(pid, _)| pid).collect();
        if let Some(before) = self.starting.remove(&thread) {
            let started = now().into_iter().filter(|pid| !before.contains(pid) && !all.contains(pid));
            all.extend(started.collect::<Vec<_>>());
        }
        all
    }
}

fn with_children<T>(work: impl FnOnce(&mut Children) -> T) -> T {
    work(CHILDREN.lock().get_or_insert_with(|| Children::new(CHILDREN_MAX)))
}

/// The children that the calling thread has started, by whatever means, and that are not reaped (proc(5)); empty where the
/// system does not tell.
fn children_of_thread() -> Vec<libc::pid_t> {
    let text = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
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
    let left = with_children(|children| children.take(thread::current().id(), children_of_thread));
    // One that has ended already is reaped by the look. One that cannot be asked for is nobody's child any more.
    let running: Vec<_> = left.into_iter().filter(|&pid| matches!(reap(pid, libc::WNOHANG), Ok(0))).collect();
    if running.is_empty() {
        return 0;
    }
    for &pid in &running {
        // SAFETY: a plain call; by the look above the number is our child's, which only this thread would reap.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let count = running.len();
    log::warn!(count; "child processes were left by a thread that has ended: they are killed");
    let all = running.clone();
    let wait_for = |pids: Vec<libc::pid_t>| pids.into_iter().for_each(|pid| _ = reap(pid, 0));
    if thread::Builder::new().name("child-reaper".into()).spawn(move || wait_for(running)).is_err() {
        wait_for(all); // SIGKILL lets none of them take long
    }
    count
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

    /// A process that ends with its input, and runs for as long as that is kept.
    fn start() -> std::process::Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn past_the_limit_none_is_started_until_one_is_over() {
        let [here, other, third] = [(); 3].map(|()| thread::spawn(|| {}).thread().id());
        let mut children = Children::new(2);
        assert!(children.reserve(here, vec![]) && children.reserve(other, vec![]));
        assert!(!children.reserve(third, vec![]));
        children.enter(here, 1);
        assert!(!children.reserve(here, vec![]));
        children.release(other);
        assert!(children.reserve(here, vec![]));
        children.enter(here, 2);
        children.leave(here, 1);
        assert!(children.reserve(here, vec![]));
        assert_eq!(children.take(here, Vec::new), [2]);
        assert_eq!(children.count(), 0);
    }

    #[test]
    fn a_number_that_is_used_again_is_its_new_owners() {
        let [here, other] = [(); 2].map(|()| thread::spawn(|| {}).thread().id());
        let mut children = Children::new(2);
        children.enter(here, 1);
        children.enter(other, 1);
        children.leave(here, 1);
        assert_eq!(children.take(here, Vec::new), []);
        assert_eq!(children.take(other, Vec::new), [1]);
    }

    #[test]
    fn one_that_was_being_started_is_found_and_none_that_others_have_started() {
        let here = thread::current().id();
        let mut children = Children::new(4);
        children.enter(here, 1);
        assert!(children.reserve(here, vec![1, 2]));
        assert_eq!(children.take(here, || vec![1, 2, 3]), [1, 3]);
        children.enter(here, 1);
        assert_eq!(children.take(here, || vec![1, 2, 3]), [1], "nothing was being started");
    }

    #[test]
    fn what_a_thread_leaves_is_killed_and_reaped_and_what_it_has_reaped_is_left_alone() {
        let (left, mut over) = (start(), start());
        let (running, reaped_pid) = (left.id() as i32, over.id() as i32);
        let mut foreign = start();
        thread::spawn(move || {
            assert!(reserve());
            started(running);
            started(reaped_pid);
            drop(over.stdin.take());
            over.wait().unwrap();
            started(std::process::id() as i32); // no child of ours: it is not signalled
            assert_eq!(end_of_thread(), 1);
        })
        .join()
        .unwrap();
        // The thread that reaps is on its way.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // SAFETY: signal 0 only asks.
        while unsafe { libc::kill(running, 0) } == 0 {
            assert!(std::time::Instant::now() < deadline, "it was not reaped");
            thread::yield_now();
        }
        assert!(foreign.try_wait().unwrap().is_none(), "another thread's was killed");
        drop(foreign.stdin.take());
        foreign.wait().unwrap();
        drop(left);
    }
}
