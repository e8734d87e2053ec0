//! Bugs in the simulation's own layers, to see that they are found.
#![forbid(unsafe_code)]

/// One.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A read loses a byte.
    LoseByte,
    /// A read leaves its last byte to be read again.
    RepeatByte,
    /// A send loses a byte.
    LoseSentByte,
    /// A poll loses word of a connection.
    LoseEdge,
    /// A closed socket stays open.
    LeakSocket,
    /// A closed event gets lost.
    SwallowClosed,
    /// A closed event comes twice.
    RepeatClosed,
    /// Nobody is told that writing may go on.
    SwallowResume,
    /// Slots are freed before the events of their connections' ends are handled.
    FreeEarly,
    /// Pins are told to be let go twice.
    ReleaseTwice,
    /// The back is not woken.
    LoseWake,
    /// The front is not woken.
    LoseRing,
}
