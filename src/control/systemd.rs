//! What systemd is told of the service (sd_notify(3)), and how often it wants a sign of life.
//!
//! Where systemd did not start the process all of it does nothing. Nothing here waits: sd-notify's own `notify` would,
//! in a send to a PID 1 that is busy, so the socket is ours and only the words are its. What does not go through comes
//! back as [`io::ErrorKind::WouldBlock`].

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use sd_notify::NotifyState;

/// Every listener listens: calls may come.
///
/// # Errors
/// When systemd could not be told. It waits for this word, so it has to be said again.
pub fn ready() -> io::Result<()> {
    notify(&[NotifyState::Ready])
}

/// The config is read again, until [`ready`] is said once more (systemd.service(5), `Type=notify-reload`).
///
/// # Errors
/// When systemd could not be told.
pub fn reloading() -> io::Result<()> {
    let since = NotifyState::monotonic_usec_now()?;
    notify(&[NotifyState::Reloading, since])
}

/// One line for `systemctl status`.
///
/// # Errors
/// When systemd could not be told.
pub fn status(line: &str) -> io::Result<()> {
    // A line break would begin another assignment.
    notify(&[NotifyState::Status(line.lines().next().unwrap_or_default())])
}

/// The end has begun.
///
/// # Errors
/// When systemd could not be told.
pub fn stopping() -> io::Result<()> {
    notify(&[NotifyState::Stopping])
}

/// The start or end that is under way takes so much longer, from now on.
///
/// # Errors
/// When systemd could not be told.
pub fn extend_timeout(by: Duration) -> io::Result<()> {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))])
}

/// A sign of life.
///
/// # Errors
/// When systemd could not be told.
pub fn feed_watchdog() -> io::Result<()> {
    notify(&[NotifyState::Watchdog])
}

/// Without a sign of life for so long systemd starts us again; feed it twice as often. `None`: it does not watch.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(manager) => tell(&manager, states),
        None => Ok(()),
    }
}

fn tell(manager: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let address = match manager.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(manager)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    // A datagram goes as a whole or not at all.
    let words: Vec<_> = states.iter().map(ToString::to_string).collect();
    socket.send(words.join("\n").as_bytes()).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram) {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        (dir, socket)
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let n = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    }

    #[test]
    fn systemd_is_told_in_its_own_words() {
        let (dir, socket) = manager();
        let path = dir.path().join("notify");
        let table = [
            (NotifyState::Ready, "READY=1"),
            (NotifyState::Status("3 calls"), "STATUS=3 calls"),
            (NotifyState::Watchdog, "WATCHDOG=1"),
            (NotifyState::ExtendTimeoutUsec(7_000_000), "EXTEND_TIMEOUT_USEC=7000000"),
            (NotifyState::Stopping, "STOPPING=1"),
        ];
        for (state, words) in table {
            tell(path.as_os_str(), &[state]).unwrap();
            assert_eq!(received(&socket), words);
        }
    }

    #[test]
    fn an_abstract_socket_is_found_too() {
        let name = format!("trunkline-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tell(OsStr::new(&format!("@{name}")), &[NotifyState::Ready]).unwrap();
        assert_eq!(received(&socket), "READY=1");
    }

    #[test]
    fn a_manager_that_reads_nothing_is_not_waited_for() {
        let (dir, _socket) = manager();
        let path = dir.path().join("notify");
        // Far beyond what net.unix.max_dgram_qlen lets wait.
        let error = (0..100_000).find_map(|_| tell(path.as_os_str(), &[NotifyState::Watchdog]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
