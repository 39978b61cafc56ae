//! A call over AudioSocket: one thread sends, one listens.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    cli::call::{
        CallError,
        heard::{End, Heard, Sent, Stopped, Stretch},
        score::{LEAD_IN, Score},
    },
    leg::audiosocket::{
        Uuid, kind_of,
        message::{self, Item, MAX_FRAME, Reader},
        rate_of,
    },
    media::{clock::PTIME, frame::MAX_SAMPLES},
};

pub(super) fn connect(address: &str) -> Result<TcpStream, CallError> {
    let found = address.to_socket_addrs().map_err(|error| CallError::Address(address.to_owned(), error))?;
    let mut failed = io::Error::other("the name has no address");
    for one in found {
        match dial(&one) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(CallError::Connect(address.to_owned(), failed))
}

fn dial(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(STUCK))?;
    Ok(stream)
}

/// The call itself: one thread sends, one listens, and one tells a terminal how it goes.
pub(super) fn converse(
    stream: &TcpStream,
    score: &Score,
    uuid: Uuid,
    digits: &[u8],
    interrupted: &AtomicBool,
) -> Result<(Sent, Heard), CallError> {
    let played = AtomicU64::new(0);
    let (over, is_over) = mpsc::channel();
    thread::scope(|scope| {
        let listener = thread::Builder::new()
            .spawn_scoped(scope, move || {
                let heard = Heard::listen(stream);
                let _ = over.send(()); // nobody waits any more
                heard
            })
            .map_err(CallError::System)?;
        let progress = io::stderr().is_terminal().then(|| scope.spawn(|| show_progress(&played, score.end)));

        let sent = send(stream, score, uuid, digits, interrupted, &played, &is_over);
        // A hang-up that is followed by a reset may be lost, so the server gets the time to close first.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = is_over.recv_timeout(GOODBYE);
        let _ = stream.shutdown(Shutdown::Both);
        if let Some(progress) = progress {
            played.store(u64::MAX, Relaxed);
            progress.thread().unpark();
        }
        let heard = listener.join().expect("listening does not panic");
        Ok((sent, heard))
    })
}

fn send(
    mut stream: &TcpStream,
    score: &Score,
    uuid: Uuid,
    mut digits: &[u8],
    interrupted: &AtomicBool,
    played: &AtomicU64,
    is_over: &mpsc::Receiver<()>,
) -> Sent {
    let (mut frame, mut out) = ([0; MAX_SAMPLES], [0; MAX_FRAME]);
    let mut at = Vec::with_capacity(score.frames.min(1 << 20));
    let mut late = Duration::ZERO;
    let began = Instant::now();
    let mut due = began + PTIME; // as from a phone: no server has to take its first frame along with the name
    let mut failed = stream.write_all(message::write_uuid(&uuid.0, &mut out)).err();
    let mut n = 0;
    let stopped = loop {
        if let Some(error) = failed {
            // Often the server hung up a moment ago; then the listener knows.
            break match is_over.recv_timeout(GOODBYE) {
                Err(RecvTimeoutError::Timeout) => Stopped::Stuck(error),
                Ok(()) | Err(RecvTimeoutError::Disconnected) => Stopped::Over,
            };
        }
        match is_over.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break Stopped::Over,
        }
        if n >= score.end || interrupted.load(Relaxed) {
            let by_time = n >= score.end;
            let _ = stream.write_all(message::write_hangup(&mut out)); // closing says the same
            break if by_time { Stopped::TimeIsUp } else { Stopped::Interrupted };
        }
        let place = n.checked_sub(LEAD_IN).and_then(|place| usize::try_from(place).ok());
        let samples = score.frame(place.unwrap_or(usize::MAX), &mut frame);
        let bytes = message::write_audio(kind_of(score.rate), samples, &mut out);
        let now = Instant::now();
        if place.is_some_and(|place| place < score.frames) {
            at.push(now);
        }
        late = late.max(now.saturating_duration_since(due));
        failed = stream.write_all(bytes).err();
        if n >= FIRST_DIGIT
            && (n - FIRST_DIGIT).is_multiple_of(DIGIT_FRAMES)
            && failed.is_none()
            && let Some((&digit, rest)) = digits.split_first()
        {
            failed = stream.write_all(message::write_dtmf(digit, &mut out)).err();
            if failed.is_none() {
                digits = rest;
            }
        }
        n += 1;
        played.store(n, Relaxed);
        due += PTIME;
    };
    Sent { began, ended: Instant::now(), at, late, unsent: digits.len(), stopped }
}

fn show_progress(played: &AtomicU64, end: u64) {
    loop {
        let n = played.load(Relaxed);
        if n == u64::MAX {
            eprint!("\r\x1b[K"); // clears the line for the summary
            return;
        }
        eprint!("\r{} s of {} s", n / 50, end / 50);
        thread::park_timeout(Duration::from_millis(500));
    }
}

impl Heard {
    fn listen(mut stream: &TcpStream) -> Self {
        let end = End::Closed { mid_message: false };
        let mut heard = Self {
            stretches: Vec::new(),
            first: None,
            first_voice: None,
            last: None,
            max_gap: Duration::ZERO,
            messages: 0,
            bytes: 0,
            end,
        };
        let mut reader = Reader::new();
        heard.end = loop {
            match stream.read(reader.spare()) {
                Ok(0) => break End::Closed { mid_message: reader.is_mid_message() },
                Ok(n) => {
                    let now = Instant::now();
                    heard.bytes += n as u64;
                    reader.filled(n);
                    if let Some(end) = heard.take(&mut reader, now) {
                        break end;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break End::Broken(error),
            }
        };
        heard
    }

    fn take(&mut self, reader: &mut Reader, now: Instant) -> Option<End> {
        loop {
            match reader.peek() {
                Ok(None) => return None,
                Err(violation) => return Some(End::Garbled(violation)),
                Ok(Some(Item::Hangup)) => return Some(End::Hangup),
                Ok(Some(Item::Audio { kind, bytes, last, .. })) => self.on_audio(kind, bytes, last, now),
                // None of these ends a call here; the recording shows what there was.
                Ok(Some(
                    Item::Uuid(_)
                    | Item::Silence
                    | Item::Dtmf(_)
                    | Item::WrongRate(_)
                    | Item::Error(_)
                    | Item::Unknown(_),
                )) => {}
            }
            reader.advance();
        }
    }

    fn on_audio(&mut self, kind: u8, bytes: &[u8], last: bool, now: Instant) {
        let Some(rate) = rate_of(kind) else { return };
        self.messages += u64::from(last);
        self.first.get_or_insert(now);
        self.max_gap = self.max_gap.max(self.last.map_or(Duration::ZERO, |before| now - before));
        self.last = Some(now);
        if self.stretches.last().is_none_or(|stretch| stretch.rate != rate) {
            self.stretches.push(Stretch { rate, samples: Vec::new(), arrivals: Vec::new() });
        }
        if let Some(stretch) = self.stretches.last_mut() {
            let before = stretch.samples.len();
            stretch.arrivals.push((before, now));
            stretch.samples.extend(bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
            if self.first_voice.is_none() && stretch.samples[before..].iter().any(|&sample| sample != 0) {
                self.first_voice = Some(now);
            }
        }
    }
}

/// As Asterisk has it for each address (`MAX_CONNECT_TIMEOUT_MSEC` in `res/res_audiosocket.c`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that takes nothing for so long is given up. A PBX hangs up even earlier.
pub(super) const STUCK: Duration = Duration::from_secs(2);

/// How long the server may take to close after our hang-up.
const GOODBYE: Duration = Duration::from_millis(300);

/// The frame after which the first digit is sent.
const FIRST_DIGIT: u64 = 50;

/// Frames from one digit to the next.
const DIGIT_FRAMES: u64 = 10;
