//! What goes wrong: processes die, sleep and come back, the bus is cut, time jumps.

use std::{sync::Arc, time::Duration};

use ringforge_ports::clock::Clock;

use super::{EDGES, PARTITIONS, World};
use crate::faulty::store::Hold;

impl World {
    /// One fault, if this world has any.
    pub(super) fn fault(&mut self) -> anyhow::Result<()> {
        if !self.rng.chance(self.faults) {
            return Ok(());
        }
        match self.rng.below(100) {
            0..20 => self.kill_projector(),
            20..35 => self.supersede(),
            35..50 => self.release(),
            50..58 => {
                self.tally.note("fault: bus cut");
                let edge = self.rng.index(EDGES);
                self.bus.cut(edge);
                Ok(())
            }
            58..66 => {
                self.kill_edge();
                Ok(())
            }
            66..70 => self.restart(),
            70..76 => {
                self.kept = Some(self.store.snapshot());
                Ok(())
            }
            _ => {
                self.jump();
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

    fn kill_projector(&mut self) -> anyhow::Result<()> {
        let at = self.rng.index(self.projecting.len());
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

    fn kill_edge(&mut self) {
        let place = self.rng.index(EDGES);
        self.tally.note("fault: edge killed");
        let Some(gone) = self.processes[place].take() else { return };
        for link in 0..self.links.len() {
            let its = self.links[link].socket.as_ref().is_some_and(|socket| Arc::ptr_eq(&socket.process, &gone));
            if its {
                self.cut_off(link);
            }
        }
        drop(gone);
        let next = self.new_process(place);
        self.processes[place] = Some(next);
    }

    /// The process behind a connection is dead.
    fn cut_off(&mut self, link: usize) {
        if let Some(mut socket) = self.links[link].socket.take() {
            self.links[link].written = std::mem::take(&mut socket.written);
        }
        self.lost(link);
    }

    /// Every process dies at once. The log stays; the read models are what their file held, perhaps a while ago.
    fn restart(&mut self) -> anyhow::Result<()> {
        self.tally.note("fault: everything restarted");
        self.dead.1 += 1;
        self.processes.iter_mut().for_each(|process| *process = None);
        for link in 0..self.links.len() {
            self.cut_off(link);
        }
        self.projecting.clear();
        (0..EDGES).for_each(|edge| self.bus.cut(edge));
        if let Some(kept) = self.kept.take()
            && self.rng.chance(600)
        {
            self.tally.note("fault: read model older after restart");
            self.store.fall_back(kept);
        }
        self.start_all()
    }

    fn jump(&mut self) {
        let (what, millis) = match self.rng.below(40) {
            0 => ("fault: time jump of a day", 90_000_000),
            1..5 => ("fault: time jump of minutes", 100_000 + self.rng.below(400_000)),
            _ => ("fault: time jump of seconds", 100 + self.rng.below(6_000)),
        };
        self.tally.note(what);
        self.clock.advance(Duration::from_millis(millis));
        self.trace.text(&self.clock.wall().rfc3339());
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
