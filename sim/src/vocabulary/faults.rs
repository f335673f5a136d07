//! What goes wrong.

use std::time::Duration;

use crate::rng::Rng;

/// A fault of the processes or of the world around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A projector dies; another takes over.
    KillProjector,
    /// Another projector takes over from one that is thought dead and is not.
    Supersede,
    /// A paused projector goes on.
    Release,
    /// One edge no longer hears the bus, and does not know it.
    CutBus,
    /// An edge dies; another starts in its place.
    KillEdge,
    /// Every process dies at once and starts again.
    Restart,
    /// The read models are copied: a later restart may find this copy.
    Keep,
    /// The log forgets what is behind everyone who is here.
    Trim,
    /// Time passes in which nobody does anything.
    Jump(Duration),
}

impl Fault {
    /// One of them.
    pub fn draw(rng: &mut Rng) -> Self {
        match rng.below(100) {
            0..20 => Self::KillProjector,
            20..35 => Self::Supersede,
            35..50 => Self::Release,
            50..58 => Self::CutBus,
            58..66 => Self::KillEdge,
            66..70 => Self::Restart,
            70..75 => Self::Keep,
            75..78 => Self::Trim,
            _ => Self::Jump(Duration::from_millis(match rng.below(40) {
                0 => 90_000_000,
                1..5 => 100_000 + rng.below(400_000),
                _ => 100 + rng.below(6_000),
            })),
        }
    }
}

/// What an agent does to its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// It closes the socket.
    HangUp,
    /// It forgets the socket: the server hears nothing of it.
    HalfOpen,
    /// It reads nothing for a while.
    Deaf(Duration),
    /// It asks much at once, does not wait for the answers, and is gone.
    Storm,
}

impl Disturbance {
    /// One of them, if the agent feels like it now.
    pub fn draw(heavy: bool, rng: &mut Rng) -> Option<Self> {
        match rng.below(1_000) {
            0..8 => Some(Self::HangUp),
            8..12 => Some(Self::HalfOpen),
            12..27 => Some(Self::Deaf(Duration::from_millis(200 + rng.below(3_000)))),
            27..41 if heavy => Some(Self::Storm),
            _ => None,
        }
    }
}
