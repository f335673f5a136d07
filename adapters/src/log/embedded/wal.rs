//! The write-ahead log as a process left it. SQLite takes of it what is whole and drops the rest without a word. That is
//! right for the transaction that was being written; but the one before was synced before the next began, and may have been
//! acknowledged: if more than the last one would be dropped, the file is damaged.
//!
//! ```text
//!   header (32 bytes) | frame: header (24), page | frame | ..       the last frame of a transaction says how many pages
//!                                                                   the file has then, any other says 0
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use super::file::PAGE;

/// Bytes of the file's header.
const HEADER: usize = 32;
/// Bytes of a frame's header.
const FRAME: usize = 24;
/// What the file begins with; the last bit says in which order the bytes of a word are summed up.
const MAGIC: u32 = 0x377f_0682;

/// What of a write-ahead log cannot be read, though it was acknowledged.
pub(super) struct Damage {
    /// The first byte of it.
    pub at: u64,
    /// How many transactions it is, at least.
    pub transactions: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} transactions of its write-ahead log, from byte {} on, cannot be read",
            self.transactions, self.at
        )
    }
}

/// The file of the log in `path`.
pub(super) fn path_of(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

/// Looks through the whole file. Nothing is changed, and a file that is not there is whole.
pub(super) fn damage(path: &Path) -> io::Result<Option<Damage>> {
    let file = match File::open(path_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER];
    if !filled(&mut file, &mut header)? {
        return Ok(None);
    }
    let mut sums = Sums { big_endian: word(&header, 0) & 1 == 1, first: 0, second: 0 };
    sums.add(&header[..24]);
    let sound = word(&header, 0) & !1 == MAGIC && sums.are(&header[24..]);
    let (mut whole, mut at, mut first) = (sound, HEADER as u64, 0);
    // Ends of transactions in what cannot be read, by the salt of their frames: behind those of this life of the file there
    // may be some of a former one.
    let mut ends: BTreeMap<[u8; 8], u64> = BTreeMap::new();
    let mut frame = vec![0; FRAME + PAGE];
    while filled(&mut file, &mut frame)? {
        let salt: [u8; 8] = std::array::from_fn(|byte| frame[8 + byte]);
        if whole {
            sums.add(&frame[..8]);
            sums.add(&frame[FRAME..]);
            whole = salt == header[16..24] && word(&frame, 0) != 0 && sums.are(&frame[16..FRAME]);
            first = at;
        }
        if !whole && word(&frame, 4) != 0 {
            *ends.entry(salt).or_default() += 1;
        }
        at += frame.len() as u64;
    }
    let ours = |salt: &[u8; 8]| !sound || *salt == header[16..24];
    let transactions = ends.into_iter().filter(|(salt, _)| ours(salt)).map(|(_, count)| count).max().unwrap_or(0);
    Ok((transactions > 1).then_some(Damage { at: first, transactions }))
}

/// Whether the file had as many bytes left.
fn filled(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// SQLite's running checksum.
struct Sums {
    big_endian: bool,
    first: u32,
    second: u32,
}

impl Sums {
    /// Bytes by the eight.
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(8) {
            let word = |at| if self.big_endian { word(pair, at) } else { word(pair, at).swap_bytes() };
            let (one, other) = (word(0), word(4));
            self.first = self.first.wrapping_add(one).wrapping_add(self.second);
            self.second = self.second.wrapping_add(other).wrapping_add(self.first);
        }
    }

    fn are(&self, bytes: &[u8]) -> bool {
        (self.first, self.second) == (word(bytes, 0), word(bytes, 4))
    }
}
