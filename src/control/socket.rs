//! The control socket: what `trunkline status`, `calls`, `dial`, `press`, `transfer`, `digits`, `hangup` and `drain` talk to.
//!
//! HTTP over a Unix socket, so that `curl --unix-socket` does as well. Who may is said by the file: its owner and the group
//! `trunkline`.

use core::fmt;
use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes},
};
use log::{info, warn};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};

use crate::{
    call::redact::Redacted,
    control::{
        desk::Desk,
        http,
        server::{self, Answer, BoxError, Door, json, only, refuse},
    },
};

/// The control socket, listening. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what lies at the path later may be another daemon's.
    file: (u64, u64),
}

impl Socket {
    /// Listens at this path, with the rights that the file should have from its first moment on. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a daemon listens there already, or the path cannot be used.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let failed = |fault| SocketError { path: path.to_owned(), fault };
        let gid = fs::read_to_string("/etc/group").ok().and_then(|groups| gid_of(&groups, GROUP));
        if let Some(folder) = path.parent()
            && !folder.as_os_str().is_empty()
            && !folder.exists()
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(folder)
                .map_err(|error| failed(Fault::Folder(error)))?;
            give_to_group(folder, gid);
        }
        make_room(path).map_err(failed)?;
        let made = || -> io::Result<Self> {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            // Nobody can connect before it listens: no moment with other rights is of use to anybody.
            fs::set_permissions(path, Permissions::from_mode(0o660))?;
            give_to_group(path, gid);
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
            let file = fs::symlink_metadata(path)?;
            Ok(Self { listener, path: path.to_owned(), file: (file.dev(), file.ino()) })
        };
        made().map_err(|error| failed(Fault::Bind(error)))
    }

    /// Serves for ever.
    pub async fn serve(self, desk: Rc<dyn Desk>) {
        server::serve(Room { socket: self, desk }).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file) {
            // What stays is found to be nobody's at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why there is no control socket.
#[derive(Debug)]
pub struct SocketError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    /// A daemon listens there; its process, where it can be told.
    Taken(Option<i32>),
    /// Something that we did not make lies there.
    NotASocket,
    Folder(io::Error),
    /// What lies there could not be looked at or removed.
    Stale(io::Error),
    Bind(io::Error),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[control] socket {}: ", self.path.display())?;
        match &self.fault {
            Fault::Taken(Some(pid)) => {
                write!(f, "process {pid} listens there already; stop it, or choose another path")
            }
            Fault::Taken(None) => f.write_str("somebody listens there already; stop them, or choose another path"),
            Fault::NotASocket => {
                f.write_str("something lies there that is no socket; move it away, or choose another path")
            }
            Fault::Folder(error) => write!(f, "its folder cannot be made: {error}"),
            Fault::Stale(error) => write!(f, "what an earlier daemon left there cannot be removed: {error}"),
            Fault::Bind(error) => write!(f, "cannot be made: {error}"),
        }
    }
}

impl core::error::Error for SocketError {}

/// Removes the socket of a daemon that is gone, and nothing else.
fn make_room(path: &Path) -> Result<(), Fault> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Fault::Stale(error)),
        // Connecting to a plain file is refused as well.
        Ok(file) if !file.file_type().is_socket() => return Err(Fault::NotASocket),
        Ok(_) => {}
    }
    let probe = || -> io::Result<socket2::Socket> {
        let probe = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // One that is alive but has no time leaves a connect waiting.
        probe.set_nonblocking(true)?;
        probe.connect(&SockAddr::unix(path)?)?;
        Ok(probe)
    };
    match probe() {
        Ok(probe) => {
            let pid = rustix::net::sockopt::socket_peercred(&probe).ok().map(|peer| peer.pid.as_raw_nonzero().get());
            Err(Fault::Taken(pid))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Fault::Taken(None)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(Fault::Stale),
        Err(error) => Err(Fault::Stale(error)),
    }
}

/// Gives a file to the group, where there is one and it is not its own already.
fn give_to_group(path: &Path, gid: Option<u32>) {
    let Some(gid) = gid else { return };
    if fs::symlink_metadata(path).is_ok_and(|file| file.gid() == gid) {
        return;
    }
    if let Err(error) = chown(path, None, Some(gid)) {
        warn!(path = path.display().to_string(), error:%; "the group {GROUP} could not be given this; its members get no status");
    }
}

/// The number of a group in the text of `/etc/group` (group(5)).
fn gid_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

struct Room {
    socket: Socket,
    desk: Rc<dyn Desk>,
}

/// Who is at the other end, for the log.
#[derive(Clone, Copy)]
struct Caller {
    uid: u32,
    pid: i32,
}

impl Door for Room {
    type Stream = UnixStream;
    type Caller = Caller;

    async fn accept(&self) -> io::Result<(UnixStream, Caller)> {
        let (stream, _) = self.socket.listener.accept().await?;
        let peer = stream.peer_cred()?;
        Ok((stream, Caller { uid: peer.uid(), pid: peer.pid().unwrap_or(0) }))
    }

    async fn answer<B>(&self, caller: &Caller, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        answer(&self.desk, *caller, request).await
    }
}

async fn answer<B>(desk: &Rc<dyn Desk>, caller: Caller, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let Caller { uid, pid } = caller;
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (&method, &segments[..]) {
        (&Method::GET, ["status"]) => json(StatusCode::OK, &desk.status()),
        (&Method::GET, ["calls"]) => json(StatusCode::OK, &desk.status().calls),
        (&Method::POST, ["calls", call_id, "hangup"]) => {
            if desk.hang_up(call_id) {
                info!(call_id = *call_id, uid, pid; "call is hung up by order");
                json(StatusCode::ACCEPTED, &Taken { call_id })
            } else {
                refuse(
                    StatusCode::NOT_FOUND,
                    format_args!("there is no live call {call_id}; `trunkline calls` names them"),
                )
            }
        }
        (&Method::POST, ["lines", line, "dial"]) => {
            ordered(request, |Whom { target }| {
                let call_id = Rc::clone(desk).dial(line, &target)?;
                let to = Redacted(&target);
                info!(call_id = call_id.as_str(), line = *line, to:%, uid, pid; "somebody is called by order");
                Ok(call_id)
            })
            .await
        }
        (&Method::POST, ["calls", call_id, "transfer"]) => {
            ordered(request, |Whom { target }| {
                desk.transfer(call_id, &target)?;
                info!(call_id = *call_id, to:% = Redacted(&target), uid, pid; "caller is passed on by order");
                Ok((*call_id).to_owned())
            })
            .await
        }
        (&Method::POST, ["calls", call_id, "digits"]) => {
            ordered(request, |Keys { digits }| {
                Rc::clone(desk).send_digits(call_id, &digits)?;
                // Which ones may be a PIN.
                info!(call_id = *call_id, uid, pid; "keys are pressed by order");
                Ok((*call_id).to_owned())
            })
            .await
        }
        (&Method::POST, ["lines", line, way @ ("press" | "release")]) => {
            match Rc::clone(desk).key(line, *way == "press") {
                Ok(words) => {
                    info!(line = *line, way = *way, uid, pid; "the key of a line is moved by order");
                    json(StatusCode::ACCEPTED, &Moved { words: &words })
                }
                Err(words) => refuse(StatusCode::CONFLICT, words),
            }
        }
        (&Method::POST, ["drain"]) => {
            info!(uid, pid; "daemon drains by order");
            desk.drain();
            json(StatusCode::ACCEPTED, &desk.status())
        }
        (_, ["status" | "calls"]) => only("GET"),
        (
            _,
            ["calls", _, "hangup" | "transfer" | "digits"] | ["lines", _, "dial" | "press" | "release"] | ["drain"],
        ) => only("POST"),
        _ => http::watch(&**desk, &method, &path).unwrap_or_else(|| {
            let there = "here are /status, /calls, /health, /metrics, POST /lines/LINE/dial, press or release, POST \
                         /calls/CALL_ID/transfer, digits or hangup, and POST /drain";
            refuse(StatusCode::NOT_FOUND, there)
        }),
    }
}

/// Does what the body asks for, and says of which call.
async fn ordered<B, T: Wish>(request: Request<B>, order: impl FnOnce(T) -> Result<String, String>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let body = match server::body(request, MOST_BODY).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let wish = match serde_json::from_slice(&body) {
        Ok(wish) => wish,
        Err(error) => {
            let words = format_args!("wanted a body such as {}: {error}", T::EXAMPLE);
            return refuse(StatusCode::BAD_REQUEST, words);
        }
    };
    match order(wish) {
        Ok(call_id) => json(StatusCode::ACCEPTED, &Taken { call_id: &call_id }),
        Err(words) => refuse(StatusCode::CONFLICT, words),
    }
}

/// What is asked for in a body rather than in the path, which whoever watches requests would see.
trait Wish: DeserializeOwned {
    const EXAMPLE: &str;
}

/// Somebody to be called.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whom {
    target: String,
}

impl Wish for Whom {
    const EXAMPLE: &str = r#"{"target":"201"}"#;
}

/// Keys to be pressed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    digits: String,
}

impl Wish for Keys {
    const EXAMPLE: &str = r#"{"digits":"4711#"}"#;
}

/// An order was taken.
#[derive(Serialize)]
struct Taken<'a> {
    call_id: &'a str,
}

/// A key was pressed or released.
#[derive(Serialize)]
struct Moved<'a> {
    words: &'a str,
}

/// Far more than any number or row of keys has.
const MOST_BODY: usize = 1024;

/// Whose members may steer.
const GROUP: &str = "trunkline";
const BACKLOG: i32 = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net;

    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::control::desk::{
        CallStatus, Status,
        tests::{FakeDesk, busy_status},
    };

    /// Whatever needs a runtime to be made in.
    fn inside<T>(work: impl FnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work() })
    }

    fn ask(desk: &Rc<FakeDesk>, method: &str, path: &str) -> (u16, String) {
        order(desk, method, path, "")
    }

    fn order(desk: &Rc<FakeDesk>, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Full::<Bytes>::from(body.to_owned())).unwrap();
        let desk: Rc<dyn Desk> = desk.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(answer(&desk, Caller { uid: 0, pid: 1 }, request));
        let status = answer.status().as_u16();
        let body = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn status_and_calls_are_what_the_desk_says() {
        let desk = Rc::new(FakeDesk::default());
        let (status, text) = ask(&desk, "GET", "/status");
        assert_eq!((status, serde_json::from_str::<Status>(&text).unwrap()), (200, busy_status()));
        let (status, text) = ask(&desk, "GET", "/calls");
        assert_eq!((status, serde_json::from_str::<Vec<CallStatus>>(&text).unwrap()), (200, busy_status().calls));
        assert_eq!(ask(&desk, "GET", "/health").0, 200);
        assert!(ask(&desk, "GET", "/metrics").1.contains("trunkline_calls 0"));
    }

    #[test]
    fn only_a_live_call_is_hung_up() {
        let desk = Rc::new(FakeDesk::default());
        assert_eq!(
            ask(&desk, "POST", "/calls/k3vqhm2xw7ab/hangup"),
            (202, "{\"call_id\":\"k3vqhm2xw7ab\"}\n".to_owned())
        );
        let (status, text) = ask(&desk, "POST", "/calls/nobody/hangup");
        assert_eq!(status, 404);
        assert!(text.contains("there is no live call nobody; `trunkline calls` names them"), "{text}");
        assert_eq!(*desk.hung_up.borrow(), ["k3vqhm2xw7ab"]);
    }

    #[test]
    fn somebody_is_called_passed_on_and_keyed_as_the_body_says() {
        let desk = Rc::new(FakeDesk::default());
        for (path, body, call_id) in [
            ("/lines/pbx/dial", r#"{"target":"+49 30 1"}"#, "newcall23abc"),
            ("/calls/k3vqhm2xw7ab/transfer", r#"{"target":"sip:201@pbx"}"#, "k3vqhm2xw7ab"),
            ("/calls/k3vqhm2xw7ab/digits", r#"{"digits":"4711#"}"#, "k3vqhm2xw7ab"),
        ] {
            assert_eq!(order(&desk, "POST", path, body), (202, format!("{{\"call_id\":\"{call_id}\"}}\n")));
        }
        let ordered = desk.ordered.take();
        let ordered: Vec<_> = ordered.iter().map(|(one, other)| (one.as_str(), other.as_str())).collect();
        assert_eq!(ordered, [("pbx", "+49 30 1"), ("k3vqhm2xw7ab", "sip:201@pbx"), ("k3vqhm2xw7ab", "4711#")]);
        let (status, text) = order(&desk, "POST", "/lines/cloud/dial", r#"{"target":"201"}"#);
        assert_eq!((status, text.as_str()), (409, "{\"error\":\"no such line; there are: pbx, tape (not cloud)\"}\n"));
        for (path, body, words) in [
            ("/lines/pbx/dial", "", r#"wanted a body such as {\"target\":\"201\"}"#),
            ("/lines/pbx/dial", r#"{"target":201}"#, "invalid type: integer"),
            ("/lines/pbx/dial", r#"{"target":"201","as":"202"}"#, "unknown field `as`"),
            ("/calls/k3vqhm2xw7ab/digits", r#"{"target":"201"}"#, r#"wanted a body such as {\"digits\":"#),
        ] {
            let (status, text) = order(&desk, "POST", path, body);
            assert!(status == 400 && text.contains(words), "{text}");
        }
        assert_eq!(order(&desk, "POST", "/lines/pbx/dial", &"1".repeat(5000)).0, 413);
        assert!(desk.ordered.borrow().is_empty());
    }

    #[test]
    fn drain_says_what_is_left() {
        let desk = Rc::new(FakeDesk::default());
        let (status, text) = ask(&desk, "POST", "/drain");
        assert!(desk.drained.get());
        assert_eq!(status, 202);
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap().calls.len(), 2);
    }

    #[test]
    fn looking_changes_nothing_and_what_is_not_there_is_said() {
        let desk = Rc::new(FakeDesk::default());
        for (method, path, status) in [
            ("GET", "/drain", 405),
            ("GET", "/calls/k3vqhm2xw7ab/hangup", 405),
            ("GET", "/calls/k3vqhm2xw7ab/transfer", 405),
            ("GET", "/calls/k3vqhm2xw7ab/digits", 405),
            ("GET", "/lines/pbx/dial", 405),
            ("POST", "/lines/pbx", 404),
            ("POST", "/status", 405),
            ("POST", "/calls", 405),
            ("POST", "/health", 405),
            ("GET", "/", 404),
            ("POST", "/calls//hangup", 404),
            ("POST", "/calls/k3vqhm2xw7ab", 404),
        ] {
            assert_eq!(ask(&desk, method, path).0, status, "{method} {path}");
        }
        assert!(!desk.drained.get() && desk.hung_up.borrow().is_empty());
    }

    #[test]
    fn owner_and_group_may_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/for/it/control.sock");
        inside(|| {
            let socket = Socket::open(&path).unwrap();
            let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode(&path), 0o660);
            assert_eq!(mode(path.parent().unwrap()) & 0o027, 0, "others are kept out of the folder too");
            net::UnixStream::connect(&path).unwrap();
            drop(socket);
            assert!(!path.exists(), "its file goes with it");
        });
    }

    #[test]
    fn the_socket_of_a_daemon_that_is_gone_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        // std leaves the file behind, as a daemon does that was killed.
        drop(net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        inside(|| {
            let _socket = Socket::open(&path).unwrap();
            net::UnixStream::connect(&path).unwrap();
        });
    }

    #[test]
    fn the_socket_of_a_live_daemon_is_left_and_its_process_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        inside(|| {
            let first = Socket::open(&path).unwrap();
            let said = Socket::open(&path).unwrap_err().to_string();
            let (path, pid) = (path.display(), std::process::id());
            assert_eq!(
                said,
                format!(
                    "[control] socket {path}: process {pid} listens there already; stop it, or choose another path"
                )
            );
            net::UnixStream::connect(&first.path).unwrap();
        });
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        fs::write(&path, "dear").unwrap();
        let said = inside(|| Socket::open(&path).unwrap_err().to_string());
        assert!(said.contains("something lies there that is no socket"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear");
    }

    #[test]
    fn a_later_daemons_socket_outlives_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        inside(|| {
            let first = Socket::open(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let _second = Socket::open(&path).unwrap();
            drop(first);
            net::UnixStream::connect(&path).unwrap();
        });
    }

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let path = std::env::temp_dir().join("x".repeat(120));
        let said = inside(|| Socket::open(&path).unwrap_err().to_string());
        assert!(said.starts_with("[control] socket /") && said.contains("cannot be made: "), "{said}");
    }

    #[test]
    fn the_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\ntrunkline-old:x:7:\ntrunkline:x:991:anna,ben\nodd\n";
        assert_eq!(gid_of(groups, "trunkline"), Some(991));
        assert_eq!(gid_of(groups, "trunk"), None);
        assert_eq!(gid_of("trunkline\n", "trunkline"), None);
    }
}
