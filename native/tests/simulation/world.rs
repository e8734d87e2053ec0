//! A run: steps of JavaScript, its peers and the network, each drawn from a seed of its own, and an end at which all that is
//! to happen has happened.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::javascript::Js;
use crate::ledger::Account;
use crate::peers::Peers;
use crate::scenario::Scenario;
use crate::site::Site;
use crate::stage::Stage;
use crate::transport::Server;
use crate::violation::{ensure, note};
use shardloop_native::abi;
use shardloop_native::engine::Engine;
use shardloop_native::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Virtual time that the end of a run may take: lingering ends, accepting is tried again.
const END_MS: u64 = 60_000;

/// The number of the server that other shards serve, too.
const SHARED: u32 = 7;

/// See the module.
pub struct World<S: Stage> {
    scenario: Scenario,
    stage: S,
    js: Js,
    peers: Peers,
    accounts: Vec<Account>,
    metrics: Arc<Metrics>,
    /// JavaScript does nothing for so many steps.
    stuck: usize,
}

impl<S: Stage> World<S> {
    /// Serves, and has no connection.
    pub fn new(scenario: Scenario, stage: S, metrics: Arc<Metrics>) -> Self {
        let js = Js::new(scenario.habits.clone());
        let mut world =
            Self { scenario, stage, js, peers: Peers::default(), accounts: Vec::new(), metrics, stuck: 0 };
        // One that is the thread's own affair, and one that other shards serve, too.
        for (id, number) in [(0, 0), (1, SHARED)] {
            let limits = world.scenario.habits.limits;
            world.stage.engine().add_server(id, number, limits);
            let server = Server { number, ports: Vec::new(), listens: false, opened: 0, promised: None };
            world.js.servers.push(server);
            world.listen(id);
        }
        world
    }

    fn listen(&mut self, server: u16) {
        let port = self.stage.site().open_port();
        let listener = self.stage.site().listener(port);
        // It may fail for want of memory; then nobody comes in that way.
        match self.stage.engine().listen(server, listener) {
            Ok(()) => {
                let number = self.js.servers[server as usize].number;
                self.stage.site().serve_elsewhere(number, number != 0);
                let server = &mut self.js.servers[server as usize];
                server.listens = true;
                server.ports.push(port);
            }
            Err(error) => note(|| format!("  listen: {error}")),
        }
        self.js.settle(&mut self.stage);
    }

    /// Ends a server's listening. What was in its queues is served.
    fn unlisten(&mut self, server: u16) {
        let number = self.js.servers[server as usize].number;
        self.stage.site().serve_elsewhere(number, false);
        let now = self.stage.site().now();
        let promised = self.stage.engine().unlisten(now, server);
        note(|| format!("  server {server} listens no more and has {promised} connections"));
        let server = &mut self.js.servers[server as usize];
        ensure!(promised >= server.opened, Ends, "{promised} connections in all, of {server:?}");
        server.promised = Some(promised);
        server.listens = false;
        for port in server.ports.drain(..) {
            let left = self.stage.site().close_port(port);
            ensure!(left == 0, Ends, "{left} connections are left in the queue of server {number}");
        }
        if number == SHARED {
            for port in std::mem::take(self.stage.site().lent_ports()) {
                let left = self.stage.site().close_port(port);
                ensure!(left == 0, Ends, "{left} connections are left in the queue of a lent listener");
            }
        }
        self.js.settle(&mut self.stage);
    }

    /// These steps, and the end.
    pub fn go(mut self, steps: &[u64]) {
        for (index, &step) in steps.iter().enumerate() {
            note(|| format!("step {index}"));
            self.step(step);
        }
        self.end();
    }

    /// One step.
    fn step(&mut self, seed: u64) {
        let mut draw = Draw::new(seed);
        self.stage.site().begin(Draw::new(draw.word()));
        let scenario = &self.scenario;
        let (most, connections_max) = (scenario.send_most, scenario.connections_max);
        let happened = match draw.below(100) {
            0..=24 => self.stuck == 0 && self.js.wake(&mut self.stage, &mut self.accounts, &mut draw),
            25..=36 => self.stuck == 0 && self.js.stir(&mut self.stage, &mut self.accounts, &mut draw),
            37..=62 => self.peers.stir(self.stage.site(), &mut self.accounts, most, &mut draw),
            63..=64 => false,
            65..=83 => self.stage.site().disturb(&mut draw),
            84..=93 => self.stage.turn(),
            94..=96 => {
                let most_ms = if draw.once_in(8) { 5_000 } else { 100 };
                let time = Duration::from_millis(draw.size(most_ms) as u64);
                note(|| format!("  {time:?} pass"));
                self.stage.site().pass(time);
                true
            }
            97 if draw.once_in(5) => {
                self.stage.site().lend_listener(SHARED);
                true
            }
            97 => self.stage.site().stir_elsewhere(&mut draw),
            98 if draw.chance(20) => {
                self.stuck = draw.size(scenario.stuck_most);
                note(|| format!("  JavaScript is stuck for {} steps", self.stuck));
                self.stage.site().set_away(true);
                let time = Duration::from_millis(draw.below(30) as u64);
                self.stage.site().pass(time);
                true
            }
            98 if self.stuck == 0 && draw.once_in(10) => {
                self.come_to_rest();
                true
            }
            99 if self.stuck == 0 && draw.once_in(scenario.listens_for) => {
                let server = draw.below(self.js.servers.len()) as u16;
                self.relisten(server);
                true
            }
            _ => false,
        };
        // Who had nothing to do makes room for somebody else.
        if !happened {
            let connects = self.peers.live.len() < connections_max && draw.chance(50);
            _ = connects && self.connect(&mut draw)
                || self.peers.stir(self.stage.site(), &mut self.accounts, most, &mut draw)
                || self.stage.site().disturb(&mut draw);
        }
        if self.stuck > 0 {
            self.stuck_no_more();
        }
    }

    fn stuck_no_more(&mut self) {
        self.stuck -= 1;
        if self.stuck == 0 {
            self.stage.site().set_away(false);
        }
    }

    /// Listening begins anew, once the server has none of its old connections.
    fn relisten(&mut self, server: u16) {
        let state = &self.js.servers[server as usize];
        if state.listens {
            self.unlisten(server);
        } else if state.promised.is_none() || state.promised == Some(state.opened) {
            self.js.servers[server as usize].promised = None;
            self.listen(server);
        }
    }

    fn connect(&mut self, draw: &mut Draw) -> bool {
        let mut ports: Vec<u32> = self.js.servers.iter().flat_map(|server| &server.ports).copied().collect();
        ports.extend(self.stage.site().lent_ports().iter());
        if !ports.is_empty() {
            let port = draw.pick(&ports);
            self.peers.connect(self.stage.site(), port, &mut self.accounts, draw);
        }
        !ports.is_empty()
    }

    /// Everything comes to its end, though nobody looks for it.
    fn end(mut self) {
        note(|| "the end".into());
        let mut draw = Draw::new(0);
        self.stage.site().calm();
        self.stage.site().set_away(false);
        self.js.habits.busy = 0;
        self.js.habits.room = 4096;
        self.come_to_rest();
        if self.scenario.dies {
            return self.die(&mut draw);
        }
        self.resume(&mut draw);
        self.until("everything is heard", true, Self::all_is_heard);
        let handles: Vec<i32> = self.js.transports.keys().copied().collect();
        for handle in handles {
            self.js.close(handle, &mut self.stage, &mut self.accounts);
        }
        self.js.submit(&mut self.stage, &self.accounts);
        self.js.settle(&mut self.stage);
        self.until("everything is closed", true, |world| {
            world.js.transports.is_empty() && world.peers.live.is_empty()
        });
        for server in 0..self.js.servers.len() {
            if self.js.servers[server].listens {
                self.unlisten(server as u16);
            }
        }
        self.until("nothing is left", true, |world| !world.stage.engine().is_alive());
        self.check_end();
    }

    /// The shard dies. What JavaScript has not begun is for other shards; the rest ends by a reset.
    fn die(mut self, draw: &mut Draw) {
        let begun =
            |js: &Js, id| js.transports.values().any(|transport| transport.id == id && transport.started);
        self.stage.site().serve_elsewhere(SHARED, false);
        let retired = self.stage.retire();
        note(|| format!("  JavaScript ends, and leaves {retired:?}"));
        for &id in &retired {
            ensure!(!begun(&self.js, id), Ends, "{id} is left to others though it was begun");
            self.accounts[id as usize].elsewhere = true;
        }
        self.js.transports.retain(|_, transport| !retired.contains(&transport.id));
        for _ in 0..draw.size(4) {
            _ = self.stage.turn();
            self.js.wake(&mut self.stage, &mut self.accounts, draw);
        }
        let left = self.stage.abandon();
        note(|| format!("  the shard dies, and leaves {left:?}"));
        for id in left {
            ensure!(!begun(&self.js, id), Ends, "{id} is left to others though it was begun");
            self.accounts[id as usize].elsewhere = true;
        }
        let World { stage, metrics, mut peers, mut accounts, .. } = self;
        let mut site = stage.end();
        site.close_inbox();
        while site.stir_elsewhere(draw) || site.settle() || peers.settle(&mut site, &mut accounts, true) {}
        check_counts(&site, &metrics);
    }

    /// Everybody does what they have a reason to do, as long as somebody has. Then there is nothing to be done, or whoever
    /// should have been told was not.
    fn come_to_rest(&mut self) {
        let mut draw = Draw::new(7);
        loop {
            let mut news = self.stage.site().settle();
            news |= self.stage.turn();
            news |= self.js.wake(&mut self.stage, &mut self.accounts, &mut draw);
            if !news {
                break;
            }
        }
        self.js.settle(&mut self.stage);
        if self.stage.is_still() {
            self.look_for_what_is_left();
        }
    }

    /// Looks though nobody was told to, and finds nothing.
    fn look_for_what_is_left(&mut self) {
        self.stage.site().hush(true);
        self.stage.turn_for_nothing();
        let events = self.js.look_for_nothing(&mut self.stage);
        self.stage.site().hush(false);
        ensure!(
            events == 0,
            Liveness,
            "{events} events wait, and nobody told JavaScript: {}",
            self.who_waits()
        );
        for transport in self.js.transports.values().filter(|transport| transport.is_read()) {
            let account = &self.accounts[transport.id as usize];
            let left = self.stage.site().facts(transport.id).map_or(0, |facts| facts.unread);
            let reads = !account.closing && account.aborted.is_none();
            ensure!(
                left == 0 || !reads,
                Liveness,
                "nobody reads {transport:?}, {account:?}, which has {left}"
            );
        }
        let waste = self.stage.site().lingering_unread();
        ensure!(waste == 0, Liveness, "{waste} closed connections have input that nobody discards");
    }

    /// All protocols are there and read.
    fn resume(&mut self, draw: &mut Draw) {
        let handles: Vec<i32> = self.js.transports.keys().copied().collect();
        for handle in handles {
            self.js.read_on(handle, &mut self.stage, &mut self.accounts, draw);
        }
        if self.js.memory.has_commands() {
            self.js.submit(&mut self.stage, &self.accounts);
            self.js.settle(&mut self.stage);
        }
    }

    fn all_is_heard(&mut self) -> bool {
        let mut draw = Draw::new(0);
        self.resume(&mut draw);
        let all = self.js.transports.values().all(|transport| {
            let account = &self.accounts[transport.id as usize];
            account.heard_end && !transport.paused
        });
        let site = self.stage.site();
        let opened = self.accounts.iter().all(|account| account.opened || site.is_elsewhere(account.id));
        all && opened && site.queues_are_empty()
    }

    /// Lets everybody do what they have a reason to do, until it is done.
    fn until(&mut self, what: &str, end: bool, mut is_done: impl FnMut(&mut Self) -> bool) {
        let deadline = self.stage.site().now() + Duration::from_millis(END_MS);
        let mut draw = Draw::new(7);
        loop {
            let mut news = self.stage.site().settle();
            news |= self.peers.settle(self.stage.site(), &mut self.accounts, end);
            news |= self.stage.turn();
            news |= self.js.wake(&mut self.stage, &mut self.accounts, &mut draw);
            news |= self.stage.site().stir_elsewhere(&mut draw);
            if is_done(self) {
                return;
            }
            if news {
                continue;
            }
            let now = self.stage.site().now();
            let wake = self.next_wake();
            let stalls = format!("nothing happens until {what}: {}", self.who_waits());
            let may_come = wake.is_some() || !self.stage.is_still();
            ensure!(may_come && now < deadline, Liveness, "{stalls}");
            let wait = wake.map_or(Duration::MAX, |at| at.saturating_duration_since(now));
            self.stage.wait(wait.clamp(Duration::from_millis(1), Duration::from_secs(1)));
        }
    }

    /// Who may not have all that is to come.
    fn who_waits(&mut self) -> String {
        let site = self.stage.site();
        let not_opened: Vec<_> =
            self.accounts.iter().filter(|a| !a.opened && !site.is_elsewhere(a.id)).collect();
        let is_waiting = |account: &Account| !account.heard_end || account.closing;
        let open =
            self.js.transports.values().map(|transport| (transport, &self.accounts[transport.id as usize]));
        let open: Vec<_> =
            open.filter(|(transport, account)| transport.paused || is_waiting(account)).collect();
        let peers = &self.peers.live;
        format!("open {open:?}, not opened {not_opened:?}, peers {peers:?}, {:?}", self.js.servers)
    }

    fn next_wake(&self) -> Option<Instant> {
        [self.js.next_wake(), self.stage.next_wake()].into_iter().flatten().min()
    }

    /// Nothing is left behind.
    fn check_end(mut self) {
        let Self { js, accounts, metrics, stage, .. } = &mut self;
        ensure!(js.pins.held() == 0, Pins, "{} pins are not let go", js.pins.held());
        for server in &js.servers {
            let whole = server.promised.is_none_or(|promised| promised == server.opened);
            ensure!(whole, Ends, "not all connections were announced: {server:?}");
        }
        for account in &*accounts {
            ensure!(!account.opened || account.closed.is_some(), Ends, "{} is not closed", account.id);
            let facts = stage.site().facts(account.id);
            account.settle(facts.as_ref().map_or_else(|| account.came_late(), |facts| facts.excused));
            if let Some(facts) = facts.filter(|facts| !facts.excused && account.closed == Some(0)) {
                ensure!(
                    facts.lost == 0,
                    Outbound,
                    "a close destroyed {} bytes of {}",
                    facts.lost,
                    account.id
                );
            }
        }
        check_counts(stage.site(), metrics);
    }
}

fn check_counts(site: &impl Site, metrics: &Metrics) {
    let count = |metric| metrics.read(metric);
    let (accepted, closed) = (count(abi::METRIC_CONNECTIONS_ACCEPTED), count(abi::METRIC_CONNECTIONS_CLOSED));
    let left = count(abi::METRIC_CONNECTIONS_HANDED_OVER);
    ensure!(accepted == closed + left, Leaks, "accepted {accepted}, closed {closed}, left {left}");
    if let Some(counts) = site.counts() {
        ensure!(counts.open == 0, Leaks, "sockets are open: {counts:?}");
        ensure!(accepted == counts.accepted, Leaks, "{accepted} were counted: {counts:?}");
    }
}
