//! FIFOs (fifo(7)): a line that stays, with one call for each writer of its input.
//!
//! The other end of a FIFO is waited for on the threads of the line. The input is open all the time but for moments, and
//! anew before it is closed: what the next writer writes while the last call is still ending is kept by
//! the kernel. A call that ends first closes the input under its writer, who learns by that (SIGPIPE) that it is over.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use log::{info, warn};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    io::Errno,
};
use tokio::sync::mpsc;

use crate::{
    config::PipeEnd,
    dialect::Direction,
    leg::pipe::{
        Ends, Piece, QUEUE, Way,
        files::{Source, feed, start_writer},
        shorten,
    },
    media::{Rate, frame::Frame},
};

/// What a line is made of whose input is a FIFO.
pub struct Fifos {
    /// Its name, for the log.
    pub line: String,
    /// The caller's voice.
    pub input: PathBuf,
    /// The agent's; `None`: nobody hears it.
    pub output: Option<PathBuf>,
    /// The rate of both.
    pub rate: Rate,
    /// Whether the agent is heard.
    pub direction: Direction,
}

/// Serves a line's FIFOs, on a thread of its own, for as long as somebody takes its calls.
///
/// # Errors
/// When there can be no thread.
pub fn serve(fifos: Fifos, calls: mpsc::Sender<Ends>) -> io::Result<()> {
    thread::Builder::new().name("pipe-in".to_owned()).spawn(move || fifos.serve(&calls)).map(drop)
}

impl Fifos {
    fn serve(&self, calls: &mpsc::Sender<Ends>) {
        let Some(mut source) = self.wait_for_writer(calls) else { return };
        while !calls.is_closed() {
            let mut frame = Frame::silence(self.rate);
            // A read that fails is an end like any other.
            let len = source.read(&mut frame).unwrap_or(0);
            if len == 0 {
                // Nobody writes. The one that is open stays until the next writer is there.
                match self.wait_for_writer(calls) {
                    Some(next) => source = next,
                    None => return,
                }
                continue;
            }
            match self.call(&mut source, Piece { frame, len }, calls) {
                Ok(true) => {}
                Ok(false) => {
                    info!(line = self.line, path = self.input.display().to_string(); "the call is over: its writer is shut out");
                    drop(source);
                    // Time enough for its next write to fail: opened at once, the FIFO would be whole for it again.
                    thread::sleep(SHUT);
                    match self.wait_for_writer(calls) {
                        Some(next) => source = next,
                        None => return,
                    }
                }
                Err(error) => {
                    warn!(line = self.line, error:%; "a call of a FIFO could not begin");
                    thread::sleep(SHUT);
                }
            }
        }
    }

    /// One call, until its line is given back. `true`: its writer had said all.
    fn call(&self, source: &mut Source, first: Piece, calls: &mpsc::Sender<Ends>) -> io::Result<bool> {
        let output = self.output.clone().map(PipeEnd::Fifo);
        let (to_sink, writer) = output.map(|end| start_writer(&end, self.rate)).transpose()?.unzip();
        let (to_call, from_source) = mpsc::channel(QUEUE);
        let (rate, direction) = (self.rate, self.direction);
        // Where the daemon ends nobody takes it: then it is over at once.
        let _ = calls.blocking_send(Ends { rate, direction, way: Way::Queues(from_source, to_sink) });
        let is_done = feed(source, Some(first), rate, &to_call);
        drop(to_call);
        if let Some(writer) = writer {
            // It panicked: the log has it.
            let _ = writer.join();
        }
        Ok(is_done)
    }

    /// Opens the input anew, and waits until there is something in it, or somebody was there and said nothing. `None`:
    /// nobody takes its calls any more.
    fn wait_for_writer(&self, calls: &mpsc::Sender<Ends>) -> Option<Source> {
        let mut told = false;
        while !calls.is_closed() {
            match self.open_input(calls) {
                Ok(file) => return Some(Source::Raw(Box::new(file))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if !told {
                        let path = self.input.display().to_string();
                        warn!(line = self.line, path, error:%; "a FIFO cannot be opened; it is tried again all the time");
                    }
                    told = true;
                    thread::sleep(RETRY);
                }
            }
        }
        None
    }

    fn open_input(&self, calls: &mpsc::Sender<Ends>) -> io::Result<File> {
        // An opening that waits would wait for the writer after one who came and went just before it.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.input)?;
        let a_while = Timespec { tv_sec: 0, tv_nsec: WAKE.subsec_nanos().into() };
        while poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&a_while))? == 0 && !calls.is_closed() {}
        fcntl_setfl(&file, OFlags::empty())?;
        Ok(file)
    }
}

/// The writing end of a FIFO. It never waits longer than the call lasts, and a little.
pub(super) struct FifoSink {
    path: PathBuf,
    /// Where nobody reads there is nothing to write to.
    file: Option<File>,
}

impl FifoSink {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None }
    }

    /// Writes a frame, once there is a reader who takes it.
    pub(super) fn write(&mut self, frame: &[u8], is_over: impl Fn() -> bool) -> io::Result<()> {
        let mut rest = frame;
        let mut last_words = None;
        while !rest.is_empty() {
            let Some(file) = &mut self.file else {
                self.file = self.open()?;
                if self.file.is_none() {
                    if is_over() {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                    thread::sleep(LOOK);
                }
                continue;
            };
            match file.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        let since = Instant::now();
                        if is_over() && since.duration_since(*last_words.get_or_insert(since)) >= LAST_WORDS {
                            return Err(error);
                        }
                        let patience = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
                        // Ready or not, it is looked at again.
                        let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&patience));
                    }
                    // The reader is gone. The next one begins with a whole frame.
                    io::ErrorKind::BrokenPipe => (self.file, rest) = (None, frame),
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// `None`: nobody reads.
    fn open(&self) -> io::Result<Option<File>> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        match OpenOptions::new().write(true).custom_flags(flags).open(&self.path) {
            Ok(file) => {
                shorten(&file);
                Ok(Some(file))
            }
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How long a writer whose call is over is shut out: longer than any recorder's buffer.
const SHUT: Duration = Duration::from_secs(1);
/// How often a thread that waits for a writer looks whether its line was closed.
const WAKE: Duration = Duration::from_millis(250);
/// How often a FIFO that is not there is looked for.
const RETRY: Duration = Duration::from_secs(2);
/// How often a reader is looked for while a call lives.
const LOOK: Duration = Duration::from_millis(20);
/// How long a reader has to take the last words of a call.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read as _;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn fifo(folder: &tempfile::TempDir, name: &str) -> PathBuf {
        let path = folder.path().join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    fn line(input: &Path) -> mpsc::Receiver<Ends> {
        let (calls, taken) = mpsc::channel(1);
        let (line, input) = ("desk".to_owned(), input.to_owned());
        let fifos = Fifos { line, input, output: None, rate: Rate::Hz8000, direction: Direction::Uplink };
        serve(fifos, calls).unwrap();
        taken
    }

    fn voice(ends: Ends) -> Vec<i16> {
        let Way::Queues(mut caller, None) = ends.way else { unreachable!() };
        let mut said = vec![];
        while let Some(piece) = caller.blocking_recv() {
            said.extend_from_slice(piece.samples());
        }
        said
    }

    #[test]
    fn each_writer_is_a_call_and_one_who_says_nothing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder, "mic.fifo");
        let mut calls = line(&path);
        for number in [1_u8, 2, 3] {
            let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
            writer.write_all(&[number, 0].repeat(400)).unwrap();
            drop(writer);
            assert_eq!(voice(calls.blocking_recv().unwrap()), vec![i16::from(number); 400]);
            drop(OpenOptions::new().write(true).open(&path).unwrap());
        }
    }

    #[test]
    fn whoever_writes_to_a_call_that_is_over_learns_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder, "mic.fifo");
        let mut calls = line(&path);
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(&[1; 640]).unwrap();
        drop(calls.blocking_recv().unwrap());
        let refused = std::iter::repeat_with(|| writer.write_all(&[1; 640])).find_map(Result::err).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
        drop(writer);
        // And the next one is heard.
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(&[2, 0]).unwrap();
        drop(writer);
        assert_eq!(voice(calls.blocking_recv().unwrap()), [2]);
    }

    #[test]
    fn a_reader_may_come_late_go_and_come_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder, "ear.fifo");
        let mut sink = FifoSink::new(&path);
        assert!(sink.write(&[1, 0], || true).is_err(), "nobody reads, and the call is over");
        let hear = |path: PathBuf| {
            thread::spawn(move || {
                let mut heard = [0; 4];
                File::open(path).unwrap().read_exact(&mut heard).unwrap();
                heard
            })
        };
        for frame in [[1, 0, 2, 0], [3, 0, 4, 0]] {
            let reader = hear(path.clone());
            sink.write(&frame, || false).unwrap();
            assert_eq!(reader.join().unwrap(), frame);
        }
    }

    #[test]
    fn a_reader_who_does_not_read_is_not_waited_for_when_the_call_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder, "ear.fifo");
        let _idle = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut sink = FifoSink::new(&path);
        let over = AtomicBool::new(false);
        let refused = std::iter::repeat_with(|| {
            let written = sink.write(&[1; 320], || over.load(Relaxed));
            over.store(true, Relaxed);
            written
        })
        .find_map(Result::err);
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
