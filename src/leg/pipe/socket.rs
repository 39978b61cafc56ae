//! One connection of a Unix socket: PCM16, little-endian, both ways.
//!
//! Half of it closed is a caller who has said all; the whole of it closed, one who has hung up.

use core::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use std::{io, os::unix::net::UnixStream as StdUnixStream, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    dialect::Direction,
    leg::pipe::{AHEAD, Heard, Piece, pack, unpack},
    media::{
        Rate,
        frame::{Frame, MAX_SAMPLES},
    },
};

/// Takes a connection, of which `ahead` was read already, into this runtime.
pub(super) fn open(
    stream: StdUnixStream,
    ahead: Vec<u8>,
    rate: Rate,
    direction: Direction,
) -> io::Result<(Box<Reader>, Writer)> {
    // A wish, not a need.
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let (input, output) = UnixStream::from_std(stream)?.into_split();
    let reader = Reader {
        socket: input,
        ahead,
        taken: 0,
        bytes: [0; 2 * MAX_SAMPLES],
        filled: 0,
        rate,
        started: None,
        samples: 0,
        pause: Box::pin(sleep_until(Instant::now())),
    };
    let is_deaf = direction == Direction::Uplink;
    Ok((Box::new(reader), Writer { socket: output, pending: Box::default(), is_deaf }))
}

/// What the caller says.
pub(super) struct Reader {
    socket: OwnedReadHalf,
    /// What was read before the call began, and how much of it was taken.
    ahead: Vec<u8>,
    taken: usize,
    /// The next piece, as far as it has come.
    bytes: [u8; 2 * MAX_SAMPLES],
    filled: usize,
    rate: Rate,
    /// When the first piece came, and how many samples there were: one who sends faster than speech is made to wait.
    started: Option<Instant>,
    samples: u64,
    pause: Pin<Box<Sleep>>,
}

impl Reader {
    /// What comes next: 20 ms, or as much as there is.
    pub(super) fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        ready!(self.pause.as_mut().poll(context));
        let whole = 2 * self.rate.frame();
        let mut over = None;
        while self.filled < whole && over.is_none() {
            let rest = &self.ahead[self.taken..];
            if !rest.is_empty() {
                let n = rest.len().min(whole - self.filled);
                self.bytes[self.filled..self.filled + n].copy_from_slice(&rest[..n]);
                (self.taken, self.filled) = (self.taken + n, self.filled + n);
                continue;
            }
            let mut space = ReadBuf::new(&mut self.bytes[self.filled..whole]);
            match Pin::new(&mut self.socket).poll_read(context, &mut space) {
                // What is there does not wait for the rest; half a sample does.
                Poll::Pending if self.filled >= 2 => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if space.filled().is_empty() => over = Some(self.how_it_ended()),
                Poll::Ready(Ok(())) => self.filled += space.filled().len(),
                // It was closed with some of our audio unread.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => over = Some(Heard::HungUp),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if self.filled < 2 {
            // Ready without a whole sample is the end.
            return Poll::Ready(Ok(over.unwrap_or(Heard::HungUp)));
        }
        Poll::Ready(Ok(Heard::Piece(self.take())))
    }

    pub(super) fn into_socket(self) -> OwnedReadHalf {
        self.socket
    }

    /// Takes the samples that are whole.
    fn take(&mut self) -> Piece {
        let len = self.filled / 2;
        let mut frame = Frame::silence(self.rate);
        unpack(&self.bytes[..2 * len], &mut frame);
        self.bytes.copy_within(2 * len..self.filled, 0);
        self.filled -= 2 * len;
        let started = *self.started.get_or_insert_with(Instant::now);
        self.samples += len as u64;
        let hz = u64::from(self.rate.hz());
        let rest = Duration::from_nanos(self.samples % hz * 1_000_000_000 / hz);
        let due = started + Duration::from_secs(self.samples / hz) + rest;
        let (early, now) = (due.checked_sub(AHEAD).unwrap_or(started), Instant::now());
        if early > now {
            self.pause.as_mut().reset(early);
        } else if now > due + AHEAD {
            // It paused: what it says next is not owed, and would be too much at once.
            (self.started, self.samples) = (Some(now), 0);
        }
        Piece { frame, len }
    }

    /// What the end of the input is: a peer that has closed only its writing half still listens.
    fn how_it_ended(&self) -> Heard {
        let mut asked = [PollFd::new(self.socket.as_ref(), PollFlags::OUT)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut asked, Some(&at_once)) {
            Ok(_) if asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => Heard::HungUp,
            Ok(_) | Err(_) => Heard::Done,
        }
    }
}

/// What the caller hears.
pub(super) struct Writer {
    socket: OwnedWriteHalf,
    /// The rest of a frame that the socket did not take.
    pending: Box<heapless::Vec<u8, { 2 * MAX_SAMPLES }>>,
    /// Nothing is written: nobody hears the agent. The socket stays open as long as the call.
    is_deaf: bool,
}

impl Writer {
    pub(super) fn is_ready(&mut self) -> io::Result<bool> {
        if !self.pending.is_empty() {
            let n = self.send(&self.pending)?;
            self.pending.rotate_left(n);
            self.pending.truncate(self.pending.len() - n);
        }
        Ok(self.pending.is_empty())
    }

    pub(super) fn write(&mut self, samples: &[i16]) -> io::Result<usize> {
        if self.is_deaf {
            return Ok(0);
        }
        let mut space = [0; 2 * MAX_SAMPLES];
        let bytes = pack(samples, &mut space);
        let n = self.send(bytes)?;
        // Fits: it is as large as the largest frame.
        let _ = self.pending.extend_from_slice(&bytes[n..]);
        Ok(bytes.len())
    }

    /// Sends what the socket takes at once.
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match SockRef::from(self.socket.as_ref()).send(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }
}

/// Some 200 ms of frames, as the kernel counts them: what hides there a clear cannot reach.
const SEND_BUFFER: usize = 8 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::future::poll_fn;
    use std::{
        io::{Read as _, Write as _},
        net::Shutdown,
    };

    use super::*;

    fn inside<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// A caller, and our two ends.
    fn call(ahead: &[u8], direction: Direction) -> (StdUnixStream, Box<Reader>, Writer) {
        let (caller, ours) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (reader, writer) = open(ours, ahead.to_vec(), Rate::Hz8000, direction).unwrap();
        (caller, reader, writer)
    }

    async fn next(reader: &mut Reader) -> Heard {
        poll_fn(|context| reader.poll_heard(context)).await.unwrap()
    }

    async fn samples(reader: &mut Reader) -> Vec<i16> {
        match next(reader).await {
            Heard::Piece(piece) => piece.samples().to_vec(),
            Heard::Done | Heard::HungUp => panic!("the end"),
        }
    }

    #[test]
    fn what_was_read_ahead_comes_first_and_a_torn_sample_is_mended() {
        inside(async {
            let (mut caller, mut reader, _writer) = call(&[1, 0, 2], Direction::Both);
            assert_eq!(samples(&mut reader).await, [1]);
            caller.write_all(&[0, 3, 0, 4]).unwrap();
            assert_eq!(samples(&mut reader).await, [2, 3]);
            caller.write_all(&[0]).unwrap();
            assert_eq!(samples(&mut reader).await, [4]);
        });
    }

    #[test]
    fn half_a_close_is_a_caller_who_listens_and_a_whole_one_a_caller_who_is_gone() {
        inside(async {
            let (mut caller, mut reader, mut writer) = call(&[], Direction::Both);
            caller.write_all(&[7, 0]).unwrap();
            caller.shutdown(Shutdown::Write).unwrap();
            assert_eq!(samples(&mut reader).await, [7]);
            assert!(matches!(next(&mut reader).await, Heard::Done));
            assert_eq!(writer.write(&[5; 160]).unwrap(), 320);
            let mut heard = [0; 320];
            caller.read_exact(&mut heard).unwrap();
            assert_eq!(heard[..4], [5, 0, 5, 0]);
            drop(caller);
            assert!(matches!(next(&mut reader).await, Heard::HungUp));
            assert_eq!(writer.write(&[5; 160]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn a_caller_who_closes_with_the_agents_words_unread_has_hung_up() {
        inside(async {
            let (caller, mut reader, mut writer) = call(&[], Direction::Both);
            writer.write(&[5; 160]).unwrap();
            drop(caller);
            assert!(matches!(next(&mut reader).await, Heard::HungUp));
        });
    }

    #[test]
    fn a_recording_that_is_sent_at_once_is_heard_at_the_pace_of_speech() {
        inside(async {
            let (mut caller, mut reader, _writer) = call(&[], Direction::Both);
            caller.write_all(&[1; 320 * 15]).unwrap();
            let began = Instant::now();
            for _ in 0..15 {
                assert_eq!(samples(&mut reader).await.len(), 160);
            }
            // 300 ms of it: the last 20 begin at 280, less what may be early.
            assert!(began.elapsed() >= Duration::from_millis(180), "{:?}", began.elapsed());
        });
    }

    #[test]
    fn nobody_reads_and_nobody_waits_and_no_frame_is_torn() {
        inside(async {
            let (mut caller, _reader, mut writer) = call(&[], Direction::Both);
            let mut written = 0_i16;
            while writer.is_ready().unwrap() {
                writer.write(&[written; 160]).unwrap();
                written += 1;
            }
            assert!((4..100).contains(&written), "{written}");
            let mut heard = vec![0; 320 * usize::try_from(written).unwrap()];
            let mut got = 0;
            while got < heard.len() {
                got += caller.read(&mut heard[got..]).unwrap();
                writer.is_ready().unwrap();
            }
            for (number, frame) in (0..written).zip(heard.chunks(320)) {
                assert!(frame.chunks(2).all(|pair| pair == number.to_le_bytes()), "{number}");
            }
        });
    }

    #[test]
    fn who_only_talks_is_told_nothing_and_kept() {
        inside(async {
            let (caller, reader, mut writer) = call(&[], Direction::Uplink);
            assert_eq!(writer.write(&[5; 160]).unwrap(), 0);
            caller.set_nonblocking(true).unwrap();
            assert_eq!((&caller).read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(writer);
            assert_eq!((&caller).read(&mut [0; 8]).unwrap(), 0, "our half is closed after the last word");
            drop(reader);
        });
    }
}
