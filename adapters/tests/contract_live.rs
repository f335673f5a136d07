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

/// A part of a real server or cluster, where time really passes.
#[cfg(feature = "cluster")]
mod real {
    use std::{
        process,
        sync::{
            Mutex,
            atomic::{AtomicU32, Ordering},
        },
    };

    use ringforge_adapters::live::redis::RedisLive;

    use super::*;

    pub struct Redis {
        address: String,
        last: Mutex<Option<(String, Arc<dyn Live>)>>,
    }

    impl Redis {
        pub fn new(address: String) -> Self {
            Self { address, last: Mutex::default() }
        }

        fn last(&self) -> (String, Arc<dyn Live>) {
            self.last.lock().expect("no panic").clone().expect("one was opened")
        }
    }

    #[async_trait]
    impl Subject for Redis {
        async fn open(&self) -> Arc<dyn Live> {
            static PARTS: AtomicU32 = AtomicU32::new(0);
            let part = format!("test-{}-{}", process::id(), PARTS.fetch_add(1, Ordering::Relaxed));
            let live = RedisLive::open(&format!("{}?prefix={part}", self.address)).await.expect("it opens");
            *self.last.lock().expect("no panic") = Some((part, live.clone()));
            live
        }

        async fn pass(&self, time: Duration) {
            tokio::time::sleep(time).await;
        }

        async fn lose(&self) -> Arc<dyn Live> {
            let (part, live) = self.last();
            for host in self.address.trim_start_matches("redis://").split(',') {
                let client = ::redis::Client::open(format!("redis://{host}")).expect("an address");
                let mut connection = client.get_multiplexed_async_connection().await.expect("it is there");
                let keys = ::redis::cmd("KEYS").arg(format!("{part}:*")).query_async(&mut connection).await;
                for key in keys.into_iter().flat_map(|keys: Vec<String>| keys) {
                    ::redis::cmd("DEL").arg(key).exec_async(&mut connection).await.expect("deleted");
                }
            }
            live
        }

        fn second(&self) -> Duration {
            Duration::from_millis(250)
        }
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

#[cfg(feature = "cluster")]
contract_tests!(
    live,
    redis,
    TEST_REDIS | address | real::Redis::new(address),
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

#[cfg(feature = "cluster")]
contract_tests!(
    live,
    redis_cluster,
    TEST_REDIS_CLUSTER | address | real::Redis::new(address),
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
