//! The live bus's promises, on every adapter.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ringforge_adapters::live::local::MemoryLive;
use ringforge_domain::position::LogTime;
use ringforge_ports::{clock::ManualClock, contract::live::Subject, contract_tests, live::Live};

/// The bus of one process, which is also the one in memory.
struct Local {
    clock: Arc<ManualClock>,
}

impl Local {
    fn new() -> Self {
        Self { clock: ManualClock::at(LogTime(1_700_000_000_000_000)) }
    }
}

#[async_trait]
impl Subject for Local {
    async fn open(&self) -> Arc<dyn Live> {
        MemoryLive::new(self.clock.clone())
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn lose(&self) -> Arc<dyn Live> {
        self.open().await
    }
}

contract_tests!(
    live,
    local,
    Local::new(),
    [
        news_come_in_order,
        only_the_fleet_is_told,
        a_confirmed_follower_hears,
        every_follower_hears_everything,
        publishers_keep_their_order,
        a_slow_follower_hears_that_it_lost,
        a_slow_follower_harms_nobody,
        facts_end,
        a_later_put_begins_anew,
        directories_are_apart,
        a_directory_tells_since_when_it_is_intact,
        counters_count,
        counters_restart,
    ]
);
