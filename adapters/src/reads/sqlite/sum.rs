//! What a file was when it was closed in order: its hash stands beside it until it is opened again. Of what a disk does to
//! it meanwhile, SQLite notices only some.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use ringforge_ports::Error;

/// Bytes of a page: SQLite's own choice.
const PAGE: u64 = 4_096;

/// Where it is noted.
pub(super) fn place(path: &Path) -> PathBuf {
    path.with_extension("sum")
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn wal(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Notes what a file is that was closed. One that was not closed in order keeps a write-ahead log: nothing is noted.
pub(super) fn note(path: &Path) -> io::Result<()> {
    if length(&wal(path)) > 0 {
        return Ok(());
    }
    let new = place(path).with_extension("sum-new");
    fs::write(&new, hash(path)?)?;
    fs::rename(new, place(path))
}

/// `Corrupt` if a file is not what was noted of it. From now on it may change.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    let unavailable = |error: io::Error| Error::Unavailable(format!("look at the read models: {error}"));
    let damaged = |what: String| Error::Corrupt(format!("open the read models: {what}"));
    match fs::read_to_string(place(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        noted => {
            let same = length(&wal(path)) == 0 && hash(path).is_ok_and(|hash| noted.is_ok_and(|noted| noted == hash));
            fs::remove_file(place(path)).map_err(unavailable)?;
            if !same {
                return Err(damaged("they are not as they were closed".to_owned()));
            }
        }
    }
    // Of a page that is there in part SQLite takes the rest for zeros.
    match length(path) {
        bytes if bytes.is_multiple_of(PAGE) => Ok(()),
        bytes => Err(damaged(format!("they end at byte {bytes}"))),
    }
}
