//! One question to a running daemon, over its control socket.

use core::{fmt, time::Duration};
use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{self, HeaderMap},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

/// Where the daemon is.
#[derive(Clone, Debug, clap::Args)]
pub struct At {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", env = "TRUNKLINE_SOCKET", default_value = "/run/trunkline/control.sock")]
    pub socket: PathBuf,
}

impl At {
    /// Does something that asks, on a runtime of its own.
    pub(super) fn wait<T>(&self, asking: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map_err(|error| AskError { socket: self.socket.clone(), fault: Fault::Connect(error) })?
            .block_on(asking)
    }

    /// Asks, and gives the answer as it came.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Said, AskError> {
        self.send(method, path, Bytes::new()).await
    }

    /// Orders something that takes more words than a path has.
    pub(super) async fn order(&self, path: &str, wish: &impl Serialize) -> Result<Said, AskError> {
        let wish = serde_json::to_vec(wish).expect("our wishes have texts for keys");
        self.send(Method::POST, path, wish.into()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Said, AskError> {
        let failed = |fault| AskError { socket: self.socket.clone(), fault };
        let asked = timeout(PATIENCE, ask(&self.socket, method, path, body)).await;
        let said = asked.unwrap_or(Err(Fault::Silent)).map_err(failed)?;
        if said.status.is_success() { Ok(said) } else { Err(failed(said.refusal())) }
    }

    /// Understands an answer.
    pub(super) fn understand<T: DeserializeOwned>(&self, said: &Said) -> Result<T, AskError> {
        serde_json::from_slice(&said.body).map_err(|error| AskError {
            socket: self.socket.clone(),
            fault: Fault::Foreign { server: said.server.clone(), words: error.to_string() },
        })
    }
}

/// What the daemon answered.
#[derive(Debug)]
pub(super) struct Said {
    status: StatusCode,
    /// What it calls itself.
    server: Option<String>,
    pub(super) body: Bytes,
}

impl Said {
    fn refusal(&self) -> Fault {
        #[derive(Deserialize)]
        struct Refused {
            error: String,
        }
        match serde_json::from_slice(&self.body) {
            Ok(Refused { error }) => Fault::Refused(error),
            Err(_) => Fault::Foreign { server: self.server.clone(), words: self.status.to_string() },
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub struct AskError {
    socket: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Connect(io::Error),
    /// It took the connection and said nothing.
    Silent,
    Broken(hyper::Error),
    /// In its own words.
    Refused(String),
    /// It is something else than this version of the daemon.
    Foreign {
        server: Option<String>,
        words: String,
    },
}

impl AskError {
    /// There is no daemon, as far as can be seen: nobody is at the socket.
    pub(super) fn is_nobody(&self) -> bool {
        let Fault::Connect(error) = &self.fault else { return false };
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    }

    /// The socket is not for this user.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(&self.fault, Fault::Connect(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Somebody is at the socket, and gives no answer.
    pub(super) const fn is_hung(&self) -> bool {
        matches!(self.fault, Fault::Silent | Fault::Broken(_))
    }

    /// The answer is of another version, or of something else.
    pub(super) const fn is_foreign(&self) -> bool {
        matches!(self.fault, Fault::Foreign { .. })
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        match &self.fault {
            Fault::Connect(error) => match error.kind() {
                io::ErrorKind::NotFound => write!(
                    f,
                    "no daemon at {socket}: is it running? See `systemctl status trunkline`; if its socket is elsewhere, \
                     name it with --socket ([control] socket in its config)"
                ),
                io::ErrorKind::ConnectionRefused => write!(
                    f,
                    "nobody listens at {socket}: the daemon that made it is gone. See `systemctl status trunkline`"
                ),
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "{socket} is for the group trunkline: add yourself by `sudo usermod -aG trunkline $USER` and log in \
                     again, or use sudo"
                ),
                _ => write!(f, "cannot connect to {socket}: {error}"),
            },
            Fault::Silent => write!(
                f,
                "the daemon at {socket} gave no answer in {} s; see `journalctl -u trunkline`",
                PATIENCE.as_secs()
            ),
            Fault::Broken(error) => write!(f, "the daemon at {socket} broke off: {error}"),
            Fault::Refused(words) => f.write_str(words),
            Fault::Foreign { server, words } => write!(
                f,
                "the answer from {socket} is not understood ({words}): it is of {}, this command of trunkline/{}. If the \
                 daemon is older, restart it",
                server.as_deref().unwrap_or("something else"),
                env!("CARGO_PKG_VERSION")
            ),
        }
    }
}

impl core::error::Error for AskError {}

async fn ask(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Said, Fault> {
    let stream = UnixStream::connect(socket).await.map_err(Fault::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Fault::Broken)?;
    let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    let request = request.body(Full::new(body)).expect("the paths that we ask for are valid");
    let asked = async {
        let response = sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        Ok((parts, body.collect().await?.to_bytes()))
    };
    tokio::pin!(asked, connection);
    let asked = tokio::select! {
        asked = &mut asked => asked,
        // Its end may be seen before that of the body.
        _ = &mut connection => asked.await,
    };
    let (parts, body) = asked.map_err(Fault::Broken)?;
    Ok(Said { status: parts.status, server: server_of(&parts.headers), body })
}

fn server_of(headers: &HeaderMap) -> Option<String> {
    headers.get(header::SERVER)?.to_str().ok().map(str::to_owned)
}

const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net;

    use super::*;

    fn asked(socket: &Path) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let at = At { socket: socket.to_owned() };
        runtime.block_on(at.ask(Method::GET, "/status")).unwrap_err().to_string()
    }

    #[test]
    fn a_daemon_that_is_not_there_is_told_from_one_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let said = asked(&path);
        assert!(said.starts_with("no daemon at /") && said.contains("--socket"), "{said}");
        drop(net::UnixListener::bind(&path).unwrap());
        let said = asked(&path);
        assert!(said.starts_with("nobody listens at /") && said.contains("systemctl status trunkline"), "{said}");
    }

    #[test]
    fn whoever_may_not_is_told_how_to_be_allowed() {
        let fault = Fault::Connect(io::ErrorKind::PermissionDenied.into());
        let error = AskError { socket: "/run/x.sock".into(), fault };
        let said = error.to_string();
        assert!(error.is_forbidden() && !error.is_nobody() && !error.is_hung());
        assert!(said.contains("sudo usermod -aG trunkline $USER") && said.contains("log in again"), "{said}");
    }

    #[test]
    fn a_refusal_is_passed_on_and_a_stranger_named() {
        let said = |status, body: &'static str| {
            let said = Said { status, server: Some("trunkline/0.0.9".to_owned()), body: body.into() };
            AskError { socket: "/run/x.sock".into(), fault: said.refusal() }.to_string()
        };
        assert_eq!(said(StatusCode::NOT_FOUND, r#"{"error":"there is no live call x"}"#), "there is no live call x");
        let words = said(StatusCode::NOT_FOUND, "<html>");
        assert!(words.contains("404 Not Found") && words.contains("it is of trunkline/0.0.9"), "{words}");
    }
}
