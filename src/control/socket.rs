//! The control socket: `trunkline status`, `calls`, `hangup` and `drain` come in here.
//!
//! Whoever may open it may steer the daemon, so the file system says who that is: mode 0660, group `trunkline`.

use core::fmt;
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    rc::Rc,
};

use log::{debug, warn};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::control::{
    desk::Desk,
    http::{Counter, Seats},
};

/// The socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Why there is no socket.
#[derive(Debug)]
pub enum SocketError {
    /// Another daemon answers there.
    InUse(PathBuf),
    /// Something else is there.
    NotASocket(PathBuf),
    /// The system refuses.
    Io(PathBuf, io::Error),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "[control] socket = {path:?}: another daemon answers there; stop it (find it with `ss -xlp | grep {}`), or \
                 choose another path",
                path.display()
            ),
            Self::NotASocket(path) => {
                write!(f, "[control] socket = {path:?}: something that is no socket is there; choose another path")
            }
            Self::Io(path, error) => write!(
                f,
                "[control] socket = {path:?}: {error}; its folder has to be there and ours to write in: under systemd \
                 RuntimeDirectory= makes it"
            ),
        }
    }
}

impl ControlSocket {
    /// Opens the socket at this path, in the place of one that a dead daemon left.
    ///
    /// # Errors
    /// [`SocketError`] names the path and what to do.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let failed = |error| SocketError::Io(path.to_owned(), error);
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(SocketError::InUse(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            },
        }
        let listener = listen(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until it is dropped.
    pub async fn serve(self, desk: Rc<dyn Desk>) {
        let seats = Seats::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => seats.serve(stream, Counter::Socket, &desk),
                Err(error) => {
                    debug!(error:%; "the control socket could not accept a connection");
                    tokio::time::sleep(core::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // The next daemon would find out by itself that nobody listens.
        let _ = fs::remove_file(&self.path);
    }
}

/// Nobody can connect before the file has its mode: the socket does not listen yet.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    if let Some(group) = group_id(GROUP)
        && let Err(error) = chown(path, None, Some(group))
    {
        warn!(path = path.display().to_string(), error:%; "the control socket keeps its group; {GROUP} may not open it");
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// The number of a group; `None`: there is none of that name here.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields.first() == Some(&name)).find_map(|fields| fields.get(2)?.parse().ok())
}

const GROUP: &str = "trunkline";
const MODE: u32 = 0o660;
const BACKLOG: i32 = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<ControlSocket, SocketError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async { ControlSocket::open(path) })
    }

    #[test]
    fn only_the_owner_and_the_group_may_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let socket = open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a daemon that was killed leaves it");
        let live = open(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        drop(live);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(open(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let error = open(&dir.path().join("missing/control.sock")).unwrap_err().to_string();
        assert!(error.contains("RuntimeDirectory"), "{error}");
    }
}
