//! A Unix socket that listens: who may is said by the file, its owner and the group `trunkline`.

use core::fmt;
use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use log::warn;
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};

/// A Unix socket that listens. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Local {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what lies at the path later may be another daemon's.
    file: (u64, u64),
}

impl Local {
    /// Listens at this path, with the rights that the file should have from its first moment on. `key` is what the config
    /// calls it. Needs a tokio runtime.
    ///
    /// # Errors
    /// When somebody listens there already, or the path cannot be used.
    pub fn open(path: &Path, key: &str) -> Result<Self, LocalError> {
        let failed = |fault| LocalError { key: key.to_owned(), path: path.to_owned(), fault };
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

    /// Takes the next connection.
    ///
    /// # Errors
    /// Where there is none to be had.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file) {
            // What stays is found to be nobody's at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why there is no such socket.
#[derive(Debug)]
pub struct LocalError {
    key: String,
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

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.key, self.path.display())?;
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

impl core::error::Error for LocalError {}

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
        warn!(path = path.display().to_string(), error:%; "the group {GROUP} could not be given this; its members cannot use it");
    }
}

/// The number of a group in the text of `/etc/group` (group(5)).
fn gid_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Whose members may.
const GROUP: &str = "trunkline";
const BACKLOG: i32 = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net;

    use super::*;

    /// Whatever needs a runtime to be made in.
    fn inside<T>(work: impl FnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work() })
    }

    #[test]
    fn owner_and_group_may_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/for/it/control.sock");
        inside(|| {
            let socket = Local::open(&path, "[control] socket").unwrap();
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
            let _socket = Local::open(&path, "[control] socket").unwrap();
            net::UnixStream::connect(&path).unwrap();
        });
    }

    #[test]
    fn the_socket_of_a_live_daemon_is_left_and_its_process_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        inside(|| {
            let first = Local::open(&path, "[control] socket").unwrap();
            let said = Local::open(&path, "[control] socket").unwrap_err().to_string();
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
        let said = inside(|| Local::open(&path, "[control] socket").unwrap_err().to_string());
        assert!(said.contains("something lies there that is no socket"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear");
    }

    #[test]
    fn a_later_daemons_socket_outlives_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        inside(|| {
            let first = Local::open(&path, "[control] socket").unwrap();
            fs::remove_file(&path).unwrap();
            let _second = Local::open(&path, "[control] socket").unwrap();
            drop(first);
            net::UnixStream::connect(&path).unwrap();
        });
    }

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let path = std::env::temp_dir().join("x".repeat(120));
        let said = inside(|| Local::open(&path, "[control] socket").unwrap_err().to_string());
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
