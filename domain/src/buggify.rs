//! Places where something may happen that is allowed and rare: a batch of one, a queue that is full too early, a page that
//! is short. The simulation lets them happen often. Only builds with the feature `planted` ask; in all others nothing does.

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The projector takes one event at a time.
    SmallBatch,
    /// The projector forgets the rows that it has at hand.
    RowsForgotten,
    /// The gate appends one record at a time.
    SmallAppend,
    /// A connection hands one command to the gate at a time.
    SmallSubmit,
    /// A feed looks for missing updates although none is.
    NeedlessFill,
    /// An edge keeps no recent updates.
    TailForgotten,
    /// A connection's queue is full with one post in it.
    EarlyLag,
    /// A page of history has a few events.
    ShortPage,
    /// A page of history is full after one event's bytes.
    NarrowPage,
    /// Timers find one thing due at a time.
    FewDue,
}

impl Site {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::SmallBatch,
        Self::RowsForgotten,
        Self::SmallAppend,
        Self::SmallSubmit,
        Self::NeedlessFill,
        Self::TailForgotten,
        Self::EarlyLag,
        Self::ShortPage,
        Self::NarrowPage,
        Self::FewDue,
    ];
}

#[cfg(feature = "planted")]
mod decided {
    use std::cell::RefCell;

    use super::Site;

    type Decide = Box<dyn Fn(Site) -> bool>;

    thread_local! {
        static DECIDE: RefCell<Option<Decide>> = const { RefCell::new(None) };
    }

    /// Who decides in this thread from now on; nobody: nothing happens.
    pub fn decide_by(decide: Option<Decide>) {
        DECIDE.set(decide);
    }

    /// Whether it happens now.
    pub fn buggify(site: Site) -> bool {
        DECIDE.with_borrow(|decide| decide.as_ref().is_some_and(|decide| decide(site)))
    }
}

#[cfg(not(feature = "planted"))]
mod decided {
    use super::Site;

    /// Nothing happens in this build.
    pub const fn buggify(_: Site) -> bool {
        false
    }
}

pub use decided::*;
