//! Projectors of one partition, each driven step by step as `projectors::run` drives them: one works, others may be dead,
//! paused or superseded without knowing it.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use ringforge_domain::position::{Offset, Partition};
use ringforge_ports::{Error, Services, log::Stored};
use ringforge_projectors::{Projector, Stepped};

use crate::{
    faulty::{
        soon,
        store::{Hold, Holder},
    },
    rng::Rng,
    tally::Tally,
};

type Step = BoxFuture<'static, (Projector, Result<Stepped, Error>)>;

/// One projector of one partition.
pub struct Projecting {
    /// Its number among all.
    pub number: u64,
    /// Which.
    pub partition: Partition,
    /// Holds its commits up.
    pub holder: Arc<Holder>,
    /// Whether another was started while this one was thought dead.
    pub superseded: bool,
    services: Services,
    projector: Option<Projector>,
    records: BoxStream<'static, Result<Vec<Stored>, Error>>,
    waiting: VecDeque<Stored>,
    step: Option<Step>,
    tally: Tally,
}

impl Projecting {
    /// Takes the partition up where it stands. `services` has the reads that `holder` holds.
    ///
    /// # Errors
    /// The read model is ahead of the log.
    pub fn open(
        number: u64,
        services: Services,
        partition: Partition,
        holder: Arc<Holder>,
        tally: Tally,
    ) -> Result<Self, Error> {
        let projector = opened(&services, partition)?;
        let records = services.log.read(partition, projector.applied());
        Ok(Self {
            number,
            partition,
            holder,
            superseded: false,
            services,
            projector: Some(projector),
            records,
            waiting: VecDeque::new(),
            step: None,
            tally,
        })
    }

    /// What holds it up.
    pub fn held(&self) -> Hold {
        if self.step.is_some() { self.holder.get() } else { Hold::None }
    }

    /// One step with so many records at most; `Some` says how far it is, `None` that there was nothing to do.
    ///
    /// # Errors
    /// It cannot go on.
    pub fn advance(&mut self, rng: &mut Rng, hold: Hold) -> Result<Option<Offset>, Error> {
        if self.step.is_none() {
            if self.waiting.is_empty()
                && let Some(Some(batch)) = self.records.next().now_or_never()
            {
                match batch {
                    // Others have long applied what the log has forgotten since: it ends, and is started again.
                    // Or its log is away for a moment.
                    Err(Error::Gone { .. } | Error::Unavailable(_)) => self.reopen()?,
                    batch => self.waiting.extend(batch?),
                }
            }
            if self.waiting.is_empty() {
                return Ok(None);
            }
            let some = 1 + rng.index(self.waiting.len());
            let count = if rng.chance(500) { self.waiting.len() } else { some };
            let records: Vec<Stored> = self.waiting.drain(..count).collect();
            let mut projector = self.projector.take().expect("it is here while there is no step");
            self.holder.set(hold);
            self.step = Some(
                async move {
                    let stepped = projector.step(records).await;
                    (projector, stepped)
                }
                .boxed(),
            );
        }
        let Some((projector, stepped)) = self.step.as_mut().expect("just made").now_or_never() else {
            return Ok(Some(Offset::ZERO));
        };
        self.step = None;
        self.holder.set(Hold::None);
        match stepped {
            Ok(Stepped::To(upto)) => {
                if self.superseded {
                    self.tally.note("situation: late commit of a paused projector landed");
                    self.superseded = false;
                }
                self.projector = Some(projector);
                Ok(Some(upto))
            }
            Ok(Stepped::Elsewhere(from)) => {
                self.tally.note("situation: stale commit refused");
                self.superseded = false;
                self.records = self.services.log.read(self.partition, from);
                self.waiting.clear();
                self.projector = Some(projector);
                Ok(Some(from))
            }
            Err(Error::Unavailable(_)) => {
                self.reopen()?;
                Ok(Some(Offset::ZERO))
            }
            Err(error) => Err(error),
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        let projector = opened(&self.services, self.partition)?;
        self.records = self.services.log.read(self.partition, projector.applied());
        self.waiting.clear();
        self.projector = Some(projector);
        Ok(())
    }

    /// Tells heads, if it is not in the middle of something.
    pub fn tell_heads(&mut self) {
        if let Some(projector) = &mut self.projector {
            soon(projector.tell_heads());
        }
    }
}

/// Tries until its ports are there, as `projectors::run` does. Whoever dies over it is dead already: it does nothing more.
fn opened(services: &Services, partition: Partition) -> Result<Projector, Error> {
    loop {
        match soon(Projector::open(services.clone(), partition)) {
            None | Some(Err(Error::Unavailable(_))) => {}
            Some(opened) => return opened,
        }
    }
}
