//! A coarse timer wheel for idle timeouts: cheap to arm, and touched only when an entry falls due.
//! Pure: time comes in as ticks, due keys come out.
#![forbid(unsafe_code)]

use crate::limits::TIMER_SLOTS;

/// Time in units of `TIMER_TICK_MS` since the shard began.
pub type Tick = u32;

/// Keys with a deadline each. An entry is never removed early: whoever takes it out decides whether it still counts.
#[derive(Debug)]
pub struct TimerWheel<K> {
    slots: Vec<Vec<(K, Tick)>>,
    now: Tick,
    next: Option<Tick>,
    entries: usize,
}

impl<K: Copy> Default for TimerWheel<K> {
    fn default() -> Self {
        Self { slots: Vec::new(), now: 0, next: None, entries: 0 }
    }
}

impl<K: Copy> TimerWheel<K> {
    /// Adds an entry, due at `deadline`, at the earliest one tick from now.
    pub fn insert(&mut self, key: K, deadline: Tick) {
        if self.slots.is_empty() {
            self.slots.resize_with(TIMER_SLOTS, Vec::new); // a shard without timeouts has no wheel
        }
        let deadline = deadline.max(self.now + 1);
        self.slots[deadline as usize % TIMER_SLOTS].push((key, deadline));
        self.entries += 1;
        self.next = Some(self.next.map_or(deadline, |next| next.min(deadline)));
    }

    /// Moves time on and takes out what is due, with the deadline that it was inserted with.
    pub fn advance(&mut self, now: Tick, due: &mut Vec<(K, Tick)>) {
        if self.next.is_none_or(|next| next > now) {
            self.now = self.now.max(now);
            return;
        }
        let first = self.now + 1;
        let turns = (now - self.now).min(TIMER_SLOTS as Tick); // one turn visits every slot
        self.now = now;
        for tick in 0..turns {
            let slot = &mut self.slots[(first + tick) as usize % TIMER_SLOTS];
            let before = slot.len();
            slot.retain(|&(key, deadline)| {
                let keep = deadline > now;
                if !keep {
                    due.push((key, deadline));
                }
                keep
            });
            self.entries -= before - slot.len();
            if slot.is_empty() && slot.capacity() > 64 {
                *slot = Vec::new();
            }
        }
        self.next = self.earliest();
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Tick> {
        self.next
    }

    fn earliest(&self) -> Option<Tick> {
        if self.entries == 0 {
            return None;
        }
        // The first slot with an entry of this turn is the earliest; later turns only count when none has one.
        for tick in self.now + 1..=self.now + TIMER_SLOTS as Tick {
            let slot = &self.slots[tick as usize % TIMER_SLOTS];
            if slot.iter().any(|&(_, deadline)| deadline == tick) {
                return Some(tick);
            }
        }
        self.slots.iter().flatten().map(|&(_, deadline)| deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_once_when_due_and_not_before() {
        let mut wheel = TimerWheel::default();
        let mut due = Vec::new();
        wheel.insert('a', 5);
        wheel.insert('b', 5 + TIMER_SLOTS as Tick);
        wheel.insert('c', 3 * TIMER_SLOTS as Tick + 1);
        assert_eq!(wheel.next(), Some(5));
        wheel.advance(4, &mut due);
        assert!(due.is_empty());
        wheel.advance(5, &mut due);
        assert_eq!(due, [('a', 5)]);
        assert_eq!(wheel.next(), Some(5 + TIMER_SLOTS as Tick));
        due.clear();
        wheel.advance(10 * TIMER_SLOTS as Tick, &mut due);
        due.sort();
        assert_eq!(due, [('b', 5 + TIMER_SLOTS as Tick), ('c', 3 * TIMER_SLOTS as Tick + 1)]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_the_next_tick() {
        let mut wheel = TimerWheel::default();
        let mut due = Vec::new();
        wheel.advance(100, &mut due);
        wheel.insert(1, 7);
        wheel.advance(101, &mut due);
        assert_eq!(due, [(1, 101)]);
    }
}
