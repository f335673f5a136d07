//! A session on one core: the text of a frame becomes a command to submit.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use ringforge_domain::{
    cursor::Seal,
    frame::{Encoder, Frame},
    ids::{AgentId, CommandId, FleetId, Scope, SessionId, TenantId},
    limits::{Limits, PENDING_MAX},
    position::{Generation, Offset, Partition, StreamRef},
    presence::Update,
};
use ringforge_ws_edge::{
    fanout::Viewpoint,
    session::{Entered, Input, Missed, Session, SessionConfig},
};

const ZERO: Duration = Duration::ZERO;

fn config() -> Arc<SessionConfig> {
    let long = Duration::from_hours(1);
    Arc::new(SessionConfig {
        limits: Limits::default(),
        auth_timeout: long,
        ping_interval: long,
        silence_timeout: 2 * long,
        reply_timeout: long,
        pending_max: PENDING_MAX,
        reconnect_after: long,
        version: "bench".to_owned(),
        node: "bench".to_owned(),
    })
}

/// A session that is in and live.
fn live(config: &Arc<SessionConfig>) -> Session {
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(2) };
    let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
    let encoder = Encoder { seal: Seal::new([7; 32]), scope, stream, generation: Generation(1) };
    let entered = Entered {
        viewpoint: Viewpoint { agent: AgentId::from_bits(3), session: SessionId::from_bits(4) },
        encoder: Arc::new(encoder),
        slug: "default".to_owned(),
        name: Some("bench".to_owned()),
        resume_token: "rt".to_owned(),
        roster: Frame::new("presence", "roster", &()),
        started: Offset(1),
        missed: Missed::NotAsked,
        vitals: Update::default(),
    };
    let mut session = Session::new(Arc::clone(config), ZERO);
    session.on(Input::Text(r#"{"type":"auth","api_key":"k"}"#, CommandId::from_bits(0)), ZERO);
    session.on(Input::Entered(Box::new(Ok(entered))), ZERO);
    session.on(Input::Joined, ZERO);
    session
}

fn text(criterion: &mut Criterion) {
    let config = config();
    let value = "x".repeat(256);
    let texts = [
        (
            "broadcast",
            format!(
                r#"{{"type":"activity","action":"broadcast","ref":1,"event":{{"kind":"discovery","description":"{value}"}}}}"#
            ),
        ),
        (
            "set-wrapped",
            format!(
                r#"{{"type":"memory","action":"set","ref":1,"payload":{{"key":"a/b","value":"{value}","tags":["x"]}}}}"#
            ),
        ),
        ("ping", r#"{"type":"ping","ref":1}"#.to_owned()),
    ];
    let mut group = criterion.benchmark_group("session");
    for (name, text) in texts {
        let mut session = live(&config);
        let mut count = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                count += 1;
                if count % 100 == 0 {
                    // Commands without a verdict pile up: begin anew before they are too many.
                    session = live(&config);
                }
                black_box(session.on(Input::Text(black_box(&text), CommandId::from_bits(count)), ZERO))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, text);
criterion_main!(benches);
