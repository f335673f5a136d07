//! The promises of the objects, on every adapter.

#[cfg(feature = "cluster")]
#[path = "blobs/bucket.rs"]
mod bucket;
#[path = "blobs/serving.rs"]
#[allow(dead_code, reason = "the other half is for tests without a socket")]
mod serving;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use ringforge_adapters::blobs::file::FileBlobs;
use ringforge_domain::position::LogTime;
use ringforge_ports::{
    blobs::{Blobs, Key, Signed},
    clock::{ManualClock, SeededIds},
    contract::blobs::{Answer, Subject},
    contract_tests,
    memory::blobs::MemoryBlobs,
};
use tempfile::TempDir;

use serving::Served;

struct Memory;

#[async_trait]
impl Subject for Memory {
    async fn open(&self) -> Arc<dyn Blobs> {
        MemoryBlobs::new()
    }

    async fn reopen(&self) -> Option<Arc<dyn Blobs>> {
        None
    }

    async fn damage(&self, _: &Key) -> bool {
        false
    }

    async fn send(&self, _: &Signed, _: &[u8]) -> Option<Answer> {
        None
    }

    async fn pass(&self, _: Duration) {}
}

/// A directory, and a server for its URLs; `reopen` opens a copy of the directory as it is at that moment, which is what a
/// killed process leaves.
struct File {
    directory: TempDir,
    opened: Mutex<PathBuf>,
    public: Mutex<String>,
    served: Served,
    clock: Arc<ManualClock>,
}

impl File {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let opened = Mutex::new(directory.path().join("0"));
        let clock = ManualClock::at(LogTime(1_700_000_000_500_000));
        Self { directory, opened, public: Mutex::default(), served: Served::default(), clock }
    }

    fn path(&self) -> PathBuf {
        self.opened.lock().expect("no panic while the lock is held").clone()
    }

    fn open_at(&self, path: &Path) -> Arc<FileBlobs> {
        let public = self.public.lock().expect("no panic while the lock is held").clone();
        let blobs = FileBlobs::open(path, &public, &[[7; 32]], self.clock.clone(), SeededIds::new(1));
        let blobs = blobs.expect("the store opens");
        *self.served.lock().expect("no panic while the lock is held") = Some(Arc::clone(&blobs));
        blobs
    }
}

#[async_trait]
impl Subject for File {
    async fn open(&self) -> Arc<dyn Blobs> {
        let address = serving::listen(Arc::clone(&self.served)).await;
        *self.public.lock().expect("no panic while the lock is held") = format!("http://{address}");
        self.open_at(&self.path())
    }

    async fn reopen(&self) -> Option<Arc<dyn Blobs>> {
        let (from, to) = (self.path(), self.directory.path().join("1"));
        copy(&from, &to);
        let blobs = self.open_at(&to);
        *self.opened.lock().expect("no panic while the lock is held") = to;
        Some(blobs)
    }

    async fn damage(&self, key: &Key) -> bool {
        let path = self.path().join("objects").join(key.as_str());
        let mut bytes = fs::read(&path).expect("the object's file");
        bytes[0] ^= 1;
        fs::write(&path, bytes).expect("the damage");
        true
    }

    async fn send(&self, request: &Signed, body: &[u8]) -> Option<Answer> {
        Some(serving::send(request, body).await)
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

/// A directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory for the copy");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

contract_tests!(
    blobs,
    memory,
    Memory,
    [
        what_is_got_is_what_was_put,
        large_objects_come_in_pieces,
        what_was_not_put_is_not_there,
        puts_do_not_overwrite,
        of_several_puts_one_wins,
        nothing_is_seen_of_an_unfinished_put,
        a_body_that_fails_leaves_nothing,
        damage_is_told,
        copies_are_the_same,
        copies_do_not_overwrite,
        deleted_is_gone,
        lists_are_in_order,
        lists_come_in_pages,
        what_was_put_survives,
        an_upload_url_uploads,
        an_upload_url_is_for_one_object,
        the_bytes_are_those_that_were_declared,
        uploads_do_not_overwrite,
        a_download_url_downloads,
        a_download_url_is_for_one_object,
        ranges_are_downloaded,
        file_names_are_harmless,
        nobody_gets_in_without_a_url,
        urls_expire,
        urls_are_bounded,
    ]
);

contract_tests!(
    blobs,
    file,
    File::new(),
    [
        what_is_got_is_what_was_put,
        large_objects_come_in_pieces,
        what_was_not_put_is_not_there,
        puts_do_not_overwrite,
        of_several_puts_one_wins,
        nothing_is_seen_of_an_unfinished_put,
        a_body_that_fails_leaves_nothing,
        damage_is_told,
        copies_are_the_same,
        copies_do_not_overwrite,
        deleted_is_gone,
        lists_are_in_order,
        lists_come_in_pages,
        what_was_put_survives,
        an_upload_url_uploads,
        an_upload_url_is_for_one_object,
        the_bytes_are_those_that_were_declared,
        uploads_do_not_overwrite,
        a_download_url_downloads,
        a_download_url_is_for_one_object,
        ranges_are_downloaded,
        file_names_are_harmless,
        nobody_gets_in_without_a_url,
        urls_expire,
        urls_are_bounded,
    ]
);

#[cfg(feature = "cluster")]
contract_tests!(
    blobs,
    s3,
    TEST_S3 | address | bucket::S3::new(&address),
    [
        what_is_got_is_what_was_put,
        large_objects_come_in_pieces,
        what_was_not_put_is_not_there,
        puts_do_not_overwrite,
        of_several_puts_one_wins,
        nothing_is_seen_of_an_unfinished_put,
        a_body_that_fails_leaves_nothing,
        damage_is_told,
        copies_are_the_same,
        copies_do_not_overwrite,
        deleted_is_gone,
        lists_are_in_order,
        lists_come_in_pages,
        what_was_put_survives,
        an_upload_url_uploads,
        an_upload_url_is_for_one_object,
        the_bytes_are_those_that_were_declared,
        uploads_do_not_overwrite,
        a_download_url_downloads,
        a_download_url_is_for_one_object,
        ranges_are_downloaded,
        file_names_are_harmless,
        nobody_gets_in_without_a_url,
        urls_expire,
        urls_are_bounded,
    ]
);
