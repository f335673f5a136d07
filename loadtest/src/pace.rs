//! Waits until a moment to within microseconds: the runtime's own timers are a millisecond wide, which would be a part of
//! every latency that counts from a due time.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{net::unix::pipe::Receiver, task::yield_now, time::Instant};

/// A timer. It is read like a pipe: readable when its time has come.
#[derive(Debug)]
pub struct Pacer(Receiver);

impl Pacer {
    /// A timer of its own.
    ///
    /// # Errors
    /// The system gives none.
    pub fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("make a timer")?;
        Ok(Self(Receiver::from_owned_fd_unchecked(timer).context("register a timer")?))
    }

    /// Waits until `due`. Others have their turn even if it has passed.
    ///
    /// # Errors
    /// The timer failed.
    pub async fn until(&mut self, due: Instant) -> Result<()> {
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            yield_now().await;
            return Ok(());
        }
        let zero = timespec(Duration::ZERO)?;
        let once = Itimerspec { it_interval: zero, it_value: timespec(wait)? };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).context("set a timer")?;
        loop {
            self.0.readable().await.context("wait for a timer")?;
            match self.0.try_read(&mut [0; 8]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("read a timer"),
            }
        }
    }
}

fn timespec(time: Duration) -> Result<Timespec> {
    let tv_sec = time.as_secs().try_into().context("a time that far away")?;
    Ok(Timespec { tv_sec, tv_nsec: time.subsec_nanos().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_never_early() {
        let mut pacer = Pacer::new().expect("a timer");
        for wait in [0, 300, 2_000] {
            let due = Instant::now() + Duration::from_micros(wait);
            pacer.until(due).await.expect("a timer");
            assert!(Instant::now() >= due);
        }
    }
}
