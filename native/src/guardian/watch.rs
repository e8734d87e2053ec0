//! The guardian's thread: when it looks, what it does about what it sees, and how it sleeps.
#![forbid(unsafe_code)]

use super::{ASLEEP, Guarded, Post, Report, STATE, State, Taken};
use crate::abi;
use crate::limits::{GUARDIAN_BRISK_MS, GUARDIAN_QUIET_MS, GUARDIAN_WATCH_MS, RELIEF_STALL_MS, STALL_MS};
use crate::net::stream;
use crate::slice::ServingSlice;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const STALL: Duration = Duration::from_millis(STALL_MS);
const RELIEF_STALL: Duration = Duration::from_millis(RELIEF_STALL_MS);
const WATCH: Duration = Duration::from_millis(GUARDIAN_WATCH_MS);
const BRISK: Duration = Duration::from_millis(GUARDIAN_BRISK_MS);
/// A look is not followed by another one sooner, but for what the kernel tells.
const SHORTEST: Duration = Duration::from_millis(1);
const QUIET: Duration = Duration::from_millis(GUARDIAN_QUIET_MS);

/// Without a timeout where the kernel tells of every event that a loop was woken by. kqueue forgets one that the loop has
/// taken before we asked (`EV_CLEAR`): there we look now and then.
const ASLEEP_FOR: Option<Duration> = if cfg!(target_os = "linux") { None } else { Some(QUIET) };

pub(super) const WAKE: Token = Token(usize::MAX);
/// Of a loop's poll: the shard's metrics token below it. Others are listeners' tokens.
const POLL_BIT: usize = 1 << 63;

#[derive(Debug)]
pub(super) struct Guardian {
    poll: Poll,
    events: Events,
    /// Since when no shard has turned, as far as we looked.
    quiet_since: Option<Instant>,
}

impl Guardian {
    /// On a poll with a waker of [`WAKE`].
    pub(super) fn new(poll: Poll) -> Self {
        Self { poll, events: Events::with_capacity(64), quiet_since: None }
    }

    pub(super) fn run(mut self, report: &dyn Fn(Report)) {
        let _serving = ServingSlice::begin();
        let mut reports = Vec::new();
        let mut slept = false;
        loop {
            let timeout = {
                let mut state = STATE.lock();
                if state.ends {
                    return;
                }
                if slept {
                    let now = Instant::now();
                    state.shards.values_mut().for_each(|shard| shard.turned_at = now); // all had waited until now
                }
                self.look(&mut state, &mut reports)
            };
            slept = timeout.is_none();
            reports.drain(..).for_each(report);
            // EINTR is a look around like any other.
            _ = self.poll.poll(&mut self.events, timeout);
            ASLEEP.store(false, Ordering::SeqCst);
            if !self.events.is_empty() {
                self.quiet_since = None;
            }
            let mut state = STATE.lock();
            let fired = self.events.iter().map(|event| event.token().0);
            state.disarm(self.poll.registry(), fired);
        }
    }

    /// Does what is to be done now. When the next look is due; `None` when the kernel will say.
    fn look(&mut self, state: &mut State, reports: &mut Vec<Report>) -> Option<Duration> {
        let now = Instant::now();
        let stall_after = state.stall_after;
        // A shard that gets stuck just after a look is told of no later than it would be anyway.
        let mut next = stall_after.map_or(WATCH, |after| after.clamp(STALL, WATCH));
        let mut turning = false;
        for (&token, shard) in &mut state.shards {
            let turns = shard.link.metrics.read(abi::METRIC_LOOP_TURNS);
            let turned = mem::replace(&mut shard.turns, turns) != turns;
            let running = shard.link.pulse.running_for();
            if turned || running.is_none() {
                shard.turned_at = now;
            }
            if running.is_some_and(|running| running >= STALL) {
                next = next.min(STALL);
            }
            // What we saw ourselves bounds what the pulse says, which may be too much.
            let running = running.map(|running| running.min(now.duration_since(shard.turned_at)));
            turning |= turned || running.is_some();
            if (turned || running.is_none())
                && let Some(since) = shard.stuck_since.take()
            {
                let stuck_for = now.duration_since(since);
                log::info!("aboutShard" = shard.link.shard, "stuckMs" = stuck_for.as_millis() as u64; "a shard that was stuck turns again");
                reports.push(Report { token, life: shard.link.life, stuck_for, over: true });
            }
            let Some(running) = running else { continue };
            if running >= RELIEF_STALL {
                // What it was handed before it got stuck is for others, too; but for servers that end and have only it.
                let guarded = |server| state.servers.contains_key(&server);
                let taken_back = shard.link.inbox.reclaim(guarded);
                if !taken_back.is_empty() {
                    log::debug!("aboutShard" = shard.link.shard, connections = taken_back.len(); "a shard is stuck: what it was handed is taken back");
                }
                state.unserved.extend(taken_back);
            }
            if let Some(stall_after) = stall_after
                && shard.stuck_since.is_none()
            {
                if running >= stall_after {
                    shard.stuck_since = now.checked_sub(running);
                    log::info!("aboutShard" = shard.link.shard, "stuckMs" = running.as_millis() as u64; "a shard is stuck");
                    reports.push(Report { token, life: shard.link.life, stuck_for: running, over: false });
                } else {
                    next = next.min((stall_after - running).max(SHORTEST));
                }
            }
        }
        state.hand_out(false);
        if !state.unserved.is_empty() && state.servers.values().any(|guarded| !guarded.members.is_empty()) {
            next = next.min(STALL);
        }
        if state.attend(self.poll.registry()) {
            next = next.min(STALL);
            turning = true;
        }
        state.missed.retain(|_, &mut until| now < until);
        if !state.missed.is_empty() {
            next = next.min(BRISK);
            turning = true;
        }
        if turning {
            self.quiet_since = None;
            return Some(next);
        }
        let since = *self.quiet_since.get_or_insert(now);
        if now.duration_since(since) < QUIET {
            return Some(next);
        }
        // All wait. Told of the first event by their polls, we sleep; who turned while that was set up is seen now.
        ASLEEP.store(true, Ordering::SeqCst);
        let quiet = state.watch_polls(self.poll.registry());
        if quiet {
            return ASLEEP_FOR;
        }
        ASLEEP.store(false, Ordering::SeqCst);
        self.quiet_since = None;
        Some(next)
    }
}

impl State {
    /// Sees to every listener. Whether some of them need another look soon.
    fn attend(&mut self, registry: &Registry) -> bool {
        let mut soon = false;
        let now = Instant::now();
        let numbers: Vec<u32> = self.servers.keys().copied().collect();
        for number in numbers {
            // Taken out while its posts are looked at: what they need of the others is in `self`.
            let Some(mut guarded) = self.servers.remove(&number) else { continue };
            for index in 0..guarded.posts.len() {
                soon |= self.attend_post(registry, now, number, &mut guarded, index);
            }
            self.servers.insert(number, guarded);
        }
        soon
    }

    fn attend_post(
        &mut self,
        registry: &Registry,
        now: Instant,
        server: u32,
        guarded: &mut Guarded,
        index: usize,
    ) -> bool {
        if self.holder_is_gone(&guarded.posts[index]) {
            self.adopt(server, guarded, index);
            // Nobody serves the server (yet): somebody says so when that changes.
            return !guarded.members.is_empty();
        }
        let live = self.holder_is_live(&guarded.posts[index]);
        let post = &mut guarded.posts[index];
        if live {
            if post.armed {
                return false;
            }
            // It takes its connections itself; to be watched again once its queue was seen empty.
            if post.rests_until.is_some_and(|until| now < until) || stream::has_waiting(post.listener.as_fd())
            {
                return true;
            }
            return !post.arm(registry);
        }
        // Watched only once it is empty (a connection that comes in between is told at once): what nobody can take now
        // would wake us over and over.
        let taken = self.take_over(server, &guarded.members, &post.listener);
        taken != Taken::All || !(post.armed || post.arm(registry))
    }

    /// Ends the watch of what fired, and of all loops' polls: we are awake.
    fn disarm(&mut self, registry: &Registry, fired: impl Iterator<Item = usize>) {
        for shard in self.shards.values_mut() {
            if let Some(fd) = shard.poll.take() {
                // Fails when the loop is gone, and its descriptor with it.
                _ = registry.deregister(&mut SourceFd(&fd));
            }
        }
        let rests_until = Some(Instant::now() + STALL);
        for token in fired {
            let posts = self.servers.values_mut().flat_map(|guarded| &mut guarded.posts);
            for post in posts.filter(|post| post.token as usize == token) {
                post.disarm(registry);
                post.rests_until = rests_until;
            }
        }
    }

    /// Watches the poll of every loop. False when one of them did not wait in it all the while, or cannot be watched.
    fn watch_polls(&mut self, registry: &Registry) -> bool {
        let mut quiet = true;
        for (&token, shard) in &mut self.shards {
            if shard.poll.is_none() {
                let watched = shard.link.pulse.with_poll(|fd| {
                    let mut source = SourceFd(&fd);
                    let token = Token(POLL_BIT | token as usize);
                    registry.register(&mut source, token, Interest::READABLE).map(|()| fd)
                });
                match watched {
                    Some(Ok(fd)) => shard.poll = Some(fd),
                    Some(Err(_)) => quiet = false,
                    None => {} // no loop, so nothing that could get stuck
                }
            }
        }
        // An event that a loop took before we watched is no edge any more. But then the loop runs now, or has turned.
        quiet
            && self.shards.values().all(|shard| {
                shard.link.pulse.running_for().is_none()
                    && shard.link.metrics.read(abi::METRIC_LOOP_TURNS) == shard.turns
            })
    }
}

impl Post {
    /// Has the poll watch it; its edge comes at once when connections wait.
    fn arm(&mut self, registry: &Registry) -> bool {
        let token = Token(self.token as usize);
        self.armed = registry
            .register(&mut SourceFd(&self.listener.as_fd().as_raw_fd()), token, Interest::READABLE)
            .is_ok();
        self.armed
    }

    pub(super) fn disarm(&mut self, registry: &Registry) {
        if mem::take(&mut self.armed) {
            // It fails only when it is not watched, which is what is wanted.
            _ = registry.deregister(&mut SourceFd(&self.listener.as_fd().as_raw_fd()));
        }
    }
}
