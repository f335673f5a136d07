//! All agents of a run, from their way in to their last word.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ringforge_sim::{history, rng::Rng, vocabulary::clients::Client};
use tokio::task::JoinHandle;

use crate::{
    agent::Agent,
    run::{Mood, Run},
};

/// How long any condition may take to be met.
const PATIENCE: Duration = Duration::from_secs(90);
/// When nobody has read anything for so long, nothing more happens.
const QUIET: Duration = Duration::from_millis(2_500);
/// How long after the last command what it asked for may still happen: its time to live, and what timers take.
const AFTERMATH: Duration = Duration::from_millis(6_500);

/// The agents.
pub struct Crowd {
    run: Arc<Run>,
    sizes: Vec<usize>,
    agents: Vec<JoinHandle<history::Agent>>,
}

impl Crowd {
    /// Everyone is on the way in: so many agents of each fleet. The first `sleepers` of them miss most of the run; the first of
    /// the second fleet writes large values.
    pub fn begin(run: &Arc<Run>, sizes: &[usize], sleepers: usize, rng: &mut Rng) -> Self {
        let fleets = sizes.iter().enumerate().flat_map(|(fleet, size)| std::iter::repeat_n(fleet, *size));
        let clients = fleets.enumerate().map(|(number, fleet)| {
            let mut client = Client::new(number, fleet, number == sizes[0], rng);
            client.pages = fleet == 1;
            // Some look on in every way.
            client.presence = ["none", "none", "each", "delta"][number % 4];
            client
        });
        let clients: Vec<Client> = clients.collect();
        let names = |fleet| clients.iter().filter(move |peer| peer.fleet == fleet).map(|peer| peer.name.clone());
        let peers: Vec<Vec<String>> = (0..sizes.len()).map(|fleet| names(fleet).collect()).collect();
        let spawned = clients.into_iter().map(|client| {
            let (number, peers) = (client.number, peers[client.fleet].clone());
            let agent = Agent::new(Arc::clone(run), client, peers, rng.fork());
            if number < sleepers { tokio::spawn(agent.sleep(number)) } else { tokio::spawn(agent.live()) }
        });
        Self { run: Arc::clone(run), sizes: sizes.to_vec(), agents: spawned.collect() }
    }

    /// Everyone is in, has heard everything, and nothing more happens.
    pub async fn come_to_rest(&self) {
        let (run, began) = (&self.run, Instant::now());
        let all_in = || run.states.iter().all(|state| state.settled.load(Ordering::Relaxed));
        run.feel(Mood::Ending);
        self.until("everyone is back", all_in).await;
        run.feel(Mood::Farewell);
        let fleets = self.sizes.iter().flat_map(|size| std::iter::repeat_n(*size, *size));
        let heard = || {
            let words = run.states.iter().map(|state| state.last_words.load(Ordering::Relaxed));
            words.eq(fleets.clone())
        };
        self.until("everyone has heard everyone's last word", heard).await;
        let (mut frames, mut since) = (0, Instant::now());
        self.until("nothing more happens", || {
            let now = run.frames.load(Ordering::Relaxed);
            if std::mem::replace(&mut frames, now) != now {
                since = Instant::now();
            }
            since.elapsed() > QUIET && began.elapsed() > AFTERMATH && all_in()
        })
        .await;
    }

    /// Waits until this holds.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !is_so() {
            let states = || self.run.states.iter().enumerate().collect::<Vec<_>>();
            assert!(Instant::now() < patience, "not in time: {what}; of the agents {:?}", states());
            assert!(!self.agents.iter().any(JoinHandle::is_finished), "an agent ended before {what}");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// What everyone wrote down, once the mood is over and the connections are gone.
    pub async fn tell(&mut self) -> Vec<history::Agent> {
        let mut told = Vec::new();
        for agent in self.agents.drain(..) {
            told.push(agent.await.expect("an agent comes to its end"));
        }
        told
    }
}
