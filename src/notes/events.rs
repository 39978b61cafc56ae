//! The event log: what happens in calls as it happens, one JSON object a line, in files that follow one another.
//!
//! It is for looking at, not for keeping: nothing waits for it to be safe on the disk, and the oldest files go.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::files::{Files, rfc3339, stamp};
use crate::config;

/// The log.
pub(super) struct Events {
    files: Files,
    most_bytes: u64,
    keep_files: usize,
    current: Option<Current>,
    /// Lines that are not written.
    buffer: Vec<u8>,
    lines: u64,
}

struct Current {
    file: File,
    path: PathBuf,
    bytes: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    at: &'a str,
    call_id: &'a str,
    event: &'a str,
    details: &'a Value,
}

impl Events {
    pub(super) fn open(config: &config::Events) -> io::Result<Self> {
        let files = Files::open(config.directory.clone(), None)?;
        let (most_bytes, keep_files) = (config.most_bytes, config.keep_files);
        Ok(Self { files, most_bytes, keep_files, current: None, buffer: Vec::new(), lines: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        self.files.path()
    }

    /// Takes a line; [`flush`](Self::flush) writes it.
    pub(super) fn add(&mut self, at_ms: u64, call_id: &str, event: &str, details: &Value) {
        let line = Line { at: &rfc3339(at_ms), call_id, event, details };
        serde_json::to_writer(&mut self.buffer, &line).expect("numbers and texts are what JSON has");
        self.buffer.push(b'\n');
        self.lines += 1;
    }

    /// Writes what was taken. On an error: how many lines are lost by it.
    pub(super) fn flush(&mut self, now_ms: u64) -> Result<(), (u64, io::Error)> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.write(now_ms);
        self.buffer.clear();
        let lines = core::mem::take(&mut self.lines);
        written.map_err(|error| (lines, error))
    }

    fn write(&mut self, now_ms: u64) -> io::Result<()> {
        let added = self.buffer.len() as u64;
        let fits = |current: &Current| current.bytes == 0 || current.bytes + added <= self.most_bytes;
        // One that somebody moved away or deleted is not written to any more.
        if !self.current.as_ref().is_some_and(|current| fits(current) && current.path.exists()) {
            self.current = None;
            let begun = self.begin(now_ms)?;
            self.prune(&begun.path);
            self.current = Some(begun);
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        if let Err(error) = current.file.write_all(&self.buffer) {
            // A part of a line is worse than none.
            let _ = current.file.set_len(current.bytes);
            return Err(error);
        }
        current.bytes += added;
        Ok(())
    }

    fn begin(&self, now_ms: u64) -> io::Result<Current> {
        let stamp = stamp(now_ms);
        let mut path = self.files.path().join(format!("{PREFIX}{stamp}{SUFFIX}"));
        for n in 2..100 {
            match OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path) {
                Ok(file) => return Ok(Current { file, path, bytes: 0 }),
                // Another one of the same second.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    path = self.files.path().join(format!("{PREFIX}{stamp}_{n:02}{SUFFIX}"));
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Removes the oldest files beyond those that are kept. The one that was just begun is none of them, whatever its
    /// name says: a machine without a clock of its own starts in the past.
    fn prune(&self, begun: &Path) {
        let mut names = self.files.names();
        names.retain(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX) && !begun.ends_with(name));
        names.sort();
        for name in names.iter().rev().skip(self.keep_files.saturating_sub(1)) {
            // It is tried again when the next file begins.
            let _ = fs::remove_file(self.files.path().join(name));
        }
    }
}

const PREFIX: &str = "stream_events_";
const SUFFIX: &str = ".jsonl";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn open(directory: &Path, most_bytes: u64, keep_files: usize) -> Events {
        Events::open(&config::Events { directory: directory.to_owned(), most_bytes, keep_files }).unwrap()
    }

    const AT: u64 = 1_753_428_105_631;

    #[test]
    fn a_line_says_when_in_which_call_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = open(folder.path(), 1 << 20, 8);
        events.flush(AT).unwrap();
        assert!(events.files.names().is_empty(), "nothing happened, and there is no file");
        events.add(AT, "k3vqd2mxa7re", "cleared", &json!({ "unheard_ms": 480 }));
        events.flush(AT).unwrap();
        let text = fs::read_to_string(folder.path().join("stream_events_20250725_072145.jsonl")).unwrap();
        assert_eq!(
            text,
            "{\"at\":\"2025-07-25T07:21:45.631Z\",\"call_id\":\"k3vqd2mxa7re\",\"event\":\"cleared\",\
             \"details\":{\"unheard_ms\":480}}\n"
        );
    }

    #[test]
    fn files_are_bounded_in_size_and_number_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = open(folder.path(), 250, 3);
        for n in 0..20 {
            events.add(AT + n * 500, "k3vqd2mxa7re", "digit", &json!({ "n": n }));
            events.flush(AT + n * 500).unwrap();
        }
        let mut names = events.files.names();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        let texts: Vec<_> = names.iter().map(|name| fs::read_to_string(folder.path().join(name)).unwrap()).collect();
        assert!(texts.iter().all(|text| text.len() <= 250 && text.ends_with('\n')));
        assert!(texts[2].contains("\"n\":19"), "{texts:?}");
    }

    #[test]
    fn two_files_of_one_second_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = open(folder.path(), 1, 2);
        for n in 0..3 {
            events.add(AT, "k3vqd2mxa7re", "digit", &json!({ "n": n }));
            events.flush(AT).unwrap();
        }
        let mut names = events.files.names();
        names.sort();
        assert_eq!(names, ["stream_events_20250725_072145_02.jsonl", "stream_events_20250725_072145_03.jsonl"]);
    }

    #[test]
    fn a_clock_that_starts_in_the_past_does_not_lose_what_is_logged_now() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = open(folder.path(), 1, 2);
        for n in 0..3 {
            events.add(AT + n * 1000, "k3vqd2mxa7re", "digit", &json!({ "n": n }));
            events.flush(AT + n * 1000).unwrap();
        }
        let mut events = open(folder.path(), 1, 2);
        events.add(1000, "k3vqd2mxa7re", "bridged", &json!({}));
        events.flush(1000).unwrap();
        let mut names = events.files.names();
        names.sort();
        assert_eq!(names, ["stream_events_19700101_000001.jsonl", "stream_events_20250725_072147.jsonl"]);
    }

    #[test]
    fn lines_that_the_disk_does_not_take_are_counted_and_the_next_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("events");
        let mut events = open(&place, 1 << 20, 3);
        fs::remove_dir(&place).unwrap();
        events.add(AT, "k3vqd2mxa7re", "digit", &json!({}));
        events.add(AT, "k3vqd2mxa7re", "digit", &json!({}));
        assert_eq!(events.flush(AT).unwrap_err().0, 2);
        fs::create_dir(&place).unwrap();
        events.add(AT, "k3vqd2mxa7re", "bridged", &json!({}));
        events.flush(AT).unwrap();
        assert_eq!(events.files.names().len(), 1);
    }
}
