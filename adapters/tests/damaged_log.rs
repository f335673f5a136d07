//! A damaged log serves an exact prefix or is refused: never wrong bytes, never a hole, and nothing that was synced before the
//! last transaction is dropped without a word. What is refused can be repaired: cut off where it stops being whole.

#[path = "damaged_log/case.rs"]
mod case;

use std::{collections::BTreeMap, fs};

use case::{Came, Files, Made, Silently};
use ringforge_adapters::log::embedded::{
    OpenError,
    repair::{check, repair},
};

/// Bytes of a page of the file, and of a frame of the write-ahead log and its header.
const PAGE: usize = 8192;
const FRAME: usize = PAGE + 24;
const HEADER: usize = 32;

/// Tries every case, and tells how they came out.
fn try_all(made: &Made, cases: impl IntoIterator<Item = (String, Files, Silently)>) -> BTreeMap<&'static str, usize> {
    let mut tally = BTreeMap::new();
    for (name, files, silently) in cases {
        let came = case::holds(made, &name, &files, silently);
        *tally.entry(came.text()).or_default() += 1;
    }
    eprintln!("{tally:?}");
    tally
}

/// Bits to flip in each page: of the b-tree's header, of the cells' addresses, of what records say.
fn flips(made: &Made, of: fn(&mut Files) -> &mut Vec<u8>, pages: usize, bits: usize) -> Vec<(String, Files, Silently)> {
    let mut cases = Vec::new();
    let length = of(&mut made.files.clone()).len();
    let step = (length / PAGE).div_ceil(pages).max(1);
    for page in (0..length / PAGE).step_by(step) {
        for number in 0..bits {
            // The first eight bytes of a page, then ever further apart.
            let at = page * PAGE + if number < 8 { number } else { (number * number * 37 + page * 101) % PAGE };
            let mut files = made.files.clone();
            of(&mut files)[at] ^= 1 << ((page + number) % 8);
            cases.push((format!("bit flipped in byte {at}"), files, Silently::Nothing));
        }
        let mut files = made.files.clone();
        of(&mut files)[page * PAGE..(page + 1) * PAGE].fill(0);
        cases.push((format!("page {page} zeroed"), files, Silently::Nothing));
    }
    cases
}

fn damage_in_the_file(pages: usize, bits: usize) {
    let made = Made::closed();
    let mut cases = flips(&made, |files| &mut files.log, pages, bits);
    // Nothing can be told from a file that never was.
    cases.push(("file emptied".to_owned(), Files { log: Vec::new(), wal: Vec::new() }, Silently::Everything));
    let pages = (0..made.files.log.len() / PAGE).step_by((made.files.log.len() / PAGE).div_ceil(pages));
    let lengths = pages.flat_map(|page| [page * PAGE, page * PAGE + 1, page * PAGE + 4_000, (page + 1) * PAGE - 1]);
    for length in [1, 15, 16, 99, 100, 512, 4_096].into_iter().chain(lengths).filter(|length| *length > 0) {
        let log = made.files.log[..length].to_vec();
        cases.push((format!("file cut to {length} bytes"), Files { log, wal: Vec::new() }, Silently::Nothing));
    }
    let tally = try_all(&made, cases);
    for came in ["whole", "refused and repaired", "served up to the damage and repaired", "nothing left"] {
        assert!(tally.contains_key(came), "none came out as {came}: {tally:?}");
    }
}

#[test]
fn damage_in_the_file_is_noticed() {
    damage_in_the_file(8, 9);
}

#[test]
#[ignore = "long: make proof"]
fn damage_in_every_page_of_the_file_is_noticed() {
    damage_in_the_file(usize::MAX, 24);
}

fn damage_in_the_write_ahead_log(pages: usize, bits: usize) {
    let made = Made::killed();
    let mut cases = flips(&made, |files| &mut files.wal, pages, bits);
    for (_, _, silently) in &mut cases {
        *silently = Silently::TheLastAppend;
    }
    for at in 0..HEADER {
        let mut files = made.files.clone();
        files.wal[at] ^= 1 << (at % 8);
        cases.push((format!("bit flipped in byte {at} of the header"), files, Silently::Nothing));
    }
    let tally = try_all(&made, cases);
    assert!(tally.contains_key("refused and repaired"), "{tally:?}");
    assert!(tally.contains_key("an exact prefix"), "the last append may be lost: {tally:?}");
}

#[test]
fn damage_in_the_write_ahead_log_is_noticed() {
    damage_in_the_write_ahead_log(6, 8);
}

#[test]
#[ignore = "long: make proof"]
fn damage_in_every_page_of_the_write_ahead_log_is_noticed() {
    damage_in_the_write_ahead_log(usize::MAX, 16);
}

fn a_write_ahead_log_is_cut(places: &[usize], step: usize) {
    let made = Made::killed();
    let frames = (made.files.wal.len() - HEADER) / FRAME;
    let boundaries = (0..=frames).map(|frame| HEADER + frame * FRAME);
    let lengths: Vec<usize> = boundaries
        .flat_map(|at| places.iter().map(move |place| at + place))
        .chain([0, 1, 31])
        .chain((0..made.files.wal.len()).step_by(step))
        .filter(|length| *length <= made.files.wal.len())
        .collect();
    let mut kept = BTreeMap::new();
    for length in lengths {
        let files = Files { wal: made.files.wal[..length].to_vec(), ..made.files.clone() };
        let came = case::holds(&made, &format!("cut to {length} bytes"), &files, Silently::Everything);
        let (Came::Whole | Came::Prefix(_)) = came else { panic!("cut to {length} bytes: {}", came.text()) };
        kept.insert(length, if let Came::Prefix(kept) = came { kept } else { made.all() });
    }
    let kept: Vec<_> = kept.into_values().collect();
    assert!(kept.is_sorted(), "what is longer has no less: {kept:?}");
    assert_eq!(kept.first(), Some(&made.in_file), "without it there is what the file has");
    assert_eq!(kept.last(), Some(&made.all()));
}

#[test]
fn a_write_ahead_log_that_is_cut_gives_an_exact_prefix() {
    a_write_ahead_log_is_cut(&[0, FRAME / 2], usize::MAX);
}

#[test]
#[ignore = "long: make proof"]
fn a_write_ahead_log_that_is_cut_anywhere_gives_an_exact_prefix() {
    a_write_ahead_log_is_cut(&[0, 1, 24, 25, FRAME - 1], 509);
}

#[test]
fn a_write_ahead_log_without_its_file_is_kept() {
    let made = Made::killed();
    let directory = case::directory();
    let path = made.files.write(directory.path());
    let wal = path.with_extension("db-wal");
    for empty in [true, false] {
        let done = if empty { fs::write(&path, "") } else { fs::remove_file(&path) };
        done.expect("it is gone");
        let refused = case::open(&path).err().expect("it is refused");
        assert!(matches!(&refused, OpenError::Damaged { what } if what.contains("is gone")), "{refused}");
        assert!(matches!(repair(&path, 2), Err(OpenError::Damaged { .. })), "there is nothing to repair");
        assert_eq!(fs::read(&wal).expect("it is kept"), made.files.wal);
    }
    fs::write(&path, &made.files.log).expect("it is back");
    assert_eq!(case::served(&path).expect("it opens"), made.all());
}

#[test]
fn what_belongs_to_another_log_is_never_mixed_in() {
    let (one, other) = (Made::killed(), Made::killed_after("of another", 9));
    for (name, files) in [
        ("the write-ahead log", Files { wal: other.files.wal.clone(), ..one.files.clone() }),
        ("the file", Files { log: other.files.log.clone(), ..one.files.clone() }),
        ("both", other.files.clone()),
    ] {
        let directory = case::directory();
        let path = files.write(directory.path());
        match case::open(&path) {
            Err(OpenError::Damaged { what }) => println!("{name}: {what}"),
            Err(error) => panic!("{name}: {error}"),
            Ok(log) => {
                println!("{name}: served");
                assert!(one.is_prefix(&log) || other.is_prefix(&log), "{name}: records of both");
            }
        }
    }
}

#[test]
fn an_index_of_the_write_ahead_log_is_never_trusted() {
    let made = Made::killed();
    for (name, index) in [("zeros", vec![0; 32_768]), ("noise", (0..=255).cycle().take(32_768).collect())] {
        let directory = case::directory();
        let path = made.files.write(directory.path());
        fs::write(path.with_extension("db-shm"), index).expect("an index");
        assert_eq!(case::served(&path).expect("it opens"), made.all(), "{name}");
    }
}

#[test]
fn a_log_that_is_whole_is_left_alone() {
    for made in [Made::closed(), Made::killed()] {
        let directory = case::directory();
        let path = made.files.write(directory.path());
        assert!(check(&path, 2).expect("it reads").is_whole());
        let (found, aside) = repair(&path, 2).expect("it reads");
        assert!(found.is_whole() && aside.is_none());
        assert_eq!(fs::read(&path).expect("the file"), made.files.log);
        assert_eq!(case::served(&path).expect("it opens"), made.all());
    }
}

#[test]
fn a_repair_keeps_everything_before_the_damage() {
    let made = Made::closed();
    let directory = case::directory();
    let mut files = made.files.clone();
    files.log[made.places[1]] ^= 1;
    let path = files.write(directory.path());
    let found = check(&path, 2).expect("it reads");
    assert_eq!(found.besides, [""; 0]);
    let [one, other] = &found.partitions[..] else { panic!("{found:?}") };
    assert_eq!((one.end.0, one.lost), (700, 600), "{one:?}");
    assert_eq!(one.damage.as_deref(), Some("corrupt: partition 0 offset 700: the checksum differs"));
    assert_eq!((other.end.0, other.lost, &other.damage), (40, 0, &None));
    assert_eq!(repair(&path, 2).expect("it is repaired").0, found);
    assert_eq!(case::served(&path).expect("it opens"), [700, 40]);
}

#[test]
fn a_log_in_use_is_not_repaired() {
    let made = Made::closed();
    let directory = case::directory();
    let path = made.files.write(directory.path());
    let log = case::open(&path).expect("it opens");
    assert!(matches!(repair(&path, 2), Err(OpenError::Locked { .. })));
    assert!(matches!(check(&path, 2), Err(OpenError::Locked { .. })));
    drop(log);
    assert!(matches!(repair(&directory.path().join("none.db"), 2), Err(OpenError::Io(_))));
}

#[test]
fn a_repair_that_was_cut_short_goes_on() {
    let made = Made::killed();
    let mut files = made.files.clone();
    files.log[made.places[0]] ^= 1;
    let repaired = case::directory();
    let path = files.write(repaired.path());
    let (found, _) = repair(&path, 2).expect("it is repaired");
    let wanted = case::served(&path).expect("it opens");
    assert_eq!(wanted[0], usize::try_from(found.partitions[0].end.0).expect("a small number"));
    let whole = fs::read(&path).expect("the repaired file");

    // As a process left it that ended after each step: what is made waits; the file is aside; the write-ahead log is, too.
    for step in 0..3 {
        let directory = case::directory();
        let path = files.write(directory.path());
        let wal = path.with_extension("db-wal");
        fs::write(directory.path().join("log.db.repaired"), &whole).expect("it waits");
        if step > 0 {
            fs::rename(&path, directory.path().join("log.db.damaged-1")).expect("it is put aside");
        }
        if step > 1 {
            fs::rename(&wal, directory.path().join("log.db.damaged-1-wal")).expect("it is put aside");
        }
        let refused = case::open(&path).err().expect("it is refused").to_string();
        assert!(refused.contains("repair") || refused.contains("is gone"), "{refused}");
        let (_, aside) = repair(&path, 2).expect("it goes on");
        let aside = aside.expect("the damaged files");
        assert_eq!(fs::read(&aside).ok(), (step < 2).then(|| files.log.clone()).or(fs::read(&aside).ok()));
        assert_eq!(case::served(&path).expect("it opens"), wanted, "after step {step}");
        for (name, bytes) in [("log.db.damaged-1", &files.log), ("log.db.damaged-1-wal", &files.wal)] {
            assert_eq!(&fs::read(directory.path().join(name)).expect("it is kept"), bytes, "after step {step}");
        }
    }
}
