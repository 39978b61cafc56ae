//! A line that is a pipe: a file, standard input and output, a pair of FIFOs, or a Unix socket.
//!
//! | what | its calls |
//! |---|---|
//! | a file, standard input | one, from the start of the daemon to the end of the input |
//! | a FIFO | one for each writer, one after another |
//! | a Unix socket | one for each connection |
//!
//! Reading and writing a file or FIFO may block, so each has a thread of its own; between them and the media thread are
//! bounded queues of frames. A socket never blocks, and is read and written by the media thread itself. Whoever reads
//! keeps to the clock: a source that is fed faster than speech is read at the pace of speech, with [`AHEAD`] of tolerance
//! for one whose clock is not ours.

use core::task::{Context, Poll};
use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use tokio::{net::unix::OwnedReadHalf, sync::mpsc};

use crate::{
    dialect::Direction,
    media::{
        Rate,
        frame::{Frame, MAX_SAMPLES},
    },
};

mod fifo;
mod files;
pub mod hello;
mod socket;

pub use self::{
    fifo::{Fifos, serve},
    files::open,
};

/// Both ends of a pipe line's call, as a media thread wants them.
pub struct Ends {
    /// The rate of its frames.
    pub rate: Rate,
    /// `Uplink`: nobody hears the agent.
    pub direction: Direction,
    way: Way,
}

/// How they are reached.
enum Way {
    /// By threads.
    Queues(mpsc::Receiver<Piece>, Option<mpsc::Sender<Frame>>),
    /// Directly; with what was read of it already.
    Socket(UnixStream, Vec<u8>),
}

impl Ends {
    /// The ends of one call are a connection, which does not block, and of which these bytes of audio were read already.
    #[must_use]
    pub const fn of_socket(stream: UnixStream, ahead: Vec<u8>, rate: Rate, direction: Direction) -> Self {
        Self { rate, direction, way: Way::Socket(stream, ahead) }
    }

    /// Takes them apart, on the runtime that will move their audio.
    ///
    /// # Errors
    /// When the runtime cannot have the socket.
    pub fn open(self) -> io::Result<(Input, Output)> {
        Ok(match self.way {
            Way::Queues(input, output) => {
                (Input(Source::Queue(input)), Output(output.map_or(Sink::Nobody, Sink::Queue)))
            }
            Way::Socket(stream, ahead) => {
                let (reader, writer) = socket::open(stream, ahead, self.rate, self.direction)?;
                (Input(Source::Socket(reader)), Output(Sink::Socket(writer)))
            }
        })
    }
}

/// The two queues of a line that somebody else feeds and empties, of so many pieces and so many frames: the ends for its
/// call, and the ends for them.
#[must_use]
pub fn queues(rate: Rate, pieces: usize, frames: usize) -> (Ends, mpsc::Sender<Piece>, mpsc::Receiver<Frame>) {
    let (to_call, from_source) = mpsc::channel(pieces);
    let (to_sink, from_call) = mpsc::channel(frames);
    let ends = Ends { rate, direction: Direction::Both, way: Way::Queues(from_source, Some(to_sink)) };
    (ends, to_call, from_call)
}

/// Up to 20 ms of the caller.
pub struct Piece {
    frame: Frame,
    len: usize,
}

impl Piece {
    /// These samples, at most 20 ms of them.
    #[must_use]
    pub fn new(samples: &[i16]) -> Self {
        let mut frame = Frame::silence(Rate::Hz48000);
        let len = samples.len().min(frame.len());
        frame[..len].copy_from_slice(&samples[..len]);
        Self { frame, len }
    }

    /// Its samples.
    #[must_use]
    pub fn samples(&self) -> &[i16] {
        &self.frame[..self.len]
    }
}

/// What comes from the caller.
#[expect(clippy::large_enum_variant, reason = "it comes fifty times a second, and a box would be an allocation each")]
pub enum Heard {
    /// Speech.
    Piece(Piece),
    /// No more of it; but the caller still listens.
    Done,
    /// Nothing: the caller is gone.
    HungUp,
}

/// The caller's end.
pub struct Input(Source);

enum Source {
    Queue(mpsc::Receiver<Piece>),
    Socket(Box<socket::Reader>),
}

impl Input {
    /// What comes next.
    ///
    /// # Errors
    /// When the line is broken.
    pub fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        match &mut self.0 {
            Source::Queue(queue) => queue.poll_recv(context).map(|piece| Ok(piece.map_or(Heard::Done, Heard::Piece))),
            Source::Socket(reader) => reader.poll_heard(context),
        }
    }

    /// The socket, if that is what it is, to be read until its peer closes it, too.
    #[must_use]
    pub fn into_socket(self) -> Option<OwnedReadHalf> {
        match self.0 {
            Source::Queue(_) => None,
            Source::Socket(reader) => Some(reader.into_socket()),
        }
    }
}

/// The listener's end.
pub struct Output(Sink);

enum Sink {
    Nobody,
    Queue(mpsc::Sender<Frame>),
    Socket(socket::Writer),
}

impl Output {
    /// Whether the next frame has room: a pipe that nobody reads blocks its writer, never the media thread.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn is_ready(&mut self) -> io::Result<bool> {
        match &mut self.0 {
            Sink::Nobody => Ok(true),
            Sink::Queue(queue) => Ok(queue.capacity() > 0 || queue.is_closed()),
            Sink::Socket(writer) => writer.is_ready(),
        }
    }

    /// Writes one frame, or hands it to who writes it; says how many bytes it has.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn write(&mut self, samples: &[i16]) -> io::Result<usize> {
        match &mut self.0 {
            Sink::Nobody => Ok(0),
            Sink::Queue(queue) => {
                let mut frame = Frame::silence(rate_of(samples.len()));
                frame.copy_from_slice(samples);
                match queue.try_send(frame) {
                    Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(size_of_val(samples)),
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the output any more"))
                    }
                }
            }
            Sink::Socket(writer) => writer.write(samples),
        }
    }

    /// Whether an error says no more than that the other side has closed.
    #[must_use]
    pub fn is_hangup(&self, error: &io::Error) -> bool {
        matches!(self.0, Sink::Socket(_))
            && matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    }
}

/// The samples of bytes that come in pairs.
fn unpack(bytes: &[u8], samples: &mut [i16]) {
    for (sample, pair) in samples.iter_mut().zip(bytes.chunks_exact(2)) {
        *sample = i16::from_le_bytes([pair[0], pair[1]]);
    }
}

/// A frame as it is written, in `space`.
fn pack<'s>(samples: &[i16], space: &'s mut [u8; 2 * MAX_SAMPLES]) -> &'s [u8] {
    for (pair, sample) in space.chunks_exact_mut(2).zip(samples) {
        pair.copy_from_slice(&sample.to_le_bytes());
    }
    &space[..size_of_val(samples)]
}

/// Makes a pipe as short as pipes can be: what hides in it a clear cannot reach. What is no pipe stays as it is.
fn shorten(pipe: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, SHORTEST);
}

fn rate_of(frame: usize) -> Rate {
    Rate::ALL.into_iter().find(|rate| rate.frame() == frame).unwrap_or(Rate::Hz48000)
}

/// Frames between a pipe and its call: 160 ms.
const QUEUE: usize = 8;
/// How far a source may run ahead of our clock.
const AHEAD: Duration = Duration::from_millis(100);
/// A page, the least that a pipe holds: 256 ms at 8 kHz.
const SHORTEST: usize = 4096;
