//! `trunkline pipe`: one call on an agent from standard input to standard output, without a config file or a daemon; or
//! with `--socket` on a line of a daemon that runs.
//!
//! What the command line says becomes the text of a config, so that whatever is wrong is found, and told, as in a file.

use core::fmt::{self, Write as _};
use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    cli::{
        join::{JoinError, Joined, join},
        options::parse_rate,
    },
    config::{self, Config, Environment, Problem, ProcessEnvironment, is_secret},
    daemon,
    dialect::Direction,
    exit,
    media::Rate,
};

/// Puts standard input and output on a voice agent, as raw PCM16, little-endian, mono.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PipeArgs {
    /// Where the agent is, as in wss://agent.example.com/ws
    #[arg(value_name = "URL", required_unless_present = "socket")]
    pub url: Option<String>,
    /// What the agent speaks: binary, ozonetel, exotel, openai ... (docs/config.md has them all)
    #[arg(long, value_name = "NAME", required_unless_present = "socket")]
    pub dialect: Option<String>,
    /// Samples a second of input and output: 8000, 16000, 24000 or 48000
    #[arg(long, value_name = "HZ", default_value = "8000", value_parser = parse_rate)]
    pub sample_rate: Rate,
    /// Read the caller's voice from this .wav file or FIFO [default: standard input]
    #[arg(long, value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// Write the agent's voice to this .wav file or FIFO [default: standard output]
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Set an option of the dialect, as docs/config.md has them, as in omit-event=true; may be given again
    #[arg(long = "option", id = "options", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Authorize by the token in this file, which only you can read (Bearer)
    #[arg(long, value_name = "FILE", conflicts_with = "bearer_env")]
    pub bearer_file: Option<PathBuf>,
    /// Authorize by the token in this environment variable (Bearer)
    #[arg(long, value_name = "VARIABLE")]
    pub bearer_env: Option<String>,
    /// Add a header to the request, as in 'X-Site: depot'; may be given again
    #[arg(long = "header", id = "headers", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Add a header that is a secret: its value is that of this environment variable; may be given again
    #[arg(long = "header-env", id = "header_envs", value_name = "NAME: VARIABLE")]
    pub header_envs: Vec<String>,
    /// Trust the certificates of this file, too
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Call ws:// on another machine, where everybody on the way can listen in
    #[arg(long)]
    pub insecure: bool,
    /// Join the `pipe` line of a running daemon that listens at this Unix socket, instead of dialling an agent
    #[arg(long, value_name = "PATH", conflicts_with_all = NOT_WITH_SOCKET)]
    pub socket: Option<PathBuf>,
}

const NOT_WITH_SOCKET: [&str; 11] = [
    "url",
    "dialect",
    "input",
    "output",
    "options",
    "bearer_file",
    "bearer_env",
    "headers",
    "header_envs",
    "ca",
    "insecure",
];

/// Runs the call. Gives the exit code.
///
/// # Errors
/// There was no call: the command line is at fault, or the daemon does not take it.
pub fn run(args: &PipeArgs) -> Result<u8, PipeError> {
    match &args.socket {
        Some(socket) => through(socket, args.sample_rate).map(|()| exit::OK),
        None => Ok(daemon::run_with(args.config(&ProcessEnvironment)?, None)),
    }
}

impl PipeArgs {
    /// What was said, as a config with one line and one trunk.
    fn config(&self, environment: &dyn Environment) -> Result<Config, PipeError> {
        let text = self.text()?;
        config::parse(Path::new("the command line"), &text, environment)
            .map_err(|problems| PipeError::Wrong(problems.0))
    }

    fn text(&self) -> Result<String, PipeError> {
        let [input, output] = [&self.input, &self.output].map(|path| path.as_deref().unwrap_or(Path::new("-")));
        let mut text = format!(
            "[media]\nmax-calls = 1\n[control]\nhttp = \"off\"\nsocket = \"off\"\ndrain-seconds = 0\n[records]\n\
             directory = \"off\"\n[[route]]\nline = \"pipe\"\ntrunks = [\"agent\"]\n[line.pipe]\nkind = \"pipe\"\ninput \
             = {}\noutput = {}\nsample-rate = {}\n[trunk.agent]\nurl = {}\ndialect = {}\ninsecure = {}\n",
            quoted(&input.to_string_lossy()),
            quoted(&output.to_string_lossy()),
            self.sample_rate.hz(),
            quoted(self.url.as_deref().unwrap_or_default()),
            quoted(self.dialect.as_deref().unwrap_or_default()),
            self.insecure,
        );
        let path = |path: &Path| quoted(&path.to_string_lossy());
        // Writing to a text does not fail.
        if let Some(file) = &self.ca {
            let _ = writeln!(text, "ca-file = {}", path(file));
        }
        if let Some(file) = &self.bearer_file {
            let _ = writeln!(text, "bearer = {{ file = {} }}", path(file));
        }
        if let Some(variable) = &self.bearer_env {
            let _ = writeln!(text, "bearer = {{ env = {} }}", quoted(variable));
        }
        let mut headers = Vec::new();
        for header in &self.headers {
            let (name, value) = pair(header, "--header")?;
            if is_secret(name) || name.eq_ignore_ascii_case("authorization") {
                return Err(PipeError::SecretHeader(name.to_owned()));
            }
            headers.push(format!("{} = {}", quoted(name), quoted(value)));
        }
        for header in &self.header_envs {
            let (name, variable) = pair(header, "--header-env")?;
            headers.push(format!("{} = {{ env = {} }}", quoted(name), quoted(variable)));
        }
        if !headers.is_empty() {
            let _ = writeln!(text, "headers = {{ {} }}", headers.join(", "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "[trunk.agent.{}]", quoted(self.dialect.as_deref().unwrap_or_default()));
        }
        for option in &self.options {
            let (key, value) = option.split_once('=').ok_or(PipeError::Pair("--option", "KEY=VALUE"))?;
            let is_bare = value.parse::<bool>().is_ok() || value.parse::<i64>().is_ok();
            let value = if is_bare { value.to_owned() } else { quoted(value) };
            let _ = writeln!(text, "{} = {value}", quoted(key));
        }
        Ok(text)
    }
}

fn pair<'p>(header: &'p str, option: &'static str) -> Result<(&'p str, &'p str), PipeError> {
    let (name, value) = header.split_once(':').ok_or(PipeError::Pair(option, "NAME: VALUE"))?;
    Ok((name.trim(), value.trim()))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// Standard input into a daemon's line, and what comes back to standard output.
fn through(socket: &Path, rate: Rate) -> Result<(), PipeError> {
    let Joined { stream, sample_rate, direction, .. } =
        join(socket, &serde_json::json!({})).map_err(PipeError::Join)?;
    if sample_rate != rate.hz() {
        return Err(PipeError::Rate(sample_rate));
    }
    if direction == Direction::Uplink {
        eprintln!("trunkline: this line only listens: nothing comes back from the agent");
    }
    let mut up = stream.try_clone().map_err(PipeError::Broken)?;
    // Not waited for: it may sit in front of an input that never ends.
    thread::spawn(move || {
        // A call that is over takes no more.
        let _ = io::copy(&mut io::stdin().lock(), &mut up);
        let _ = up.shutdown(Shutdown::Write);
    });
    let (mut down, mut out) = (stream, io::stdout().lock());
    let mut bytes = [0; 4096];
    loop {
        match down.read(&mut bytes) {
            Ok(0) => return Ok(()),
            // Nobody reads the output any more: that hangs up.
            Ok(n) => out.write_all(&bytes[..n]).and_then(|()| out.flush()).map_err(PipeError::Broken)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It was closed before it had read all of ours.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(PipeError::Broken(error)),
        }
    }
}

/// Why there was no call.
#[derive(Debug)]
pub enum PipeError {
    /// What the config would say of it.
    Wrong(Vec<Problem>),
    /// This option is no such pair.
    Pair(&'static str, &'static str),
    /// This header is none for a command line, which everybody on the machine can read.
    SecretHeader(String),
    /// The daemon does not take the call.
    Join(JoinError),
    /// Its line has another rate.
    Rate(u32),
    /// The connection or the output broke.
    Broken(io::Error),
}

impl PipeError {
    /// How the process ends.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Wrong(_) | Self::Pair(..) | Self::SecretHeader(_) | Self::Rate(_) => exit::CONFIG,
            Self::Join(_) | Self::Broken(_) => exit::FAILED,
        }
    }
}

impl fmt::Display for PipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(problems) => {
                for (index, Problem { key, found, wanted, .. }) in problems.iter().enumerate() {
                    let (separator, value) =
                        (if index > 0 { "\n" } else { "" }, if found.is_empty() { "" } else { " " });
                    write!(f, "{separator}{}{value}{found}: {wanted}", option_of(key))?;
                }
                Ok(())
            }
            Self::Pair(option, wanted) => write!(f, "{option}: write '{wanted}'"),
            Self::SecretHeader(name) => write!(
                f,
                "--header {name}: it holds a secret, and everybody on this machine can read a command line; put it into an \
                 environment variable and name that: --header-env '{name}: VARIABLE', or take --bearer-file or --bearer-env"
            ),
            Self::Join(error) => error.fmt(f),
            Self::Rate(hz) => write!(f, "the daemon's line has {hz} samples a second; say --sample-rate {hz}"),
            Self::Broken(error) => write!(f, "the call broke off: {error}"),
        }
    }
}

impl core::error::Error for PipeError {}

/// How the command line says what the config calls by this key.
fn option_of(key: &str) -> String {
    let (_, name) = key.rsplit_once("] ").unwrap_or(("", key));
    match name.split_once('.') {
        _ if key == "[trunk.agent] url" => "URL".to_owned(),
        _ if key == "[trunk.agent] ca-file" => "--ca".to_owned(),
        _ if key.starts_with("[trunk.agent.") => format!("--option {name}"),
        Some(("headers", header)) => format!("--header {}", header.split('.').next().unwrap_or(header)),
        Some(("bearer", from)) => format!("--bearer-{from}"),
        Some(_) | None => format!("--{name}"),
    }
}

const EXAMPLES: &str = "\
A microphone and a loudspeaker:
  arecord -q -t raw -f S16_LE -r 16000 |
    trunkline pipe wss://agent.example.com/ws --dialect binary --sample-rate 16000 |
    aplay -q -t raw -f S16_LE -r 16000

A recording, with a token that stands in a file:
  trunkline pipe wss://agent.example.com/ws --dialect exotel --bearer-file token --input in.wav --output out.wav

A line of a daemon that runs:
  trunkline pipe --socket /run/trunkline/desk.sock < question.raw > answer.raw

It ends with the call: 0 when either side hung up, 1 when there was no agent or the call broke, 78 when the command line is
wrong. Log lines go to standard error; RUST_LOG=warn leaves all out that is as it should be.";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        config::{LineKind, PipeEnd, PipeSource},
    };

    struct Given;

    impl Environment for Given {
        fn var(&self, name: &str) -> Option<String> {
            (name == "AGENT_TOKEN").then(|| "hush".to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            None
        }
    }

    fn config(args: &[&str]) -> Result<Config, PipeError> {
        let Command::Pipe(args) = Cli::try_parse_from([&["trunkline", "pipe"], args].concat()).unwrap().command else {
            unreachable!()
        };
        args.config(&Given)
    }

    #[test]
    fn what_the_command_line_says_is_a_config() {
        let config = config(&[
            "wss://agent.example.com/ws?a=\"b\\c",
            "--dialect=ozonetel",
            "--sample-rate=16000",
            "--output=out \"1\".wav",
            "--bearer-env=AGENT_TOKEN",
            "--header=X-Site: depot",
            "--header-env=X-Api-Key: AGENT_TOKEN",
            "--option=omit-event=true",
        ])
        .unwrap();
        let LineKind::Pipe(line) = &config.lines[0].kind else { unreachable!() };
        let output = Some(PipeEnd::Wav("out \"1\".wav".into()));
        assert_eq!(line.source, PipeSource::Ends { input: PipeEnd::Standard, output });
        assert_eq!(line.sample_rate, Rate::Hz16000);
        let trunk = &config.trunks[0];
        assert_eq!(trunk.authorization.as_ref().unwrap().reveal(), "Bearer hush");
        let headers: Vec<_> = trunk.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(headers, [("X-Site", "depot"), ("X-Api-Key", "hush")]);
        assert!(config.control.http.is_none() && config.control.socket.is_none() && config.records.directory.is_none());
        assert_eq!(config.warnings(), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_told_by_the_name_of_its_option() {
        let url = "wss://agent.example.com/ws";
        let said = |args: &[&str]| config(args).unwrap_err().to_string();
        for (args, words) in [
            (&["ftp://agent", "--dialect=binary"][..], "URL \"ftp://agent\": wanted a WebSocket URL such as"),
            (
                &["ws://agent.example.com", "--dialect=binary"],
                "URL \"ws://agent.example.com\": ws:// is for an agent on",
            ),
            (&[url, "--dialect=exotell"], "--dialect \"exotell\": no such dialect; did you mean `exotel`?"),
            (&[url, "--dialect=binary", "--input=no.wav"], "--input \"no.wav\": cannot be read: "),
            (&[url, "--dialect=binary", "--output=ear"], "--output \"ear\": not there; make it by `mkfifo ear`"),
            (&[url, "--dialect=binary", "--ca=no.pem"], "--ca \"no.pem\": cannot be read: "),
            (&[url, "--dialect=binary", "--bearer-file=no"], "--bearer-file ***: cannot be read: "),
            (
                &[url, "--dialect=binary", "--bearer-env=NOT_SET"],
                "--bearer-env \"NOT_SET\": this environment variable is",
            ),
            (&[url, "--dialect=binary", "--header=X-Api-Key: hush"], "--header X-Api-Key: it holds a secret"),
            (&[url, "--dialect=binary", "--header=Authorization: hush"], "--header Authorization: it holds a secret"),
            (&[url, "--dialect=binary", "--header=Host: a"], "--header Host ***: this header is the handshake's own"),
            (&[url, "--dialect=binary", "--header=X"], "--header: write 'NAME: VALUE'"),
            (&[url, "--dialect=ozonetel", "--option=omit=1"], "--option omit 1: no such option; there are: "),
        ] {
            let said = said(args);
            assert!(said.starts_with(words) && !said.contains("hush"), "{args:?}: {said}");
            assert_eq!(config(args).unwrap_err().exit_code(), exit::CONFIG);
        }
    }

    #[test]
    fn an_agent_or_a_socket_is_needed_and_not_both() {
        for wrong in [&[][..], &["wss://a.example.com"], &["wss://a.example.com", "--socket=/run/x/desk.sock"]] {
            assert!(Cli::try_parse_from([&["trunkline", "pipe"], wrong].concat()).is_err(), "{wrong:?}");
        }
        assert!(Cli::try_parse_from(["trunkline", "pipe", "--socket=/run/x/desk.sock"]).is_ok());
    }
}
