//! `trunkline call`: a PBX to try a daemon with, or any other AudioSocket server; and with `--websocket` the telephony
//! vendor that calls an agent, in any dialect of ours.
//!
//! On AudioSocket it does what Asterisk does: connects, names the call, sends 20 ms of audio each 20 ms in one write each, and never
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
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde::Serialize;

use crate::{
    cli::call::{
        echo::{Echo, percentile},
        heard::{Outcome, Stretch, write_wav},
        score::Score,
        websocket::{Plan, WebSocketArgs},
    },
    cli::options::OptionRefused,
    config::shown_url,
    dialect,
    leg::{
        audiosocket::{Uuid, is_digit},
        websocket::dial::{DialError, Failure},
    },
    media::Rate,
};

mod audiosocket;
mod echo;
mod heard;
mod score;
mod vendor;
mod websocket;

pub(in crate::cli) use self::websocket::{facts_of_nobody, try_out};

/// Places a call like a PBX or a telephony vendor: plays a WAV and records what comes back.
#[derive(Clone, Debug, clap::Args)]
pub struct CallArgs {
    /// Where an AudioSocket server listens, as in 127.0.0.1:9092
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "websocket")]
    pub audiosocket: Option<String>,
    /// What is said about a call on a WebSocket.
    #[command(flatten)]
    pub websocket: WebSocketArgs,
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
    /// A hang-up ended it, ours or the server's, and something else than silence was heard if there was anything to hear.
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
    /// What was spoken on a WebSocket; on AudioSocket nothing.
    pub dialect: Option<&'static str>,
    /// Times that the agent took back what it had sent.
    pub clears: u64,
    /// Marks that the agent asked to be told of.
    pub marks: u64,
    /// Those that it was told of.
    pub marks_told: u64,
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
    /// Nobody hears an agent on this line.
    listen_only: bool,
}

fn as_text<S: serde::Serializer>(uuid: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(uuid)
}

impl Summary {
    /// One JSON object, without a newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = [0; 1280];
        let len = serde_json_core::to_slice(self, &mut text).expect("two dozen numbers and words fit 1.25 KiB");
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
        let Report { server, record, marks, heard, loud, digits, unsent, trouble, listen_only } = &self.report;
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
        if *listen_only {
            return write!(f, "{} frames were sent; in this dialect nobody hears the agent.", self.frames_sent);
        }
        match self.clears {
            0 => {}
            1 => writeln!(f, "The agent took back what it had sent, once.")?,
            clears => writeln!(f, "The agent took back what it had sent, {clears} times.")?,
        }
        if self.marks > 0 {
            writeln!(f, "Of {} marks that it asked for it was told {}.", self.marks, self.marks_told)?;
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
    /// The URL is none to call; as it may be shown, and what would do.
    Url(String, String),
    /// An `--option` that cannot be set.
    Option(OptionRefused),
    /// The dialect has no such rate.
    Rate(&'static str, Rate),
    /// A header that cannot be sent: its name, and why.
    Header(String, String),
    /// A file that holds no secret of its kind, and why.
    Secret(PathBuf, String),
    /// What is told of the call: the argument, and what would do.
    Fact(&'static str, &'static str),
    /// There is nobody to trust.
    Tls(String),
    /// The agent did not take the call.
    Dial(DialError),
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
            Self::Url(url, why) => write!(f, "--websocket {url}: {why}"),
            Self::Option(refused) => refused.fmt(f),
            Self::Rate(name, rate) => {
                let rates: Vec<_> = dialect::rates(name).iter().map(|rate| rate.hz().to_string()).collect();
                write!(f, "{name} has no {rate}; --sample-rate can be {}", rates.join(", "))
            }
            Self::Header(name, why) => write!(f, "--header {name}: {why}"),
            Self::Secret(path, why) => write!(f, "{} holds no secret to send: {why}", path.display()),
            Self::Fact(flag, why) => write!(f, "{flag}: {why}"),
            Self::Tls(why) => write!(f, "{why}"),
            Self::Dial(error) if matches!(&error.failure, Failure::Refused(refusal) if matches!(refusal.status, Some(401 | 403))) =>
            {
                write!(f, "no call: {error}; of a call these are --bearer-file, --basic-file and --header")
            }
            Self::Dial(error) => write!(
                f,
                "no call: {error}. (A stand-in to call is `trunkline agent --listen 127.0.0.1:8765 --plain`; with TLS \
                 it tells what to give to --ca.)"
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
    let digits = args.dtmf.as_deref().unwrap_or_default().as_bytes();
    let (server, dialect) = match (&args.audiosocket, &args.websocket.websocket) {
        (Some(address), _) => (address.clone(), None),
        (None, url) => (shown_url(url.as_deref().unwrap_or_default()), args.websocket.dialect),
    };
    let placed = match &args.audiosocket {
        Some(address) => audiosocket::place(address, &score, uuid, digits, interrupted),
        None => {
            let url = args.websocket.websocket.as_deref().unwrap_or_default(); // clap wants one of the two
            Plan::open(&args.websocket, url, uuid).and_then(|plan| plan.place(&score, digits, interrupted))
        }
    };
    let Outcome { sent, heard, ended_by, trouble, marks, clears, listen_only } = placed.inspect_err(|_| {
        if is_new {
            let _ = fs::remove_file(&args.record); // an empty file would look like a recording
        }
    })?;
    let rate = heard.rate();
    if file.metadata().is_ok_and(|file| file.is_file()) {
        file.set_len(0).map_err(|error| in_record(error.to_string()))?; // /dev/null has no length
    }
    write_wav(file, rate, heard.recording(rate)).map_err(|error| in_record(error.to_string()))?;
    let echo = Echo::find(&score, &sent, &heard);
    let loud = heard.stretches.iter().map(Stretch::loud).sum();
    Ok(Summary {
        ok: matches!(ended_by, Ending::Caller | Ending::Server) && (listen_only || heard.first_voice.is_some()),
        seconds: millis(sent.ended - sent.began).round() / 1000.0,
        ended_by,
        frames_sent: sent.at.len() as u64,
        frames_heard: echo.frames,
        lost: echo.lost,
        bit_exact: echo.bit_exact,
        delay_ms_p50: percentile(&echo.delays, 50),
        delay_ms_p99: percentile(&echo.delays, 99),
        first_ms: heard.first.map(|first| millis(first.saturating_sub(sent.began))),
        first_voice_ms: heard.first_voice.map(|first| millis(first.saturating_sub(sent.began))),
        max_gap_ms: millis(heard.max_gap),
        late_ms_max: millis(sent.late),
        messages: heard.messages,
        bytes: heard.bytes,
        rate: rate.hz(),
        dialect,
        clears,
        marks: marks.0,
        marks_told: marks.1,
        uuid,
        report: Report {
            server,
            record: args.record.clone(),
            marks: args.marks,
            heard: heard.stretches.iter().map(Stretch::duration).sum(),
            loud,
            digits: digits.len(),
            unsent: sent.unsent,
            trouble,
            listen_only,
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

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::Read as _,
        net::{SocketAddr, TcpListener},
        thread::JoinHandle,
    };

    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::call::score::LEAD_IN,
        leg::audiosocket::message::{self, Item, Reader},
    };

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
        args.audiosocket = Some("127.0.0.1".to_owned());
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
}
