//! What waits on disk for one sink: lines in numbered files, and a mark at how far the sink is.
//!
//! ```text
//!   00000000000000000007.jsonl   00000000000000000008.jsonl   00000000000000000009.jsonl <- lines are appended
//!              ^ cursor: all before it was taken
//! ```
//!
//! A line is written when it comes and made safe from power cuts within two seconds, as records are. The cursor is
//! written after the sink took something and never made safe by itself: whoever finds an old one sends some items
//! twice, with their ids. A spool that is full gives up its oldest file, and says how many items that were.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The folder of one sink.
pub struct Spool {
    folder: PathBuf,
    /// Locked: the folder is ours for as long as this is open.
    lock: File,
    /// The files, oldest first; there is always one, the last, which is appended to.
    segments: VecDeque<Segment>,
    tail: File,
    /// Everything before it was taken.
    cursor: Position,
    cursor_file: File,
    most_bytes: u64,
    /// Something was written that a power cut would take.
    is_fresh: bool,
    /// So it would the name of the last file.
    is_name_fresh: bool,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// Lines that were not taken.
    waiting: u64,
}

/// A place in a spool: a file and how far into it (bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    segment: u64,
    offset: u64,
}

/// A line that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The line, without its end.
    pub line: Vec<u8>,
    /// Where it ends: how far the cursor goes once it was taken.
    pub end: Position,
}

impl Spool {
    /// Opens the folder, makes it where it is not there, and goes on where its last user was. It may hold about so many
    /// bytes.
    ///
    /// # Errors
    /// When the disk refuses, or somebody else has the folder.
    pub fn open(folder: &Path, most_bytes: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        let lock = File::open(folder)?;
        // A file system without locks is no reason to tell nobody.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another daemon keeps its sinks there"));
        }
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl")).filter(|name| name.len() == 20);
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        if numbers.is_empty() {
            numbers.push(1);
        }
        numbers.sort_unstable();
        let cursor_file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(folder.join("cursor"))?;
        let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
        let mut cursor = read_cursor(&cursor_file).unwrap_or_default();
        if cursor.segment < first || cursor.segment > last {
            // Of a file that is gone, or never written: all that is there waits.
            cursor = Position { segment: first, offset: 0 };
        }
        let tail = open_segment(folder, last)?;
        heal(&tail)?;
        let mut spool = Self {
            folder: folder.to_owned(),
            lock,
            segments: VecDeque::new(),
            tail,
            cursor,
            cursor_file,
            most_bytes,
            is_fresh: false,
            is_name_fresh: true,
        };
        for number in numbers {
            if number < cursor.segment {
                spool.remove(number);
                continue;
            }
            let from = if number == cursor.segment { cursor.offset } else { 0 };
            let (bytes, waiting) = count_lines(&spool.path_of(number), from)?;
            spool.segments.push_back(Segment { number, bytes, waiting });
        }
        // Its own file may be one that somebody removed.
        let head = Position { segment: spool.segments.front().map_or(last, |head| head.number), offset: 0 };
        spool.cursor = cursor.max(head);
        // A power cut may spare the cursor and take what it counts: what comes next has to lie after it.
        if let Some(head) = spool.segments.front()
            && head.number == spool.cursor.segment
            && head.bytes < spool.cursor.offset
        {
            spool.cursor.offset = head.bytes;
            spool.write_cursor()?;
        }
        Ok(spool)
    }

    /// Items that wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.segments.iter().map(|segment| segment.waiting).sum()
    }

    /// Appends lines, each with its end, by one write. Says how many items had to go to make room.
    ///
    /// # Errors
    /// When the disk took not all of it; then none of it counts.
    pub fn append(&mut self, lines: &[Vec<u8>]) -> io::Result<u64> {
        let bytes = lines.concat();
        let added = bytes.len() as u64;
        if self.last().bytes > 0 && self.last().bytes + added > self.segment_bytes() {
            self.begin_segment()?;
        }
        let mut dropped = 0;
        while self.segments.len() > 1 && self.bytes() + added > self.most_bytes {
            dropped += self.drop_oldest();
        }
        if let Err(error) = self.tail.write_all(&bytes) {
            // The part that got there would be glued to the next line.
            let _ = self.tail.set_len(self.last().bytes);
            return Err(error);
        }
        let last = self.segments.back_mut().expect("there is always one");
        last.bytes += added;
        last.waiting += lines.len() as u64;
        self.is_fresh = true;
        Ok(dropped)
    }

    /// Whether a power cut would take something.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Returns when all lines are on the disk.
    ///
    /// # Errors
    /// When nobody knows whether they are.
    pub fn sync(&mut self) -> io::Result<()> {
        self.is_fresh = false;
        self.tail.sync_data()?;
        if core::mem::take(&mut self.is_name_fresh) {
            // It is the folder's, and not every file system can do it.
            let _ = self.lock.sync_all();
        }
        Ok(())
    }

    /// The oldest lines that wait, so many at most. Those past `most_bytes` wait for the next time, but for the first.
    ///
    /// # Errors
    /// When the disk does not give them.
    pub fn peek(&mut self, most: usize, most_bytes: usize) -> io::Result<Vec<Waiting>> {
        let mut found: Vec<Waiting> = Vec::new();
        while found.is_empty() {
            let Some(head) = self.segments.front() else { break };
            let mut reader = BufReader::new(File::open(self.path_of(head.number))?);
            reader.seek(SeekFrom::Start(self.cursor.offset))?;
            let (mut end, mut taken) = (self.cursor, 0);
            while found.len() < most && end.offset < head.bytes {
                let mut line = Vec::new();
                let read = (&mut reader).take(MOST_LINE).read_until(b'\n', &mut line)?;
                if read == 0 {
                    break;
                }
                end.offset += read as u64;
                line.truncate(line.len() - usize::from(line.ends_with(b"\n")));
                taken += line.len();
                if !found.is_empty() && taken > most_bytes {
                    break;
                }
                found.push(Waiting { line, end });
            }
            if !found.is_empty() || self.segments.len() == 1 {
                break;
            }
            // Read to its end, or shorter than it was: the next one.
            self.drop_oldest();
        }
        Ok(found)
    }

    /// The sink took everything up to there.
    ///
    /// # Errors
    /// When the disk did not take the cursor: it holds all the same, for as long as this daemon lives.
    pub fn advance(&mut self, to: Position, taken: u64) -> io::Result<()> {
        if to <= self.cursor {
            // What was dropped to make room while it was under way.
            return Ok(());
        }
        self.cursor = to;
        if let Some(head) = self.segments.front_mut()
            && head.number == to.segment
        {
            head.waiting = head.waiting.saturating_sub(taken);
            if to.offset >= head.bytes && self.segments.len() > 1 {
                self.drop_oldest();
            }
        }
        self.write_cursor()
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn last(&self) -> &Segment {
        self.segments.back().expect("there is always one")
    }

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES.min(self.most_bytes / 4)
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        if self.is_fresh {
            self.sync()?;
        }
        let number = self.last().number + 1;
        self.tail = open_segment(&self.folder, number)?;
        self.is_name_fresh = true;
        self.segments.push_back(Segment { number, bytes: 0, waiting: 0 });
        Ok(())
    }

    /// Says how many items waited in it.
    fn drop_oldest(&mut self) -> u64 {
        let Some(oldest) = self.segments.pop_front() else { return 0 };
        self.remove(oldest.number);
        if let Some(next) = self.segments.front() {
            self.cursor = self.cursor.max(Position { segment: next.number, offset: 0 });
        }
        // An old one is found again at the next start, and its file is not: then all that is there waits.
        let _ = self.write_cursor();
        oldest.waiting
    }

    fn remove(&self, number: u64) {
        // A file that stays lies before the cursor, and is removed at the next start.
        let _ = fs::remove_file(self.path_of(number));
    }

    fn write_cursor(&self) -> io::Result<()> {
        let Position { segment, offset } = self.cursor;
        // Always as long, and by one write: there is no half of it.
        self.cursor_file.write_all_at(format!("{segment:020} {offset:020}\n").as_bytes(), 0)
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.folder.join(name_of(number))
    }
}

fn name_of(number: u64) -> String {
    format!("{number:020}.jsonl")
}

fn open_segment(folder: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(folder.join(name_of(number)))
}

fn read_cursor(file: &File) -> Option<Position> {
    let mut bytes = [0; 42];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (segment, offset) = core::str::from_utf8(&bytes).ok()?.trim_end().split_once(' ')?;
    Some(Position { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
}

/// A last line that was not finished goes: whoever wrote it was killed before anybody counted on it.
fn heal(mut file: &File) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
    if whole < bytes.len() { file.set_len(whole as u64) } else { Ok(()) }
}

/// The length of a file, and its lines after this place.
fn count_lines(path: &Path, from: u64) -> io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut chunk = vec![0; 64 * 1024];
    let mut lines = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((file.metadata()?.len(), lines)),
            read => lines += memchr::memchr_iter(b'\n', &chunk[..read]).count() as u64,
        }
    }
}

/// A file that is as long is followed by another: what is dropped at once when there is no room, and what is read
/// again when the cursor was lost.
const SEGMENT_BYTES: u64 = 1 << 20;
/// More is no line of ours.
const MOST_LINE: u64 = 16 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(range: core::ops::Range<u32>) -> Vec<Vec<u8>> {
        range.map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect()
    }

    fn texts(waiting: &[Waiting]) -> Vec<String> {
        waiting.iter().map(|waiting| String::from_utf8(waiting.line.clone()).unwrap()).collect()
    }

    const ROOM: u64 = 1 << 20;

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("state/crm");
        let mut spool = Spool::open(&place, ROOM).unwrap();
        assert_eq!(spool.append(&lines(0..5)).unwrap(), 0);
        let two = spool.peek(2, 1000).unwrap();
        assert_eq!(texts(&two), [r#"{"n":0}"#, r#"{"n":1}"#]);
        spool.advance(two[1].end, 2).unwrap();
        assert!(Spool::open(&place, ROOM).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        drop(spool);
        let mut spool = Spool::open(&place, ROOM).unwrap();
        assert_eq!(spool.waiting(), 3);
        spool.append(&lines(5..6)).unwrap();
        let rest = spool.peek(9, 1000).unwrap();
        assert_eq!(texts(&rest), [2, 3, 4, 5].map(|n| format!("{{\"n\":{n}}}")));
        spool.advance(rest[3].end, 4).unwrap();
        assert_eq!((spool.waiting(), spool.peek(9, 1000).unwrap().len()), (0, 0));
    }

    #[test]
    fn a_torn_line_goes_and_a_lost_cursor_sends_again_rather_than_never() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), ROOM).unwrap();
        spool.append(&lines(0..2)).unwrap();
        let first = spool.peek(1, 1000).unwrap();
        spool.advance(first[0].end, 1).unwrap();
        drop(spool);
        let mut file = OpenOptions::new().append(true).open(folder.path().join(name_of(1))).unwrap();
        file.write_all(b"{\"n\":").unwrap();
        // What a power cut leaves of it.
        fs::write(folder.path().join("cursor"), [0; 42]).unwrap();
        let mut spool = Spool::open(folder.path(), ROOM).unwrap();
        assert_eq!(texts(&spool.peek(9, 1000).unwrap()), [r#"{"n":0}"#, r#"{"n":1}"#]);
        spool.append(&lines(2..3)).unwrap();
        assert_eq!(spool.waiting(), 3);
    }

    #[test]
    fn what_comes_after_a_power_cut_that_spared_only_the_cursor_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), ROOM).unwrap();
        spool.append(&lines(0..5)).unwrap();
        let all = spool.peek(9, 1000).unwrap();
        spool.advance(all[4].end, 5).unwrap();
        drop(spool);
        // The last three lines were taken by the sink and never by the disk.
        let file = OpenOptions::new().write(true).open(folder.path().join(name_of(1))).unwrap();
        file.set_len(16).unwrap();
        for expected in [5..7, 7..8] {
            let mut spool = Spool::open(folder.path(), ROOM).unwrap();
            spool.append(&lines(expected.clone())).unwrap();
            assert_eq!(spool.waiting(), u64::from(expected.end - expected.start));
            let some = spool.peek(9, 1000).unwrap();
            assert_eq!(texts(&some), expected.map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
            spool.advance(some[some.len() - 1].end, some.len() as u64).unwrap();
        }
    }

    #[test]
    fn a_full_spool_gives_up_its_oldest_items_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 400).unwrap();
        let (mut dropped, mut n) = (0, 0);
        while n < 100 {
            dropped += spool.append(&lines(n..n + 5)).unwrap();
            n += 5;
        }
        assert!(dropped > 0 && spool.bytes() <= 400, "{dropped} {}", spool.bytes());
        assert_eq!(spool.waiting() + dropped, 100);
        let first = spool.peek(1, 1000).unwrap();
        assert_eq!(texts(&first), [format!("{{\"n\":{dropped}}}")]);
        let mut seen = 0;
        loop {
            let some = spool.peek(3, 1000).unwrap();
            let Some(last) = some.last() else { break };
            seen += some.len() as u64;
            spool.advance(last.end, some.len() as u64).unwrap();
        }
        assert_eq!((seen, spool.waiting()), (100 - dropped, 0));
        // All files but the last are gone, whose end the cursor is at.
        drop(spool);
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((files, Spool::open(folder.path(), 400).unwrap().waiting()), (2, 0));
    }

    #[test]
    fn what_was_taken_while_its_file_went_moves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), 120).unwrap();
        spool.append(&lines(0..3)).unwrap();
        let under_way = spool.peek(9, 1000).unwrap();
        let mut dropped = 0;
        for n in 1..6 {
            dropped += spool.append(&lines(n * 3..n * 3 + 3)).unwrap();
        }
        assert!(dropped >= 3);
        spool.advance(under_way[2].end, 3).unwrap();
        assert_eq!(spool.waiting() + dropped, 18);
    }

    #[test]
    fn many_bytes_at_once_are_split_but_never_to_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), ROOM).unwrap();
        spool.append(&lines(0..3)).unwrap();
        assert_eq!(spool.peek(9, 1).unwrap().len(), 1);
        assert_eq!(spool.peek(9, 14).unwrap().len(), 2);
    }
}
