//! A file system of its own for a data directory, where one may be mounted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A small file system in memory. It is taken away when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Over a directory, whose files it gets; `None`, and the test says so, where that is not allowed.
    pub fn over(directory: &Path, bytes: u64, test: &str) -> Option<Self> {
        let files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(directory)
            .expect("it is there")
            .map(|file| file.expect("a file").path())
            .map(|path| (path.clone(), fs::read(path).expect("it reads")))
            .collect();
        if !mount(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"], directory) {
            eprintln!("SKIPPED: {test}, because no file system may be mounted here");
            return None;
        }
        let mounted = Self(directory.to_owned());
        for (path, bytes) in files {
            fs::write(path, bytes).expect("there is room");
        }
        Some(mounted)
    }

    /// Other options, such as `ro` or `size=..`.
    pub fn again(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}")], &self.0), "it is mounted already");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(how: &[&str], directory: &Path) -> bool {
    Command::new("mount").args(how).arg(directory).output().is_ok_and(|output| output.status.success())
}
