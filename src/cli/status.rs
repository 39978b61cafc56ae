//! `trunkline status` and `trunkline calls`: what the daemon is doing, once or each second.

use core::time::Duration;
use std::io::{self, IsTerminal as _, Write as _};

use hyper::Method;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    cli::{
        ask::{AskError, At},
        panel::{self, Look},
    },
    clock,
    control::desk::{CallStatus, Status},
};

/// Shows a running daemon: lines, trunks with their last handshake and refusal, and live calls.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Show it again each second until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Shows the live calls of a running daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct CallsArgs {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs, reason = "its arguments have their own")]
    #[command(flatten)]
    pub at: At,
}

/// Prints the status.
///
/// # Errors
/// There is no daemon.
pub fn status(args: &StatusArgs) -> Result<(), AskError> {
    if args.watch {
        return args.at.wait(watch(args));
    }
    let text = args.at.wait(status_text(args))?;
    // A closed pipe is the reader's choice.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

/// Prints the live calls.
///
/// # Errors
/// There is no daemon.
pub fn calls(args: &CallsArgs) -> Result<(), AskError> {
    let said = args.at.wait(args.at.ask(Method::GET, "/calls"))?;
    let text = if args.json {
        String::from_utf8_lossy(&said.body).into_owned()
    } else {
        let calls: Vec<CallStatus> = args.at.understand(&said)?;
        panel::calls(&calls, Look::of_stdout())
    };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

async fn status_text(args: &StatusArgs) -> Result<String, AskError> {
    let said = args.at.ask(Method::GET, "/status").await?;
    if args.json {
        return Ok(String::from_utf8_lossy(&said.body).into_owned());
    }
    let status: Status = args.at.understand(&said)?;
    Ok(panel::status(&status, clock::epoch_ms(), Look::of_stdout()))
}

/// Once a second until somebody stops it. On a terminal a daemon may come and go meanwhile; in a pipe the first failure
/// is the end.
async fn watch(args: &StatusArgs) -> Result<(), AskError> {
    // The first failure is the end anyway, and leaves the terminal as it is.
    let mut text = status_text(args).await?;
    let mut screen = (io::stdout().is_terminal() && !args.json).then(Screen::open);
    let watching = async {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        seconds.tick().await;
        loop {
            let shown = match &mut screen {
                Some(screen) => screen.show(&text),
                None => block(&text, args.json),
            };
            if shown.is_err() {
                // Nobody reads any more.
                return Ok(());
            }
            seconds.tick().await;
            text = match status_text(args).await {
                Err(error) if screen.is_some() => format!("{error}\n"),
                other => other?,
            };
        }
    };
    tokio::select! {
        watched = watching => watched,
        () = stopped(SignalKind::interrupt()) => Ok(()),
        () = stopped(SignalKind::terminate()) => Ok(()),
    }
}

fn block(text: &str, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !json {
        out.write_all(b"\n")?;
    }
    out.flush()
}

async fn stopped(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        // Then it ends us the hard way.
        Err(_) => core::future::pending().await,
    }
}

/// The terminal's second screen: what was on the first comes back in the end.
struct Screen;

impl Screen {
    fn open() -> Self {
        // The cursor off, and no wrapping: a line is a row (xterm, "DEC Private Mode Set").
        let _ = io::stdout().write_all(b"\x1b[?1049h\x1b[?25l\x1b[?7l");
        Self
    }

    fn show(&mut self, text: &str) -> io::Result<()> {
        // A terminal that does not know its size has 24 rows.
        let size = rustix::termios::tcgetwinsize(io::stdout());
        let rows = size.ok().map(|size| usize::from(size.ws_row)).filter(|&rows| rows > 0).unwrap_or(24);
        let mut out = io::stdout().lock();
        out.write_all(drawn(text, rows).as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        // Best effort: the terminal may be gone.
        let _ = out.write_all(b"\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
    }
}

/// Over what was there, each line to its end, so that nothing flickers; the last row says what was left out.
fn drawn(text: &str, rows: usize) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let cut;
    if lines.len() > rows {
        let fitting = rows.saturating_sub(1);
        cut = format!("... {} more lines", lines.len() - fitting);
        lines.truncate(fitting);
        lines.push(&cut);
    }
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_covers_the_one_before_it_and_never_scrolls() {
        assert_eq!(drawn("a\n\nb\n", 3), "\x1b[Ha\x1b[K\r\n\x1b[K\r\nb\x1b[K\x1b[J");
        assert_eq!(drawn("a\nb\nc\n", 2), "\x1b[Ha\x1b[K\r\n... 2 more lines\x1b[K\x1b[J");
        assert_eq!(drawn("a\nb\nc\n", 1), "\x1b[H... 3 more lines\x1b[K\x1b[J");
    }
}
