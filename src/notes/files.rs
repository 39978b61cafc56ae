//! A folder of files that are written once, whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use log::debug;

/// The folder.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    keep_days: Option<u32>,
}

impl Files {
    /// Makes it where it is not there.
    pub(super) fn open(path: PathBuf, keep_days: Option<u32>) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o750).create(&path)?;
        rustix::fs::access(&path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        Ok(Self { path, keep_days })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file under another name and gives it its own when it is safe on the disk.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let early = self.path.join(format!(".{name}.tmp"));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&early)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&early, self.path.join(name))
        })();
        if written.is_err() {
            // It would take room that there is none of.
            let _ = fs::remove_file(&early);
        } else {
            self.sync_names();
        }
        written
    }

    /// Makes names safe that were given. Not every file system can do it.
    pub(super) fn sync_names(&self) {
        let _ = File::open(&self.path).and_then(|folder| folder.sync_all());
    }

    /// Removes files of calls that are older than the config lets them be. Others are not ours.
    pub(super) fn prune(&self, now: SystemTime) {
        let Some(days) = self.keep_days else { return };
        let oldest = now.checked_sub(Duration::from_secs(u64::from(days) * 24 * 3600));
        for name in self.names().into_iter().filter(|name| name.starts_with("call_")) {
            let path = self.path.join(&name);
            // Not a link, a pipe or a folder.
            let written =
                fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file).and_then(|it| it.modified().ok());
            if written.zip(oldest).is_some_and(|(written, oldest)| written < oldest)
                && let Err(error) = fs::remove_file(&path)
            {
                debug!(path:% = path.display(), error:%; "an old file of a call could not be removed");
            }
        }
    }

    /// The names of what is in it.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// A moment (ms since 1970, UTC) as it stands in names: `20260131_235959`.
pub(super) fn stamp(at_ms: u64) -> String {
    moment(at_ms).strftime("%Y%m%d_%H%M%S").to_string()
}

/// A moment as RFC 3339 has it, to a millisecond.
pub(super) fn rfc3339(at_ms: u64) -> String {
    moment(at_ms).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn moment(at_ms: u64) -> Timestamp {
    i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spelled_for_names_and_for_people() {
        assert_eq!(stamp(1_753_428_105_631), "20250725_072145");
        assert_eq!(rfc3339(1_753_428_105_631), "2025-07-25T07:21:45.631Z");
        assert_eq!(rfc3339(u64::MAX), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path().join("a/b"), None).unwrap();
        files.write("call_x.json", b"{}").unwrap();
        assert_eq!(files.names(), ["call_x.json"]);
        // A folder stands where the file is to go.
        fs::create_dir(files.path().join("call_y.json")).unwrap();
        assert!(files.write("call_y.json", b"{}").is_err());
        assert_eq!(files.names().len(), 2);
    }

    #[test]
    fn old_files_of_calls_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path().to_owned(), Some(7)).unwrap();
        for name in ["call_a.json", "notes.txt"] {
            files.write(name, b"{}").unwrap();
        }
        fs::create_dir(folder.path().join("call_b.json")).unwrap();
        let day = Duration::from_secs(24 * 3600);
        files.prune(SystemTime::now() + 6 * day);
        assert_eq!(files.names().len(), 3);
        files.prune(SystemTime::now() + 8 * day);
        let mut left = files.names();
        left.sort();
        assert_eq!(left, ["call_b.json", "notes.txt"]);
    }
}
