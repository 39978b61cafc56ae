//! Our extension at a registrar that is not ours, `peers/registrar.py`.

use std::{os::unix::fs::OpenOptionsExt as _, path::Path, process::Command};

use super::is_installed;
use crate::site::{Daemon, Process, field, number};

/// A registrar and a line that registers there.
pub(crate) struct Extension {
    pub(crate) registrar: Process,
    pub(crate) daemon: Daemon,
    _agent: Process,
    dir: tempfile::TempDir,
}

impl Extension {
    pub(crate) fn start(registrar: &[&str]) -> Option<Self> {
        Self::start_with(registrar, PASSWORD, "")
    }

    /// With this password, and these keys more in the table of the registration.
    pub(crate) fn start_with(args: &[&str], password: &str, keys: &str) -> Option<Self> {
        if !is_installed("python3") {
            return None;
        }
        let registrar = registrar(args);
        let port = number(&registrar.line(&["listening="]), "listening");
        let (daemon, agent, dir) = line(&format!("sip:127.0.0.1:{port}"), password, keys);
        Some(Self { registrar, daemon, _agent: agent, dir })
    }

    /// Writes another password into the file that the config names.
    pub(crate) fn change_password(&self, password: &str) {
        std::fs::write(self.dir.path().join("password"), password).unwrap();
    }

    /// What the n-th REGISTER said and was told.
    pub(crate) fn request(&self, n: usize) -> String {
        self.registrar.nth_line(n, &["request=", "method=REGISTER"])
    }

    /// The requests up to one that was answered like this.
    pub(crate) fn until(&self, status: &str) -> Vec<String> {
        let mut requests = Vec::new();
        loop {
            let request = self.request(requests.len());
            let is_last = field(&request, "status") == status;
            requests.push(request);
            if is_last {
                return requests;
            }
        }
    }
}

pub(crate) fn registrar(args: &[&str]) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/registrar.py");
    Process::start(Command::new("python3").env("PYTHONDONTWRITEBYTECODE", "1").arg(script).args(args))
}

/// A daemon that registers at this URI.
pub(crate) fn line(registrar: &str, password: &str, keys: &str) -> (Daemon, Process, tempfile::TempDir) {
    line_with(registrar, password, keys, "")
}

/// With these keys more in the line's own table.
pub(crate) fn line_with(
    registrar: &str,
    password: &str,
    keys: &str,
    line: &str,
) -> (Daemon, Process, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("password");
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret);
    std::io::Write::write_all(&mut file.unwrap(), password.as_bytes()).unwrap();
    let (agent, agent_port) = super::agent(&["--plain"]);
    let daemon = Daemon::start_of(&["pbx"], "max-calls = 8", "drain-seconds = 5", |ports| {
        format!(
            "[line.pbx]\nkind = \"sip\"\nlisten = \"127.0.0.1:{}\"\n{line}\n\
             [line.pbx.register]\nregistrar = \"{registrar}\"\nuser = \"201\"\npassword = {{ file = {secret:?} }}\n{keys}\n\
             [trunk.agent]\nurl = \"ws://127.0.0.1:{agent_port}/\"\ndialect = \"ozonetel\"\n\
             [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n",
            ports[0]
        )
    });
    (daemon, agent, dir)
}

pub(crate) const PASSWORD: &str = "line of sight";
