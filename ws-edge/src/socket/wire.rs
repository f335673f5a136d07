//! The upgraded connection under its WebSocket: a stream whose incoming frames are followed by a meter, and whose outgoing
//! ones are written where they lie. Our own messages are bytes already ([`crate::line`]) and pass the library by; what it
//! has to say itself, answers to pings and goodbyes, takes its place between them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use ringforge_domain::{
    close::Close,
    limits::{SOCKET_FRAMES_MAX, SOCKET_READ_BUFFER, SOCKET_WRITE_BUFFER},
};
use ringforge_ports::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::meter::{Bounds, Breach, Meter};

/// Frames for which there is always room; more of it is given back once they are out.
const OUT_KEPT: usize = 4;

/// What bytes come and go over: TCP, or what a simulation has in its place.
pub trait Pipe: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Pipe for S {}

/// A stream that ends where a bound was passed.
pub struct Wire<S> {
    stream: S,
    clock: Arc<dyn Clock>,
    meter: Meter,
    breach: Option<Close>,
    /// Frames on their way out, the first perhaps in part.
    out: VecDeque<Bytes>,
    out_bytes: usize,
    progressed: bool,
}

impl<S: Pipe> Wire<S> {
    /// Over this stream, of which `early` has been read already: returns what of it comes before a bound was passed.
    pub fn new(stream: S, mut early: Vec<u8>, clock: Arc<dyn Clock>, bounds: Bounds) -> (Self, Vec<u8>) {
        let mut wire = Self {
            stream,
            clock,
            meter: Meter::new(bounds),
            breach: None,
            out: VecDeque::new(),
            out_bytes: 0,
            progressed: false,
        };
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

    /// Whether another frame fits into the next write.
    pub fn has_room(&self) -> bool {
        self.out_bytes < SOCKET_WRITE_BUFFER && self.out.len() < SOCKET_FRAMES_MAX
    }

    /// Puts a whole frame behind those on their way.
    pub fn push(&mut self, frame: Bytes) {
        // Nothing written would otherwise look like a stream that takes nothing.
        if !frame.is_empty() {
            self.out_bytes += frame.len();
            if self.out.len() == self.out.capacity() {
                self.out.reserve(SOCKET_FRAMES_MAX / 2);
            }
            self.out.push_back(frame);
        }
    }

    /// Writes what is on its way; ready when the stream has taken all of it.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.out.front() {
            let stream = Pin::new(&mut self.stream);
            // One frame alone is sent with less ado.
            let written = if self.out.len() == 1 {
                ready!(stream.poll_write(cx, first))?
            } else {
                let mut slices = [IoSlice::new(&[]); SOCKET_FRAMES_MAX];
                let count = self.out.iter().zip(&mut slices).map(|(frame, slice)| *slice = IoSlice::new(frame)).count();
                ready!(stream.poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.out.shrink_to(OUT_KEPT);
        Poll::Ready(Ok(()))
    }

    /// Whether nothing is on its way.
    pub fn is_drained(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether the peer has taken something since this was asked last.
    pub fn progressed(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// So many bytes are out.
    fn advance(&mut self, mut written: usize) {
        self.progressed = true;
        self.out_bytes -= written;
        while let Some(first) = self.out.front_mut() {
            if written < first.len() {
                return first.advance(written);
            }
            written -= first.len();
            self.out.pop_front();
        }
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

impl<S: Pipe> AsyncRead for Wire<S> {
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

impl<S: Pipe> AsyncWrite for Wire<S> {
    /// Takes whole frames of the library's own: they are few, since pings are, and short. It does not flush its last one.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(Bytes::copy_from_slice(bytes));
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use ringforge_domain::limits::Limits;
    use ringforge_ports::clock::SystemClock;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Wire<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("it connects");
        let (stream, _) = listener.accept().await.expect("it is accepted");
        (Wire::new(stream, Vec::new(), SystemClock::start(), Bounds::of(&Limits::default())).0, peer)
    }

    #[tokio::test]
    async fn frames_leave_whole_and_in_order_however_little_the_peer_takes() {
        let (mut wire, mut peer) = pair().await;
        let frames: Vec<Vec<u8>> = (0..200u8).map(|n| vec![n; usize::from(n) * 997 % 70_000]).collect();
        for (at, frame) in frames.iter().enumerate() {
            // Every third comes from the library.
            if at % 3 == 0 {
                assert_eq!(wire.write(frame).await.expect("it takes all"), frame.len());
            } else {
                wire.push(Bytes::from(frame.clone()));
            }
        }
        let wanted = frames.concat();
        let mut got = vec![0; wanted.len()];
        let reader = async {
            for part in got.chunks_mut(4_001) {
                peer.read_exact(part).await.expect("it comes");
            }
        };
        let (drained, ()) = tokio::join!(wire.flush(), reader);
        drained.expect("all of it is written");
        assert!(got == wanted, "the same bytes");
        assert!(wire.has_room() && wire.progressed() && !wire.progressed());
    }

    #[tokio::test]
    async fn who_takes_nothing_makes_no_progress() {
        let (mut wire, _peer) = pair().await;
        wire.push(Bytes::from(vec![0; 64 << 20]));
        let wait = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, wire.flush()).await.is_err(), "it does not fit");
        assert!(wire.progressed() && !wire.has_room());
        assert!(tokio::time::timeout(wait, wire.flush()).await.is_err());
        assert!(!wire.progressed());
    }
}
