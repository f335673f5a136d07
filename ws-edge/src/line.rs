//! A frame as bytes, ready for the wire: encoded once, shared by everyone who gets it, copied by nobody.

use bytes::Bytes;

/// The longest head of a WebSocket frame that is not masked.
const HEAD_BYTES: usize = 10;
/// A whole text message in one frame.
const TEXT: u8 = 0x81;

/// One WebSocket text message from the server: its head, and a text of one frame or of several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    bytes: Bytes,
    head: usize,
}

impl Line {
    /// Bytes of the text.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.head..]).expect("it was made from a text")
    }

    /// Head and text, as RFC 6455 wants them.
    pub fn into_frame(self) -> Bytes {
        self.bytes
    }

    /// Several as one message, a line each.
    pub fn joined(lines: &[Self]) -> Self {
        let len = lines.iter().map(|line| line.len() + 1).sum::<usize>().saturating_sub(1);
        let mut bytes = with_head(len);
        let head = bytes.len();
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                bytes.push(b'\n');
            }
            bytes.extend_from_slice(&line.bytes[line.head..]);
        }
        Self { bytes: bytes.into(), head }
    }
}

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        let mut bytes = with_head(text.len());
        let head = bytes.len();
        bytes.extend_from_slice(text.as_bytes());
        Self { bytes: bytes.into(), head }
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

/// The head of a message of `len` bytes, and room for them.
fn with_head(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + len);
    bytes.push(TEXT);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..126), _) => bytes.push(short),
        (_, Ok(medium)) => {
            bytes.push(126);
            bytes.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::{
        Message,
        protocol::{Role, WebSocket},
    };

    use super::*;

    /// What the library makes of the bytes.
    fn read(bytes: &Bytes) -> Message {
        let stream = std::io::Cursor::new(bytes.to_vec());
        WebSocket::from_raw_socket(stream, Role::Client, None).read().expect("a message")
    }

    #[test]
    fn a_client_reads_every_length() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let text = "ü".repeat(len / 2) + &"x".repeat(len % 2);
            let line = Line::from(text.as_str());
            assert_eq!((line.len(), line.text()), (len, text.as_str()));
            assert_eq!(read(&line.into_frame()), Message::text(text));
        }
    }

    #[test]
    fn several_lines_are_one_message() {
        let lines: Vec<Line> = ["{\"a\":1}", "", "x".repeat(200).as_str()].map(Line::from).into();
        let joined = Line::joined(&lines);
        assert_eq!(read(&joined.into_frame()), Message::text(format!("{{\"a\":1}}\n\n{}", "x".repeat(200))));
        assert_eq!(Line::joined(&lines[..1]), lines[0]);
        assert!(Line::joined(&[]).is_empty());
    }
}
