//! `trunkline call`: a PBX to try a daemon with, or any other AudioSocket server.
//!
//! It does what Asterisk does: connects, names the call, sends 20 ms of audio each 20 ms in one write each, and never
//! stops sending while the call lives. What it hears it keeps with the time of its arrival, and only looks at it when
//! the call is over, so that looking disturbs no measurement.
//!
//! ```text
//!   WAV -> frame 0, 1, 2 ... -> [mark n | samples] --write--> server --read--> heard, with times -> WAV
//!                                 sent at                                        marks found -> delay, loss
//! ```

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufWriter, IsTerminal as _, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    cli::wav::read_wav,
    leg::audiosocket::{
        Uuid, is_digit, kind_of,
        message::{self, Item, MAX_FRAME, Reader},
        rate_of,
    },
    media::{Rate, clock::PTIME, frame::MAX_SAMPLES},
};

/// Places a call like a PBX: plays a WAV to an AudioSocket server and records what comes back.
#[derive(Clone, Debug, clap::Args)]
pub struct CallArgs {
    /// Where the server listens, as in 127.0.0.1:9092
    #[arg(long, value_name = "HOST:PORT")]
    pub audiosocket: String,
    /// The WAV to play: 16-bit PCM at 8, 16, 24 or 48 kHz; of several channels the first (left) is used
    #[arg(long, value_name = "IN.wav")]
    pub play: PathBuf,
    /// The WAV to write with everything that was heard
    #[arg(long, value_name = "OUT.wav")]
    pub record: PathBuf,
    /// Hang up after this many milliseconds [default: what is played and 2000 more]
    #[arg(long, value_name = "MS")]
    pub hangup_after: Option<u64>,
    /// Digits to send after the first second, 200 ms apart: 0-9, *, #, A-D
    #[arg(long, value_name = "DIGITS", value_parser = parse_digits)]
    pub dtmf: Option<String>,
    /// The name of the call [default: a random one]
    #[arg(long, value_name = "UUID")]
    pub uuid: Option<Uuid>,
    /// Play the WAV this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Mark each frame so that its way back can be timed (clicks, 50 a second); for agents that echo
    #[arg(long)]
    pub marks: bool,
    /// Print the summary once more, as one JSON object on the last line
    #[arg(long)]
    pub json: bool,
}

/// Places the call and prints what came of it. SIGINT and SIGTERM hang up; what was heard until then is kept.
///
/// # Errors
///
/// There was no call: a WAV cannot be read or written, or nobody answers.
pub fn run(args: &CallArgs) -> Result<Summary, CallError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    watch_signals(Arc::clone(&interrupted));
    let summary = place(args, &interrupted)?;
    let mut out = io::stdout().lock();
    // A reader that went away is not worth a panic; the recording is on disk.
    let _ = writeln!(out, "{summary}");
    if args.json {
        let _ = writeln!(out, "{}", summary.to_json());
    }
    Ok(summary)
}

/// Who ended the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// We hung up when our time was over.
    Caller,
    /// The server sent a hangup.
    Server,
    /// The server closed the connection without a hangup.
    Closed,
    /// Somebody stopped us; we hung up.
    Interrupted,
    /// The connection broke, or what came over it was not AudioSocket.
    Lost,
}

/// What came of a call. Displayed, it is for people.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// A hang-up ended it, ours or the server's, and something else than silence was heard.
    pub ok: bool,
    /// From the first message to the hang-up.
    pub seconds: f64,
    /// Who ended it.
    pub ended_by: Ending,
    /// Frames of the WAV that were played, 20 ms each; with marks, those that were marked.
    pub frames_sent: u64,
    /// How many of them came back.
    pub frames_heard: u64,
    /// How many did not, less those that were under way when the call ended.
    pub lost: u64,
    /// What was heard, less inserted silence, is what was played: every sample, in order, nothing else.
    pub bit_exact: bool,
    /// Median time from sending a frame to hearing its first sample (ms); needs marks.
    pub delay_ms_p50: Option<f64>,
    /// The same for the slowest of a hundred (ms).
    pub delay_ms_p99: Option<f64>,
    /// From our first message to the first audio message from the server, which may be silence of its own (ms).
    pub first_ms: Option<f64>,
    /// From our first message to the first sample that was not silence (ms): to its message, if that is a long one.
    pub first_voice_ms: Option<f64>,
    /// The longest time between two audio messages from the server (ms).
    pub max_gap_ms: f64,
    /// The most that one of our own frames was late (ms): how far the other figures can be trusted.
    pub late_ms_max: f64,
    /// Audio messages from the server.
    pub messages: u64,
    /// Bytes from the server.
    pub bytes: u64,
    /// Samples a second of the recording.
    pub rate: u32,
    /// The name of the call.
    #[serde(serialize_with = "as_text")]
    pub uuid: Uuid,
    #[serde(skip)]
    report: Report,
}

/// What only the people's summary needs.
#[derive(Clone, Debug)]
struct Report {
    server: String,
    record: PathBuf,
    marks: bool,
    heard: Duration,
    /// What of it was not silence.
    loud: Duration,
    /// Digits that were to be sent.
    digits: usize,
    /// How many of them the call had ended before.
    unsent: usize,
    /// What went wrong, in words.
    trouble: Option<String>,
}

fn as_text<S: serde::Serializer>(uuid: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(uuid)
}

impl Summary {
    /// One JSON object, without a newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = [0; 1024];
        let len = serde_json_core::to_slice(self, &mut text).expect("seventeen numbers and words fit 1 KiB");
        String::from_utf8_lossy(&text[..len]).into_owned()
    }

    /// 0 after a call, 130 if it was interrupted, 1 if it ended without a hang-up or nothing but silence was heard.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.ended_by {
            Ending::Interrupted => 130,
            Ending::Caller | Ending::Server | Ending::Closed | Ending::Lost => u8::from(!self.ok),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { server, record, marks, heard, loud, digits, unsent, trouble } = &self.report;
        let ended = match self.ended_by {
            Ending::Caller => "we hung up",
            Ending::Server => "the server hung up",
            Ending::Closed => "the server closed the connection",
            Ending::Interrupted => "interrupted, we hung up",
            Ending::Lost => "the call was lost",
        };
        writeln!(f, "Call {} to {server}: {:.1} s, {ended}.", self.uuid, self.seconds)?;
        if let Some(trouble) = trouble {
            writeln!(f, "Trouble: {trouble}.")?;
        }
        match (unsent, digits) {
            (0, _) => {}
            (1, 1) => writeln!(f, "The digit was not sent: the call ended before.")?,
            (unsent, digits) if unsent == digits => {
                writeln!(f, "None of the {digits} digits was sent: the call ended before.")?;
            }
            (unsent, digits) => {
                writeln!(f, "Of {digits} digits the last {unsent} were not sent: the call ended before.")?;
            }
        }
        let Some(first_ms) = self.first_ms else {
            return write!(f, "Nothing was heard: is the server at its limit of calls? Its log says why.");
        };
        writeln!(
            f,
            "Heard: {:.1} s at {} Hz, {:.1} s of it not silence, in {}. It began after {first_ms:.0} ms; the longest \
             gap between messages was {:.1} ms.",
            heard.as_secs_f64(),
            self.rate,
            loud.as_secs_f64(),
            record.display(),
            self.max_gap_ms,
        )?;
        let Some(first_voice_ms) = self.first_voice_ms else {
            return write!(f, "All of it was silence: does the agent speak? The server's log has the call.");
        };
        writeln!(f, "The first sound came after {first_voice_ms:.0} ms.")?;
        if self.bit_exact {
            write!(f, "Echo: bit-exact; {} frames played, {} came back", self.frames_sent, self.frames_heard)?;
        } else {
            write!(
                f,
                "Echo: what was heard is not what was played (right if the agent does not echo); {} of {} frames \
                 came back, {} lost",
                self.frames_heard, self.frames_sent, self.lost
            )?;
        }
        match (self.delay_ms_p50, self.delay_ms_p99) {
            (Some(p50), Some(p99)) => write!(f, ".\nDelay there and back: median {p50:.1} ms, p99 {p99:.1} ms.")?,
            _ if *marks => write!(
                f,
                ".\nNo marked frame was found in what was heard: there is no echo, or its samples were changed on the \
                 way by another rate or codec."
            )?,
            _ => f.write_str(".")?,
        }
        if self.late_ms_max > 5.0 {
            write!(f, "\nThis machine was busy: a frame of ours was {:.1} ms late.", self.late_ms_max)?;
        }
        Ok(())
    }
}

/// Why there was no call.
#[derive(Debug)]
pub enum CallError {
    /// The WAV to play is not one that can be played.
    Play(PathBuf, String),
    /// The recording cannot be written.
    Record(PathBuf, String),
    /// The address is not one, or its name is not known.
    Address(String, io::Error),
    /// Nobody answers there.
    Connect(String, io::Error),
    /// The system refused something that every call needs.
    System(io::Error),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Play(path, problem) => write!(f, "cannot play {}: {problem}", path.display()),
            Self::Record(path, problem) => write!(f, "cannot record to {}: {problem}", path.display()),
            Self::Address(address, error) => {
                write!(f, "{address} is no address to call ({error}); write HOST:PORT, as in 127.0.0.1:9092")
            }
            Self::Connect(address, error) if error.kind() == io::ErrorKind::ConnectionRefused => write!(
                f,
                "nobody listens at {address} (connection refused); is the daemon running? Start it with `trunkline \
                 run --config FILE`, and see that its audiosocket line has `listen` at this address"
            ),
            Self::Connect(address, error) => write!(
                f,
                "cannot connect to {address} ({error}); is that the right machine, and does its firewall let this \
                 port through?"
            ),
            Self::System(error) => write!(f, "the system refused: {error}"),
        }
    }
}

impl std::error::Error for CallError {}

fn parse_digits(text: &str) -> Result<String, String> {
    let digits = text.to_ascii_uppercase();
    match digits.chars().find(|&c| !u8::try_from(c).is_ok_and(is_digit)) {
        Some(c) => Err(format!("{c:?} is not a digit of a telephone: 0-9, *, #, A-D")),
        None => Ok(digits),
    }
}

/// Sets the flag at SIGINT or SIGTERM. Its thread lives as long as the process.
fn watch_signals(interrupted: Arc<AtomicBool>) {
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
                return;
            };
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            interrupted.store(true, Relaxed);
            // The handlers stay, so a second Ctrl-C has to be answered here.
            int.recv().await;
            std::process::exit(130);
        });
    });
}

fn place(args: &CallArgs, interrupted: &AtomicBool) -> Result<Summary, CallError> {
    let score = Score::open(args)?;
    let uuid = match args.uuid {
        Some(uuid) => uuid,
        None => random_uuid()?,
    };
    // Before the call, so that no call is placed in vain.
    let same = fs::canonicalize(&args.record).is_ok_and(|path| fs::canonicalize(&args.play).is_ok_and(|p| p == path));
    let in_record = |problem: String| CallError::Record(args.record.clone(), problem);
    if same {
        return Err(in_record("it is the WAV to play".to_owned()));
    }
    let is_new = !args.record.exists();
    let file = File::options().create(true).write(true).truncate(false).open(&args.record);
    let file = file.map_err(|error| in_record(error.to_string()))?;
    let stream = connect(&args.audiosocket).inspect_err(|_| {
        if is_new {
            let _ = fs::remove_file(&args.record); // an empty file would look like a recording
        }
    })?;
    let digits = args.dtmf.as_deref().unwrap_or_default().as_bytes();
    let (sent, heard) = converse(&stream, &score, uuid, digits, interrupted)?;
    let rate = heard.rate();
    if file.metadata().is_ok_and(|file| file.is_file()) {
        file.set_len(0).map_err(|error| in_record(error.to_string()))?; // /dev/null has no length
    }
    write_wav(file, rate, heard.recording(rate)).map_err(|error| in_record(error.to_string()))?;

    let (ended_by, trouble) = match (&sent.stopped, &heard.end) {
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
    let echo = Echo::find(&score, &sent, &heard);
    let loud = heard.stretches.iter().map(Stretch::loud).sum();
    Ok(Summary {
        ok: matches!(ended_by, Ending::Caller | Ending::Server) && heard.first_voice.is_some(),
        seconds: millis(sent.ended - sent.began).round() / 1000.0,
        ended_by,
        frames_sent: sent.at.len() as u64,
        frames_heard: echo.frames,
        lost: echo.lost,
        bit_exact: echo.bit_exact,
        delay_ms_p50: percentile(&echo.delays, 50),
        delay_ms_p99: percentile(&echo.delays, 99),
        first_ms: heard.first.map(|first| millis(first.saturating_duration_since(sent.began))),
        first_voice_ms: heard.first_voice.map(|first| millis(first.saturating_duration_since(sent.began))),
        max_gap_ms: millis(heard.max_gap),
        late_ms_max: millis(sent.late),
        messages: heard.messages,
        bytes: heard.bytes,
        rate: rate.hz(),
        uuid,
        report: Report {
            server: args.audiosocket.clone(),
            record: args.record.clone(),
            marks: args.marks,
            heard: heard.stretches.iter().map(Stretch::duration).sum(),
            loud,
            digits: digits.len(),
            unsent: sent.unsent,
            trouble,
        },
    })
}

/// Version 4, RFC 9562 5.4.
fn random_uuid() -> Result<Uuid, CallError> {
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(|error| CallError::System(io::Error::other(error.to_string())))?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(Uuid(uuid))
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

/// What is to be played: the samples, and how long.
struct Score {
    rate: Rate,
    samples: Vec<i16>,
    repeat: usize,
    marks: bool,
    /// Frames of the WAV, marked ones if there are marks; silence after that.
    frames: usize,
    /// Frames until the hang-up.
    end: u64,
}

impl Score {
    fn open(args: &CallArgs) -> Result<Self, CallError> {
        let (rate, samples) =
            read_wav(&args.play).map_err(|problem| CallError::Play(args.play.clone(), problem.to_string()))?;
        let repeat = args.repeat as usize;
        let mut frames = samples.len().saturating_mul(repeat).div_ceil(rate.frame());
        let ptime = PTIME.as_millis() as u64;
        let end = match args.hangup_after {
            Some(ms) => ms.div_ceil(ptime),
            None => LEAD_IN + frames as u64 + REST.as_millis() as u64 / ptime,
        };
        let rest = if args.marks { (IN_FLIGHT.as_millis() / PTIME.as_millis()) as u64 } else { 0 };
        frames = frames.min(usize::try_from(end.saturating_sub(LEAD_IN + rest)).unwrap_or(usize::MAX));
        Ok(Self { rate, samples, repeat, marks: args.marks, frames, end })
    }

    /// Frame `n`, marked if that is wanted; silence after the last one.
    fn frame<'b>(&self, n: usize, out: &'b mut [i16; MAX_SAMPLES]) -> &'b [i16] {
        let out = &mut out[..self.rate.frame()];
        out.fill(0);
        if n >= self.frames {
            return out;
        }
        let all = self.samples.len().saturating_mul(self.repeat);
        for (place, sample) in (n * out.len()..all).zip(&mut *out) {
            *sample = self.samples[place % self.samples.len()];
        }
        if self.marks {
            out[..MARK].copy_from_slice(&mark(n as u32));
        }
        out
    }
}

fn write_wav(file: File, rate: Rate, samples: impl Iterator<Item = i16>) -> hound::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate.hz(),
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::new(BufWriter::new(file), spec)?;
    for sample in samples {
        wav.write_sample(sample)?;
    }
    wav.finalize()
}

/// What was played, and when.
struct Sent {
    began: Instant,
    ended: Instant,
    /// When each frame of the score was sent; silence after it is not in here.
    at: Vec<Instant>,
    /// The latest that a frame was sent after it was due.
    late: Duration,
    /// Digits that were not sent.
    unsent: usize,
    stopped: Stopped,
}

enum Stopped {
    TimeIsUp,
    Interrupted,
    /// The listener saw the end.
    Over,
    Stuck(io::Error),
}

/// The call itself: one thread sends, one listens, and one tells a terminal how it goes.
fn converse(
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

/// Audio from the server at one rate.
struct Stretch {
    rate: Rate,
    samples: Vec<i16>,
    /// When the samples from this place on arrived.
    arrivals: Vec<(usize, Instant)>,
}

impl Stretch {
    fn duration(&self) -> Duration {
        self.rate.duration(self.samples.len())
    }

    fn loud(&self) -> Duration {
        self.rate
            .duration(self.samples.chunks(self.rate.frame()).filter(|c| c.iter().any(|&s| s != 0)).flatten().count())
    }
}

enum End {
    Hangup,
    Closed { mid_message: bool },
    Broken(io::Error),
    Garbled(message::Violation),
}

/// What came from the server, in the order of its arrival.
struct Heard {
    stretches: Vec<Stretch>,
    first: Option<Instant>,
    /// When the first sample came that is not silence.
    first_voice: Option<Instant>,
    last: Option<Instant>,
    max_gap: Duration,
    messages: u64,
    bytes: u64,
    end: End,
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

    /// The rate of most of it. Not of the first message: a server that has not yet heard us sends silence at 8 kHz.
    fn rate(&self) -> Rate {
        let lasts =
            |rate: Rate| self.stretches.iter().filter(|s| s.rate == rate).map(Stretch::duration).sum::<Duration>();
        Rate::ALL.into_iter().rev().max_by_key(|&rate| lasts(rate)).unwrap_or(Rate::Hz8000)
    }

    /// All of it at this rate. What had another one is stretched without finesse, to keep its time.
    fn recording(&self, rate: Rate) -> impl Iterator<Item = i16> {
        self.stretches.iter().flat_map(move |stretch| {
            let (from, to) = (stretch.rate.hz() as usize, rate.hz() as usize);
            (0..stretch.samples.len() * to / from).map(move |n| stretch.samples[n * from / to])
        })
    }
}

/// What of the score came back.
struct Echo {
    frames: u64,
    lost: u64,
    bit_exact: bool,
    /// From sending to hearing, in order of size (ms).
    delays: Vec<f64>,
}

impl Echo {
    fn find(score: &Score, sent: &Sent, heard: &Heard) -> Self {
        let mut samples = Vec::new();
        let mut arrivals = Vec::new();
        for stretch in heard.stretches.iter().filter(|stretch| stretch.rate == score.rate) {
            arrivals.extend(stretch.arrivals.iter().map(|&(place, when)| (samples.len() + place, when)));
            samples.extend_from_slice(&stretch.samples);
        }
        let frame = score.rate.frame();
        let count = sent.at.len();
        // What was sent in the last second may still be under way.
        let settled = sent.at.iter().filter(|&&at| sent.ended.saturating_duration_since(at) > IN_FLIGHT).count();
        let mut buffer = [0; MAX_SAMPLES];
        let mut played = Vec::with_capacity(count * frame);
        for n in 0..count {
            played.extend_from_slice(score.frame(n, &mut buffer));
        }
        let (same, nothing_else) = less_silence(&samples, &played);
        let bit_exact = nothing_else && same > 0 && same >= settled * frame;

        let mut delays = Vec::new();
        let (frames, lost) = if score.marks {
            let mut at: Vec<Option<Instant>> = vec![None; count];
            for (place, n) in marks(&samples) {
                if let Some(slot @ None) = at.get_mut(n as usize) {
                    let after = arrivals.partition_point(|&(start, _)| start <= place);
                    *slot = after.checked_sub(1).and_then(|n| arrivals.get(n)).map(|&(_, when)| when);
                }
            }
            let way =
                |(heard, sent): (&Option<Instant>, &Instant)| heard.map(|h| millis(h.saturating_duration_since(*sent)));
            delays = at.iter().zip(&sent.at).filter_map(way).collect();
            delays.sort_unstable_by(f64::total_cmp);
            let last = at.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            (delays.len(), at[..last.max(settled)].iter().filter(|heard| heard.is_none()).count())
        } else {
            (same / frame, settled.saturating_sub(same / frame))
        };
        Self { frames: frames as u64, lost: lost as u64, bit_exact, delays }
    }
}

/// How many of the played samples were heard in order with nothing but silence put in between, and if that is all
/// that was heard.
fn less_silence(heard: &[i16], played: &[i16]) -> (usize, bool) {
    let mut same = 0;
    for &sample in heard {
        if played.get(same) == Some(&sample) {
            same += 1;
        } else if sample != 0 {
            return (same, false);
        }
    }
    (same, true)
}

/// Frames of silence before the WAV. A server that has to find out what is meant by kind 0x10 looks at the first ten
/// and cannot pass them on; nobody speaks in the first quarter of a second of a call.
const LEAD_IN: u64 = 12;

/// Samples at the head of a marked frame.
const MARK: usize = 8;

/// Frame `n`'s mark: four samples that speech does not hold side by side, around the number and its complement.
fn mark(n: u32) -> [i16; MARK] {
    let (low, high) = (n as u16 as i16, (n >> 16) as u16 as i16);
    let [a, b, c, d] = SIGN;
    [a, b, low, high, !low, !high, c, d]
}

/// Every mark in these samples, wherever it begins: its place and its number.
fn marks(samples: &[i16]) -> impl Iterator<Item = (usize, u32)> {
    samples.windows(MARK).enumerate().filter_map(|(place, window)| {
        let &[_, _, low, high, ..] = window else { return None };
        let n = u32::from(high as u16) << 16 | u32::from(low as u16);
        (mark(n) == *window).then_some((place, n))
    })
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// By nearest rank, of figures in order.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

/// The fixed samples of a mark. At -11 dB or so: loud enough to be no noise, not so loud as to clip.
const SIGN: [i16; 4] = [9173, -8117, 7741, -9421];

/// As Asterisk has it for each address (`MAX_CONNECT_TIMEOUT_MSEC` in `res/res_audiosocket.c`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that takes nothing for so long is given up. A PBX hangs up even earlier.
const STUCK: Duration = Duration::from_secs(2);

/// The silence after the WAV, in which the agent may finish.
const REST: Duration = Duration::from_secs(2);

/// What was sent within this time of the end need not have come back.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// How long the server may take to close after our hang-up.
const GOODBYE: Duration = Duration::from_millis(300);

/// The frame after which the first digit is sent.
const FIRST_DIGIT: u64 = 50;

/// Frames from one digit to the next.
const DIGIT_FRAMES: u64 = 10;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{net::TcpListener, thread::JoinHandle};

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        call: CallArgs,
    }

    fn parse(line: &str) -> Result<CallArgs, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.call)
    }

    /// A place for the WAVs of one call.
    struct Desk(tempfile::TempDir);

    impl Desk {
        /// With a wave that is never silent, of this many milliseconds.
        fn new(rate: u32, ms: u32) -> Self {
            let desk = Self(tempfile::tempdir().unwrap());
            desk.write(rate, 1, (0..rate / 1000 * ms).map(|n| ((n * 31 % 2003) as i16 - 1001) | 1));
            desk
        }

        fn write(&self, sample_rate: u32, channels: u16, samples: impl Iterator<Item = i16>) {
            let sample_format = hound::SampleFormat::Int;
            let spec = hound::WavSpec { channels, sample_rate, bits_per_sample: 16, sample_format };
            let mut wav = hound::WavWriter::create(self.0.path().join("in.wav"), spec).unwrap();
            samples.for_each(|sample| wav.write_sample(sample).unwrap());
            wav.finalize().unwrap();
        }

        fn args(&self, server: SocketAddr, more: &str) -> CallArgs {
            let path = self.0.path().display();
            parse(&format!("call --audiosocket {server} --play {path}/in.wav --record {path}/out.wav{more}")).unwrap()
        }

        fn call(&self, server: SocketAddr, more: &str) -> Summary {
            place(&self.args(server, more), &AtomicBool::new(false)).unwrap()
        }

        fn recording(&self) -> (u32, Vec<i16>) {
            let mut wav = hound::WavReader::open(self.0.path().join("out.wav")).unwrap();
            (wav.spec().sample_rate, wav.samples().map(Result::unwrap).collect())
        }
    }

    /// A server that answers each item as it is told, and ends when the answer is nothing. It gives back the items
    /// that were not audio, each with the number of audio messages before it.
    fn serve(
        mut answer: impl FnMut(u64, Item<'_>) -> Option<Vec<u8>> + Send + 'static,
    ) -> (SocketAddr, JoinHandle<Vec<(u64, String)>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut reader = Reader::new();
            let (mut frames, mut others) = (0, Vec::new());
            loop {
                while let Some(item) = reader.peek().unwrap() {
                    if let Item::Audio { .. } = item {
                        frames += 1;
                    } else {
                        others.push((frames, format!("{item:?}")));
                    }
                    let Some(bytes) = answer(frames, item) else { return others };
                    stream.write_all(&bytes).unwrap();
                    reader.advance();
                }
                let n = stream.read(reader.spare()).unwrap();
                if n == 0 {
                    return others;
                }
                reader.filled(n);
            }
        });
        (address, server)
    }

    fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
        message::write(kind, payload, &mut [0; 5000]).to_vec()
    }

    fn echo(item: Item<'_>) -> Vec<u8> {
        match item {
            Item::Audio { kind, bytes, .. } => message(kind, bytes),
            _ => Vec::new(),
        }
    }

    #[test]
    fn an_echo_is_bit_exact_and_timed() {
        let desk = Desk::new(8000, 310);
        let (address, server) = serve(|_, item| Some(echo(item)));
        let uuid = "40325ec2-5efd-4bd3-805f-53576e581d13";
        let summary = desk.call(address, &format!(" --marks --repeat 2 --hangup-after 1940 --uuid {uuid}"));
        // 620 ms are 31 frames, the last of them is full
        assert_eq!((summary.frames_sent, summary.frames_heard, summary.lost), (31, 31, 0), "{summary}");
        assert!(summary.bit_exact && summary.ok && summary.exit_code() == 0, "{summary}");
        assert_eq!(summary.ended_by, Ending::Caller);
        assert!(summary.delay_ms_p50.unwrap() <= summary.delay_ms_p99.unwrap());
        assert!((1.93..3.0).contains(&summary.seconds), "{summary}");
        let (rate, heard) = desk.recording();
        assert_eq!((rate, heard.len() / 160), (8000, 97));
        let others = server.join().unwrap();
        let named = format!("{:?}", Item::Uuid(uuid.parse::<Uuid>().unwrap().0));
        assert_eq!(others, [(0, named), (97, "Hangup".to_owned())]);
        let json = summary.to_json();
        assert!(json.starts_with("{\"ok\":true,\"seconds\":1.9") && json.contains("\"bit_exact\":true"), "{json}");
        assert!(json.contains("\"ended_by\":\"caller\"") && json.contains(uuid), "{json}");
    }

    #[test]
    fn an_echo_that_is_framed_anew_and_shifted_by_silence_is_bit_exact() {
        let desk = Desk::new(8000, 400);
        let mut kept = vec![0; 2 * 37];
        let (address, _) = serve(move |n, item| {
            let Item::Audio { kind, bytes, .. } = item else { return Some(Vec::new()) };
            kept.extend_from_slice(bytes);
            if n == LEAD_IN + 7 {
                kept.extend([0; 2 * 53]); // an underrun
            }
            let whole = kept.len() / 180 * 180;
            Some(kept.drain(..whole).collect::<Vec<u8>>().chunks(180).flat_map(|c| message(kind, c)).collect())
        });
        let summary = desk.call(address, " --marks --hangup-after 1840");
        assert!(summary.bit_exact && summary.frames_heard == 20 && summary.lost == 0, "{summary}");
        assert_eq!(desk.recording().1.iter().position(|&sample| sample != 0), Some(LEAD_IN as usize * 160 + 37));
    }

    #[test]
    fn a_frame_that_does_not_come_back_is_lost() {
        for (marks, heard, lost) in [(" --marks", 19, 1), ("", 9, 11)] {
            let desk = Desk::new(8000, 400);
            let (address, _) = serve(|n, item| Some(if n == LEAD_IN + 10 { Vec::new() } else { echo(item) }));
            let summary = desk.call(address, &format!("{marks} --hangup-after 1840"));
            assert!(!summary.bit_exact && summary.ok);
            assert_eq!((summary.frames_sent, summary.frames_heard, summary.lost), (20, heard, lost), "{summary}");
        }
    }

    #[test]
    fn without_marks_the_samples_alone_tell_that_the_echo_is_exact() {
        let desk = Desk::new(24_000, 100);
        let (address, _) = serve(|_, item| Some(echo(item)));
        let summary = desk.call(address, " --hangup-after 1440");
        assert!(summary.bit_exact && summary.frames_heard == 5, "{summary}");
        assert_eq!((summary.delay_ms_p50, summary.rate), (None, 24_000));
    }

    #[test]
    fn silence_at_8_khz_before_the_server_has_heard_us_does_not_spoil_a_wideband_recording() {
        let desk = Desk::new(16_000, 100);
        let (address, _) = serve(|_, item| {
            Some(if let Item::Uuid(_) = item { message(0x10, &[0; 320]).repeat(3) } else { echo(item) })
        });
        let summary = desk.call(address, " --marks --hangup-after 1440");
        assert!(summary.bit_exact && summary.rate == 16_000, "{summary}");
        let (rate, heard) = desk.recording();
        assert_eq!((rate, heard.len()), (16_000, 3 * 320 + 72 * 320));
        assert_eq!(heard.iter().position(|&sample| sample != 0), Some((3 + LEAD_IN as usize) * 320));
    }

    #[test]
    fn the_server_hangs_up_and_we_go_early() {
        let desk = Desk::new(8000, 5000);
        let (address, _) = serve(|n, item| (n < 24).then(|| if n == 23 { message(0, &[]) } else { echo(item) }));
        let summary = desk.call(address, "");
        assert!(summary.ended_by == Ending::Server && summary.ok && summary.seconds < 2.0, "{summary}");
        assert_eq!((summary.frames_heard, summary.lost), (10, 0));
        assert!(summary.to_string().contains("the server hung up"), "{summary}");
    }

    #[test]
    fn a_connection_that_closes_is_told_from_a_hangup() {
        let desk = Desk::new(8000, 1000);
        let (address, _) = serve(|n, item| (n < 12).then(|| echo(item)));
        let summary = desk.call(address, "");
        assert!(matches!(summary.ended_by, Ending::Closed | Ending::Lost), "{summary}"); // EOF or a reset
        assert!(!summary.ok && summary.first_voice_ms.is_none() && summary.exit_code() == 1, "{summary}");
        let (address, _) = serve(|_, _| None);
        let summary = desk.call(address, "");
        assert!(!summary.ok && summary.exit_code() == 1, "{summary}");
        assert!(summary.to_string().contains("Nothing was heard"), "{summary}");
    }

    #[test]
    fn the_servers_own_silence_is_not_taken_for_an_agent() {
        let desk = Desk::new(8000, 100);
        let (address, _) =
            serve(|_, item| Some(if let Item::Audio { .. } = item { message(0x10, &[0; 320]) } else { Vec::new() }));
        let summary = desk.call(address, " --hangup-after 500");
        assert!(!summary.ok && summary.exit_code() == 1 && summary.ended_by == Ending::Caller, "{summary}");
        assert!(summary.first_ms.is_some() && summary.first_voice_ms.is_none());
        assert!(summary.to_string().contains("All of it was silence"), "{summary}");

        let (address, _) = serve(|n, item| {
            let bytes = if n == 20 { [1; 320] } else { [0; 320] };
            Some(if let Item::Audio { .. } = item { message(0x10, &bytes) } else { Vec::new() })
        });
        let summary = desk.call(address, " --hangup-after 500");
        assert!(summary.ok && summary.exit_code() == 0, "{summary}");
        let after = summary.first_voice_ms.unwrap() - summary.first_ms.unwrap();
        assert!(after > 300.0, "{summary}");
        assert!(summary.to_json().contains("\"first_voice_ms\":"), "{}", summary.to_json());
    }

    #[test]
    fn digits_that_the_call_was_too_short_for_are_said() {
        let desk = Desk::new(8000, 20);
        for (line, words) in [
            (" --dtmf 123 --hangup-after 1300", "Of 3 digits the last 1 were not sent"),
            (" --dtmf 12 --hangup-after 900", "None of the 2 digits was sent"),
            (" --dtmf 1 --hangup-after 900", "The digit was not sent"),
        ] {
            let (address, _) = serve(|_, item| Some(echo(item)));
            let summary = desk.call(address, line).to_string();
            assert!(summary.contains(words), "{summary}");
        }
        let (address, _) = serve(|_, item| Some(echo(item)));
        assert!(!desk.call(address, " --dtmf 1 --hangup-after 1300").to_string().contains("not sent"));
    }

    #[test]
    fn a_server_that_does_not_speak_audiosocket_is_named_as_such() {
        let desk = Desk::new(8000, 1000);
        let (address, _) = serve(|_, _| Some(b"\x01\x00\x09HTTP/1.1 ".to_vec()));
        let summary = desk.call(address, "");
        assert_eq!(summary.ended_by, Ending::Lost);
        assert!(summary.to_string().contains("not AudioSocket"), "{summary}");
    }

    #[test]
    fn an_interrupted_call_is_hung_up_and_its_recording_kept() {
        let desk = Desk::new(8000, 5000);
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        let (address, server) = serve(move |n, item| {
            flag.store(n >= 10, Relaxed);
            Some(echo(item))
        });
        let summary = place(&desk.args(address, ""), &interrupted).unwrap();
        assert_eq!((summary.ended_by, summary.exit_code()), (Ending::Interrupted, 130));
        assert_eq!(server.join().unwrap().last().unwrap().1, "Hangup");
        assert!(desk.recording().1.len() >= 10 * 160);
    }

    #[test]
    fn digits_are_sent_after_the_first_second_200_ms_apart() {
        let desk = Desk::new(8000, 20);
        let (address, server) = serve(|_, item| Some(echo(item)));
        desk.call(address, " --dtmf 1#a --hangup-after 1600");
        let digit = |digit| format!("{:?}", Item::Dtmf(digit));
        assert_eq!(server.join().unwrap()[1..4], [(51, digit(b'1')), (61, digit(b'#')), (71, digit(b'A'))]);
    }

    #[test]
    fn of_a_stereo_wav_the_left_channel_is_played() {
        let desk = Desk::new(8000, 20);
        desk.write(8000, 2, (0..320).flat_map(|n| [n + 1, -7]));
        let (address, _) = serve(|_, item| Some(echo(item)));
        assert!(desk.call(address, " --hangup-after 1100").bit_exact);
        assert!(desk.recording().1[LEAD_IN as usize * 160..].starts_with(&[1, 2, 3, 4]));
    }

    #[test]
    fn nobody_at_the_address_is_told_with_the_next_step() {
        let desk = Desk::new(8000, 20);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = place(&desk.args(free, ""), &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(error.contains(&free.to_string()) && error.contains("trunkline run"), "{error}");
        assert!(!desk.0.path().join("out.wav").exists());
        let mut args = desk.args(free, "");
        args.audiosocket = "127.0.0.1".to_owned();
        let error = place(&args, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
    }

    #[test]
    fn a_wav_that_cannot_be_played_is_told_with_what_would_do() {
        let desk = Desk::new(8000, 20);
        let mut args = desk.args("127.0.0.1:1".parse().unwrap(), "");
        let mut error = |change: &dyn Fn(&mut CallArgs)| {
            change(&mut args);
            place(&args, &AtomicBool::new(false)).unwrap_err().to_string()
        };
        desk.write(44_100, 1, [1, 2].into_iter());
        assert!(error(&|_| ()).contains("in.wav: it has 44100 samples a second; 8000"));
        desk.write(8000, 1, [].into_iter());
        assert!(error(&|_| ()).contains("it is empty"));
        fs::write(desk.0.path().join("in.wav"), "ID3 no").unwrap();
        assert!(error(&|_| ()).contains("not a WAV file"));
        desk.write(8000, 1, [1].into_iter());
        assert!(error(&|args| args.record = args.play.clone()).contains("it is the WAV to play"));
        assert!(error(&|args| args.record = "/nowhere/out.wav".into()).contains("cannot record to /nowhere/out.wav"));
        assert!(error(&|args| args.play = "/nowhere/in.wav".into()).contains("cannot play /nowhere/in.wav: No such"));
    }

    #[test]
    fn wrong_digits_and_uuids_are_refused_on_the_command_line() {
        let line = "call --audiosocket h:1 --play a --record b";
        assert_eq!(parse(&format!("{line} --dtmf 12d#")).unwrap().dtmf.unwrap(), "12D#");
        assert!(parse(&format!("{line} --dtmf 12x")).err().unwrap().to_string().contains("'X' is not a digit"));
        assert!(parse(&format!("{line} --uuid 12")).err().unwrap().to_string().contains("32 hexadecimal"));
        assert!(parse(&format!("{line} --repeat 0")).is_err());
    }

    #[test]
    fn a_random_name_is_a_version_4_uuid() {
        let (one, other) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.to_string().as_bytes()[14], b'4');
        assert!(matches!(one.to_string().as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }

    #[test]
    fn a_mark_is_found_wherever_it_begins_and_nowhere_else() {
        let mut samples: Vec<i16> = (0..5000_i32).map(|n| (n * n % 30_011) as i16).collect();
        assert_eq!(marks(&samples).count(), 0);
        let numbers = [0, 1, 65_535, 65_536, 0x8000_7fff, u32::MAX];
        for (k, &n) in numbers.iter().enumerate() {
            let at = 17 + k * 333;
            samples[at..at + MARK].copy_from_slice(&mark(n));
        }
        let expected: Vec<(usize, u32)> = numbers.iter().enumerate().map(|(k, &n)| (17 + k * 333, n)).collect();
        assert_eq!(marks(&samples).collect::<Vec<_>>(), expected);
        samples[17 + 3] ^= 1;
        assert_eq!(marks(&samples).count(), numbers.len() - 1);
    }

    #[test]
    fn only_silence_may_stand_between_the_samples_that_were_played() {
        let played = [5, 0, 0, -6, 7];
        assert_eq!(less_silence(&[0, 0, 5, 0, 0, 0, -6, 0, 7, 0], &played), (5, true));
        assert_eq!(less_silence(&[5, 0, -6, 7], &played), (2, false)); // a silent sample is missing
        assert_eq!(less_silence(&[5, 0, 0, 1, -6, 7], &played), (3, false));
        assert_eq!(less_silence(&[5, 0, 0, -6], &played), (4, true));
        assert_eq!(less_silence(&[5, 0, 0, -6, 7, 7], &played), (5, false));
    }

    #[test]
    fn percentiles_are_taken_by_nearest_rank() {
        let figures: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&figures, 50), percentile(&figures, 99)), (Some(100.0), Some(198.0)));
        assert_eq!((percentile(&[3.0], 99), percentile(&[], 50)), (Some(3.0), None));
    }
}
