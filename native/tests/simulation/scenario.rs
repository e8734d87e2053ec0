//! What a run is like, drawn from its seed: how often things go wrong, limits, sizes.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::network::{Faults, Style};
use crate::planted::Planted;
use crate::transport::Habits;
use shardloop_native::engine::remote::PipeSizes;
use shardloop_native::shard::ServerLimits;

/// See the module.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub style: Style,
    pub faults: Faults,
    pub habits: Habits,
    /// Connections at once.
    pub connections_max: usize,
    /// Most bytes that a peer sends or reads at once.
    pub send_most: usize,
    /// How rarely listening ends or begins.
    pub listens_for: usize,
    /// How readily the back runs in the middle of what the front does, in percent.
    pub eager: u32,
    /// What the pipes between the halves hold.
    pub pipes: PipeSizes,
    /// Most steps for which JavaScript is stuck.
    pub stuck_most: usize,
    /// It ends by the death of the shard, not in order.
    pub dies: bool,
}

impl Scenario {
    /// Of a seed.
    pub fn of(seed: u64, planted: Option<Planted>) -> Self {
        let mut draw = Draw::new(seed);
        let mut rate = |most| if draw.chance(50) { 0 } else { draw.size(most) as u32 };
        let faults = Faults {
            short: rate(60),
            late: rate(30),
            fail: 0,
            accept: rate(30),
            watch: rate(20),
            delay: rate(60),
            spurious: rate(40),
            relieve: rate(50),
        };
        let fail = if draw.chance(50) { 0 } else { 50 * draw.size(100) };
        let write_max_bytes = draw.size(1 << 18).max(512);
        let write_high_bytes = draw.size(write_max_bytes);
        let limits = ServerLimits {
            write_high_bytes: write_high_bytes as u32,
            write_low_bytes: draw.below(write_high_bytes) as u32,
            write_max_bytes,
            idle_timeout_ms: if draw.chance(60) { 0 } else { draw.size(20_000) as u32 },
        };
        let habits = Habits {
            limits,
            slab_bytes: draw.pick(&[4096, 8192, 16_384, 70_000]),
            room: draw.pick(&[8, 12, 40, 4096, 4096]),
            write_most: draw.size(1 << 17).min(write_max_bytes / draw.pick(&[1, 4, 10, 30])).max(16),
            busy: draw.pick(&[5, 30, 60, 90]),
            planted,
        };
        Self {
            style: draw.pick(&[Style::Told, Style::Looked]),
            faults: Faults { fail, ..faults },
            habits,
            connections_max: draw.pick(&[1, 3, 8, 20, 60]),
            send_most: draw.size(1 << 16).max(64),
            eager: draw.pick(&[0, 5, 30, 70]),
            pipes: PipeSizes {
                entries: draw.pick(&[16, 128, 4096]),
                event_bytes: draw.pick(&[32 << 10, 128 << 10, 512 << 10]),
                command_bytes: draw.pick(&[128 << 10, 256 << 10, 1 << 20]),
            },
            stuck_most: draw.pick(&[10, 30, 400]),
            dies: draw.chance(25),
            listens_for: draw.pick(&[10, 100, usize::MAX]),
        }
    }
}
