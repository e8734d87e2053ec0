//! When the messages that are out were sent, as runs of equal times.

use std::collections::VecDeque;

/// First-in first-out record of send times. Messages that went out in one write share one entry. `At` is a time, or the two
/// of a message that was due before it was sent.
pub struct InFlight<At = u64> {
    runs: VecDeque<(At, u32)>,
    messages: u32,
}

impl<At> Default for InFlight<At> {
    fn default() -> Self {
        Self { runs: VecDeque::new(), messages: 0 }
    }
}

impl<At: Copy + PartialEq> InFlight<At> {
    /// Messages that are out.
    pub fn len(&self) -> u32 {
        self.messages
    }

    /// True when no message is out.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Notes `count` messages sent (or meant to be sent) at `at_ns`.
    pub fn push(&mut self, at_ns: At, count: u32) {
        if count == 0 {
            return;
        }
        self.messages += count;
        match self.runs.back_mut() {
            Some((last_ns, messages)) if *last_ns == at_ns => *messages += count,
            _ => self.runs.push_back((at_ns, count)),
        }
    }

    /// Forgets all of them, and tells how many they were.
    pub fn clear(&mut self) -> u32 {
        self.runs.clear();
        std::mem::take(&mut self.messages)
    }

    /// Takes the `count` oldest messages and hands their send times to `answered(at_ns, messages)`.
    pub fn complete(&mut self, count: u32, mut answered: impl FnMut(At, u32)) {
        assert!(count <= self.messages, "{count} answers to {} messages in flight", self.messages);
        self.messages -= count;
        let mut left = count;
        while left > 0 {
            let Some((at_ns, messages)) = self.runs.front_mut() else {
                unreachable!("the runs add up to the number of messages")
            };
            let taken = left.min(*messages);
            answered(*at_ns, taken);
            left -= taken;
            *messages -= taken;
            if *messages == 0 {
                self.runs.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_take_the_oldest_first_across_runs() {
        let mut in_flight = InFlight::default();
        in_flight.push(10, 2);
        in_flight.push(10, 1);
        in_flight.push(20, 0);
        in_flight.push(30, 2);
        let mut seen = Vec::new();
        in_flight.complete(4, |at_ns, messages| seen.push((at_ns, messages)));
        assert_eq!(seen, [(10, 3), (30, 1)]);
        assert_eq!(in_flight.len(), 1);
        in_flight.complete(1, |at_ns, messages| seen.push((at_ns, messages)));
        assert_eq!(seen.last(), Some(&(30, 1)));
        assert!(in_flight.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_counted() {
        let mut in_flight = InFlight::default();
        in_flight.push((10, 12), 2);
        in_flight.push((10, 13), 1);
        assert_eq!(in_flight.clear(), 3);
        assert!(in_flight.is_empty());
    }

    #[test]
    #[should_panic(expected = "2 answers to 1 messages in flight")]
    fn more_answers_than_messages_is_a_bug() {
        let mut in_flight = InFlight::default();
        in_flight.push(1, 1);
        in_flight.complete(2, |_, _| {});
    }
}
