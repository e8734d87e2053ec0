//! Items that any thread pushes and one thread takes, all at once: lock-free, and in the order of each pusher.
//!
//! A list that grows at its head by compare-and-swap. Whoever takes swaps the whole list out and turns it round, so no
//! item is ever taken from between others, and the problem of a head that comes back (ABA) does not arise. Whoever pushes
//! learns whether the list was empty: only then somebody may have to be woken.
//!
//! `tests/mailboxes.rs` checks it by a model checker, in whose place `sync` stands here.

use super::sync::{AtomicPtr, Cell, Ordering};
use std::marker::PhantomData;
use std::ptr;

/// See the module.
#[derive(Debug)]
pub struct Stack<T> {
    head: AtomicPtr<Node<T>>,
    /// Items go from thread to thread: it may be shared only when they may.
    items: PhantomData<*mut Node<T>>,
}

// SAFETY: a shared stack hands each item from the thread that pushes it to one that takes it, and to no other.
unsafe impl<T: Send> Sync for Stack<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Stack<T> {}

#[derive(Debug)]
struct Node<T> {
    below: Cell<Link<T>>,
    item: T,
}

/// A node that is reachable by this only.
#[derive(Debug)]
struct Link<T>(*mut Node<T>);

impl<T> Clone for Link<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Link<T> {}

// SAFETY: whoever has the link is the only one who follows it: the pusher until its push, then the taker.
unsafe impl<T: Send> Send for Link<T> {}

/// In the place of a head: nothing is taken in any more. No node lies there, as nodes are aligned.
fn closed<T>() -> *mut Node<T> {
    ptr::without_provenance_mut(1)
}

impl<T> Default for Stack<T> {
    fn default() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), items: PhantomData }
    }
}

impl<T> Stack<T> {
    /// Adds an item; whether it is the only one. Gives it back when the stack is closed. From any thread.
    pub fn push(&self, item: T) -> Result<bool, T> {
        let node = Box::into_raw(Box::new(Node { below: Cell::default(), item }));
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                // SAFETY: nobody but us knows the node.
                return Err(unsafe { Box::from_raw(node) }.item);
            }
            // SAFETY: as above: the node is ours until the exchange succeeds.
            unsafe { (*node).below.set(Link(head)) };
            // Release: the node is written before it can be taken. Nodes below it were released by their own pushers, whose
            // exchanges this one continues.
            match self.head.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Ok(head.is_null()),
                Err(found) => head = found,
            }
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        head.is_null() || head == closed()
    }

    /// Whether nothing is taken in any more. From any thread.
    pub fn is_closed(&self) -> bool {
        self.head.load(Ordering::Relaxed) == closed()
    }

    /// Takes all that waits; items of one pusher come in the order in which it pushed them. Called by one thread, the owner.
    pub fn take(&self) -> Taken<T> {
        let mut head = self.head.load(Ordering::Relaxed);
        // Not a swap: whoever closes it meanwhile has its list, and it stays closed.
        while !head.is_null() && head != closed() {
            match self.head.compare_exchange_weak(head, ptr::null_mut(), Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(list) => return Taken::turned(list),
                Err(found) => head = found,
            }
        }
        Taken { first: ptr::null_mut() }
    }

    /// Takes nothing in any more; what waited comes out. Called by the owner.
    pub fn close(&self) -> Taken<T> {
        let head = self.head.swap(closed(), Ordering::AcqRel);
        Taken::turned(if head == closed() { ptr::null_mut() } else { head })
    }
}

impl<T> Drop for Stack<T> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// What was taken, oldest first.
#[derive(Debug)]
pub struct Taken<T> {
    first: *mut Node<T>,
}

// SAFETY: the list is this value's alone.
unsafe impl<T: Send> Send for Taken<T> {}

impl<T> Taken<T> {
    /// Of a list with the newest at its head.
    fn turned(mut newest: *mut Node<T>) -> Self {
        let mut first = ptr::null_mut();
        while !newest.is_null() {
            // SAFETY: the list was swapped out by an acquiring exchange, so its nodes are written and ours alone.
            unsafe {
                let below = (*newest).below.get().0;
                (*newest).below.set(Link(first));
                first = newest;
                newest = below;
            }
        }
        Self { first }
    }
}

impl<T> Iterator for Taken<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: made by `push`, ours alone, and freed once: the list goes on behind it.
        let node = unsafe { Box::from_raw(self.first) };
        // SAFETY: as above.
        self.first = unsafe { node.below.get() }.0;
        Some(node.item)
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

impl<T> Default for Link<T> {
    fn default() -> Self {
        Self(ptr::null_mut())
    }
}
