//! What changes something in a running daemon: `trunkline dial`, `press`, `release`, `transfer`, `digits`, `hangup`,
//! `reload` and `drain`.

use std::io::{self, Write as _};

use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::{
    cli::ask::{AskError, At},
    control::desk::Status,
};

/// Calls somebody through a SIP line and puts them on the line's trunk; or fetches a call that Asterisk holds ready.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = DIAL_EXAMPLES)]
pub struct DialArgs {
    /// The line, by its name in the config, as `trunkline status` shows it
    #[arg(value_name = "LINE", value_parser = parse_line)]
    pub line: String,
    /// Who is called: a number as people write one, or sip:NUMBER@HOST; of Asterisk its MEDIA_WEBSOCKET_CONNECTION_ID
    #[arg(value_name = "TARGET")]
    pub target: String,
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Passes the caller of one live call on to somebody else.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = TRANSFER_EXAMPLES)]
pub struct TransferArgs {
    /// The call, as `trunkline calls` names it
    #[arg(value_name = "CALL_ID", value_parser = parse_call_id)]
    pub call_id: String,
    /// Who gets the caller: a number as people write one, or sip:NUMBER@HOST
    #[arg(value_name = "TARGET")]
    pub target: String,
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Presses keys in one live call.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = DIGITS_EXAMPLES)]
pub struct DigitsArgs {
    /// The call, as `trunkline calls` names it
    #[arg(value_name = "CALL_ID", value_parser = parse_call_id)]
    pub call_id: String,
    /// The keys: 0 to 9, *, # and A to D
    #[arg(value_name = "DIGITS")]
    pub digits: String,
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Ends one live call; its caller goes on in the dialplan.
#[derive(Clone, Debug, clap::Args)]
pub struct HangupArgs {
    /// The call, as `trunkline calls` names it
    #[arg(value_name = "CALL_ID", value_parser = parse_call_id)]
    pub call_id: String,
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Presses or releases the key of a sound line.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = KEY_EXAMPLES)]
pub struct KeyArgs {
    /// The line, by its name in the config, as `trunkline status` shows it
    #[arg(value_name = "LINE", value_parser = parse_line)]
    pub line: String,
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Has the daemon read its config again, while calls go on.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = RELOAD_EXAMPLES)]
pub struct ReloadArgs {
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Takes no new calls, lets the live ones end, and then ends the daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Calls somebody, and says how the call is named.
///
/// # Errors
/// The daemon says why not, or there is none.
pub fn dial(args: &DialArgs) -> Result<(), AskError> {
    #[derive(Deserialize)]
    struct Placed {
        call_id: String,
    }
    let DialArgs { line, target, at } = args;
    let said = at.wait(at.order(&format!("/lines/{line}/dial"), &Whom { target }))?;
    let Placed { call_id } = at.understand(&said)?;
    say(&format!("{target} is being called through the line {line}: call {call_id}"));
    Ok(())
}

/// Passes a caller on.
///
/// # Errors
/// The daemon says why not, or there is none.
pub fn transfer(args: &TransferArgs) -> Result<(), AskError> {
    let TransferArgs { call_id, target, at } = args;
    at.wait(at.order(&format!("/calls/{call_id}/transfer"), &Whom { target }))?;
    say(&format!("call {call_id} is being passed on to {target}; while they do not take it, it stays with the agent"));
    Ok(())
}

/// Presses keys.
///
/// # Errors
/// The daemon says why not, or there is none.
pub fn digits(args: &DigitsArgs) -> Result<(), AskError> {
    let DigitsArgs { call_id, digits, at } = args;
    at.wait(at.order(&format!("/calls/{call_id}/digits"), &Keys { digits }))?;
    say(&format!("keys are being pressed in call {call_id}"));
    Ok(())
}

/// Presses the key of a sound line: a call begins.
///
/// # Errors
/// The daemon says why not, or there is none.
pub fn press(args: &KeyArgs) -> Result<(), AskError> {
    key(args, "press")
}

/// Releases it: the call ends.
///
/// # Errors
/// The daemon says why not, or there is none.
pub fn release(args: &KeyArgs) -> Result<(), AskError> {
    key(args, "release")
}

fn key(args: &KeyArgs, way: &str) -> Result<(), AskError> {
    #[derive(Deserialize)]
    struct Moved {
        words: String,
    }
    let KeyArgs { line, at } = args;
    let said = at.wait(at.ask(Method::POST, &format!("/lines/{line}/{way}")))?;
    let Moved { words } = at.understand(&said)?;
    say(&format!("line {line}: {words}"));
    Ok(())
}

#[derive(Serialize)]
struct Whom<'a> {
    target: &'a str,
}

#[derive(Serialize)]
struct Keys<'a> {
    digits: &'a str,
}

/// Ends a call.
///
/// # Errors
/// There is no such call, or no daemon.
pub fn hang_up(args: &HangupArgs) -> Result<(), AskError> {
    let path = format!("/calls/{}/hangup", args.call_id);
    args.at.wait(args.at.ask(Method::POST, &path))?;
    say(&format!("call {} is being hung up", args.call_id));
    Ok(())
}

/// Has the config read again, and says what changes by it.
///
/// # Errors
/// The config is refused, and the daemon goes on with the one before; or there is no daemon.
pub fn reload(args: &ReloadArgs) -> Result<(), AskError> {
    #[derive(Deserialize)]
    struct Reloaded {
        words: String,
    }
    let said = args.at.wait(args.at.ask(Method::POST, "/reload"))?;
    let Reloaded { words } = args.at.understand(&said)?;
    say(&format!("the config is read again: {words}"));
    Ok(())
}

/// Drains the daemon, and says what that means.
///
/// # Errors
/// There is no daemon.
pub fn drain(args: &DrainArgs) -> Result<(), AskError> {
    let said = args.at.wait(args.at.ask(Method::POST, "/drain"))?;
    say(&outlook(&args.at.understand(&said)?));
    Ok(())
}

fn outlook(status: &Status) -> String {
    let (live, seconds) = (status.calls.len(), status.drain_seconds);
    let rest = match live {
        0 => "no call is live, so it ends now".to_owned(),
        1 => format!("1 live call has {seconds} s to end by itself, then it is ended; after it the daemon ends"),
        _ => format!(
            "{live} live calls have {seconds} s to end by themselves, then they are ended; after them the daemon ends"
        ),
    };
    format!("the daemon (process {}) takes no new calls; {rest}", status.pid)
}

fn say(words: &str) {
    // A closed pipe is the reader's choice.
    let _ = writeln!(io::stdout().lock(), "{words}");
}

/// What goes into a path has to be one segment of it.
fn parse_call_id(text: &str) -> Result<String, &'static str> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(text.to_owned())
    } else {
        Err("wanted the id of a call, 12 letters and digits, as `trunkline calls` names it")
    }
}

fn parse_line(text: &str) -> Result<String, &'static str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.is_empty() && text.bytes().all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("wanted the name of a line, as `trunkline status` shows it")
    }
}

// The commands' own lines are all that clap shows of a command in a list and in its help, so the rest is here.
const DIAL_EXAMPLES: &str = "\
Who may be called is said by the dial plan of the line, [line.LINE.dial] in the daemon's config. Without one nobody is.

Examples:
  trunkline dial pbx 201
  trunkline dial pbx '+49 (30) 123-456'
  trunkline dial pbx '*98'                        # a shell would take the star for itself
  trunkline dial pbx sip:201@pbx.example.com      # where [line.pbx.dial] domains lists the host

What the config needs first, e.g. for the line pbx:
  [line.pbx.dial]
  plan = [\"2??\", \"+49*\"]";

const TRANSFER_EXAMPLES: &str = "\
The PBX is asked to do it (a blind transfer), as far as the dial plan of the call's line allows, [line.LINE.dial] in the
daemon's config. A caller whom nobody takes there is with the agent again.

Examples:
  trunkline calls                                 # which calls there are
  trunkline transfer k3vqhm2xw7ab 300
  trunkline transfer k3vqhm2xw7ab '+49 30 123456'

What the config needs first, e.g. for the line pbx:
  [line.pbx.dial]
  plan = [\"300\", \"+49*\"]";

const RELOAD_EXAMPLES: &str = "\
Lines, trunks and routes change without a frame lost on live calls; secrets and certificates are read anew. What only a
restart can change is named. A file that is wrong is refused with every problem and its line, and the daemon goes on with
the one before. `systemctl reload trunkline` does the same.

Examples:
  trunkline reload
  trunkline check && trunkline reload";

const KEY_EXAMPLES: &str = "\
For a line of the kind `sound` with start = \"key\": press begins a call, release ends it. A button's program can run them,
or ask the control socket itself.

Examples:
  trunkline press desk
  trunkline release desk
  curl -sX POST --unix-socket /run/trunkline/control.sock http://localhost/lines/desk/press";

const DIGITS_EXAMPLES: &str = "\
For a menu or a door at the far end of a call on a SIP line. They go as [line.LINE] dtmf says, in RTP or by INFO. The log
does not say which keys they were.

Examples:
  trunkline digits k3vqhm2xw7ab 2
  trunkline digits k3vqhm2xw7ab '4711#'           # a shell might take the hash for itself";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::desk::tests::busy_status;

    #[test]
    fn a_drain_says_what_will_happen() {
        let mut status = busy_status();
        assert_eq!(
            outlook(&status),
            "the daemon (process 812) takes no new calls; 2 live calls have 30 s to end by themselves, then they are \
             ended; after them the daemon ends"
        );
        status.calls.pop();
        assert!(outlook(&status).contains("1 live call has 30 s to end by itself"));
        status.calls.clear();
        assert_eq!(outlook(&status), "the daemon (process 812) takes no new calls; no call is live, so it ends now");
    }

    #[test]
    fn what_is_no_call_id_never_becomes_a_path() {
        assert!(parse_call_id("k3vqhm2xw7ab").is_ok());
        for bad in ["", "../drain", "a b", "a/b", "é"] {
            assert!(parse_call_id(bad).is_err(), "{bad}");
            assert!(parse_line(bad).is_err(), "{bad}");
        }
        assert!(parse_line("front-desk_2").is_ok());
    }
}
