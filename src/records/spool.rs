//! The file `records.jsonl`: whole lines at its end, whatever the disk does.
//!
//! The file is opened for appending and has no other writer, so what has to go again is a number of bytes at its end,
//! not a position: it may be copied and emptied by somebody else in between.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::open::CallId;

/// The file.
pub(super) struct Spool {
    path: PathBuf,
    file: File,
    /// Device and inode: which file it is, whatever its name has become.
    identity: (u64, u64),
    /// Bytes at the end that should not be there.
    excess: u64,
}

impl Spool {
    /// Opens the file or makes it. A line that its last writer did not finish is finished, or cut off.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
        heal(&file)?;
        if let Some(folder) = path.parent() {
            // A new file's name is the folder's. Not every file system can do it.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        let identity = identity(&file.metadata()?);
        Ok(Self { path: path.to_owned(), file, identity, excess: 0 })
    }

    /// Appends a line by one write. A part of it that got there is taken away again.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.trim()?;
        let written = self.file.write(line)?;
        if written == line.len() {
            return Ok(());
        }
        self.take_back(written as u64);
        let words = format!("only {written} of {} bytes were taken", line.len());
        Err(io::Error::new(io::ErrorKind::StorageFull, words))
    }

    /// Returns when all lines are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The last so many bytes do not count: they go now, or before the next line.
    pub(super) fn take_back(&mut self, bytes: u64) {
        self.excess += bytes;
        // Whoever appends tries again, and has the error.
        let _ = self.trim();
    }

    /// Goes on in a new file when this one was moved away or deleted, as logrotate does.
    pub(super) fn follow(&mut self) -> io::Result<()> {
        let there = match fs::metadata(&self.path) {
            Ok(found) => identity(&found) == self.identity,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !there {
            let _ = self.trim();
            *self = Self::open(&self.path)?;
        }
        Ok(())
    }

    /// Which of these calls have a record in the last [`TAIL`] bytes.
    pub(super) fn find(&self, wanted: &HashSet<CallId>) -> io::Result<HashSet<CallId>> {
        let mut found = HashSet::new();
        let mut reader = BufReader::with_capacity(CHUNK, &self.file);
        let from = self.file.metadata()?.len().saturating_sub(TAIL);
        reader.seek(SeekFrom::Start(from))?;
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let id = line.strip_prefix(FIRST_KEY).and_then(|rest| rest.get(..12));
            let id = id.and_then(|id| core::str::from_utf8(id).ok()).and_then(CallId::parse);
            found.extend(id.filter(|id| wanted.contains(id)));
            line.clear();
        }
        Ok(found)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn trim(&mut self) -> io::Result<()> {
        if self.excess > 0 {
            let length = self.file.metadata()?.len();
            self.file.set_len(length.saturating_sub(self.excess))?;
            self.excess = 0;
        }
        Ok(())
    }
}

/// A record that lacks only its line's end gets it. Less than that was never a record, and goes.
fn heal(mut file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let whole = end_of_last_line(file, length)?;
    if whole == length {
        return Ok(());
    }
    let rest = length - whole;
    if rest <= LONGEST_LINE {
        let mut line = vec![0; rest as usize];
        file.read_exact_at(&mut line, whole)?;
        if serde_json::from_slice::<Map<String, Value>>(&line).is_ok() {
            // The disk may be too full for it: the record stays, and is finished another time.
            return file.write_all(b"\n");
        }
    }
    file.set_len(whole)
}

/// Where the last line ends that has an end.
fn end_of_last_line(file: &File, length: u64) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let chunk = &mut chunk[..(end - start) as usize];
        file.read_exact_at(chunk, start)?;
        if let Some(found) = memchr::memrchr(b'\n', chunk) {
            return Ok(start + found as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// How a record begins.
const FIRST_KEY: &[u8] = b"{\"call_id\":\"";
/// How far back a call is looked for that has both a record and a file: some 10,000 records. It was killed between the
/// two at most two seconds after.
const TAIL: u64 = 16 * 1024 * 1024;
/// More is no record of ours.
const LONGEST_LINE: u64 = 1024 * 1024;
const CHUNK: usize = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("records.jsonl")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }

        fn healed(&self, before: impl AsRef<[u8]>) -> String {
            fs::write(self.path(), before).unwrap();
            Spool::open(&self.path()).unwrap();
            self.text()
        }
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_a_whole_one_is_finished() {
        let place = Place::new();
        assert_eq!(place.healed(""), "");
        assert_eq!(place.healed("{\"a\":1}\n"), "{\"a\":1}\n");
        assert_eq!(place.healed("{\"a\":1}\n{\"b\":"), "{\"a\":1}\n");
        assert_eq!(place.healed("{\"a\":1}\n{\"b\":2}"), "{\"a\":1}\n{\"b\":2}\n");
        assert_eq!(place.healed("{\"a\":1}\n12"), "{\"a\":1}\n");
        assert_eq!(place.healed("{\"a\":1}\n{\"b\":2}{"), "{\"a\":1}\n");
        assert_eq!(place.healed("{\"a\":"), "");
    }

    #[test]
    fn what_a_power_cut_leaves_is_cut_off_however_long_it_is() {
        let place = Place::new();
        let mut bytes = b"{\"a\":1}\n".to_vec();
        bytes.resize(3 * 1024 * 1024, 0);
        assert_eq!(place.healed(bytes), "{\"a\":1}\n");
    }

    #[test]
    fn bytes_that_do_not_count_are_gone_and_the_next_line_follows_the_last_good_one() {
        let place = Place::new();
        let mut spool = Spool::open(&place.path()).unwrap();
        spool.append(b"one\n").unwrap();
        spool.append(b"two\n").unwrap();
        spool.take_back(4);
        assert_eq!(place.text(), "one\n");
        spool.append(b"three\n").unwrap();
        assert_eq!(place.text(), "one\nthree\n");
    }

    #[test]
    fn a_file_that_somebody_emptied_is_not_filled_up_with_zeros() {
        let place = Place::new();
        let mut spool = Spool::open(&place.path()).unwrap();
        spool.append(b"one\n").unwrap();
        File::options().write(true).truncate(true).open(place.path()).unwrap();
        spool.take_back(4);
        spool.append(b"two\n").unwrap();
        assert_eq!(place.text(), "two\n");
    }

    #[test]
    fn a_file_that_was_moved_away_or_deleted_is_followed_by_a_new_one() {
        let place = Place::new();
        let mut spool = Spool::open(&place.path()).unwrap();
        spool.append(b"one\n").unwrap();
        spool.follow().unwrap();
        spool.append(b"two\n").unwrap();
        let away = place.folder.path().join("records.jsonl.1");
        fs::rename(place.path(), &away).unwrap();
        spool.follow().unwrap();
        spool.append(b"three\n").unwrap();
        assert_eq!((fs::read_to_string(away).unwrap().as_str(), place.text().as_str()), ("one\ntwo\n", "three\n"));
        fs::remove_file(place.path()).unwrap();
        spool.follow().unwrap();
        spool.append(b"four\n").unwrap();
        assert_eq!(place.text(), "four\n");
    }

    #[test]
    fn calls_are_found_in_the_tail_and_only_there() {
        let place = Place::new();
        let line = |id: &str| format!("{{\"call_id\":\"{id}\",\"words\":\"{}\"}}\n", "x".repeat(1000));
        let mut text = line("aaaaaaaaaaaa");
        while (text.len() as u64) < TAIL + 500 {
            text += &line("zzzzzzzzzzzz");
        }
        text += "not ours\n\n{\"call_id\":\"\"}\n";
        text += &line("bbbbbbbbbbbb");
        fs::write(place.path(), text).unwrap();
        let id = |id| CallId::parse(id).unwrap();
        let wanted = ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"].map(id).into();
        let spool = Spool::open(&place.path()).unwrap();
        assert_eq!(spool.find(&wanted).unwrap(), [id("bbbbbbbbbbbb")].into());
    }
}
