//! Disks that lose power: one whose every write is known, and a real file system on a loop device.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    recorded::{self, Image, Left, Trace},
    run::Random,
    support::{Options, Server},
};

/// The size of a loop disk's file; only what is written takes space.
const LOOP_BYTES: u64 = 4 << 30;
/// How long a server goes on at most after its disk is gone.
const WITHOUT_DISK_MS: u64 = 30;
/// Records of a start: a life that ends before one of them often ends before it is ready.
const START_RECORDS: u64 = 300;

/// A disk with a data directory on it.
pub trait Disk {
    /// What a server is started with on it.
    fn options(&self) -> Options;

    /// Cuts the power of server and disk, and switches the disk on again.
    fn cut(&mut self, server: &mut Server, random: &mut Random);

    /// Starts the server again. It may lose power before it is ready, and more than once.
    fn start(&mut self, server: &mut Server, random: &mut Random);
}

/// A data directory that is not there yet, nor is the folder it is to be in.
fn data(folder: &Path) -> PathBuf {
    folder.join("some").join("data")
}

/// A disk whose every write is known.
pub struct Recorded {
    home: tempfile::TempDir,
    library: PathBuf,
    /// What was there when the power came back.
    image: Image,
    life: u32,
}

impl Recorded {
    /// An empty one; `None`, and said so, where there is no C compiler.
    pub fn new() -> Option<Self> {
        let home = tempfile::tempdir().expect("a temporary directory");
        let Some(library) = recorded::library(home.path()) else {
            crate::skipped("power cuts on a recorded disk, because there is no C compiler");
            return None;
        };
        let disk = Self { home, library, image: Image::new(), life: 1 };
        fs::create_dir(disk.folder()).expect("a folder is made");
        Some(disk)
    }

    /// What counts as the disk.
    pub fn folder(&self) -> PathBuf {
        self.home.path().canonicalize().expect("it is there").join("disk")
    }

    fn notes(&self) -> PathBuf {
        self.home.path().join(format!("notes-{}", self.life))
    }

    /// What was done in this life so far.
    pub fn trace(&self) -> Trace {
        Trace::read(&self.notes())
    }

    /// Makes the disk hold this.
    pub fn restore(&self, image: &Image, random: &mut Random) {
        recorded::restore(&self.folder(), image, u8::try_from(random.below(256)).expect("a byte"));
    }

    fn environment(&self, kill_at: Option<u64>) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.to_str().expect("a path is text").to_owned();
        let mut all = vec![
            ("LD_PRELOAD".to_owned(), text(self.library.clone())),
            ("RECORD_BELOW".to_owned(), text(self.folder())),
            ("RECORD_TO".to_owned(), text(self.notes())),
        ];
        all.extend(kill_at.map(|record| ("RECORD_KILL_AT".to_owned(), record.to_string())));
        all
    }

    /// The power comes back.
    fn lose(&mut self, random: &mut Random) {
        let trace = self.trace();
        let found = recorded::found(&self.folder());
        assert!(trace.leads_to(&self.image, &found), "something was written that is not in the notes");
        let left = Left::any(random, trace.len());
        eprintln!("a cut at record {} leaves {left:?} of what was not synced", trace.len());
        self.image = trace.image(&self.image, trace.len(), left);
        self.restore(&self.image, random);
        fs::remove_file(self.notes()).expect("the notes are there");
        self.life += 1;
    }
}

impl Disk for Recorded {
    fn options(&self) -> Options {
        Options { data: Some(data(&self.folder())), environment: self.environment(None), ..Options::default() }
    }

    fn cut(&mut self, server: &mut Server, random: &mut Random) {
        server.kill9();
        self.lose(random);
    }

    fn start(&mut self, server: &mut Server, random: &mut Random) {
        while random.below(3) == 0 {
            let environment = self.environment(Some(random.below(START_RECORDS)));
            server.with_options(|options| options.environment = environment);
            if server.try_restart().is_ok() {
                server.kill9();
            }
            self.lose(random);
        }
        let environment = self.environment(None);
        server.with_options(|options| options.environment = environment);
        server.restart();
    }
}

/// XFS in a file. A cut is its own shutdown: what is not in its log or in its blocks then is gone.
pub struct Loop {
    home: tempfile::TempDir,
}

impl Loop {
    /// An empty one; `None`, and said so, where none can be had.
    pub fn new() -> Option<Self> {
        let home = tempfile::tempdir().expect("a temporary directory");
        let disk = Self { home };
        fs::create_dir(disk.folder()).expect("a folder is made");
        let file = fs::File::create(disk.file()).expect("a file is made");
        file.set_len(LOOP_BYTES).expect("a file may be large");
        let made = run(Command::new("mkfs.xfs").arg("-q").arg(disk.file())).and_then(|()| disk.mount());
        if let Err(why) = made.and_then(|()| run(Command::new("xfs_io").arg("-V"))) {
            crate::skipped(&format!("power cuts on XFS, because {why}"));
            return None;
        }
        Some(disk)
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("xfs")
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-t", "xfs", "-o", "loop"]).arg(self.file()).arg(self.folder()))
    }

    fn shut_down(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(self.folder())).expect("it is shut down");
    }
}

impl Disk for Loop {
    fn options(&self) -> Options {
        Options { data: Some(data(&self.folder())), ..Options::default() }
    }

    fn cut(&mut self, server: &mut Server, random: &mut Random) {
        if random.below(2) == 0 {
            server.kill9();
            self.shut_down();
        } else {
            // What it still says without a disk must hold as well.
            self.shut_down();
            thread::sleep(Duration::from_millis(random.below(WITHOUT_DISK_MS)));
            server.kill9();
        }
        run(Command::new("umount").arg(self.folder())).expect("it is unmounted");
        self.mount().expect("it is mounted again");
    }

    fn start(&mut self, server: &mut Server, _: &mut Random) {
        server.restart();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // It may not be mounted.
        let _ = run(Command::new("umount").arg("-l").arg(self.folder()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{name}: {}", said.trim())) }
}
