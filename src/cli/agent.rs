//! `trunkline agent`: a voice agent to try a line with before there is a cloud.
//!
//! It takes any number of calls on one thread, each in one task; what it does is decided in [`Call`], which knows neither
//! socket nor clock.

use core::{fmt, future::Future, pin::pin};
use std::{
    fs, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use log::{error, info, warn};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    cli::{
        agent::{
            behave::{Part, Script, Voice},
            call::{Call, Plan, Told},
        },
        connection::{Connection, Party},
        options::{OptionRefused, options, parse_rate, rate_of},
        wav::read_wav,
    },
    clock,
    dialect::{
        self, Facts, Role,
        wish::{MAX_DIGITS, Transfer, Wish},
    },
    leg::websocket::{
        dial::{Accepted, accept},
        link::Link,
        tls,
    },
    media::{Now, Rate},
};

mod behave;
mod call;

pub use self::behave::Behave;

/// Plays a voice agent on a WebSocket: echoes, or says a WAV, to whatever line calls.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// What is spoken: `auto` tells it from the first message, or binary, ozonetel, exotel, exostreamkit, rtaa, telnyx,
    /// twilio, plivo, vonage, openai, asterisk, audiofork
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = parse_dialect)]
    pub dialect: String,
    /// What to do: echo, say:FILE (a WAV, as fast as it is heard), burst:FILE (as fast as the socket takes it), silent
    #[arg(long, value_name = "WHAT", default_value = "echo")]
    pub behave: Behave,
    /// Take back what was said, once, this many milliseconds after the first of it; the rest of it is not said
    #[arg(long, value_name = "MS")]
    pub clear_after: Option<u64>,
    /// Ask to be told when each message was heard, and log how many came back
    #[arg(long)]
    pub marks: bool,
    /// Hang up this many milliseconds after the start of a call
    #[arg(long, value_name = "MS")]
    pub hangup_after: Option<u64>,
    /// Ask for the caller to be passed on, to a SIP URI or a number
    #[arg(long, value_name = "TARGET", value_parser = parse_target)]
    pub transfer_to: Option<Wish>,
    /// With --transfer-to: so many milliseconds after the start of a call [default: 0]
    #[arg(long, alias = "transfer-after-ms", value_name = "MS", requires = "transfer_to")]
    pub transfer_after: Option<u64>,
    /// Ask for keys to be pressed: 0-9, *, #, A-D, and w for half a second
    #[arg(long, value_name = "KEYS", value_parser = parse_digits)]
    pub send_digits: Option<Wish>,
    /// With --send-digits: so many milliseconds after the start of a call [default: 0]
    #[arg(long, alias = "digits-after-ms", value_name = "MS", requires = "send_digits")]
    pub digits_after: Option<u64>,
    /// With say: be at most this many milliseconds ahead of what is heard [default: the dialect's own]
    #[arg(long, value_name = "MS")]
    pub lead: Option<u64>,
    /// Set an option of the dialect, as docs/config.md has them, as in agent-style=minimal; may be given again
    #[arg(long = "option", id = "options", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// With binary: the samples a second, unless the URL has `sample-rate` [default: 8000]
    #[arg(long, value_name = "HZ", value_parser = parse_rate)]
    pub sample_rate: Option<Rate>,
    /// Speak ws:// without TLS; only on a loopback address
    #[arg(long, conflicts_with_all = ["tls", "names"])]
    pub plain: bool,
    /// With --plain: on any address, where everybody on the network can listen in
    #[arg(long, requires = "plain")]
    pub plain_anywhere: bool,
    /// Where the throwaway CA and certificate are kept [default: trunkline-agent-tls in $XDG_RUNTIME_DIR or in the
    /// directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// A name or address to put into the certificate, beside localhost; may be given again
    #[arg(long = "name", id = "names", value_name = "HOST")]
    pub names: Vec<String>,
}

fn parse_dialect(text: &str) -> Result<String, String> {
    if text == AUTO || dialect::NAMES.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{AUTO}, {} are possible", dialect::NAMES.join(", ")))
    }
}

fn parse_target(text: &str) -> Result<Wish, String> {
    Wish::transfer(text).ok_or_else(|| "it is no target; write a SIP URI or a number, as in sip:300@pbx".to_owned())
}

fn parse_digits(text: &str) -> Result<Wish, String> {
    Wish::digits(text).ok_or_else(|| format!("up to {MAX_DIGITS} of 0-9, *, #, A-D and w are possible"))
}

/// What is asked for, and how long after a call's start.
fn asks(args: &AgentArgs) -> Vec<(Now, Wish)> {
    let at =
        |after: Option<u64>, wish: &Option<Wish>| Some((Now::from_millis(after.unwrap_or_default()), wish.clone()?));
    let asks = [at(args.digits_after, &args.send_digits), at(args.transfer_after, &args.transfer_to)];
    let mut asks: Vec<_> = asks.into_iter().flatten().collect();
    asks.sort_by_key(|&(after, _)| after);
    asks
}

/// Takes calls until SIGINT or SIGTERM, which end those that are live and are no error.
///
/// # Errors
///
/// It cannot begin: the WAV, the address or the certificate is at fault.
pub fn run(args: &AgentArgs) -> Result<(), AgentError> {
    let agent = Agent::open(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::System)?;
    runtime.block_on(async {
        let mut int = signal(SignalKind::interrupt()).map_err(AgentError::System)?;
        let mut term = signal(SignalKind::terminate()).map_err(AgentError::System)?;
        // Whoever waits for this line may signal at once, so it comes after the handlers.
        {
            use io::Write as _;
            let mut out = io::stdout().lock();
            // A reader that went away is not worth a panic.
            let _ = writeln!(out, "{}", agent.listening).and_then(|()| out.flush());
        }
        let stop = async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        };
        agent.serve(stop).await
    })
}

/// Why an agent could not begin.
#[derive(Debug)]
pub enum AgentError {
    /// The WAV cannot be said.
    Wav(PathBuf, String),
    /// An `--option` that cannot be set.
    Option(OptionRefused),
    /// A rate for a dialect that has its own.
    Rate(&'static str),
    /// The address is not one, or its name is not known.
    Address(String, io::Error),
    /// Without TLS on an address that others can reach.
    Exposed(SocketAddr),
    /// The port cannot be had.
    Listen(SocketAddr, io::Error),
    /// The directory for the certificate belongs to somebody else.
    NotOurs(PathBuf),
    /// There is no certificate.
    Tls(String),
    /// The system refused something that everything needs.
    System(io::Error),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wav(path, problem) => write!(f, "cannot say {}: {problem}", path.display()),
            Self::Option(refused) => refused.fmt(f),
            Self::Rate(dialect) => {
                write!(f, "--sample-rate is for binary; {dialect} tells its own, in the URL or in its messages")
            }
            Self::Address(address, error) => {
                write!(f, "{address} is no address to listen on ({error}); write HOST:PORT, as in 127.0.0.1:8765")
            }
            Self::Exposed(address) => write!(
                f,
                "without TLS everybody on the network of {address} could listen in: leave out --plain, listen on \
                 127.0.0.1, or add --plain-anywhere"
            ),
            Self::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "port {} is in use; `ss -ltnp` shows by whom, and port 0 takes a free one ({address})",
                address.port()
            ),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::NotOurs(dir) => {
                write!(f, "{} belongs to another user, who could read the key; choose a --tls DIR", dir.display())
            }
            Self::Tls(problem) => write!(f, "cannot make a certificate: {problem}"),
            Self::System(error) => write!(f, "the system refused: {error}"),
        }
    }
}

impl std::error::Error for AgentError {}

/// An agent that can be called.
struct Agent {
    listener: std::net::TcpListener,
    acceptor: Option<TlsAcceptor>,
    script: Arc<Script>,
    dialect: Option<&'static str>,
    /// What to tell whoever starts it.
    listening: String,
}

impl Agent {
    fn open(args: &AgentArgs) -> Result<Self, AgentError> {
        let dialect = dialect::NAMES.iter().copied().find(|&name| name == args.dialect);
        if let (Some(name), Some(_)) = (dialect.filter(|&name| name != "binary"), args.sample_rate) {
            return Err(AgentError::Rate(name));
        }
        let options = options(&args.options, dialect, Role::Agent).map_err(AgentError::Option)?;
        let voice = |path: &PathBuf| {
            let wav = read_wav(path).map_err(|problem| AgentError::Wav(path.clone(), problem))?;
            let voice = Voice::new(wav.0, wav.1);
            // Most calls are narrow-band, and converting takes a moment that no call should wait for.
            voice.at(Rate::Hz8000);
            Ok(voice)
        };
        let part = match &args.behave {
            Behave::Echo => Part::Echo,
            Behave::Silent => Part::Silent,
            Behave::Say(path) => Part::Say(voice(path)?),
            Behave::Burst(path) => Part::Burst(voice(path)?),
        };
        let script = Arc::new(Script {
            part,
            clear_after: args.clear_after.map(Now::from_millis),
            hangup_after: args.hangup_after.map(Now::from_millis),
            lead: args.lead.map(Now::from_millis),
            asks: asks(args),
            marks: args.marks,
            options,
            bare_rate: args.sample_rate.unwrap_or(Rate::Hz8000),
        });
        let address = resolve(&args.listen)?;
        if args.plain && !args.plain_anywhere && !address.ip().is_loopback() {
            return Err(AgentError::Exposed(address));
        }
        let (acceptor, ca) = if args.plain {
            (None, None)
        } else {
            let dir = tls_dir(args.tls.as_deref())?;
            let config = tls::throwaway_ca(&dir, &certified(args, address.ip()))
                .map_err(|error| AgentError::Tls(error.to_string()))?;
            (Some(TlsAcceptor::from(config)), Some(dir.join("ca.pem")))
        };
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|error| AgentError::Listen(address, error))?;
        let listening = match ca {
            Some(ca) => format!("listening on wss://{address} (CA: {})", ca.display()),
            None => format!("listening on ws://{address}"),
        };
        Ok(Self { listener, acceptor, script, dialect, listening })
    }

    async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
        let listener = TcpListener::from_std(self.listener).map_err(AgentError::System)?;
        let (stopping, stopped) = watch::channel(false);
        let mut calls = JoinSet::new();
        let mut stop = pin!(stop);
        let mut number = 0;
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => {
                        number += 1;
                        let plan = Plan {
                            script: Arc::clone(&self.script),
                            dialect: self.dialect,
                            rate: None,
                            epoch_ms: clock::epoch_ms(),
                            number,
                        };
                        calls.spawn(answer(socket, peer, self.acceptor.clone(), plan, stopped.clone()));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: calls that end give some back.
                        warn!(error:%; "a call could not be taken");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(ended) = calls.join_next(), if !calls.is_empty() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        error!("a call was ended by a bug of ours");
                    }
                }
            }
        }
        drop(listener);
        // Receivers live in the calls alone; without any there is nobody to tell.
        let _ = stopping.send(true);
        let _ = timeout(LAST_WORDS, async { while calls.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

fn resolve(listen: &str) -> Result<SocketAddr, AgentError> {
    let none = || io::Error::other("the name has no address");
    listen
        .to_socket_addrs()
        .and_then(|mut found| found.next().ok_or_else(none))
        .map_err(|error| AgentError::Address(listen.to_owned(), error))
}

/// Names that the certificate has to have beside localhost.
fn certified(args: &AgentArgs, listening: IpAddr) -> Vec<String> {
    let mut names = args.names.clone();
    if !listening.is_unspecified() && !listening.is_loopback() {
        names.push(listening.to_string());
    }
    names
}

/// The directory for the certificate, which exists then.
fn tls_dir(chosen: Option<&Path>) -> Result<PathBuf, AgentError> {
    if let Some(dir) = chosen {
        return Ok(dir.to_owned());
    }
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
    let dir = runtime_dir.unwrap_or_else(std::env::temp_dir).join("trunkline-agent-tls");
    private_dir(dir)
}

/// Makes a directory that nobody else can enter. Where everybody may make one, somebody may have been there first.
fn private_dir(dir: PathBuf) -> Result<PathBuf, AgentError> {
    let problem = |error: io::Error| AgentError::Tls(format!("{}: {error}", dir.display()));
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(problem(error)),
    }
    let found = fs::symlink_metadata(&dir).map_err(problem)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(AgentError::NotOurs(dir));
    }
    Ok(dir)
}

/// One connection, from its first byte to its last.
async fn answer(
    socket: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    mut plan: Plan,
    mut stopped: watch::Receiver<bool>,
) {
    let number = plan.number;
    let accepted = tokio::select! {
        accepted = accept(socket, acceptor.as_ref()) => accepted,
        _ = stopped.wait_for(|&stopped| stopped) => return,
    };
    let connected = accepted.map_err(|error| error.to_string()).and_then(|accepted| {
        let Accepted { stream, tls, read_ahead, request, .. } = accepted;
        plan.rate = request.query.as_deref().and_then(rate_of);
        Connection::new(stream, Link::new(tls, read_ahead)).map_err(|error| error.to_string())
    });
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            warn!(call = number, peer:%, error; "a caller was not let in");
            return;
        }
    };
    let mut call = Announced { call: Call::new(plan, clock::now()), number, peer, done: false };
    let stop = async { drop(stopped.wait_for(|&stopped| stopped).await) };
    connection.run(&mut call, stop).await;
    log_end(&call.call, number);
}

/// A call whose beginning is logged as soon as it is known who calls.
struct Announced {
    call: Call,
    number: u32,
    peer: SocketAddr,
    done: bool,
}

impl Party for Announced {
    fn advance(&mut self, now: Now) {
        self.call.advance(now);
        if !self.done {
            self.done = log_start(&self.call, self.number, self.peer);
        }
        while let Some(told) = self.call.poll_told() {
            log_told(told, self.number);
        }
    }

    fn wants_read(&self) -> bool {
        self.call.wants_read()
    }

    fn spare(&mut self) -> &mut [u8] {
        self.call.spare()
    }

    fn filled(&mut self, n: usize) {
        self.call.filled(n);
    }

    fn out(&self) -> &[u8] {
        self.call.out()
    }

    fn written(&mut self, n: usize) {
        self.call.written(n);
    }

    fn poll_timeout(&self) -> Now {
        self.call.poll_timeout()
    }

    fn is_done(&self, now: Now) -> bool {
        self.call.is_done(now)
    }

    fn lose(&mut self, now: Now) {
        self.call.lose(now);
    }

    fn interrupt(&mut self, now: Now) {
        self.call.interrupt(now);
    }
}

fn log_start(call: &Call, number: u32, peer: SocketAddr) -> bool {
    let Some((dialect, facts)) = call.began() else { return false };
    let rate = dialect.rate().hz();
    let dialect = dialect.name();
    match facts {
        Some(Facts { ucid, stream_sid, call_sid, .. }) if call_sid.is_empty() && stream_sid.is_empty() => {
            info!(call = number, peer:%, dialect, rate, ucid = ucid.as_str(); "call began");
        }
        Some(Facts { stream_sid, call_sid, .. }) => {
            let (stream_sid, call_sid) = (stream_sid.as_str(), call_sid.as_str());
            info!(call = number, peer:%, dialect, rate, stream_sid, call_sid; "call began");
        }
        None => info!(call = number, peer:%, dialect, rate; "call began"),
    }
    true
}

fn log_told(told: Told, number: u32) {
    match told {
        Told::Held(true) => info!(call = number; "the caller is on hold"),
        Told::Held(false) => info!(call = number; "the caller is back from hold"),
        Told::Transfer(Transfer::Trying) => info!(call = number; "the transfer is being tried"),
        Told::Transfer(Transfer::Failed { status }) => info!(call = number, status; "the transfer failed"),
        Told::Transfer(Transfer::Done) => info!(call = number; "the transfer is done"),
    }
}

fn log_end(call: &Call, number: u32) {
    let report = call.report();
    let dialect = report.dialect;
    let heard_s = format!("{:.2}", report.heard.as_secs_f64());
    let said_s = format!("{:.2}", report.said.as_secs_f64());
    let ended_by = report.ending.to_string();
    let digits = report.digits;
    let marks = match report.marks {
        Some(marks) if marks.asked > 0 => {
            let order = if marks.in_order { "in order" } else { "out of order" };
            format!("{} of {} came back {order}", marks.heard, marks.asked)
        }
        Some(_) | None => "none asked".to_owned(),
    };
    info!(call = number, dialect, heard_s, said_s, marks, digits, ended_by; "call ended");
    if report.cleared.is_none() {
        warn!(call = number, dialect; "the dialect has no word for clear");
    }
    let tally = report.tally;
    if let Some(first) = tally.first_malformed {
        warn!(call = number, messages = tally.malformed, first:%; "messages were not understood");
    }
}

const AUTO: &str = "auto";
/// How long live calls have to say goodbye when we are to stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{io::Read, io::Write, net, thread};

    use clap::Parser as _;
    use tokio::sync::oneshot;
    use tungstenite::{Message, WebSocket, client};

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn parse(line: &str) -> Result<AgentArgs, clap::Error> {
        Cli::try_parse_from(["agent"].into_iter().chain(line.split_whitespace())).map(|cli| cli.args)
    }

    /// An agent on a thread of its own.
    struct Running {
        greeting: String,
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        thread: thread::JoinHandle<()>,
    }

    impl Running {
        fn new(line: &str) -> Self {
            let agent = Agent::open(&parse(line).unwrap()).unwrap();
            let (greeting, address) = (agent.listening.clone(), agent.listener.local_addr().unwrap());
            let (stop, stopped) = oneshot::channel::<()>();
            let thread = thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let stop = async { stopped.await.unwrap_or_default() };
                runtime.block_on(agent.serve(stop)).unwrap();
            });
            Self { greeting, address, stop, thread }
        }

        fn call(&self, target: &str) -> WebSocket<net::TcpStream> {
            let stream = net::TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client(format!("ws://{}{target}", self.address), stream).unwrap().0
        }

        fn end(self) {
            self.stop.send(()).unwrap();
            self.thread.join().unwrap();
        }
    }

    const START: &str =
        r#"{"event":"start","type":"text","ucid":"17672256001231234","did":"08040001234","call_id":"+15550100011"}"#;

    fn media(samples: &[i16]) -> String {
        let list: Vec<String> = samples.iter().map(ToString::to_string).collect();
        format!(
            r#"{{"event":"media","type":"media","ucid":"17672256001231234","data":{{"samples":[{}],"bitsPerSample":16,"sampleRate":8000,"channelCount":1,"numberOfFrames":{},"type":"data"}}}}"#,
            list.join(","),
            samples.len()
        )
    }

    /// The next message with samples, without anything of ours.
    fn samples(socket: &mut WebSocket<impl Read + Write>) -> Vec<i16> {
        let message = socket.read().unwrap().into_text().unwrap();
        let list = message.as_str().split_once('[').unwrap().1.split_once(']').unwrap().0.to_owned();
        list.split(',').map(|sample| sample.parse().unwrap()).collect()
    }

    fn echoes(socket: &mut WebSocket<impl Read + Write>, n: i16) {
        let frame: Vec<i16> = (0..160).map(|i| i * 7 - n).collect();
        socket.send(Message::text(media(&frame))).unwrap();
        assert_eq!([samples(socket), samples(socket)].concat(), frame);
    }

    #[test]
    fn a_call_over_a_real_socket_is_echoed_and_closed_when_the_agent_stops() {
        let agent = Running::new("--listen 127.0.0.1:0 --plain");
        assert_eq!(agent.greeting, format!("listening on ws://{}", agent.address));
        let mut socket = agent.call("/");
        socket.send(Message::text(START)).unwrap();
        for n in 0..100 {
            echoes(&mut socket, n);
        }
        agent.stop.send(()).unwrap();
        let Message::Close(Some(close)) = socket.read().unwrap() else { panic!("anything but a close") };
        assert_eq!(u16::from(close.code), 1001);
        while socket.read().is_ok() {}
        agent.thread.join().unwrap();
    }

    #[test]
    fn two_hundred_calls_are_echoed_at_once() {
        let agent = Running::new("--listen 127.0.0.1:0 --plain --dialect ozonetel --marks");
        let mut sockets: Vec<_> = (0..200).map(|_| agent.call("/")).collect();
        for socket in &mut sockets {
            socket.send(Message::text(START)).unwrap();
        }
        for round in 0..5 {
            for (n, socket) in sockets.iter_mut().enumerate() {
                echoes(socket, (round * 200 + n) as i16);
            }
        }
        agent.end();
    }

    #[test]
    fn bare_samples_have_the_rate_that_the_target_names() {
        let agent = Running::new("--listen 127.0.0.1:0 --plain --dialect auto");
        let mut socket = agent.call("/ws?x=1&sample-rate=16000");
        let frame: Vec<u8> = (0..640).map(|i| i as u8).collect();
        socket.send(Message::binary(frame.clone())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::binary(frame));
        agent.end();
        assert_eq!(rate_of("sample_rate=24000"), Some(Rate::Hz24000));
        assert_eq!(rate_of("sample-rate=8000&sample-rate=16000"), Some(Rate::Hz8000));
        for query in ["", "sample-rate", "sample-rate=11025", "sample-rate=99999999999", "rate=8000"] {
            assert_eq!(rate_of(query), None, "{query}");
        }
    }

    #[test]
    fn a_call_over_tls_is_echoed_with_minutes_of_burst_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let wav = dir.path().join("long.wav");
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(&wav, spec).unwrap();
        (0..8000 * 60).for_each(|i| writer.write_sample((i % 30_011) as i16).unwrap());
        writer.finalize().unwrap();
        let line = format!("--listen 127.0.0.1:0 --tls {} --behave burst:{}", dir.path().display(), wav.display());
        let agent = Running::new(&line);
        let ca = dir.path().join("ca.pem");
        assert_eq!(agent.greeting, format!("listening on wss://{} (CA: {})", agent.address, ca.display()));

        let config = tls::client_config(Some(&ca)).unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = net::TcpStream::connect(agent.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let tls = rustls::StreamOwned::new(rustls::ClientConnection::new(config, name).unwrap(), stream);
        let (mut socket, _) = client(format!("wss://{}/", agent.address), tls).unwrap();
        socket.send(Message::text(START)).unwrap();
        let mut at = 0;
        while at < 8000 * 60 {
            for sample in samples(&mut socket) {
                assert_eq!(sample, (at % 30_011) as i16, "sample {at}");
                at += 1;
            }
        }
        drop(socket);
        agent.end();
    }

    #[test]
    fn a_caller_that_never_reads_its_burst_does_not_keep_the_agent_from_others_or_from_stopping() {
        let dir = tempfile::tempdir().unwrap();
        let wav = dir.path().join("hour.wav");
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(&wav, spec).unwrap();
        (0..8000 * 600).for_each(|_| writer.write_sample(-32_768).unwrap());
        writer.finalize().unwrap();
        let agent = Running::new(&format!("--listen 127.0.0.1:0 --plain --behave burst:{}", wav.display()));
        let mut deaf = agent.call("/");
        deaf.send(Message::text(START)).unwrap();
        let mut other = agent.call("/");
        other.send(Message::text(START)).unwrap();
        for _ in 0..1000 {
            assert_eq!(samples(&mut other), [-32_768; 80]);
        }
        agent.end();
    }

    #[test]
    fn a_port_without_tls_is_only_for_this_machine_unless_that_is_wanted() {
        let open = |line: &str| Agent::open(&parse(line).unwrap()).map(|agent| agent.listening);
        let error = open("--listen 0.0.0.0:0 --plain").unwrap_err();
        assert_eq!(
            error.to_string(),
            "without TLS everybody on the network of 0.0.0.0:0 could listen in: leave out --plain, listen on \
             127.0.0.1, or add --plain-anywhere"
        );
        assert!(open("--listen 0.0.0.0:0 --plain --plain-anywhere").is_ok());
        assert!(open("--listen [::1]:0 --plain").is_ok() || net::TcpListener::bind("[::1]:0").is_err());
    }

    #[test]
    fn what_cannot_begin_says_what_would() {
        let error = |line: &str| match Agent::open(&parse(line).unwrap()) {
            Ok(_) => panic!("{line} began"),
            Err(error) => error.to_string(),
        };
        let taken = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(
            error(&format!("--listen 127.0.0.1:{port} --plain")),
            format!("port {port} is in use; `ss -ltnp` shows by whom, and port 0 takes a free one (127.0.0.1:{port})")
        );
        assert!(error("--listen nonsense --plain").starts_with("nonsense is no address to listen on ("));
        assert!(
            error("--listen 127.0.0.1:0 --plain --behave say:/no/such.wav").starts_with("cannot say /no/such.wav: ")
        );
        let dir = tempfile::tempdir().unwrap();
        let junk = dir.path().join("junk.wav");
        fs::write(&junk, b"RIFFjunk").unwrap();
        let words = error(&format!("--listen 127.0.0.1:0 --plain --behave burst:{}", junk.display()));
        assert!(words.contains("junk.wav: not a WAV file (") && words.contains("); as `sox IN"), "{words}");
    }

    #[test]
    fn bare_samples_have_the_rate_of_the_command_line_where_the_target_names_none() {
        let agent = Running::new("--listen 127.0.0.1:0 --plain --dialect binary --sample-rate 16000");
        let calls = [("/", 16_000), ("/?sample-rate=24000", 24_000)];
        for (target, hz) in calls {
            let mut socket = agent.call(target);
            // Half a second goes back in as many messages as it takes.
            socket.send(Message::binary(vec![7; hz])).unwrap();
            let mut heard = 0;
            while heard < hz {
                let len = socket.read().unwrap().len();
                assert!(len <= hz / 25, "{len} bytes in a message of 20 ms");
                heard += len;
            }
        }
        agent.end();
    }

    #[test]
    fn options_and_rates_are_read_from_the_command_line() {
        let line = "--listen 127.0.0.1:0 --plain --option seqid=false --option chunk-bytes=320";
        assert_eq!(parse(line).unwrap().options, ["seqid=false", "chunk-bytes=320"]);
        let rate = parse("--listen 127.0.0.1:0 --plain --dialect exotel --sample-rate 16000").unwrap();
        assert!(matches!(Agent::open(&rate), Err(AgentError::Rate("exotel"))));
        assert!(parse("--listen 127.0.0.1:0 --sample-rate 11025").is_err());
    }

    #[test]
    fn what_is_asked_of_the_line_is_read_from_the_command_line_in_the_order_of_time() {
        let line = "--listen 127.0.0.1:0 --transfer-to sip:300@pbx --transfer-after 5000 --send-digits 1w2#";
        let (digits, transfer) = (Wish::digits("1w2#").unwrap(), Wish::transfer("sip:300@pbx").unwrap());
        assert_eq!(asks(&parse(line).unwrap()), [(Now::ZERO, digits), (Now::from_secs(5), transfer)]);
        assert!(parse("--listen 127.0.0.1:0 --transfer-to <x>").is_err());
        assert!(parse("--listen 127.0.0.1:0 --send-digits 12E").is_err());
        assert!(parse("--listen 127.0.0.1:0 --transfer-after 5000").is_err());
    }

    #[test]
    fn a_command_line_that_makes_no_sense_is_refused() {
        assert!(
            parse("--listen 127.0.0.1:0 --dialect morse").unwrap_err().to_string().contains("auto, binary, ozonetel")
        );
        assert!(parse("--listen 127.0.0.1:0 --plain --tls /tmp").is_err());
        assert!(parse("--listen 127.0.0.1:0 --plain-anywhere").is_err());
        assert!(parse("--listen 127.0.0.1:0 --behave sing").is_err());
        assert_eq!(
            parse("--listen 127.0.0.1:0 --name a.example --name b.example").unwrap().names,
            ["a.example", "b.example"]
        );
    }

    #[test]
    fn the_key_goes_into_no_directory_of_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        let ours = private_dir(dir.path().join("ours")).unwrap();
        assert_eq!(fs::metadata(&ours).unwrap().mode() & 0o777, 0o700);
        assert!(private_dir(ours.clone()).is_ok(), "again");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        assert!(matches!(private_dir(link), Err(AgentError::NotOurs(_))));
    }
}
