//! Searches take turns by tenant, so that none waits behind those of another, and end in time.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ringforge_domain::{ids::TenantId, limits};
use ringforge_ports::Error;
use tokio::{sync::oneshot, time::timeout};

use crate::reads::turns::Turns;

/// Who waits to search, and how many more may search now.
struct State {
    turns: Turns<TenantId, oneshot::Sender<Turn>>,
    free: usize,
}

/// The searches of a server.
#[derive(Clone)]
pub struct Searches(Arc<Mutex<State>>);

/// Somebody searches until this is dropped.
struct Turn {
    tenant: TenantId,
    searches: Searches,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.searches.lock();
        state.turns.end(self.tenant);
        state.free += 1;
        drop(state);
        self.searches.go_on();
    }
}

impl Searches {
    pub fn new() -> Self {
        let free = limits::SERVER_SEARCHES_MAX;
        let turns = Turns::new(limits::SEARCHES_WAITING_MAX, limits::SEARCHES_WAITING_TENANT_MAX, free - 1);
        Self(Arc::new(Mutex::new(State { turns, free })))
    }

    /// Searches when it is the tenant's turn. `Unavailable` if it takes longer than it may, waiting included, and at once if too
    /// much waits, of this tenant or in all.
    pub async fn search<T>(
        &self,
        tenant: TenantId,
        search: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        // Gone as soon as nobody waits any more.
        let asker = Arc::new(());
        let (go, turn) = oneshot::channel();
        if !self.lock().turns.wait(tenant, &asker, go) {
            return Err(Error::Unavailable("search the read models: too many searches wait".to_owned()));
        }
        self.go_on();
        let searched = timeout(Duration::from_millis(limits::SEARCH_MS), async {
            let _turn = turn.await.map_err(|_| Error::Closed)?;
            search.await
        });
        searched
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable("search the read models: it takes too long".to_owned())))
    }

    /// Gives as many turns as there is room for.
    fn go_on(&self) {
        loop {
            let mut state = self.lock();
            if state.free == 0 {
                return;
            }
            let Some((tenant, go)) = state.turns.begin() else { return };
            state.free -= 1;
            drop(state);
            // Whoever has left meanwhile gives it back: the turn is dropped here.
            drop(go.send(Turn { tenant, searches: self.clone() }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while the lock is held")
    }
}
