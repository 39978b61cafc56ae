//! Joins a `pipe` line of a running daemon that listens at a Unix socket: says who calls, hears what became of that, and
//! leaves the connection at the first byte of audio.

use core::{fmt, time::Duration};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    dialect::Direction,
    leg::pipe::hello::{self, Answer, MAX_LINE},
};

/// A call that has begun.
#[derive(Debug)]
pub(super) struct Joined {
    /// The audio, both ways.
    pub(super) stream: UnixStream,
    /// As the daemon names it.
    pub(super) call_id: String,
    /// Of the audio (Hz).
    pub(super) sample_rate: u32,
    /// Whether any comes back.
    pub(super) direction: Direction,
}

/// Begins a call at this socket, of which this is told.
pub(super) fn join(socket: &Path, told: &impl Serialize) -> Result<Joined, JoinError> {
    let failed = |fault| JoinError { socket: socket.to_owned(), fault };
    let mut stream = UnixStream::connect(socket).map_err(|error| failed(Fault::Connect(error)))?;
    let answer = ask(&mut stream, told).map_err(|error| failed(Fault::Broken(error)))?;
    match Answer::parse(&answer) {
        Ok(Answer::Taken { call_id, sample_rate, direction }) => Ok(Joined { stream, call_id, sample_rate, direction }),
        Ok(Answer::Refused { refused }) => Err(failed(Fault::Refused(refused))),
        Err(_) => Err(failed(Fault::Foreign)),
    }
}

/// The line that is answered, without its line break.
fn ask(stream: &mut UnixStream, told: &impl Serialize) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(hello::line(told).as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    // One at a time: what follows is audio.
    while answer.len() < MAX_LINE {
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => answer.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.set_read_timeout(None)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Why there is no call.
#[derive(Debug)]
pub struct JoinError {
    socket: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Connect(io::Error),
    Broken(io::Error),
    /// In the daemon's own words.
    Refused(String),
    /// What listens there is something else.
    Foreign,
}

impl JoinError {
    /// Whether the daemon is there and did not take the call.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self.fault, Fault::Refused(_))
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        match &self.fault {
            Fault::Connect(error) => match error.kind() {
                io::ErrorKind::NotFound => write!(
                    f,
                    "no line at {socket}: is the daemon running, and does a `pipe` line of its config say listen = \
                     \"{socket}\"?"
                ),
                io::ErrorKind::ConnectionRefused => {
                    write!(f, "nobody listens at {socket}: the daemon that made it is gone")
                }
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "{socket} is for the group trunkline: add the user that runs this by `usermod -aG trunkline USER`, and \
                     start its service or session anew"
                ),
                _ => write!(f, "cannot connect to {socket}: {error}"),
            },
            Fault::Broken(error) => write!(f, "the daemon at {socket} did not answer: {error}"),
            Fault::Refused(words) => write!(f, "the daemon did not take the call: {words}"),
            Fault::Foreign => {
                write!(f, "what answers at {socket} is no `pipe` line; the control socket is another one")
            }
        }
    }
}

impl core::error::Error for JoinError {}

/// The daemon answers at once, or is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);
