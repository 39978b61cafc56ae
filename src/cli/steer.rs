//! `trunkline hangup` and `trunkline drain`.

use std::io::{self, Write as _};

use hyper::Method;

use crate::{
    cli::ask::{AskError, At},
    control::desk::Status,
};

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

/// Takes no new calls, lets the live ones end, and then ends the daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
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
        }
    }
}
