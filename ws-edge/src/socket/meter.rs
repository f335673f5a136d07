//! Follows the heads of incoming WebSocket frames in passing. The library joins fragments and answers pings by itself,
//! bounds the number of neither, and takes a length however it is written. No I/O, no clock.

use std::time::Duration;

use ringforge_domain::{
    close::Close,
    limits::{EARLY_FRAME_BYTES_MAX, FRAGMENTS_MAX, Limits, PINGS_BURST},
};

/// The longest head, its mask apart.
const HEAD_BYTES: usize = 10;
/// Bytes of a mask.
const MASK_BYTES: u64 = 4;
/// How long until another ping is allowed.
const PING_EVERY: Duration = Duration::from_secs(1);

/// What a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Bytes of the first message.
    pub early_bytes: usize,
    /// Fragments of a message.
    pub fragments: usize,
    /// Pings and pongs at once; one more is allowed a second.
    pub pings: u32,
}

impl Bounds {
    /// As agents are told them.
    pub fn of(limits: &Limits) -> Self {
        Self {
            message_bytes: limits.frame_bytes(),
            early_bytes: EARLY_FRAME_BYTES_MAX,
            fragments: FRAGMENTS_MAX,
            pings: PINGS_BURST,
        }
    }
}

/// Where in the stream of frames a connection is, and how much of its allowances is used.
#[derive(Debug)]
pub struct Meter {
    bounds: Bounds,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    /// Bytes of the frame that are still to come.
    rest: u64,
    /// Frames of the message so far.
    fragments: usize,
    early: Early,
    /// Until when the pings so far would last, were they evenly spread.
    pinged_until: Duration,
}

/// Before authentication there is one message, and it is short.
#[derive(Debug)]
enum Early {
    /// Its bytes so far.
    First(u64),
    Over,
}

/// A bound was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breach {
    /// So many of the bytes come before it.
    pub after: usize,
    /// What the peer is told.
    pub close: Close,
}

impl Meter {
    /// At the beginning of a stream.
    pub fn new(bounds: Bounds) -> Self {
        let (head, pinged_until) = ([0; HEAD_BYTES], Duration::ZERO);
        Self { bounds, head, head_len: 0, rest: 0, fragments: 0, early: Early::First(0), pinged_until }
    }

    /// Follows `bytes` that came at `now`.
    ///
    /// # Errors
    /// A bound was passed; nothing after it counts.
    pub fn follow(&mut self, bytes: &[u8], now: Duration) -> Result<(), Breach> {
        let mut at = 0;
        while at < bytes.len() {
            if self.rest > 0 {
                let passed = usize::try_from(self.rest).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.rest -= passed as u64;
                at += passed;
                continue;
            }
            self.head[self.head_len] = bytes[at];
            self.head_len += 1;
            at += 1;
            if let Some(payload) = payload(&self.head[..self.head_len]) {
                self.head_len = 0;
                let masked = self.head[1] & 0x80 != 0;
                self.rest = payload.saturating_add(if masked { MASK_BYTES } else { 0 });
                let told =
                    if shortest(self.head[1], payload) { self.on_frame(payload, now) } else { Err(Close::Protocol) };
                told.map_err(|close| Breach { after: at, close })?;
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, payload: u64, now: Duration) -> Result<(), Close> {
        let (last, op) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
        match op {
            // Data, in whatever kind of frame.
            0..=7 => self.on_fragment(payload, last),
            // Pings and pongs: we send none, so every pong is one that nobody asked for.
            9 | 10 => self.on_ping(now),
            _ => Ok(()),
        }
    }

    fn on_fragment(&mut self, payload: u64, last: bool) -> Result<(), Close> {
        self.fragments += 1;
        if self.fragments > self.bounds.fragments {
            return Err(Close::TooBig);
        }
        if let Early::First(bytes) = &mut self.early {
            *bytes = bytes.saturating_add(payload);
            if *bytes > self.bounds.early_bytes as u64 {
                return Err(Close::TooBig);
            }
        }
        if last {
            self.fragments = 0;
            self.early = Early::Over;
        }
        Ok(())
    }

    fn on_ping(&mut self, now: Duration) -> Result<(), Close> {
        self.pinged_until = self.pinged_until.max(now) + PING_EVERY;
        if self.pinged_until > now + PING_EVERY * self.bounds.pings { Err(Close::TooOften) } else { Ok(()) }
    }
}

/// The length of the payload, once the head is there to say it.
fn payload(head: &[u8]) -> Option<u64> {
    match (head.get(1)? & 0x7f, &head[2..]) {
        (126, [high, low]) => Some(u64::from(u16::from_be_bytes([*high, *low]))),
        (127, length) => Some(u64::from_be_bytes(length.try_into().ok()?)),
        (126, _) => None,
        (length, _) => Some(u64::from(length)),
    }
}

/// Whether a length is written in as few bytes as it fits into.
fn shortest(second: u8, payload: u64) -> bool {
    match second & 0x7f {
        126 => payload >= 126,
        127 => (1 << 16..1 << 63).contains(&payload),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u8 = 1;
    const CONTINUATION: u8 = 0;
    const PING: u8 = 9;
    const ZERO: Duration = Duration::ZERO;

    /// A masked frame.
    fn frame(op: u8, last: bool, len: usize) -> Vec<u8> {
        let mut bytes = vec![op | u8::from(last) << 7];
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len @ ..126), _) => bytes.push(0x80 | len),
            (_, Ok(len)) => bytes.extend([[0xfe].as_slice(), &len.to_be_bytes()].concat()),
            _ => bytes.extend([[0xff].as_slice(), &(len as u64).to_be_bytes()].concat()),
        }
        bytes.resize(bytes.len() + 4 + len, 0xff);
        bytes
    }

    /// A message in so many fragments.
    fn message(fragments: usize, len: usize) -> Vec<u8> {
        let op = |at| if at == 0 { TEXT } else { CONTINUATION };
        (0..fragments).flat_map(|at| frame(op(at), at + 1 == fragments, len)).collect()
    }

    fn meter() -> Meter {
        Meter::new(Bounds::of(&Limits::default()))
    }

    fn past_the_first() -> Meter {
        let mut meter = meter();
        assert_eq!(meter.follow(&message(1, 2), ZERO), Ok(()));
        meter
    }

    #[test]
    fn as_many_fragments_as_are_allowed_and_no_more() {
        for len in [0, 1, 125, 126, 70_000] {
            let mut meter = past_the_first();
            for _ in 0..3 {
                assert_eq!(meter.follow(&message(FRAGMENTS_MAX, len), ZERO), Ok(()), "{len}");
            }
            let bytes = message(FRAGMENTS_MAX + 1, len);
            let after = bytes.len() - len - 4;
            assert_eq!(meter.follow(&bytes, ZERO), Err(Breach { after, close: Close::TooBig }), "{len}");
        }
    }

    #[test]
    fn control_frames_are_no_fragments_and_end_no_message() {
        let mut meter = past_the_first();
        let mut bytes = frame(TEXT, false, 1);
        bytes.extend(frame(PING, true, 5));
        bytes.extend((1..FRAGMENTS_MAX).flat_map(|_| frame(CONTINUATION, false, 1)));
        assert_eq!(meter.follow(&bytes, ZERO), Ok(()));
        bytes = frame(8, true, 2);
        bytes.extend(frame(CONTINUATION, true, 1));
        let close = meter.follow(&bytes, ZERO).map_err(|breach| breach.close);
        assert_eq!(close, Err(Close::TooBig));
    }

    #[test]
    fn pings_once_a_second_with_a_burst() {
        let mut meter = past_the_first();
        let mut now = Duration::from_secs(100);
        for _ in 0..PINGS_BURST {
            assert_eq!(meter.follow(&frame(PING, true, 4), now), Ok(()));
        }
        for _ in 0..50 {
            now += PING_EVERY;
            assert_eq!(meter.follow(&frame(PING, true, 4), now), Ok(()));
        }
        let again = frame(PING, true, 4);
        assert_eq!(meter.follow(&again, now), Err(Breach { after: 2, close: Close::TooOften }));
    }

    #[test]
    fn the_first_message_is_short() {
        let bytes = EARLY_FRAME_BYTES_MAX;
        assert_eq!(meter().follow(&message(1, bytes), ZERO), Ok(()));
        let close = |bytes: &[u8]| meter().follow(bytes, ZERO).map_err(|breach| breach.close);
        assert_eq!(close(&message(1, bytes + 1)[..10]), Err(Close::TooBig), "by its head alone");
        assert_eq!(close(&message(2, bytes / 2 + 1)), Err(Close::TooBig), "in pieces");
        assert_eq!(past_the_first().follow(&message(1, bytes + 1), ZERO), Ok(()));
        let mut longest = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(past_the_first().follow(&longest, ZERO), Ok(()), "left to the library's own bound");
        longest[2] = 0xff;
        let too_long = past_the_first().follow(&longest, ZERO).map_err(|breach| breach.close);
        assert_eq!(too_long, Err(Close::Protocol), "no length has its highest bit set");
    }

    #[test]
    fn it_does_not_matter_where_the_bytes_are_cut() {
        let mut bytes = message(3, 130);
        bytes.extend(frame(PING, true, 3));
        bytes.extend(message(FRAGMENTS_MAX + 1, 2));
        let whole = meter().follow(&bytes, ZERO).expect_err("one too many");
        for size in [1, 2, 3, 7, 100] {
            let mut meter = meter();
            let at = bytes.chunks(size).enumerate().find_map(|(at, part)| {
                let breach = meter.follow(part, ZERO).err()?;
                Some(at * size + breach.after)
            });
            assert_eq!(at, Some(whole.after), "in parts of {size}");
        }
    }
}
