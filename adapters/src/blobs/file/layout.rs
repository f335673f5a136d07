//! What an object's file looks like. Its bytes come first, so that the file is the object to whoever looks into the directory; what
//! is known of them stands behind, so that both come and go as one.
//!
//! ```text
//!   bytes .. | sha256 (32) | content type .. | length of the content type (2) | hash of what is known (8) | "RFBLOB01" (8)
//! ```

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use ringforge_domain::limits;
use ringforge_ports::blobs::{Head, Sha256};

const MAGIC: &[u8; 8] = b"RFBLOB01";
const DIGEST: usize = 32;
/// What stands behind the content type.
const TAIL: usize = 2 + 8 + MAGIC.len();

/// What stands behind the bytes of an object.
pub(super) fn footer(head: &Head) -> Vec<u8> {
    let content_type = head.content_type.as_str().as_bytes();
    let length = u16::try_from(content_type.len()).expect("a content type is bounded");
    let mut footer = head.sha256.0.to_vec();
    footer.extend_from_slice(content_type);
    footer.extend_from_slice(&length.to_be_bytes());
    footer.extend_from_slice(&hash(&footer, head.length));
    footer.extend_from_slice(MAGIC);
    footer
}

/// What is known of the object in a file; `None` if that is no object, or damaged.
pub(super) fn read(file: &mut File) -> io::Result<Option<Head>> {
    let size = file.seek(SeekFrom::End(0))?;
    let longest = size.min((DIGEST + limits::CONTENT_TYPE_BYTES_MAX + TAIL) as u64);
    file.seek(SeekFrom::Start(size - longest))?;
    let mut end = Vec::new();
    file.take(longest).read_to_end(&mut end)?;
    Ok(parse(&end, size))
}

/// Reads what stands at the end of a file of this size.
fn parse(end: &[u8], size: u64) -> Option<Head> {
    let (rest, magic) = end.split_last_chunk::<8>()?;
    let (known, sum) = rest.split_last_chunk::<8>()?;
    let (before, length) = known.split_last_chunk::<2>()?;
    let content_length = usize::from(u16::from_be_bytes(*length));
    let at = before.len().checked_sub(content_length + DIGEST)?;
    let (sha256, content_type) = before[at..].split_first_chunk::<DIGEST>()?;
    let length = size.checked_sub((DIGEST + content_length + TAIL) as u64)?;
    let content_type = std::str::from_utf8(content_type).ok()?.parse().ok()?;
    let whole = magic == MAGIC && *sum == hash(&known[at..], length);
    whole.then_some(Head { length, content_type, sha256: Sha256(*sha256) })
}

fn hash(known: &[u8], length: u64) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length.to_be_bytes()).update(known);
    let mut sum = [0; 8];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_reads_back_and_no_byte_of_it_may_change() {
        let head = Head { length: 3, content_type: "a/b".parse().expect("a type"), sha256: Sha256([7; 32]) };
        let file = [&b"abc"[..], &footer(&head)].concat();
        assert_eq!(parse(&file, file.len() as u64), Some(head));
        for at in 3..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged, file.len() as u64), None, "byte {at}");
        }
        for cut in 0..file.len() {
            assert_eq!(parse(&file[..cut], cut as u64), None, "cut at {cut}");
        }
        assert_eq!(parse(&file, file.len() as u64 + 1), None, "a byte more");
    }

    #[test]
    fn the_format_stays_readable() {
        let head = Head { length: 0, content_type: "a/b".parse().expect("a type"), sha256: Sha256::of(b"") };
        let golden = [&Sha256::of(b"").0[..], b"a/b\x00\x03\x79\xd8\xe8\xdd\x33\xab\x66\xd4RFBLOB01"].concat();
        assert_eq!(footer(&head), golden);
    }
}
