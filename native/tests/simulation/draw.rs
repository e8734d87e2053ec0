//! Seeded randomness, and the contents of byte streams, which are a function of stream and position.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

/// A generator (splitmix64).
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.word()) * bound as u128) >> 64) as usize
    }

    /// From 1 to `most`; small ones are as likely as large ones.
    pub fn size(&mut self, most: usize) -> usize {
        if self.once_in(4) {
            return 1 + self.below(most);
        }
        let bits = usize::BITS - most.leading_zeros();
        let bound = 1usize << (self.below(bits as usize) + 1);
        1 + self.below(bound.min(most))
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.below(100) < percent as usize
    }

    /// True in one of so many cases.
    pub fn once_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A prime, so that a piece that is missing or twice there shifts what follows, whatever its size.
const PERIOD: usize = 131_071;

/// The period twice: a piece of up to one period is in one piece wherever it begins.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut draw = Draw::new(1);
    let period: Vec<u8> = (0..PERIOD).map(|_| draw.word() as u8).collect();
    [&period[..], &period[..]].concat()
});

/// Most bytes that [`content`] gives at once.
pub const CONTENT_MAX: usize = PERIOD;

/// What a stream has at this position.
pub fn content(stream: u64, position: u64, length: usize) -> &'static [u8] {
    let offset = Draw::new(stream).word() % PERIOD as u64;
    let start = ((offset + position) % PERIOD as u64) as usize;
    &NOISE[start..][..length]
}
