//! The writing ends of a call's two connections. They never wait: what a socket does not take stays for later.

use std::io;

use socket2::SockRef;
use tokio::net::{TcpStream, tcp::OwnedWriteHalf};

use crate::{
    call::{EndReason, rtp_io::RtpIo},
    leg::{
        audiosocket::line,
        pipe,
        websocket::{leg::Leg, link::Link},
    },
    media::Now,
};

/// A line, as its frames go out.
pub(super) enum LineIo {
    Audiosocket {
        socket: OwnedWriteHalf,
        line: Box<line::Line>,
        /// The rest of a message that the socket did not take.
        pending: Box<heapless::Vec<u8, { line::MAX_MESSAGE }>>,
    },
    Pipe(pipe::Output),
    Websocket(WebsocketIo),
    Rtp(Box<RtpIo>),
    /// The line is over.
    Gone,
}

/// What a line takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    /// The next frame.
    Frame,
    /// Nothing before the last frame is gone: this tick goes by without one.
    NotYet,
    /// Nothing: nobody is there, or the caller is on hold. What the agent says waits.
    Nothing,
}

impl Taking {
    const fn of(is_ready: bool) -> Self {
        if is_ready { Self::Frame } else { Self::NotYet }
    }
}

/// A WebSocket, as its messages go out.
pub(super) struct WebsocketIo {
    pub(super) socket: OwnedWriteHalf,
    pub(super) link: Link,
    /// The reading task waits for room.
    pub(super) paused: bool,
    /// The socket takes no more. What the peer said before may still be there to be read.
    pub(super) broken: bool,
}

impl LineIo {
    /// Whether it takes the next frame.
    pub(super) fn is_ready(&mut self) -> io::Result<Taking> {
        match self {
            Self::Audiosocket { socket, pending, .. } => {
                if pending.is_empty() {
                    return Ok(Taking::Frame);
                }
                match send(socket.as_ref(), pending) {
                    Ok(n) => {
                        pending.rotate_left(n);
                        pending.truncate(pending.len() - n);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                Ok(Taking::of(pending.is_empty()))
            }
            Self::Pipe(output) => output.is_ready().map(Taking::of),
            Self::Rtp(io) => Ok(if io.takes_frames() { Taking::Frame } else { Taking::Nothing }),
            // Not fed by ticks.
            Self::Websocket(_) | Self::Gone => Ok(Taking::Nothing),
        }
    }

    /// Writes one frame, in one write; says how many bytes it has.
    pub(super) fn write(&mut self, now: Now, frame: &[i16]) -> io::Result<usize> {
        match self {
            Self::Audiosocket { socket, line, pending } => {
                let mut message = [0; line::MAX_MESSAGE];
                let message = line.write_frame(frame, &mut message);
                let n = match send(socket.as_ref(), message) {
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(error),
                };
                // Fits: it is as large as the largest message.
                let _ = pending.extend_from_slice(&message[n..]);
                Ok(message.len())
            }
            Self::Pipe(output) => output.write(frame),
            Self::Rtp(io) => Ok(io.write(now, frame)),
            Self::Websocket(_) | Self::Gone => Ok(0),
        }
    }

    /// What it means that it does not take a frame any more.
    pub(super) fn reason_of(&self, error: &io::Error) -> EndReason {
        match self {
            Self::Pipe(output) if output.is_hangup(error) => EndReason::LineHungUp,
            Self::Pipe(_) | Self::Audiosocket { .. } | Self::Rtp(_) | Self::Websocket(_) | Self::Gone => {
                EndReason::LineLost
            }
        }
    }
}

impl WebsocketIo {
    pub(super) const fn new(socket: OwnedWriteHalf, link: Link) -> Self {
        Self { socket, link, paused: false, broken: false }
    }

    /// Says goodbye at TLS's level. A socket that does not take it is closed all the same.
    pub(super) fn close(&mut self) {
        self.link.close();
        let _ = self.link.flush(&mut TryWrite(&self.socket));
    }

    /// Sends what the leg has to say; whether all of it went.
    pub(super) fn send(&mut self, leg: &mut Leg) -> io::Result<bool> {
        if self.link.is_plain() {
            while !leg.out().is_empty() {
                match send(self.socket.as_ref(), leg.out()) {
                    Ok(n) => leg.written(n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            return Ok(true);
        }
        let mut socket = TryWrite(&self.socket);
        if !self.link.flush(&mut socket)? {
            return Ok(false);
        }
        if leg.out().is_empty() {
            return Ok(true);
        }
        let sealed = self.link.seal(leg.out());
        leg.written(sealed);
        Ok(self.link.flush(&mut socket)? && leg.out().is_empty())
    }
}

/// Writes what the socket takes at once, whatever tokio knows of its readiness: the first words of a call may be its
/// last, and must not wait for a reactor that has not seen the socket yet.
pub(super) fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    SockRef::from(socket).send(bytes)
}

/// A socket that never waits, as TLS wants it.
pub(super) struct TryWrite<'s>(pub(super) &'s OwnedWriteHalf);

impl io::Write for TryWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(self.0.as_ref(), bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        SockRef::from(self.0.as_ref()).send_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
