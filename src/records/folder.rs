//! The folder of records, opened: it belongs to this daemon alone, and what the last one left in it is in order.

use core::fmt;
use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use log::info;

use super::{
    open::{CallId, OpenFolder},
    spool::Spool,
};
use crate::clock;

/// The folder.
pub(super) struct Folder {
    pub(super) spool: Spool,
    pub(super) open: OpenFolder,
    /// Calls that an earlier daemon did not finish and that have no record yet.
    pub(super) left: Vec<CallId>,
    /// When that was found out, in ms since 1970, UTC.
    pub(super) found_ms: u64,
}

/// Why there can be no records.
#[derive(Debug)]
pub struct OpenError {
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

impl OpenError {
    /// Whether somebody has to mend it: trying again will not help. Otherwise the disk is full, broken or read-only, or
    /// another daemon holds the folder, which may be one that hangs on that disk: all of this can pass.
    #[must_use]
    pub fn is_operators(&self) -> bool {
        use io::ErrorKind as Kind;
        matches!(
            self.error.kind(),
            Kind::PermissionDenied
                | Kind::NotFound
                | Kind::NotADirectory
                | Kind::IsADirectory
                | Kind::AlreadyExists
                | Kind::InvalidInput
        )
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = match self.error.kind() {
            io::ErrorKind::WouldBlock => {
                "end that daemon, or set `[records] directory` of one of the two to another folder or to \"off\""
            }
            _ => "let the daemon's user write there, or set `[records] directory` to another folder or to \"off\"",
        };
        write!(f, "records cannot be kept in {}: {}; {next}", self.path.display(), self.error)
    }
}

impl std::error::Error for OpenError {}

impl Folder {
    /// Makes the folder where it is not there, takes it for this daemon, and puts in order what a killed one left: a
    /// torn line, and calls that have both a file and a record.
    pub(super) fn open(directory: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |error| OpenError { path, error }
        };
        let (open_path, spool_path) = (directory.join("open"), directory.join("records.jsonl"));
        // First, for it takes the lock.
        let (mut open, left) = OpenFolder::open(&open_path).map_err(failed(&open_path))?;
        let spool = Spool::open(&spool_path).map_err(failed(&spool_path))?;
        let left = sort_out(&spool, &mut open, left).map_err(failed(&spool_path))?;
        if !left.is_empty() {
            info!(calls = left.len(); "calls were cut off when the daemon last ended; they are put on record");
        }
        Ok(Self { spool, open, left, found_ms: clock::epoch_ms() })
    }
}

/// Of the calls that an earlier daemon left a file of, those that have a record too lose the file. Gives the others.
fn sort_out(spool: &Spool, open: &mut OpenFolder, left: Vec<CallId>) -> io::Result<Vec<CallId>> {
    if left.is_empty() {
        return Ok(left);
    }
    let left: HashSet<CallId> = left.into_iter().collect();
    let recorded = spool.find(&left)?;
    if !recorded.is_empty() {
        // A process that is killed loses nothing that it wrote; a power cut that follows might.
        spool.sync()?;
        recorded.iter().for_each(|id| open.remove(id));
    }
    Ok(left.into_iter().filter(|id| !recorded.contains(id)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_second_daemon_heals_nothing_under_the_first_and_cuts_none_of_its_calls() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Folder::open(folder.path()).unwrap();
        first.open.write(CallId::parse("aaaaaaaaaaaa").unwrap(), b"{}");
        let spool = folder.path().join("records.jsonl");
        fs::write(&spool, "{\"a\":").unwrap();
        let error = Folder::open(folder.path()).err().unwrap();
        assert!(!error.is_operators(), "a daemon that hangs may hold it");
        let words = error.to_string();
        assert!(words.contains("another daemon") && words.contains("`[records] directory`"), "{words}");
        assert_eq!(fs::read_to_string(&spool).unwrap(), "{\"a\":");
        drop(first);
        let second = Folder::open(folder.path()).unwrap();
        assert_eq!((second.left.len(), fs::read_to_string(&spool).unwrap().as_str()), (1, ""));
    }

    #[test]
    fn what_only_the_operator_can_mend_is_told_from_what_may_pass() {
        let error = |errno: Errno| OpenError { path: PathBuf::new(), error: errno.into() };
        for errno in [Errno::ACCESS, Errno::PERM, Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::EXIST] {
            assert!(error(errno).is_operators(), "{errno}");
        }
        for errno in [Errno::ROFS, Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::AGAIN, Errno::MFILE] {
            assert!(!error(errno).is_operators(), "{errno}");
        }
    }
}
