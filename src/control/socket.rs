//! The control socket: what `trunkline status`, `calls`, `hangup` and `drain` talk to.
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
use serde::Serialize;
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};

use crate::control::{
    desk::Desk,
    http,
    server::{self, Answer, BoxError, Door, json, only, refuse},
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
        answer(&*self.desk, *caller, request.method(), request.uri().path())
    }
}

fn answer(desk: &dyn Desk, caller: Caller, method: &Method, path: &str) -> Answer {
    let Caller { uid, pid } = caller;
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, &segments[..]) {
        (&Method::GET, ["status"]) => json(StatusCode::OK, &desk.status()),
        (&Method::GET, ["calls"]) => json(StatusCode::OK, &desk.status().calls),
        (&Method::POST, ["calls", call_id, "hangup"]) => {
            if desk.hang_up(call_id) {
                info!(call_id = *call_id, uid, pid; "call is hung up by order");
                json(StatusCode::ACCEPTED, &HungUp { call_id })
            } else {
                refuse(
                    StatusCode::NOT_FOUND,
                    format_args!("there is no live call {call_id}; `trunkline calls` names them"),
                )
            }
        }
        (&Method::POST, ["drain"]) => {
            info!(uid, pid; "daemon drains by order");
            desk.drain();
            json(StatusCode::ACCEPTED, &desk.status())
        }
        (_, ["status" | "calls"]) => only("GET"),
        (_, ["calls", _, "hangup"] | ["drain"]) => only("POST"),
        _ => http::watch(desk, method, path).unwrap_or_else(|| {
            let there = "here are /status, /calls, /health, /metrics, POST /calls/CALL_ID/hangup and POST /drain";
            refuse(StatusCode::NOT_FOUND, there)
        }),
    }
}

#[derive(Serialize)]
struct HungUp<'a> {
    call_id: &'a str,
}

/// Whose members may steer.
const GROUP: &str = "trunkline";
const BACKLOG: i32 = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net;

    use http_body_util::BodyExt;

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

    fn ask(desk: &FakeDesk, method: &str, path: &str) -> (u16, String) {
        let answer = answer(desk, Caller { uid: 0, pid: 1 }, &method.parse().unwrap(), path);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let status = answer.status().as_u16();
        let body = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn status_and_calls_are_what_the_desk_says() {
        let desk = FakeDesk::default();
        let (status, text) = ask(&desk, "GET", "/status");
        assert_eq!((status, serde_json::from_str::<Status>(&text).unwrap()), (200, busy_status()));
        let (status, text) = ask(&desk, "GET", "/calls");
        assert_eq!((status, serde_json::from_str::<Vec<CallStatus>>(&text).unwrap()), (200, busy_status().calls));
        assert_eq!(ask(&desk, "GET", "/health").0, 200);
        assert!(ask(&desk, "GET", "/metrics").1.contains("trunkline_calls 0"));
    }

    #[test]
    fn only_a_live_call_is_hung_up() {
        let desk = FakeDesk::default();
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
    fn drain_says_what_is_left() {
        let desk = FakeDesk::default();
        let (status, text) = ask(&desk, "POST", "/drain");
        assert!(desk.drained.get());
        assert_eq!(status, 202);
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap().calls.len(), 2);
    }

    #[test]
    fn looking_changes_nothing_and_what_is_not_there_is_said() {
        let desk = FakeDesk::default();
        for (method, path, status) in [
            ("GET", "/drain", 405),
            ("GET", "/calls/k3vqhm2xw7ab/hangup", 405),
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
