//! The upgraded connection under its WebSocket: a TCP stream whose incoming frames are followed by a meter.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use ringforge_domain::{close::Close, limits::SOCKET_READ_BUFFER};
use ringforge_ports::clock::Clock;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};

use super::meter::{Breach, Meter};

/// A stream that ends where a bound was passed.
pub struct Wire {
    stream: TcpStream,
    clock: Arc<dyn Clock>,
    meter: Meter,
    breach: Option<Close>,
}

impl Wire {
    /// Over this stream, of which `early` has been read already: returns what of it comes before a bound was passed.
    pub fn new(stream: TcpStream, mut early: Vec<u8>, clock: Arc<dyn Clock>) -> (Self, Vec<u8>) {
        let mut wire = Self { stream, clock, meter: Meter::default(), breach: None };
        let whole = wire.follow(&early);
        early.truncate(whole);
        (wire, early)
    }

    /// Which bound was passed, if that is why it ended.
    pub fn breach(&self) -> Option<Close> {
        self.breach
    }

    /// Ends it here.
    pub fn cut(&mut self, close: Close) {
        self.breach.get_or_insert(close);
    }

    /// Says that nothing more comes, and drops what still does until the peer has gone too. A stream that is closed with
    /// bytes unread is reset, and takes back what it said last.
    pub async fn drop_rest(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut part = vec![0; SOCKET_READ_BUFFER];
        while matches!(self.stream.read(&mut part).await, Ok(1..)) {}
    }

    /// How many of `bytes` come before a bound was passed.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        match self.meter.follow(bytes, self.clock.monotonic()) {
            Ok(()) => bytes.len(),
            Err(Breach { after, close }) => {
                self.breach = Some(close);
                after
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.breach.is_some() {
            return Poll::Ready(Err(io::Error::other("a bound on frames was passed")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let whole = self.follow(&buf.filled()[before..]);
        buf.set_filled(before + whole);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
