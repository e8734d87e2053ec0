//! Which connections of a shard have subscribed to what. Pure.
#![forbid(unsafe_code)]

use crate::connection::Handle;
use std::collections::HashMap;
use std::sync::Arc;

/// Who has subscribed to what, each connection once to each topic. A topic is there as long as somebody has.
#[derive(Debug, Default)]
pub struct Topics {
    members: HashMap<Arc<str>, Vec<Handle>>,
    /// The topics of each connection, with its place among their members.
    of: HashMap<Handle, Vec<Membership>>,
    changes: u64,
}

#[derive(Debug)]
struct Membership {
    topic: Arc<str>,
    place: usize,
}

impl Topics {
    /// Whether it is new.
    pub fn subscribe(&mut self, handle: Handle, topic: &str) -> bool {
        if self.has(handle, topic) {
            return false;
        }
        let topic =
            self.members.get_key_value(topic).map_or_else(|| topic.into(), |(topic, _)| topic.clone());
        let members = self.members.entry(topic.clone()).or_default();
        self.of.entry(handle).or_default().push(Membership { topic, place: members.len() });
        members.push(handle);
        self.changes += 1;
        true
    }

    /// Whether it was subscribed.
    pub fn unsubscribe(&mut self, handle: Handle, topic: &str) -> bool {
        let Some(memberships) = self.of.get_mut(&handle) else { return false };
        let Some(index) = memberships.iter().position(|membership| *membership.topic == *topic) else {
            return false;
        };
        let membership = memberships.swap_remove(index);
        if memberships.is_empty() {
            self.of.remove(&handle);
        }
        self.take_out(membership);
        true
    }

    /// The connection is gone.
    pub fn leave(&mut self, handle: Handle) {
        for membership in self.of.remove(&handle).into_iter().flatten() {
            self.take_out(membership);
        }
    }

    fn take_out(&mut self, Membership { topic, place }: Membership) {
        self.changes += 1;
        let Some(members) = self.members.get_mut(&topic) else { return };
        members.swap_remove(place);
        // The last one stands in its place now.
        if let Some(moved) = members.get(place)
            && let Some(memberships) = self.of.get_mut(moved)
            && let Some(membership) = memberships.iter_mut().find(|membership| membership.topic == topic)
        {
            membership.place = place;
        }
        if members.is_empty() {
            self.members.remove(&topic);
        }
    }

    /// Whether a connection has subscribed to a topic.
    pub fn has(&self, handle: Handle, topic: &str) -> bool {
        self.of.get(&handle).is_some_and(|topics| topics.iter().any(|membership| *membership.topic == *topic))
    }

    /// Who has.
    pub fn members(&self, topic: &str) -> &[Handle] {
        self.members.get(topic).map_or(&[], Vec::as_slice)
    }

    /// A number that is another one after each change.
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn handle(number: i32) -> Handle {
        Handle::from_word(number)
    }

    #[test]
    fn it_agrees_with_a_set_of_pairs_whatever_is_done() {
        let mut topics = Topics::default();
        let mut pairs = BTreeSet::new();
        let mut state = 1u32;
        let mut draw = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..20_000 {
            let (number, topic) = (draw(20) as i32, ["a", "b", "c", "d"][draw(4) as usize]);
            match draw(5) {
                0 | 1 => {
                    assert_eq!(topics.subscribe(handle(number), topic), pairs.insert((topic, number)));
                }
                2 | 3 => {
                    assert_eq!(topics.unsubscribe(handle(number), topic), pairs.remove(&(topic, number)));
                }
                _ => {
                    topics.leave(handle(number));
                    pairs.retain(|&(_, member)| member != number);
                }
            }
            for topic in ["a", "b", "c", "d"] {
                let expected: Vec<i32> =
                    pairs.iter().filter(|pair| pair.0 == topic).map(|pair| pair.1).collect();
                let mut members: Vec<i32> =
                    topics.members(topic).iter().map(|handle| handle.word()).collect();
                members.sort_unstable();
                assert_eq!(members, expected);
            }
        }
        for number in 0..20 {
            topics.leave(handle(number));
        }
        assert!(
            topics.members.is_empty() && topics.of.is_empty(),
            "nothing is left of topics without members"
        );
    }
}
