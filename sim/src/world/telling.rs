//! How a world is told once it has come to rest.

use std::{collections::BTreeMap, sync::Arc};

use ringforge_domain::position::Partition;
use ringforge_ports::reads::{Reads, every_row, every_verdict};

use super::{PARTITIONS, World};
use crate::{
    faulty::now,
    history::{Fleet, History, Logged, Model},
    offline::{fold, read},
    vocabulary::clients::Phase,
};

impl World {
    /// Everything that happened.
    ///
    /// # Errors
    /// The read models cannot be read.
    pub fn tell(mut self) -> anyhow::Result<History> {
        let alive: Vec<bool> = (0..self.clients.len()).map(|who| self.is_in(who)).collect();
        for at in 0..self.lines.len() {
            self.take_socket(at);
        }
        let fleets = self.homes.iter().map(|home| Fleet { scope: home.scope, partition: home.partition }).collect();
        let mut history = History { fleets, ..History::default() };
        for partition in PARTITIONS {
            let logged = fold(read(partition, &self.journal.all(partition)));
            let late = self.journal.came_late(partition);
            history.logs.insert(partition, Logged { late, ..logged });
            history.models.insert(partition, self.model(partition)?);
        }
        let clients = std::mem::take(&mut self.clients).into_iter().zip(alive);
        history.agents = clients.map(|(client, is_in)| client.tell(is_in)).collect();
        Ok(history)
    }

    fn is_in(&self, who: usize) -> bool {
        let line = self.lines.iter().rfind(|line| line.client == who);
        self.clients[who].phase == Phase::Inside && line.is_some_and(|line| line.socket.is_some())
    }

    fn model(&self, partition: Partition) -> anyhow::Result<Model> {
        let reads: Arc<dyn Reads> = Arc::new(self.store.current());
        let (rows, applied) = now(every_row(&reads, partition))?;
        let mut verdicts = BTreeMap::new();
        for home in self.homes.iter().filter(|home| home.partition == partition) {
            verdicts.insert(home.scope, now(every_verdict(&reads, partition, home.scope))?);
        }
        Ok(Model { rows, upto: applied.upto, verdicts })
    }
}
