//! What a thread's JavaScript has left for the end of a turn of its loop: commands for its sockets, a time to be woken at. They
//! are taken just before libuv waits, and here by whoever has called JavaScript and looks for more instead of letting it wait.
//!
//! Everything here runs on the thread of the loop.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// Takes what JavaScript has left.
pub trait EndOfTurn {
    /// Does what comes just before libuv waits.
    fn end_of_turn(&self);
}

thread_local! {
    static ALL: RefCell<Vec<Weak<dyn EndOfTurn>>> = const { RefCell::new(Vec::new()) };
}

/// From now on [`end`] reaches it, for as long as it lives.
pub fn register(one: &Rc<impl EndOfTurn + 'static>) {
    let one: Rc<dyn EndOfTurn> = one.clone();
    ALL.with_borrow_mut(|all| all.push(Rc::downgrade(&one)));
}

/// Has all of the thread take what was left.
pub fn end() {
    let mut index = 0;
    // One by one: what they do may register others.
    while let Some(one) = ALL.with_borrow(|all| all.get(index).map(Weak::upgrade)) {
        if let Some(one) = one {
            one.end_of_turn();
            index += 1;
        } else {
            ALL.with_borrow_mut(|all| all.swap_remove(index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[derive(Default)]
    struct Counter(Cell<u32>);

    impl EndOfTurn for Counter {
        fn end_of_turn(&self) {
            if self.0.replace(self.0.get() + 1) == 0 {
                register(&Rc::new(Self::default()));
            }
        }
    }

    #[test]
    fn all_that_live_are_reached_and_the_others_forgotten() {
        let (one, two) = (Rc::new(Counter::default()), Rc::new(Counter::default()));
        register(&one);
        register(&two);
        end();
        drop(one);
        end();
        end();
        assert_eq!(two.0.get(), 3);
        assert_eq!(ALL.with_borrow(Vec::len), 1);
    }
}
