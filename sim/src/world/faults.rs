//! What goes wrong: processes die, sleep and come back, the bus is cut, time jumps.

use std::{sync::Arc, time::Duration};

use ringforge_domain::position::Offset;
use ringforge_ports::{
    clock::Clock,
    reads::{Reads, every_row},
};

use super::{EDGES, PARTITIONS, World};
use crate::{
    faulty::{Role, now, store::Hold},
    history::Resume,
    vocabulary::faults::Fault,
};

impl World {
    /// This fault, if the world has any.
    pub(super) fn fault(&mut self, fault: Fault) -> anyhow::Result<()> {
        if !self.rng.chance(self.faults) {
            return Ok(());
        }
        match fault {
            Fault::KillProjector => {
                let at = self.rng.index(self.projecting.len());
                self.kill_projector(at)
            }
            Fault::Supersede => self.supersede(),
            Fault::Release => self.release(),
            Fault::Restart => self.restart(),
            Fault::CutBus => {
                self.tally.note("fault: bus cut");
                let edge = self.rng.index(EDGES);
                self.bus.cut(edge);
                Ok(())
            }
            Fault::KillEdge => {
                let place = self.rng.index(EDGES);
                self.kill_edge(place);
                Ok(())
            }
            Fault::Keep => {
                self.kept = Some(self.store.snapshot());
                Ok(())
            }
            Fault::Trim => self.trim(),
            Fault::Jump(time) => {
                self.jump(time);
                Ok(())
            }
        }
    }

    /// What happens to the next commit.
    pub(super) fn hold(&mut self) -> Hold {
        if self.calm || !self.rng.chance(self.faults / 20) {
            return Hold::None;
        }
        match self.rng.below(3) {
            0 => {
                self.tally.note("fault: projector paused before commit");
                Hold::Before
            }
            1 => Hold::After,
            _ => {
                self.tally.note("fault: commit answer lost");
                Hold::Unanswered
            }
        }
    }

    /// Whoever came to the point where it dies is dead; others take over.
    pub(super) fn bury(&mut self) -> anyhow::Result<()> {
        for role in self.fate.dying() {
            match role {
                Role::Edge(place) => self.kill_edge(place),
                Role::Timers(number) => self.timers[number] = self.new_timers(number),
                Role::Projector(number) => {
                    if let Some(at) = self.projecting.iter().position(|one| one.number == number) {
                        self.kill_projector(at)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn kill_projector(&mut self, at: usize) -> anyhow::Result<()> {
        match self.projecting[at].held() {
            Hold::Before => self.tally.note("fault: projector died between load and commit"),
            Hold::After => self.tally.note("fault: projector died between commit and publish"),
            Hold::None | Hold::Unanswered => {}
        }
        self.dead.0 += 1;
        let gone = self.projecting.remove(at);
        if self.projecting.iter().all(|other| other.partition != gone.partition) {
            let next = self.new_projecting(gone.partition)?;
            self.projecting.push(next);
        }
        Ok(())
    }

    /// Another projector takes over from one that is thought dead and is not.
    fn supersede(&mut self) -> anyhow::Result<()> {
        if self.projecting.len() > 6 {
            return Ok(());
        }
        let paused = self.projecting.iter().position(|one| one.held() == Hold::Before && !one.superseded);
        let at = paused.unwrap_or_else(|| self.rng.index(self.projecting.len()));
        self.tally.note("fault: second projector");
        if paused.is_some() {
            self.projecting[at].superseded = true;
        } else {
            self.tally.note("situation: two projectors on one partition");
        }
        let next = self.new_projecting(self.projecting[at].partition)?;
        self.projecting.push(next);
        if paused.is_some() && self.rng.chance(300) {
            self.projecting[at].holder.set(Hold::None);
            self.advance(at, Hold::None)?;
        }
        Ok(())
    }

    /// A paused projector goes on.
    fn release(&mut self) -> anyhow::Result<()> {
        let held: Vec<usize> =
            (0..self.projecting.len()).filter(|at| self.projecting[*at].held() != Hold::None).collect();
        if !held.is_empty() {
            let at = *self.rng.pick(&held);
            self.projecting[at].holder.set(Hold::None);
            self.advance(at, Hold::None)?;
        }
        Ok(())
    }

    fn kill_edge(&mut self, place: usize) {
        self.tally.note("fault: edge killed");
        let Some(gone) = self.processes[place].take() else { return };
        for line in 0..self.lines.len() {
            let its = self.lines[line].socket.as_ref().is_some_and(|socket| Arc::ptr_eq(&socket.process, &gone));
            if its {
                self.cut_off(line);
            }
        }
        drop(gone);
        let next = self.new_process(place);
        self.processes[place] = Some(next);
    }

    /// The process behind a connection is dead.
    fn cut_off(&mut self, line: usize) {
        drop(self.take_socket(line));
        self.lost(line);
    }

    /// Every process dies at once. The log stays; the read models are what their file held, perhaps a while ago.
    fn restart(&mut self) -> anyhow::Result<()> {
        self.tally.note("fault: everything restarted");
        self.dead.1 += 1;
        self.processes.iter_mut().for_each(|process| *process = None);
        for line in 0..self.lines.len() {
            self.cut_off(line);
        }
        self.projecting.clear();
        (0..EDGES).for_each(|edge| self.bus.cut(edge));
        self.journal.cut_power();
        if let Some(kept) = self.kept.take()
            && self.rng.chance(600)
        {
            self.tally.note("fault: read model older after restart");
            self.store.fall_back(kept);
        }
        self.start_all()
    }

    fn jump(&mut self, time: Duration) {
        self.tally.note(match time.as_secs() {
            0..10 => "fault: time jump of seconds",
            10..3_600 => "fault: time jump of minutes",
            _ => "fault: time jump of a day",
        });
        self.clock.advance(time);
        self.trace.text(&self.clock.wall().rfc3339());
    }

    /// The log forgets what nobody who is here, no mail that waits and no read model still needs.
    fn trim(&mut self) -> anyhow::Result<()> {
        let home = self.rng.index(self.homes.len());
        let partition = self.homes[home].partition;
        let state = now(every_row(&(Arc::new(self.store.current()) as Arc<dyn Reads>), partition))?;
        let mail = state.0.iter().filter_map(|row| row.index().mail).map(|(_, place)| place);
        let here = self.lines.iter().filter(|line| line.socket.is_some());
        let read = here.map(|line| {
            let link = &self.clients[line.client].diary.links[line.link];
            let newest = link.frames.iter().rev().find_map(|frame| frame["position"].as_u64());
            let resumed = if let Resume::After(position) = link.resume { Some(position) } else { None };
            newest.max(resumed).map_or(Offset::ZERO, Offset)
        });
        let followed = self.processes.iter().flatten().filter_map(|process| process.reads_from(partition));
        let before = mail.chain(read).chain(followed).min().unwrap_or(state.1.upto).min(state.1.upto);
        self.kept = None;
        if self.journal.forget(partition, before) {
            self.tally.note("fault: log trimmed");
        }
        Ok(())
    }

    /// Nothing is paused and nobody works beside another any more.
    pub(super) fn mend(&mut self) -> anyhow::Result<()> {
        for at in 0..self.projecting.len() {
            self.projecting[at].holder.set(Hold::None);
            self.advance(at, Hold::None)?;
        }
        self.projecting.clear();
        for partition in PARTITIONS {
            let projecting = self.new_projecting(partition)?;
            self.projecting.push(projecting);
        }
        Ok(())
    }
}
