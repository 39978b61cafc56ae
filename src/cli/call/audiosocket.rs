//! A call over AudioSocket: one thread sends, one listens.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use crate::{
    cli::call::{
        CallError, Ending,
        heard::{Heard, Outcome, Sent},
        score::{LEAD_IN, Score},
    },
    clock,
    leg::audiosocket::{
        Uuid, kind_of,
        message::{self, Item, MAX_FRAME, Reader},
        rate_of,
    },
    media::{Now, clock::PTIME, frame::MAX_SAMPLES},
};

/// Places the call at this address.
pub(super) fn place(
    address: &str,
    score: &Score,
    uuid: Uuid,
    digits: &[u8],
    interrupted: &AtomicBool,
) -> Result<Outcome, CallError> {
    let stream = connect(address)?;
    let Talked { sent, stopped, heard, end } = converse(&stream, score, uuid, digits, interrupted)?;
    let (ended_by, trouble) = match (stopped, end) {
        (Stopped::Interrupted, _) => (Ending::Interrupted, None),
        (Stopped::TimeIsUp, End::Hangup | End::Closed { .. } | End::Broken(_)) => (Ending::Caller, None),
        (_, End::Garbled(violation)) => (Ending::Lost, Some(violation.to_string())),
        (_, End::Hangup) => (Ending::Server, None),
        (_, End::Closed { mid_message }) => {
            (Ending::Closed, mid_message.then(|| "the connection ended inside a message".to_owned()))
        }
        (Stopped::Over, End::Broken(error)) => (Ending::Lost, Some(error.to_string())),
        (Stopped::Stuck(error), End::Broken(_)) => (
            Ending::Lost,
            Some(format!("the server took no audio for {} s ({error}); a PBX hangs up here", STUCK.as_secs())),
        ),
    };
    Ok(Outcome { sent, heard, ended_by, trouble, marks: (0, 0), clears: 0, listen_only: false })
}

fn connect(address: &str) -> Result<TcpStream, CallError> {
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

enum Stopped {
    TimeIsUp,
    Interrupted,
    /// The listener saw the end.
    Over,
    Stuck(io::Error),
}

enum End {
    Hangup,
    Closed { mid_message: bool },
    Broken(io::Error),
    Garbled(message::Violation),
}

/// What both threads saw.
struct Talked {
    sent: Sent,
    stopped: Stopped,
    heard: Heard,
    end: End,
}

/// The call itself: one thread sends, one listens, and one tells a terminal how it goes.
fn converse(
    stream: &TcpStream,
    score: &Score,
    uuid: Uuid,
    digits: &[u8],
    interrupted: &AtomicBool,
) -> Result<Talked, CallError> {
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

        let (sent, stopped) = send(stream, score, uuid, digits, interrupted, &played, &is_over);
        // A hang-up that is followed by a reset may be lost, so the server gets the time to close first.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = is_over.recv_timeout(GOODBYE);
        let _ = stream.shutdown(Shutdown::Both);
        if let Some(progress) = progress {
            played.store(u64::MAX, Relaxed);
            progress.thread().unpark();
        }
        let (heard, end) = listener.join().expect("listening does not panic");
        Ok(Talked { sent, stopped, heard, end })
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
) -> (Sent, Stopped) {
    let (mut frame, mut out) = ([0; MAX_SAMPLES], [0; MAX_FRAME]);
    let mut at = Vec::with_capacity(score.frames.min(1 << 20));
    let mut late = Duration::ZERO;
    let began = clock::now();
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
        match is_over.recv_timeout(due.saturating_sub(clock::now())) {
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
        let now = clock::now();
        if place.is_some_and(|place| place < score.frames) {
            at.push(now);
        }
        late = late.max(now.saturating_sub(due));
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
    (Sent { began, ended: clock::now(), at, late, unsent: digits.len() }, stopped)
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
    fn listen(mut stream: &TcpStream) -> (Self, End) {
        let mut heard = Self::default();
        let mut reader = Reader::new();
        let end = loop {
            match stream.read(reader.spare()) {
                Ok(0) => break End::Closed { mid_message: reader.is_mid_message() },
                Ok(n) => {
                    let now = clock::now();
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
        (heard, end)
    }

    fn take(&mut self, reader: &mut Reader, now: Now) -> Option<End> {
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

    fn on_audio(&mut self, kind: u8, bytes: &[u8], last: bool, now: Now) {
        let Some(rate) = rate_of(kind) else { return };
        self.messages += u64::from(last);
        self.on_message(now);
        let samples = bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
        self.on_samples(now, rate, samples);
    }
}

/// As Asterisk has it for each address (`MAX_CONNECT_TIMEOUT_MSEC` in `res/res_audiosocket.c`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that takes nothing for so long is given up. A PBX hangs up even earlier.
const STUCK: Duration = Duration::from_secs(2);

/// How long the server may take to close after our hang-up.
const GOODBYE: Duration = Duration::from_millis(300);

/// The frame after which the first digit is sent.
const FIRST_DIGIT: u64 = 50;

/// Frames from one digit to the next.
const DIGIT_FRAMES: u64 = 10;
