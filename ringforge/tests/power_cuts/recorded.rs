//! A disk that keeps what was synced and no more than it likes of the rest. The real server writes to real files, and a
//! library preloaded into it notes every write, sync and change of a name. From these notes comes what a power cut may have
//! left: for every file all that was written before its last sync began, for every folder all names before its last sync;
//! of what came later nothing, everything, a beginning, some writes, or some sectors of some writes.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
};

use crate::run::Random;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;
/// The head of a record, in bytes.
const HEAD: usize = 24;

/// Files by path, with their bytes; folders have none.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Write,
    Size,
    Sync,
    FileMade,
    FolderMade,
    Gone,
    Moved,
}

#[derive(Debug)]
struct Record {
    what: What,
    path: PathBuf,
    /// Where it is written, how long the file becomes, or how many records the sync covers.
    number: usize,
    data: Range<usize>,
}

/// Everything one life of a server did to the disk, in order.
#[derive(Debug)]
pub struct Trace {
    bytes: Vec<u8>,
    records: Vec<Record>,
}

/// What a cut leaves of that which was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    Nothing,
    Everything,
    /// What came before this record.
    Until(usize),
    /// Some writes, and names before a record.
    Writes(u64, usize),
    /// Some sectors, and names before a record.
    Sectors(u64, usize),
}

impl Left {
    /// Any of them, of so many records.
    pub fn any(random: &mut Random, records: usize) -> Self {
        let any = usize::try_from(random.below(records as u64 + 1)).expect("a small number");
        let record = if random.below(3) == 0 { 0 } else { any };
        match random.below(10) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Until(record),
            4..7 => Self::Writes(random.below(u64::MAX), record),
            _ => Self::Sectors(random.below(u64::MAX), record),
        }
    }

    fn name(self, record: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Until(before) | Self::Writes(_, before) | Self::Sectors(_, before) => record < before,
        }
    }

    fn sector(self, record: usize, sector: usize) -> bool {
        let coin =
            |seed: u64, place: usize| Random(seed ^ (place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).below(2) == 0;
        match self {
            Self::Nothing | Self::Everything | Self::Until(_) => self.name(record),
            Self::Writes(seed, _) => coin(seed, record),
            Self::Sectors(seed, _) => coin(seed, record) || coin(seed, (record << 20) + sector),
        }
    }
}

impl Trace {
    /// Reads what was noted; the last record may be cut off.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("there are notes");
        let (mut records, mut at) = (Vec::new(), 0);
        let kinds = [What::Write, What::Size, What::Sync, What::FileMade, What::FolderMade, What::Gone, What::Moved];
        while let Some(head) = bytes.get(at..at + HEAD) {
            let word =
                |from: usize| usize::try_from(u64::from_le_bytes(head[from..from + 8].try_into().expect("eight")));
            let half = |from: usize| u32::from_le_bytes(head[from..from + 4].try_into().expect("four")) as usize;
            let (number, data_bytes) = (word(8).expect("a size"), word(16).expect("a size"));
            let path_end = at + HEAD + half(4);
            let Some(path) = bytes.get(at + HEAD..path_end).filter(|_| path_end + data_bytes <= bytes.len()) else {
                break;
            };
            let path = PathBuf::from(std::str::from_utf8(path).expect("a path is text"));
            at = path_end + data_bytes;
            records.push(Record { what: kinds[half(0)], path, number, data: path_end..at });
        }
        Self { bytes, records }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// The disk after a cut at the moment of record `upto`, if it was `before` at the start.
    pub fn image(&self, before: &Image, upto: usize, left: Left) -> Image {
        let mut replay = Replay {
            trace: self,
            names: BTreeMap::new(),
            kept: BTreeMap::new(),
            naming: Vec::new(),
            files: Vec::new(),
        };
        for (path, bytes) in before {
            let entry = bytes.as_ref().map(|bytes| replay.file(bytes.clone()));
            replay.names.insert(path.clone(), entry);
        }
        replay.kept.clone_from(&replay.names);
        for (number, record) in self.records[..upto].iter().enumerate() {
            replay.step(number, record);
        }
        replay.end(left)
    }

    /// Whether this leads to what was `found` on a disk that was `before` at the start, once who wrote was killed: the last
    /// thing noted may be undone, and a write half done.
    pub fn leads_to(&self, before: &Image, found: &Image) -> bool {
        let is = |records: usize| self.image(before, records, Left::Everything);
        let Some((last, earlier)) = self.records.split_last() else { return is(0) == *found };
        is(self.len()) == *found || {
            let mut begun = is(earlier.len());
            let (now, then) = (begun.get_mut(&last.path), found.get(&last.path));
            if let (What::Write, Some(Some(now)), Some(Some(then))) = (last.what, now, then) {
                let written = then.iter().skip(last.number).zip(&self.bytes[last.data.clone()]);
                let done = last.number..last.number + written.take_while(|(one, other)| one == other).count();
                if !done.is_empty() {
                    now.resize(now.len().max(done.end), 0);
                    now[done.clone()].copy_from_slice(&then[done]);
                }
            }
            begun == *found
        }
    }
}

/// The number of a file; none: it is a folder.
type Entry = Option<usize>;

struct File {
    /// What a cut leaves at least.
    synced: Vec<u8>,
    /// The records of what came later.
    later: Vec<usize>,
}

struct Replay<'a> {
    trace: &'a Trace,
    names: BTreeMap<PathBuf, Entry>,
    /// The names that a cut leaves at least.
    kept: BTreeMap<PathBuf, Entry>,
    /// The records of what came later, with the entry they are about.
    naming: Vec<(usize, Entry)>,
    files: Vec<File>,
}

impl Replay<'_> {
    fn file(&mut self, synced: Vec<u8>) -> usize {
        self.files.push(File { synced, later: Vec::new() });
        self.files.len() - 1
    }

    fn step(&mut self, number: usize, record: &Record) {
        let named = |names: &BTreeMap<PathBuf, Entry>| names.get(&record.path).copied().flatten();
        match record.what {
            What::Write | What::Size => {
                let file = named(&self.names).expect("what is written to has a name");
                self.files[file].later.push(number);
            }
            What::Sync => match named(&self.names) {
                Some(file) => self.sync_file(file, record.number),
                None => self.sync_folder(&record.path, record.number),
            },
            What::FileMade | What::FolderMade | What::Gone | What::Moved => {
                let entry = match record.what {
                    What::FileMade => Some(self.file(Vec::new())),
                    What::FolderMade => None,
                    _ => named(&self.names),
                };
                rename(self.trace, record, entry, &mut self.names);
                self.naming.push((number, entry));
            }
        }
    }

    fn sync_file(&mut self, file: usize, covered: usize) {
        let File { synced, later } = &mut self.files[file];
        let still = later.split_off(later.partition_point(|number| *number < covered));
        for number in std::mem::replace(later, still) {
            write(self.trace, number, Left::Everything, synced);
        }
    }

    fn sync_folder(&mut self, folder: &Path, covered: usize) {
        let inside = |number: usize| number < covered && self.trace.records[number].path.parent() == Some(folder);
        for (number, entry) in self.naming.extract_if(.., |(number, _)| inside(*number)) {
            rename(self.trace, &self.trace.records[number], entry, &mut self.kept);
        }
    }

    fn end(mut self, left: Left) -> Image {
        for (number, entry) in self.naming.iter().filter(|(number, _)| left.name(*number)) {
            rename(self.trace, &self.trace.records[*number], *entry, &mut self.kept);
        }
        let mut image = Image::new();
        for (path, entry) in self.kept {
            // What is in a folder that was lost is lost with it.
            let folder = path.parent().filter(|folder| self.names.contains_key(*folder));
            if folder.is_some_and(|folder| !image.contains_key(folder)) {
                continue;
            }
            let bytes = entry.map(|file| {
                let File { synced, later } = &self.files[file];
                let mut bytes = synced.clone();
                for number in later {
                    write(self.trace, *number, left, &mut bytes);
                }
                bytes
            });
            image.insert(path, bytes);
        }
        image
    }
}

/// Does to names what a record says.
fn rename(trace: &Trace, record: &Record, entry: Entry, names: &mut BTreeMap<PathBuf, Entry>) {
    match record.what {
        What::FileMade | What::FolderMade => drop(names.insert(record.path.clone(), entry)),
        What::Gone => drop(names.remove(&record.path)),
        What::Moved => {
            let to = PathBuf::from(std::str::from_utf8(&trace.bytes[record.data.clone()]).expect("a path is text"));
            assert_eq!(to.parent(), record.path.parent(), "one sync covers both names");
            names.remove(&record.path);
            names.insert(to, entry);
        }
        What::Write | What::Size | What::Sync => unreachable!("no change of a name"),
    }
}

/// Does to the bytes of a file what a record says, as far as it is left.
fn write(trace: &Trace, number: usize, left: Left, bytes: &mut Vec<u8>) {
    let record = &trace.records[number];
    if record.what == What::Size {
        if left.sector(number, 0) {
            bytes.resize(record.number, 0);
        }
        return;
    }
    let (data, mut at) = (&trace.bytes[record.data.clone()], record.number);
    let end = at + data.len();
    while at < end {
        let next = ((at / SECTOR + 1) * SECTOR).min(end);
        if left.sector(number, at / SECTOR) {
            bytes.resize(bytes.len().max(next), 0);
            bytes[at..next].copy_from_slice(&data[at - record.number..next - record.number]);
        }
        at = next;
    }
}

/// Everything below a folder, but for memory that SQLite shares through a file.
pub fn found(folder: &Path) -> Image {
    let mut image = Image::new();
    for entry in fs::read_dir(folder).expect("a folder is read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            image.extend(found(&path));
            image.insert(path, None);
        } else if !path.to_string_lossy().ends_with("-shm") {
            let bytes = fs::read(&path).expect("a file is read");
            image.insert(path, Some(bytes));
        }
    }
    image
}

/// Makes a folder hold this and nothing else, but for shared memory full of `rubbish`.
pub fn restore(folder: &Path, image: &Image, rubbish: u8) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("empty the disk: {error}"),
        _ => fs::create_dir(folder).expect("a folder is made"),
    }
    for (path, bytes) in image {
        let Some(bytes) = bytes else {
            fs::create_dir(path).expect("a folder is made");
            continue;
        };
        fs::write(path, bytes).expect("a file is written");
        if let Some(shared) = path.to_string_lossy().strip_suffix("-wal") {
            fs::write(format!("{shared}-shm"), vec![rubbish; 32 << 10]).expect("a file is written");
        }
    }
}

/// Compiles what takes the notes; none where there is no C compiler.
pub fn library(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("recorder.c"), folder.join("recorder.so"));
    fs::write(&source, include_str!("recorder.c")).expect("the source is written");
    let arguments = ["-shared", "-fPIC", "-O2", "-o"];
    let compiled = Command::new("cc").args(arguments).arg(&library).arg(&source).arg("-ldl").output().ok()?;
    assert!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
    Some(library)
}

#[cfg(test)]
mod tests {
    //! Given these notes, when the power fails, then that is left.

    use super::*;

    fn trace(notes: &[(What, &str, usize, &str)]) -> Trace {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        for (what, path, number, data) in notes {
            let from = bytes.len();
            bytes.extend_from_slice(data.as_bytes());
            records.push(Record { what: *what, path: path.into(), number: *number, data: from..bytes.len() });
        }
        Trace { bytes, records }
    }

    fn left(notes: &[(What, &str, usize, &str)], left: Left) -> Vec<(String, String)> {
        let image = trace(notes).image(&Image::new(), notes.len(), left);
        let text =
            |bytes: Option<Vec<u8>>| bytes.map_or("/".to_owned(), |bytes| String::from_utf8(bytes).expect("text"));
        image.into_iter().map(|(path, bytes)| (path.display().to_string(), text(bytes))).collect()
    }

    fn is(path: &str, text: &str) -> (String, String) {
        (path.to_owned(), text.to_owned())
    }

    #[test]
    fn a_file_is_left_when_it_and_its_name_were_synced() {
        let mut notes =
            vec![(What::FileMade, "/d/f", 0, ""), (What::Write, "/d/f", 0, "old"), (What::Sync, "/d/f", 2, "")];
        assert_eq!(left(&notes, Left::Nothing), [], "its name was not");
        assert_eq!(left(&notes, Left::Everything), [is("/d/f", "old")]);
        notes.push((What::Sync, "/d", 3, ""));
        notes.push((What::Write, "/d/f", 2, "new"));
        assert_eq!(left(&notes, Left::Nothing), [is("/d/f", "old")]);
        assert_eq!(left(&notes, Left::Everything), [is("/d/f", "olnew")]);
        assert_eq!(left(&notes, Left::Until(4)), [is("/d/f", "old")]);
        // It began before that was written.
        notes.push((What::Sync, "/d/f", 4, ""));
        assert_eq!(left(&notes, Left::Nothing), [is("/d/f", "old")]);
        notes.push((What::Sync, "/d/f", 6, ""));
        assert_eq!(left(&notes, Left::Nothing), [is("/d/f", "olnew")]);
    }

    #[test]
    fn what_is_in_a_lost_folder_is_lost() {
        let notes = [
            (What::FolderMade, "/d/e", 0, ""),
            (What::FileMade, "/d/e/f", 0, ""),
            (What::Sync, "/d/e/f", 2, ""),
            (What::Sync, "/d/e", 3, ""),
        ];
        assert_eq!(left(&notes, Left::Nothing), []);
        assert_eq!(left(&notes, Left::Everything), [is("/d/e", "/"), is("/d/e/f", "")]);
    }

    #[test]
    fn a_file_moved_to_anothers_place_takes_it_when_the_folder_is_synced() {
        let mut notes = vec![
            (What::FileMade, "/d/a", 0, ""),
            (What::Write, "/d/a", 0, "one"),
            (What::FileMade, "/d/b", 0, ""),
            (What::Write, "/d/b", 0, "two"),
            (What::Sync, "/d/a", 4, ""),
            (What::Sync, "/d/b", 4, ""),
            (What::Sync, "/d", 4, ""),
            (What::Moved, "/d/b", 0, "/d/a"),
            (What::Size, "/d/a", 1, ""),
        ];
        assert_eq!(left(&notes, Left::Nothing), [is("/d/a", "one"), is("/d/b", "two")]);
        assert_eq!(left(&notes, Left::Everything), [is("/d/a", "t")]);
        notes.push((What::Sync, "/d", 9, ""));
        assert_eq!(left(&notes, Left::Nothing), [is("/d/a", "two")]);
    }

    #[test]
    fn notes_lead_to_what_was_done_though_the_last_of_it_only_in_part() {
        let notes =
            [(What::FileMade, "/d/f", 0, ""), (What::Write, "/d/f", 0, "first"), (What::Write, "/d/f", 3, "second")];
        let leads_to = |text: &str| {
            let found = Image::from([(PathBuf::from("/d/f"), Some(text.as_bytes().to_vec()))]);
            trace(&notes).leads_to(&Image::new(), &found)
        };
        for led_to in ["firsecond", "first", "firse", "firsec"] {
            assert!(leads_to(led_to), "{led_to}");
        }
        for not in ["", "firs", "firsX", "firsecondX", "Xirsecond", "fir\0\0\0ond"] {
            assert!(!leads_to(not), "{not}");
        }
    }

    #[test]
    fn a_write_may_be_torn_between_sectors() {
        let long = "x".repeat(4 * SECTOR);
        let notes =
            [(What::FileMade, "/d/f", 0, ""), (What::Sync, "/d", 1, ""), (What::Write, "/d/f", 0, long.as_str())];
        let trace = trace(&notes);
        let torn = (0..100).filter(|seed| {
            let image = trace.image(&Image::new(), notes.len(), Left::Sectors(*seed, 0));
            let bytes = image[Path::new("/d/f")].as_ref().expect("a file");
            bytes.chunks(SECTOR).any(|sector| sector[0] == b'x') && bytes.len() < long.len() || bytes.contains(&0)
        });
        assert!(torn.count() > 10, "some of them");
    }
}
