//! Bugs planted on purpose, so that the simulation can show that it would find them. Only in builds with the feature
//! `planted`, and even there nothing happens unless one is named.

use std::cell::Cell;

thread_local! {
    static NAME: Cell<&'static str> = const { Cell::new("") };
}

/// The bug of this thread from now on; empty: none.
pub fn plant(name: &'static str) {
    NAME.set(name);
}

/// Whether this bug is planted in this thread.
pub fn planted(name: &str) -> bool {
    NAME.get() == name
}
