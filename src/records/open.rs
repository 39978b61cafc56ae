//! The folder `open/`: one small file for each live call, so that a call outlives a killed daemon.
//!
//! Its file says what was known at the call's start. One that cannot be read still says, by its name, that there was
//! such a call. Nothing here is worth a call's while: what fails is left out, and costs a `cut` record at most.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use log::debug;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::call::record::Started;

/// A call's id: 12 of `a-z2-7`, and so good for a file's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallId(heapless::String<12>);

impl CallId {
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let good = id.len() == 12 && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        if good { heapless::String::try_from(id).ok().map(Self) } else { None }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The folder.
pub(super) struct OpenFolder {
    path: PathBuf,
    /// Locked: the folder is ours for as long as this is open.
    _lock: File,
    /// Files of live calls that a power cut would still take.
    fresh: HashSet<CallId>,
}

impl OpenFolder {
    /// Opens the folder, takes it for this daemon alone, and says whose files it still holds. What else lies there stays
    /// there.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<CallId>)> {
        DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        let lock = File::open(path)?;
        // A file system without locks is no reason to keep no records.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another daemon keeps its records there"));
        }
        let mut left = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(CallId::parse);
            // Not a link, a pipe or a folder: each of them could keep us.
            if let Some(id) = id.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) {
                left.push(id);
            }
        }
        Ok((Self { path: path.to_owned(), _lock: lock, fresh: HashSet::new() }, left))
    }

    /// A call is live. One write: whoever kills us leaves all of it or nothing that can be read.
    pub(super) fn write(&mut self, id: CallId, line: &[u8]) {
        let path = self.path_of(&id);
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&path);
        if let Err(error) = written.and_then(|mut file| file.write_all(line)) {
            debug!(path:% = path.display(), error:%; "the file of a live call could not be written");
        }
        self.fresh.insert(id);
    }

    /// What was known of a call; its id alone where its file does not say.
    pub(super) fn read(&self, id: &CallId) -> Started {
        let mut bytes = Vec::new();
        let read = File::open(self.path_of(id)).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
        let started = read.ok().and_then(|_| serde_json::from_slice::<Started>(&bytes).ok());
        let named = |started: &Started| started.call_id == id.as_str();
        started.filter(named).unwrap_or_else(|| Started { call_id: id.as_str().to_owned(), ..Started::default() })
    }

    /// The record is safe. A file that stays is found again at the next start, beside its record.
    pub(super) fn remove(&mut self, id: &CallId) {
        self.fresh.remove(id);
        let path = self.path_of(id);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            debug!(path:% = path.display(), error:%; "the file of a call that is over could not be removed");
        }
    }

    /// Makes the files of calls that are still live safe from power cuts, as far as the disk lets us.
    pub(super) fn sync(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        for id in core::mem::take(&mut self.fresh) {
            let _ = File::open(self.path_of(&id)).and_then(|file| file.sync_data());
        }
        // Their names are the folder's.
        let _ = File::open(&self.path).and_then(|folder| folder.sync_all());
    }

    #[cfg(test)]
    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    fn path_of(&self, id: &CallId) -> PathBuf {
        self.path.join(format!("{}.json", id.as_str()))
    }
}

/// A file that we wrote has some hundred bytes.
const MOST_BYTES: u64 = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(text: &str) -> CallId {
        CallId::parse(text).unwrap()
    }

    #[test]
    fn only_an_id_becomes_a_name() {
        assert!(CallId::parse("k3vqd2mxa7re").is_some());
        for bad in
            ["", "k3vqd2mxa7r", "k3vqd2mxa7ree", "../../../etc", "K3vqd2mxa7re", "k3vqd2mxa7r8", "k3vqd2mxa7\u{e9}"]
        {
            assert!(CallId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_files_of_calls_are_found_and_the_rest_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["aaaaaaaaaaaa.json", "aaaaaaaaaaab.json.tmp", "notes.txt", ".aaaaaaaaaaac.json"] {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        fs::create_dir(folder.path().join("aaaaaaaaaaad.json")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("aaaaaaaaaaae.json")).unwrap();
        let (_, left) = OpenFolder::open(folder.path()).unwrap();
        assert_eq!(left, [id("aaaaaaaaaaaa")]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
    }

    #[test]
    fn a_file_that_cannot_be_read_still_names_its_call() {
        let folder = tempfile::tempdir().unwrap();
        let (mut open, _) = OpenFolder::open(folder.path()).unwrap();
        let other = Started { call_id: "bbbbbbbbbbbb".to_owned(), line: Some("pbx".to_owned()), ..Started::default() };
        let nameless = Started { call_id: "aaaaaaaaaaaa".to_owned(), ..Started::default() };
        // Nothing, a torn write, what a power cut leaves, and the file of another call.
        for bytes in [&b""[..], &other.line()[..20], &[0; 4096], &other.line()] {
            open.write(id("aaaaaaaaaaaa"), bytes);
            assert_eq!(open.read(&id("aaaaaaaaaaaa")), nameless);
        }
        open.write(id("bbbbbbbbbbbb"), &other.line());
        assert_eq!(open.read(&id("bbbbbbbbbbbb")), other);
    }

    #[test]
    fn a_call_that_is_over_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (mut open, _) = OpenFolder::open(folder.path()).unwrap();
        open.write(id("aaaaaaaaaaaa"), b"{}");
        open.sync();
        open.remove(&id("aaaaaaaaaaaa"));
        open.remove(&id("aaaaaaaaaaaa"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
