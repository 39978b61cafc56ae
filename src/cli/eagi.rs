//! `trunkline eagi`: what Asterisk's `EAGI()` runs to have an agent listen to a caller.
//!
//! Asterisk speaks AGI on the program's standard input and output, and gives it the caller's voice on descriptor 3
//! (Asterisk, "EAGI"). There is no way back: whatever the agent says, nobody hears it. So the call goes to a `pipe` line
//! with `direction = "uplink"`, and the dialplan is told so.
//!
//! ```text
//!   Asterisk --descriptor 3, slin--> eagi --Unix socket--> daemon --> agent
//!            <--------AGI----------->
//! ```
//!
//! | channel variable | |
//! |---|---|
//! | `TRUNKLINE_CALL_ID` | the call, as records and log name it |
//! | `TRUNKLINE_RESULT` | `ok`: the caller hung up. `ended`: the agent or the daemon did. `refused`, `unreachable`: no call |

use core::fmt;
use std::{
    fs::{self, File},
    io::{self, BufRead, Read, Write},
    net::Shutdown,
    os::unix::fs::FileTypeExt,
    path::PathBuf,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    cli::{
        join::{JoinError, Joined, join},
        options::parse_rate,
    },
    dialect::Direction,
    media::Rate,
};

/// Lets an agent listen to a caller of Asterisk's, which runs this by EAGI(). The caller hears nothing of the agent.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct EagiArgs {
    /// Where a `pipe` line of the daemon listens
    #[arg(long, value_name = "PATH", default_value = "/run/trunkline/eagi.sock")]
    pub socket: PathBuf,
    /// Samples a second on descriptor 3: 8000, unless the channel variable EAGI_AUDIO_FORMAT says otherwise
    #[arg(long, value_name = "HZ", default_value = "8000", value_parser = parse_rate)]
    pub sample_rate: Rate,
}

/// Runs until the caller hangs up or the daemon ends the call.
///
/// # Errors
/// There was no call. Asterisk then has `AGISTATUS` = `FAILURE`.
pub fn run(args: &EagiArgs) -> Result<(), EagiError> {
    let mut asked = io::stdin().lock();
    let caller = Caller::read(&mut asked)?;
    drop(asked);
    let (tell, events) = mpsc::channel();
    start_reading_answers(tell.clone());
    watch_signals(tell.clone());
    let mut agi = Agi { events, over: None };
    let joined = voice().and_then(|voice| {
        let joined = join(&args.socket, &caller).map_err(EagiError::Join)?;
        if joined.sample_rate != args.sample_rate.hz() {
            return Err(EagiError::Rate { line: joined.sample_rate, ours: args.sample_rate });
        }
        Ok((voice, joined))
    });
    let (voice, Joined { stream, call_id, direction, .. }) = match joined {
        Ok(joined) => joined,
        Err(error) => {
            agi.say(&error.to_string());
            agi.set("TRUNKLINE_RESULT", error.result());
            return Err(error);
        }
    };
    start_copying(voice, &stream, tell).map_err(EagiError::Broken)?;
    agi.set("TRUNKLINE_CALL_ID", &call_id);
    agi.say(&format!("call {call_id}: the agent listens only; EAGI has no way back, the caller hears nothing of it"));
    if direction == Direction::Both {
        agi.say("the line should say direction = \"uplink\": what the agent says to it is thrown away");
    }
    let over = agi.wait();
    // The daemon reads what is still under way, and then hears that the caller is gone.
    let _ = stream.shutdown(Shutdown::Both);
    agi.set("TRUNKLINE_RESULT", if over == Over::Call { "ended" } else { "ok" });
    Ok(())
}

/// Who calls, as the daemon is told.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Caller {
    from: String,
    to: String,
    did: String,
    custom: Custom,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Custom {
    uniqueid: String,
    channel: String,
}

impl Caller {
    /// Reads what Asterisk says first: lines such as `agi_callerid: 201`, up to an empty one (Asterisk, "AGI Execution
    /// Environment").
    fn read(asked: &mut impl BufRead) -> Result<Self, EagiError> {
        let mut caller = Self::default();
        let mut asked = asked.take(MAX_ENVIRONMENT);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = asked.read_until(b'\n', &mut line).map_err(EagiError::Broken)?;
            if n == 0 || line.last() != Some(&b'\n') {
                return Err(EagiError::NoEnvironment);
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if text.is_empty() {
                return Ok(caller);
            }
            let Some((name, value)) = text.split_once(": ") else { continue };
            // What Asterisk does not know.
            let value = if value == "unknown" { "" } else { value };
            match name {
                "agi_callerid" => caller.from = short(value, MAX_NUMBER),
                "agi_extension" => caller.to = short(value, MAX_NUMBER),
                "agi_dnid" => caller.did = short(value, MAX_NUMBER),
                "agi_uniqueid" => caller.custom.uniqueid = short(value, MAX_CUSTOM),
                "agi_channel" => caller.custom.channel = short(value, MAX_CUSTOM),
                _ => {}
            }
        }
    }
}

/// What the daemon takes of a text.
fn short(text: &str, bytes: usize) -> String {
    let mut short = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if short.len() + character.len_utf8() > bytes {
            break;
        }
        short.push(character);
    }
    short
}

/// The caller's voice.
fn voice() -> Result<File, EagiError> {
    // Whatever else has that number by now is no pipe: AGI() leaves it closed.
    if !fs::metadata(VOICE).is_ok_and(|file| file.file_type().is_fifo()) {
        return Err(EagiError::NoVoice);
    }
    File::open(VOICE).map_err(EagiError::Broken)
}

/// What happens.
enum Event {
    /// Asterisk has answered a command.
    Answer(String),
    Over(Over),
}

/// Why it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The caller is gone, or Asterisk is.
    Caller,
    /// The daemon has ended the call.
    Call,
}

/// Reads what Asterisk says after its environment: answers, and perhaps that the caller hung up.
fn start_reading_answers(tell: Sender<Event>) {
    thread::spawn(move || {
        let mut said = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut said).take(MAX_ANSWER).read_until(b'\n', &mut line);
            let is_over = !matches!(read, Ok(1..));
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let event = if is_over || text == "HANGUP" { Event::Over(Over::Caller) } else { Event::Answer(text) };
            if tell.send(event).is_err() || is_over {
                return;
            }
        }
    });
}

/// A hangup is told by SIGHUP, unless the channel variable AGISIGHUP says no. From the return on none is missed.
fn watch_signals(tell: Sender<Event>) {
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let kinds = [SignalKind::hangup(), SignalKind::terminate(), SignalKind::interrupt()];
            let [Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)] = kinds.map(signal) else { return };
            // Whoever waits for it is there, or the process is ending.
            let _ = ready.send(());
            loop {
                tokio::select! {
                    _ = hangup.recv() => {}
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if tell.send(Event::Over(Over::Caller)).is_err() {
                    return;
                }
            }
        });
    });
    // Without signals the end of the audio says it.
    let _ = is_ready.recv();
}

/// Copies the caller's voice to the daemon, and throws away what comes back.
fn start_copying(mut voice: File, stream: &std::os::unix::net::UnixStream, tell: Sender<Event>) -> io::Result<()> {
    let (mut up, mut down) = (stream.try_clone()?, stream.try_clone()?);
    let ended = tell.clone();
    thread::spawn(move || {
        // Where the daemon takes no more, the other thread hears of its end.
        if io::copy(&mut voice, &mut up).is_ok() {
            let _ = ended.send(Event::Over(Over::Caller));
        }
    });
    thread::spawn(move || {
        // However it ends, it is over.
        let _ = io::copy(&mut down, &mut io::sink());
        let _ = tell.send(Event::Over(Over::Call));
    });
    Ok(())
}

/// The conversation with Asterisk.
struct Agi {
    events: Receiver<Event>,
    /// What ended meanwhile.
    over: Option<Over>,
}

impl Agi {
    /// Tells whoever looks at Asterisk's console.
    fn say(&mut self, words: &str) {
        self.command(&format!("VERBOSE \"{}\" 1", escaped(&format!("trunkline: {words}"))));
    }

    /// Sets a variable of the channel.
    fn set(&mut self, name: &str, value: &str) {
        self.command(&format!("SET VARIABLE {name} \"{}\"", escaped(value)));
    }

    /// Says a command and waits for its answer, whatever that is: nothing here hangs on it.
    fn command(&mut self, command: &str) {
        let mut out = io::stdout().lock();
        if writeln!(out, "{command}").and_then(|()| out.flush()).is_err() {
            self.over.get_or_insert(Over::Caller);
            return;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                // Usage has several lines, all of them but the last with a hyphen.
                Ok(Event::Answer(text)) if text.as_bytes().get(3) == Some(&b'-') => {}
                Ok(Event::Answer(_)) => return,
                Ok(Event::Over(over)) => drop(self.over.get_or_insert(over)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Waits until it is over.
    fn wait(&mut self) -> Over {
        loop {
            if let Some(over) = self.over {
                return over;
            }
            match self.events.recv() {
                Ok(Event::Over(over)) => self.over = Some(over),
                // A late answer.
                Ok(Event::Answer(_)) => {}
                Err(mpsc::RecvError) => return Over::Caller,
            }
        }
    }
}

/// A text between the quotes of a command.
fn escaped(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Why there was no call.
#[derive(Debug)]
pub enum EagiError {
    /// Whoever started it is not Asterisk.
    NoEnvironment,
    /// There is no pipe at descriptor 3.
    NoVoice,
    /// The daemon does not take it.
    Join(JoinError),
    /// The rates are not the same.
    Rate {
        /// The line's (Hz).
        line: u32,
        /// Asterisk's.
        ours: Rate,
    },
    /// Something broke.
    Broken(io::Error),
}

impl EagiError {
    /// What the dialplan is told.
    const fn result(&self) -> &'static str {
        match self {
            Self::Join(error) if !error.is_refusal() => "unreachable",
            Self::Join(_) | Self::NoEnvironment | Self::NoVoice | Self::Rate { .. } | Self::Broken(_) => "refused",
        }
    }
}

impl fmt::Display for EagiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEnvironment => f.write_str(
                "this is for Asterisk to run: EAGI(/usr/bin/trunkline,eagi) in extensions.conf; see docs/pipes.md",
            ),
            Self::NoVoice => {
                f.write_str("there is no audio on descriptor 3: the dialplan has to say EAGI(), not AGI()")
            }
            Self::Join(error) => error.fmt(f),
            Self::Rate { line, ours } => write!(
                f,
                "the line has {line} samples a second and the audio here {ours}; make it sample-rate = {} there",
                ours.hz()
            ),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for EagiError {}

const EXAMPLES: &str = "\
In extensions.conf:
  exten => 700,1,Answer()
   same => n,EAGI(/usr/bin/trunkline,eagi)
   same => n,Verbose(1,${TRUNKLINE_RESULT} ${TRUNKLINE_CALL_ID})

In the daemon's config:
  [line.eagi]
  kind = \"pipe\"
  listen = \"/run/trunkline/eagi.sock\"
  direction = \"uplink\"

EAGI has no way back: an agent listens to the caller, who hears nothing of it. For a conversation take AudioSocket,
chan_websocket or SIP.";

/// Where the caller's voice is.
const VOICE: &str = "/dev/fd/3";
/// What Asterisk's environment has at most (bytes); it has some 20 lines and the arguments.
const MAX_ENVIRONMENT: u64 = 64 * 1024;
/// The longest answer that is looked at in one piece (bytes).
const MAX_ANSWER: u64 = 4096;
/// What a number has at most, and what else is told (bytes): the daemon takes no more.
const MAX_NUMBER: usize = 128;
const MAX_CUSTOM: usize = 100;
/// How long Asterisk is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::control::call_info::CallInfo;

    /// As Asterisk 20 writes it (res_agi).
    const ENVIRONMENT: &str = "agi_request: /usr/bin/trunkline\nagi_channel: PJSIP/201-00000007\nagi_language: en\n\
                               agi_type: PJSIP\nagi_uniqueid: 1753423310.14\nagi_version: 20.14.0\nagi_callerid: 201\n\
                               agi_calleridname: Desk\nagi_callingpres: 0\nagi_callingani2: 0\nagi_callington: 0\n\
                               agi_callingtns: 0\nagi_dnid: unknown\nagi_rdnis: unknown\nagi_context: internal\n\
                               agi_extension: 700\nagi_priority: 2\nagi_enhanced: 1.0\nagi_accountcode: \n\
                               agi_threadid: 140242132\nagi_arg_1: eagi\n\n";

    #[test]
    fn what_asterisk_says_first_is_what_the_daemon_is_told() {
        let mut asked = [ENVIRONMENT, "200 result=1\n"].concat();
        let mut reader = asked.as_bytes();
        let caller = Caller::read(&mut reader).unwrap();
        assert_eq!((caller.from.as_str(), caller.to.as_str(), caller.did.as_str()), ("201", "700", ""));
        assert_eq!(reader, b"200 result=1\n", "an answer is left where it is");
        let told = CallInfo::parse(serde_json::to_string(&caller).unwrap().as_bytes()).unwrap();
        assert!(told.custom.iter().eq([("uniqueid", "1753423310.14"), ("channel", "PJSIP/201-00000007")]));

        // Whatever is in it, the daemon takes it.
        asked = ENVIRONMENT.replace("201\n", &format!("+49\t{}\n", "\u{fc}".repeat(300)));
        asked = asked.replace("PJSIP/201", &"Local/\"x\\".repeat(100));
        let caller = Caller::read(&mut asked.as_bytes()).unwrap();
        CallInfo::parse(serde_json::to_string(&caller).unwrap().as_bytes()).unwrap();
    }

    #[test]
    fn an_environment_that_does_not_end_is_none() {
        for text in ["", "agi_request: x\n", "agi_request: x", &"agi_arg_1: x\n".repeat(10_000)] {
            assert!(matches!(Caller::read(&mut text.as_bytes()), Err(EagiError::NoEnvironment)));
        }
    }

    #[test]
    fn a_command_stays_one_line_whatever_is_said() {
        assert_eq!(escaped("say \"listen\" \\ \r\nHANGUP"), "say \\\"listen\\\" \\\\   HANGUP");
    }
}
