//! Which connections of a shard have subscribed to what. Pure.
#![forbid(unsafe_code)]

use crate::connection::Handle;
use std::collections::HashMap;
use std::sync::Arc;

/// Who has subscribed to what, each connection once to each topic. A topic is there as long as somebody has. What is done with
/// one subscription costs the same however many there are, of the topic or of the connection.
#[derive(Debug, Default)]
pub struct Topics {
    members: HashMap<Arc<str>, Vec<Handle>>,
    /// The topics of each connection, with its place among their members.
    of: HashMap<Handle, HashMap<Arc<str>, usize>>,
    changes: u64,
}

impl Topics {
    /// Whether it is new.
    pub fn subscribe(&mut self, handle: Handle, topic: &str) -> bool {
        if self.has(handle, topic) {
            return false;
        }
        let topic: Arc<str> =
            self.members.get_key_value(topic).map_or_else(|| topic.into(), |(topic, _)| topic.clone());
        let members = self.members.entry(topic.clone()).or_default();
        self.of.entry(handle).or_default().insert(topic, members.len());
        members.push(handle);
        self.changes += 1;
        true
    }

    /// Whether it was subscribed.
    pub fn unsubscribe(&mut self, handle: Handle, topic: &str) -> bool {
        let Some(places) = self.of.get_mut(&handle) else { return false };
        let Some((topic, place)) = places.remove_entry(topic) else { return false };
        if places.is_empty() {
            self.of.remove(&handle);
        }
        self.take_out(&topic, place);
        true
    }

    /// The connection is gone.
    pub fn leave(&mut self, handle: Handle) {
        for (topic, place) in self.of.remove(&handle).into_iter().flatten() {
            self.take_out(&topic, place);
        }
    }

    fn take_out(&mut self, topic: &str, place: usize) {
        self.changes += 1;
        let Some(members) = self.members.get_mut(topic) else { return };
        members.swap_remove(place);
        // The last one stands in its place now.
        if let Some(moved) = members.get(place)
            && let Some(its) = self.of.get_mut(moved).and_then(|places| places.get_mut(topic))
        {
            *its = place;
        }
        if members.is_empty() {
            self.members.remove(topic);
        }
    }

    /// Whether a connection has subscribed to a topic.
    pub fn has(&self, handle: Handle, topic: &str) -> bool {
        self.of.get(&handle).is_some_and(|places| places.contains_key(topic))
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
    use std::time::{Duration, Instant};

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

    #[test]
    fn subscribing_to_many_topics_and_leaving_them_costs_as_much_for_each() {
        const TOPICS: usize = 50_000;
        let mut topics = Topics::default();
        let names: Vec<String> = (0..TOPICS).map(|number| format!("topic {number}")).collect();
        let began = Instant::now();
        // The second stands in the first one's place after it.
        for number in 0..3 {
            assert!(names.iter().all(|name| topics.subscribe(handle(number), name)));
        }
        for number in 0..3 {
            topics.leave(handle(number));
        }
        assert!(topics.members.is_empty());
        // Milliseconds; a look at all of them for each would be 10 billion.
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    }
}
