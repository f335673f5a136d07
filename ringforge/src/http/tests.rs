//! Given a drain, whenever it comes, then serving ends.

use std::sync::Arc;

use ringforge_command_api::{Gate, GateConfig};
use ringforge_domain::{
    cursor::Seal,
    ids::EdgeId,
    limits::Limits,
    position::{Generation, LogTime},
};
use ringforge_ports::{
    Services,
    clock::{ManualClock, SeededIds},
    memory::{blobs::MemoryBlobs, live::MemoryLive, log::MemoryLog, reads::MemoryReads},
};
use ringforge_ws_edge::feed::Hub;

use super::*;
use crate::config::Config;

fn edge() -> Arc<Edge> {
    let clock = ManualClock::at(LogTime(1));
    let services = Services {
        log: MemoryLog::new(clock.clone(), 2, Generation(1)),
        reads: Arc::new(MemoryReads::new()),
        live: MemoryLive::new(clock.clone()),
        blobs: MemoryBlobs::new(),
        clock,
        ids: SeededIds::new(1),
    };
    let config = GateConfig { limits: Limits::default(), lag_max: 1, reply_timeout: Duration::from_secs(10) };
    let gate = Gate::new(services.clone(), config);
    let hub = Hub::new(services.clone(), Seal::new([1; 32]));
    let config: Config = toml::from_str(include_str!("../ringforge.default.toml")).expect("the defaults");
    Edge::new(services, gate, hub, EdgeId::from_bits(1), config.edge("1".to_owned()))
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "health tells how long it is up")]
async fn a_drain_before_anybody_serves_is_heard() {
    for before in [true, false] {
        let edge = edge();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let open = Arc::new(());
        let config = HttpConfig {
            upgrade_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            connections_max: 1,
        };
        let serving = serve(listener, Site::of(&edge), config, Instant::now(), open);
        if before {
            edge.drain();
        }
        let serving = tokio::spawn(serving);
        if !before {
            tokio::task::yield_now().await;
            edge.drain();
        }
        let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
        assert!(ended.is_ok_and(|ended| ended.is_ok()), "drained before it began: {before}");
    }
}
