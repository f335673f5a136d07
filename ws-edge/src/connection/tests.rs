//! Bounds, order, batches, and what becomes of what was read.

use ringforge_domain::{
    cursor::Seal,
    direct,
    frame::{Encoder, Frame},
    ids::{AgentId, FleetId, MessageId, Scope, SessionId, TenantId},
    limits::{Limits, PENDING_MAX},
    position::{Generation, LogTime, Partition, StreamRef},
    presence::Update,
};
use ringforge_ports::clock::{ManualClock, SeededIds};

use super::*;
use crate::{
    fanout::Viewpoint,
    session::{Caught, Entered, Missed},
};

const SILENCE: Duration = Duration::from_secs(90);

struct World {
    clock: Arc<ManualClock>,
    connection: Connection,
    /// What the gate was given, one append after the other.
    appends: Vec<Vec<Asked>>,
    asked: usize,
    told: Vec<String>,
    closed: Option<u16>,
    placed: u64,
}

fn config() -> SessionConfig {
    SessionConfig {
        limits: Limits::default(),
        auth_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_secs(30),
        silence_timeout: SILENCE,
        reply_timeout: Duration::from_secs(10),
        pending_max: PENDING_MAX,
        reconnect_after: Duration::ZERO,
        version: "0".to_owned(),
        node: "0".to_owned(),
    }
}

fn entered() -> Entered {
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(2) };
    let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
    let encoder = Encoder { seal: Seal::new([7; 32]), scope, stream, generation: Generation(1) };
    Entered {
        viewpoint: Viewpoint { agent: AgentId::from_bits(3), session: SessionId::from_bits(4) },
        encoder: Arc::new(encoder),
        slug: "default".to_owned(),
        name: None,
        resume_token: "rt".to_owned(),
        roster: Frame::new("presence", "roster", &()),
        started: Offset(1),
        missed: Missed::NotAsked,
        vitals: Update::default(),
    }
}

impl World {
    /// `auth` has been sent and not answered.
    fn entering(batch: bool) -> Self {
        let clock = ManualClock::at(LogTime(0));
        let connection = Connection::open(Arc::new(config()), Arc::clone(&clock) as Arc<dyn Clock>, SeededIds::new(1));
        let mut world =
            Self { clock, connection, appends: Vec::new(), asked: 0, told: Vec::new(), closed: None, placed: 10 };
        world.write();
        world.connection.text(format!(r#"{{"type":"auth","api_key":"k","batch":{batch}}}"#).into());
        assert!(matches!(world.connection.jobs().as_slice(), [Job::Enter(_)]));
        world
    }

    /// In and live, with everything written.
    fn live(batch: bool) -> Self {
        let mut world = Self::entering(batch);
        world.enter();
        world
    }

    fn enter(&mut self) {
        self.connection.done(Some(Input::Entered(Box::new(Ok(entered())))));
        self.write();
        let no_mail = Caught { posts: Vec::new(), known: Vec::new(), upto: None, done: true };
        self.connection.done(Some(Input::CaughtUp(no_mail)));
        self.take();
        self.connection.done(Some(Input::Joined));
        assert!(self.connection.session().is_live());
    }

    fn keep(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            match job {
                Job::Submit(asked) => self.appends.push(asked),
                Job::Act(action) if matches!(*action, Action::Ask(..)) => self.asked += 1,
                Job::Act(_) | Job::Enter(_) | Job::Report(_) => {}
            }
        }
    }

    /// Reads one message if it may; whether it did.
    fn read(&mut self, text: &str) -> bool {
        let reads = self.connection.reads();
        if reads {
            self.connection.text(text.into());
            self.take();
        }
        reads
    }

    fn take(&mut self) {
        let jobs = self.connection.jobs();
        self.keep(jobs);
    }

    /// The socket takes everything.
    fn write(&mut self) {
        while let Some(out) = self.connection.next_out() {
            match out {
                Out::Text(line) => self.told.extend(line.text().lines().map(str::to_owned)),
                Out::Close(code, _) => self.closed = Some(code),
            }
        }
        self.connection.flushed();
        self.take();
    }

    /// The gate refuses everything it was given last: so each is answered without a log.
    fn gate_answers(&mut self) {
        let asked = self.appends.last().expect("it was given something");
        let refused = Refusal::new(ringforge_domain::code::Code::Overloaded);
        let results = asked.iter().map(|asked| (asked.id, Err(refused.clone()))).collect();
        self.connection.submitted(results);
        self.take();
    }

    /// The gate placed everything it was given last; the verdicts are still to come.
    fn gate_places(&mut self) {
        let asked = self.appends.last().expect("it was given something");
        let mut place = || {
            self.placed += 1;
            Ok(Offset(self.placed))
        };
        let results = asked.iter().map(|asked| (asked.id, place())).collect();
        self.connection.submitted(results);
        self.take();
    }

    /// The `ref`s of everything that was submitted, in order.
    fn submitted(&self) -> Vec<u64> {
        let all = self.appends.iter().flatten();
        all.map(|asked| asked.meta.reference.as_ref().and_then(|text| text.text().parse().ok()).expect("a number"))
            .collect()
    }
}

fn set(reference: usize, bytes: usize) -> String {
    let value = "x".repeat(bytes);
    format!(r#"{{"type":"memory","action":"set","key":"k","value":"{value}","ref":{reference}}}"#)
}

fn get(reference: usize) -> String {
    format!(r#"{{"type":"memory","action":"get","key":"k","ref":{reference}}}"#)
}

fn batch(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

#[test]
fn what_comes_behind_auth_waits_unread() {
    let mut world = World::entering(false);
    assert!(!world.connection.reads());
    world.enter();
    assert!(world.read(&set(0, 1)));
    assert_eq!(world.submitted(), [0]);
}

#[test]
fn commands_without_a_verdict_are_bounded_and_one_append_at_a_time() {
    let mut world = World::live(false);
    let read = (0..2 * PENDING_MAX).take_while(|at| world.read(&set(*at, 1))).count();
    assert_eq!(read, PENDING_MAX);
    assert_eq!(world.appends.len(), 1, "the first goes at once, the others wait for it");
    world.gate_places();
    assert_eq!(world.appends.iter().map(Vec::len).collect::<Vec<_>>(), [1, PENDING_MAX - 1]);
    world.gate_places();
    assert!(!world.connection.reads(), "none of them has a verdict");
    let numbers: Vec<u64> = (0..PENDING_MAX as u64).collect();
    assert_eq!(world.submitted(), numbers);
}

#[test]
fn a_batch_is_admitted_no_faster_than_single_messages() {
    let mut world = World::live(true);
    let count = 3 * PENDING_MAX;
    assert!(world.read(&batch((0..count).map(|at| set(at, 1)))));
    // The gate answers one by one; the line behind each answer follows it.
    let mut most = 0;
    while world.submitted().len() < count {
        most = most.max(world.appends.last().map_or(0, Vec::len));
        assert!(!world.connection.reads(), "the rest of the message comes before the next");
        world.gate_answers();
        world.write();
    }
    assert!(most <= PENDING_MAX, "{most}");
    assert_eq!(world.submitted(), (0..count as u64).collect::<Vec<_>>(), "in order, none lost");
    world.gate_answers();
    world.write();
    assert!(world.connection.reads());
    assert_eq!(world.told.iter().filter(|text| text.contains("overloaded")).count(), count);
}

#[test]
fn questions_of_a_batch_are_bounded() {
    use ringforge_domain::limits::ASKED_MAX;
    let mut world = World::live(true);
    assert!(world.read(&batch((0..3 * ASKED_MAX).map(get))));
    assert_eq!(world.asked, ASKED_MAX);
    for more in 1..=ASKED_MAX {
        world.connection.done(Some(Input::Answered(Box::new(Ok(Frame::new("memory", "entry", &()))), None)));
        world.take();
        assert_eq!(world.asked, ASKED_MAX + more);
    }
}

#[test]
fn blank_lines_and_the_last_line_end_are_nothing() {
    let mut world = World::live(true);
    assert!(world.read(&format!("\r\n\n{}\r\n\n  \n{}\n\n", set(0, 1), set(1, 1))));
    world.gate_answers();
    world.write();
    assert_eq!(world.submitted(), [0, 1]);
    assert!(world.read("\n") && world.read("") && world.connection.reads());
}

#[test]
fn replies_that_nobody_reads_stop_the_reading() {
    let mut world = World::live(true);
    let before = world.told.len();
    let pings = 20_000;
    assert!(world.read(&batch((0..pings).map(|at| format!(r#"{{"type":"ping","ref":{at}}}"#)))));
    let waiting = world.connection.out_bytes;
    assert!((REPLIES_BYTES_MAX..REPLIES_BYTES_MAX + 256).contains(&waiting), "{waiting} bytes");
    assert!(!world.connection.reads());
    while world.told.len() < before + pings {
        world.write();
        assert!(world.connection.out_bytes < REPLIES_BYTES_MAX + 256);
    }
    world.write();
    assert!(world.connection.reads());
}

#[test]
fn bytes_for_the_gate_are_bounded_until_it_answers() {
    let mut world = World::live(false);
    let bytes = 1 << 20;
    let read = (0..100).take_while(|at| world.read(&set(*at, bytes - 1_000))).count();
    assert_eq!(read, PENDING_BYTES_MAX / bytes + 1);
    // The first was taken by the gate, and counts until it is answered.
    world.gate_places();
    assert!(world.read(&set(read, 1)));
    world.gate_places();
    assert!(world.connection.reads());
}

#[test]
fn work_in_flight_is_bounded() {
    let mut world = World::live(true);
    let beats = (0..10 * WORK_MAX).map(|_| r#"{"type":"heartbeat"}"#.to_owned());
    world.connection.text(batch(beats).into());
    let jobs = world.connection.jobs().len();
    assert_eq!(jobs, WORK_MAX);
    world.connection.done(None);
    assert_eq!(world.connection.jobs().len(), 1, "one more for one that ended");
}

#[test]
fn silence_ends_it_unless_it_is_our_own() {
    let half = SILENCE / 2 + Duration::from_secs(1);
    let mut world = World::live(false);
    world.clock.advance(half);
    world.connection.alive();
    world.clock.advance(half);
    world.connection.tick();
    world.write();
    assert_eq!(world.closed, None, "a ping of the peer is a sign of life");
    // Until the gate answers nothing is read: whatever the peer says, it is not heard.
    let read = (0..2 * PENDING_MAX).take_while(|at| world.read(&set(*at, 1))).count();
    assert_eq!(read, PENDING_MAX);
    world.clock.advance(2 * SILENCE);
    world.gate_answers();
    world.connection.tick();
    world.write();
    assert_eq!(world.closed, None);
    world.clock.advance(SILENCE);
    world.connection.tick();
    world.write();
    assert_eq!(world.closed, Some(4001), "from then on it is the peer's");
    assert!(world.connection.is_over());
}

#[test]
fn a_shutdown_that_takes_too_long_says_goodbye_all_the_same() {
    let mut world = World::live(false);
    assert!(world.read(&set(1, 1)));
    world.connection.drain();
    world.write();
    assert_eq!(world.closed, None, "an answer is still to come");
    world.clock.advance(Duration::from_secs(2));
    world.connection.tick();
    world.write();
    assert_eq!(world.closed, Some(1012));
    assert!(world.connection.is_over());
}

#[test]
fn what_was_read_before_a_goodbye_is_submitted() {
    let mut world = World::live(true);
    let count = 3 * PENDING_MAX;
    assert!(world.read(&batch((0..count).flat_map(|at| [set(at, 1), get(at)]))));
    world.connection.hang_up();
    let asked = world.asked;
    world.take();
    while !world.connection.is_submitted() {
        assert!(world.appends.last().is_some_and(|last| last.len() <= APPEND_RECORDS_MAX));
        world.gate_places();
    }
    assert_eq!(world.submitted(), (0..count as u64).collect::<Vec<_>>());
    assert!(world.connection.is_over() && !world.connection.reads());
    assert_eq!((world.asked, world.connection.next_out()), (asked, None), "nobody waits for answers");
}

#[test]
fn what_the_peer_took_before_a_goodbye_is_reported() {
    let mut world = World::live(false);
    let message = MessageId::from_bits(5);
    world.connection.act(Action::Report(Box::new(direct::Delivered { message }.into())));
    world.connection.hang_up();
    assert!(matches!(world.connection.jobs().as_slice(), [Job::Report(_)]));
    assert!(!world.connection.is_submitted());
    world.connection.reported();
    assert!(world.connection.is_submitted());
}

#[test]
fn nothing_is_said_after_goodbye() {
    let mut world = World::live(false);
    assert!(world.read(&set(0, 1)));
    world.connection.close(Close::TooBig);
    world.connection.close(Close::TooOften);
    world.gate_answers();
    assert!(!world.connection.reads());
    let before = world.told.len();
    world.write();
    assert_eq!((world.told.len(), world.closed), (before, Some(1009)));
    assert!(world.connection.is_over());
}

#[test]
fn a_peer_that_reads_nothing_is_left() {
    let mut world = World::live(false);
    assert!(world.read(r#"{"type":"ping","ref":1}"#));
    let moment = Duration::from_millis(1);
    world.clock.advance(STALLED.saturating_sub(moment));
    assert!(!world.connection.is_stalled());
    assert!(world.connection.next_out().is_some());
    world.connection.progressed();
    world.clock.advance(STALLED.saturating_sub(moment));
    assert!(!world.connection.is_stalled(), "it has taken something meanwhile");
    assert!(world.connection.next_tick() <= world.clock.monotonic() + moment, "somebody looks in time");
    world.clock.advance(moment);
    assert!(world.connection.is_stalled());
    world.connection.flushed();
    assert!(!world.connection.is_stalled());
}

#[test]
fn a_peer_that_does_not_take_its_goodbye_is_left_soon() {
    let mut world = World::live(false);
    assert!(world.read(r#"{"type":"ping","ref":1}"#));
    world.clock.advance(STALLED / 2);
    world.connection.close(Close::TooBig);
    assert!(!world.connection.is_stalled(), "it has its time to hear it");
    assert!(world.connection.next_tick() <= world.clock.monotonic() + GOODBYE);
    world.clock.advance(GOODBYE);
    assert!(world.connection.is_stalled() && !world.connection.is_over());
}

#[test]
fn lines_share_a_message_only_for_those_who_asked() {
    for (asked, messages) in [(false, 3), (true, 1)] {
        let mut world = World::live(asked);
        for at in 0..3 {
            assert!(world.read(&format!(r#"{{"type":"ping","ref":{at}}}"#)));
        }
        assert_eq!(std::iter::from_fn(|| world.connection.next_out()).count(), messages);
        assert_eq!(world.connection.out_bytes, 0);
    }
    let mut world = World::live(true);
    let text = "x".repeat(BATCH_BYTES / 3 * 2);
    for _ in 0..3 {
        world.connection.send(text.clone().into());
    }
    assert_eq!(std::iter::from_fn(|| world.connection.next_out()).count(), 3, "within its bound");
}

#[test]
fn who_shows_something_leaves_it_to_the_task_that_came_between() {
    for resumed in [false, true] {
        let mut world = World::live(false);
        world.write();
        assert!(world.connection.begin_show() && world.read(r#"{"type":"ping","ref":1}"#));
        while world.connection.next_out().is_some() {}
        if resumed {
            world.connection.resume();
        }
        assert!(world.connection.end_show(Duration::ZERO, true));
        assert_eq!(world.connection.writes(), resumed, "the task waits for the socket, and has to be told by it");
    }
}
