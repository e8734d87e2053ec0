//! How rarely something is tried that may be in vain: after a failure some chances pass without a try, more of them each time.
#![forbid(unsafe_code)]

/// What the first failure costs.
const FIRST: u32 = 4;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct BackOff {
    /// Chances that pass after the next failure are twice as many, and some.
    last: u32,
    /// How many of the current ones are left.
    left: u32,
    max: u32,
}

impl BackOff {
    /// Nothing has failed; no more chances than `max` pass at once.
    pub const fn new(max: u32) -> Self {
        Self { last: 0, left: 0, max }
    }

    /// There is a chance; whether to let it pass.
    pub fn passes(&mut self) -> bool {
        let passes = self.left > 0;
        self.left -= u32::from(passes);
        passes
    }

    /// A try was worth it: a quarter of what the failures cost is forgotten.
    pub fn succeeded(&mut self) {
        self.last -= self.last.div_ceil(4);
    }

    /// A try was in vain.
    pub fn failed(&mut self) {
        self.last = (2 * self.last + FIRST).min(self.max);
        self.left = self.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(back_off: &mut BackOff) -> u32 {
        (0..).take_while(|_| back_off.passes()).count() as u32
    }

    #[test]
    fn failures_cost_more_each_time_up_to_the_most_and_successes_less() {
        let mut back_off = BackOff::new(50);
        assert_eq!(passed(&mut back_off), 0);
        let costs = [(); 5].map(|()| {
            back_off.failed();
            passed(&mut back_off)
        });
        assert_eq!(costs, [4, 12, 28, 50, 50]);
        (0..20).for_each(|_| back_off.succeeded());
        assert_eq!(passed(&mut back_off), 0);
        back_off.failed();
        assert_eq!(passed(&mut back_off), 4);
    }
}
