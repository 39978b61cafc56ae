//! `trunkline status`, `calls`, `hangup` and `drain`: questions to a daemon that runs, over its control socket.

use core::{fmt, time::Duration};
use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{
    cli::show::{self, Style},
    clock,
    control::desk::{Call, Status},
};

/// Where the daemon is.
#[derive(Clone, Debug, Args)]
pub struct At {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", env = "TRUNKLINE_SOCKET", default_value = "/run/trunkline/control.sock")]
    socket: PathBuf,
}

/// What `trunkline status` is told.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    at: At,
    /// Print one JSON object, for scripts
    #[arg(long)]
    json: bool,
    /// Show it anew every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// What `trunkline calls` is told.
#[derive(Clone, Debug, Args)]
pub struct CallsArgs {
    #[command(flatten)]
    at: At,
    /// Print one JSON array, for scripts
    #[arg(long)]
    json: bool,
}

/// What `trunkline hangup` is told.
#[derive(Clone, Debug, Args)]
pub struct HangupArgs {
    /// The call's id, as `trunkline calls` and the log have it
    call_id: String,
    #[command(flatten)]
    at: At,
}

/// Shows how the daemon is.
///
/// # Errors
/// [`SteerError`] says why it cannot be asked and what to do.
pub fn status(args: &StatusArgs) -> Result<(), SteerError> {
    let out = io::stdout();
    let style = Style::of_terminal(out.is_terminal());
    loop {
        let body = ask(&args.at.socket, &Method::GET, "/status")?;
        let text = if args.json {
            body
        } else {
            show::status(&read::<Status>(&args.at.socket, &body)?, clock::epoch_ms(), style)
        };
        let clear = if args.watch && style == Style::Colours { "\x1b[H\x1b[J" } else { "" };
        if write!(out.lock(), "{clear}{text}").and_then(|()| out.lock().flush()).is_err() {
            // Whoever read it has seen enough.
            return Ok(());
        }
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Lists the live calls.
///
/// # Errors
/// As [`status`].
pub fn calls(args: &CallsArgs) -> Result<(), SteerError> {
    let body = ask(&args.at.socket, &Method::GET, "/calls")?;
    let text = if args.json {
        body
    } else {
        let style = Style::of_terminal(io::stdout().is_terminal());
        show::calls(&read::<Vec<Call>>(&args.at.socket, &body)?, style)
    };
    // A closed pipe is the reader's choice.
    let _ = write!(io::stdout(), "{text}");
    Ok(())
}

/// Ends a call.
///
/// # Errors
/// As [`status`]; and when there is no such call.
pub fn hangup(args: &HangupArgs) -> Result<(), SteerError> {
    // Whatever is no id is no path either.
    if args.call_id.is_empty() || !args.call_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(SteerError::Refused(format!(
            "{:?} is no call's id: 12 characters of a-z and 2-7; `trunkline calls` lists them",
            args.call_id
        )));
    }
    ask(&args.at.socket, &Method::POST, &format!("/calls/{}/hangup", args.call_id))?;
    let _ = writeln!(io::stdout(), "{} ends", args.call_id);
    Ok(())
}

/// Drains the daemon.
///
/// # Errors
/// As [`status`].
pub fn drain(at: &At) -> Result<(), SteerError> {
    #[derive(serde::Deserialize)]
    struct Answer {
        calls: usize,
    }
    let body = ask(&at.socket, &Method::POST, "/drain")?;
    let Answer { calls } = read(&at.socket, &body)?;
    let _ = writeln!(
        io::stdout(),
        "the daemon takes no new calls and ends when its {calls} live ones have, at the latest after drain-seconds; \
         under systemd `systemctl start trunkline` starts it again"
    );
    Ok(())
}

/// Why the daemon could not be asked, or did not do it.
#[derive(Debug)]
pub enum SteerError {
    /// Nobody listens.
    NobodyThere(PathBuf, io::Error),
    /// The socket is not for us.
    NotAllowed(PathBuf),
    /// The connection broke off, or what came back is not for us to read.
    Garbled(PathBuf, String),
    /// The daemon's words.
    Refused(String),
}

impl fmt::Display for SteerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyThere(path, error) => write!(
                f,
                "no daemon answers at {}: {error}; does it run (`systemctl status trunkline`)? If its config has another \
                 [control] socket, name it with --socket",
                path.display()
            ),
            Self::NotAllowed(path) => write!(
                f,
                "you may not open {}: it is for the group trunkline; `sudo usermod -aG trunkline \"$USER\"`, log in again, \
                 or use sudo",
                path.display()
            ),
            Self::Garbled(path, words) => write!(
                f,
                "the daemon at {} gave an answer that makes no sense here: {words}; are both of the same version \
                 (`trunkline --version`)?",
                path.display()
            ),
            Self::Refused(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for SteerError {}

fn read<T: DeserializeOwned>(socket: &Path, body: &str) -> Result<T, SteerError> {
    serde_json::from_str(body).map_err(|error| SteerError::Garbled(socket.to_owned(), error.to_string()))
}

/// One request over the socket, within [`PATIENCE`].
fn ask(socket: &Path, method: &Method, path: &str) -> Result<String, SteerError> {
    let garbled = |words: String| SteerError::Garbled(socket.to_owned(), words);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| garbled(error.to_string()))?;
    let exchange = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => SteerError::NotAllowed(socket.to_owned()),
            _ => SteerError::NobodyThere(socket.to_owned(), error),
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| garbled(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "trunkline")
            .body(Empty::<Bytes>::new())
            .map_err(|error| garbled(error.to_string()))?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        // The connection ends with its answer; until then it has to be driven.
        let answered = tokio::select! {
            answered = answer => answered,
            _ = async { connection.await.ok(); core::future::pending::<()>().await } => unreachable!("never ready"),
        };
        let (status, body) = answered.map_err(|error| garbled(error.to_string()))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    };
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await });
    answered.unwrap_or_else(|_| Err(garbled(format!("none came in {} s", PATIENCE.as_secs()))))
}

/// The daemon's words are the best there are.
fn refused(status: StatusCode, body: &str) -> SteerError {
    let words =
        serde_json::from_str::<serde_json::Value>(body).ok().and_then(|body| Some(body["error"].as_str()?.to_owned()));
    SteerError::Refused(words.unwrap_or_else(|| format!("the daemon refuses: {status}")))
}

/// The control thread answers at once, or it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
