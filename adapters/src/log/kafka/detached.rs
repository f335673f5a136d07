//! Clients whose end takes its time.

use std::{ops::Deref, thread};

/// A client that is dropped on a thread of its own: it blocks until its connections are closed, and the runtime must not wait
/// for that.
pub(super) struct Detached<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Detached<T> {
    pub(super) fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> Deref for Detached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken only when it is dropped")
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Without another thread it is dropped here and now.
        let _ = thread::Builder::new().name("kafka-close".into()).spawn(move || drop(client));
    }
}
