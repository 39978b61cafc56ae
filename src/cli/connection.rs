//! The connection of a stand-in: one task that reads, understands, answers and writes in one go, so that an echo is as
//! fast as the wire. What is said on it is decided in a [`Party`], which knows neither socket nor clock.

use core::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};
use std::{io, net::TcpStream as StdTcpStream, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    clock,
    leg::websocket::link::{Link, LinkError},
    media::Now,
};

/// One side of a call, without its socket.
pub(super) trait Party {
    /// Understands what was read, and does what is due.
    fn advance(&mut self, now: Now);
    /// Whether more may be read. If not, it may be when some of [`out`](Self::out) is gone.
    fn wants_read(&self) -> bool;
    /// Where the peer's bytes go.
    fn spare(&mut self) -> &mut [u8];
    /// So many were read into [`spare`](Self::spare). To be followed by [`advance`](Self::advance).
    fn filled(&mut self, n: usize);
    /// Bytes to be sent.
    fn out(&self) -> &[u8];
    /// So many of them were sent. To be followed by [`advance`](Self::advance).
    fn written(&mut self, n: usize);
    /// When [`advance`](Self::advance) has something to do, if nothing is read or written before.
    fn poll_timeout(&self) -> Now;
    /// Whether the connection can be dropped.
    fn is_done(&self, now: Now) -> bool;
    /// The connection is gone.
    fn lose(&mut self, now: Now);
    /// Says goodbye because we are to stop.
    fn interrupt(&mut self, now: Now);
}

/// The connection of one call.
pub(super) struct Connection {
    socket: TcpStream,
    link: Link,
    sealed: Sealed,
}

/// Bytes from the socket that TLS did not take yet.
#[derive(Default)]
struct Sealed {
    bytes: Vec<u8>,
    from: usize,
}

/// What there is to do.
enum Woken {
    Read(usize),
    Writable,
    Time,
    Stop,
}

impl Connection {
    /// An upgraded connection. `link` holds what was read too far.
    ///
    /// # Errors
    /// When the runtime cannot have the socket.
    pub(super) fn new(stream: StdTcpStream, link: Link) -> io::Result<Self> {
        Ok(Self { socket: TcpStream::from_std(stream)?, link, sealed: Sealed::default() })
    }

    /// Until the call is done; `stop` interrupts it.
    pub(super) async fn run(mut self, call: &mut impl Party, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut stopping = false;
        let mut timer = pin!(sleep(Duration::ZERO));
        let mut armed = Now::ZERO;
        loop {
            let now = clock::now();
            call.advance(now);
            if self.pull(call, now).is_err() {
                // An alert may say why.
                let _ = self.link.flush(&mut Socket(&self.socket));
                call.lose(now);
            }
            let blocked = self.push(call, now).unwrap_or_else(|_| {
                call.lose(now);
                false
            });
            if call.is_done(now) {
                break;
            }
            let due = call.poll_timeout();
            if due != armed {
                armed = due;
                let wait = due.saturating_sub(now).min(LONGEST_WAIT);
                timer.as_mut().reset(Instant::now() + wait);
            }
            let woken = poll_fn(|cx| {
                match self.poll_read(cx, call) {
                    Poll::Ready(read) => return Poll::Ready(read.map(Woken::Read)),
                    Poll::Pending => {}
                }
                if blocked && let Poll::Ready(ready) = self.socket.poll_write_ready(cx) {
                    return Poll::Ready(ready.map(|()| Woken::Writable));
                }
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Woken::Time));
                }
                if !stopping && stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Woken::Stop));
                }
                Poll::Pending
            });
            match woken.await {
                Ok(Woken::Read(0)) | Err(_) => call.lose(clock::now()),
                Ok(Woken::Read(n)) if self.link.is_plain() => call.filled(n),
                Ok(Woken::Read(_) | Woken::Writable) => {}
                Ok(Woken::Time) => armed = Now::ZERO,
                Ok(Woken::Stop) => {
                    stopping = true;
                    call.interrupt(clock::now());
                }
            }
        }
        self.leave().await;
    }

    /// Reads from the socket: straight to where the call wants it, or to be opened first. Pending while nothing may be
    /// read. tokio asks the socket again only after a read that filled its space.
    fn poll_read(&mut self, cx: &mut core::task::Context<'_>, call: &mut impl Party) -> Poll<io::Result<usize>> {
        if !call.wants_read() {
            return Poll::Pending;
        }
        let space = if self.link.is_plain() {
            call.spare()
        } else if self.sealed.from == self.sealed.bytes.len() {
            self.sealed.from = 0;
            self.sealed.bytes.resize(SEALED_BYTES, 0);
            &mut self.sealed.bytes
        } else {
            return Poll::Pending;
        };
        if space.is_empty() {
            return Poll::Pending;
        }
        let mut space = ReadBuf::new(space);
        let read = Pin::new(&mut self.socket).poll_read(cx, &mut space);
        let n = space.filled().len();
        if !self.link.is_plain() {
            self.sealed.bytes.truncate(n);
        }
        read.map_ok(|()| n)
    }

    /// Gives the call what was read and opened, as far as it wants it.
    fn pull(&mut self, call: &mut impl Party, now: Now) -> Result<(), LinkError> {
        while call.wants_read() {
            let n = self.link.plaintext(call.spare())?;
            if n > 0 {
                call.filled(n);
                call.advance(now);
                continue;
            }
            let sealed = &self.sealed.bytes[self.sealed.from..];
            if sealed.is_empty() {
                break;
            }
            let taken = self.link.open(sealed)?;
            if taken == 0 {
                break;
            }
            self.sealed.from += taken;
        }
        Ok(())
    }

    /// Sends all that is to be sent, in one write unless there is more than that; `true`: some of it has to wait.
    fn push(&mut self, call: &mut impl Party, now: Now) -> io::Result<bool> {
        for _ in 0..MOST_WRITES {
            if self.link.wants_write() && !self.link.flush(&mut Socket(&self.socket))? {
                return Ok(true);
            }
            if call.out().is_empty() {
                return Ok(false);
            }
            let sent = if self.link.is_plain() {
                match self.socket.try_write(call.out()) {
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            } else {
                self.link.seal(call.out())
            };
            call.written(sent);
            // There may be more to say now that there is room for it.
            call.advance(now);
        }
        Ok(true)
    }

    /// Closes so that our last words are read: not before the peer has, or had the time to (RFC 6455 7.1.1).
    async fn leave(mut self) {
        self.link.close();
        let _ = self.link.flush(&mut Socket(&self.socket));
        if self.socket.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 1024];
        let _ = timeout(LAST_READ, async { while matches!(self.socket.read(&mut rest).await, Ok(1..)) {} }).await;
    }
}

/// A socket that does not wait, for the link.
struct Socket<'s>(&'s TcpStream);

impl io::Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes read at once from a socket with TLS: a record of the largest size comes in two pieces at most.
const SEALED_BYTES: usize = 16 * 1024;
/// Writes in a row before other calls have their turn: about 100 kB.
const MOST_WRITES: usize = 8;
/// tokio's timers have an end.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How long we wait for the vendor to close its socket after us.
const LAST_READ: Duration = Duration::from_secs(1);
