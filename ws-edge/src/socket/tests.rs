//! Who is at a connection's desk, and what becomes of its task's place at the socket.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use ringforge_domain::limits::Limits;
use ringforge_ports::clock::{SeededIds, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::stage::config;

/// A peer that takes nothing and says nothing; how often something was to be written to it.
#[derive(Default)]
struct Full(Arc<AtomicUsize>);

impl AsyncRead for Full {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Full {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn only_a_connections_task_waits_for_its_socket() {
    let (stream, clock) = (Full::default(), SystemClock::start());
    let writes = Arc::clone(&stream.0);
    let socket = open(stream, Vec::new(), Arc::clone(&clock) as _, Bounds::of(&Limits::default())).await;
    let connection = Connection::open(config(), clock, SeededIds::new(1));
    let mut desk = Desk { socket, connection, alarm_at: Duration::ZERO };
    assert!(desk.connection.has_out(), "it says hello");
    assert!(write(&mut desk.socket, &mut desk.connection, &mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(writes.load(Ordering::Relaxed), 1);
    // It knows its turn by what it was told to take, and was told nothing.
    assert!(!desk.take());
    desk.send();
    assert_eq!(writes.load(Ordering::Relaxed), 1, "a stream wakes whoever wrote last");
    assert!(desk.finish());
}
