//! Two networks with a cable between them: for peers that refuse loopback, and for what a cable does to packets.
//!
//! ```text
//!   near 10.77.0.1 ======== 10.77.0.2 far
//!   daemon, agent           the phone
//! ```
//!
//! Each is a namespace that a sleeping process holds; with the two processes everything is gone. It takes root, and a kernel
//! that allows it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::site::{Process, SOON, TRUNKLINE};

/// The daemon's side.
pub(crate) const NEAR: &str = "10.77.0.1";

/// The phone's side.
pub(crate) const FAR: &str = "10.77.0.2";

/// Its number.
pub(crate) const PHONE: &str = "201";

pub(crate) struct Lab {
    near: Process,
    far: Process,
    pub(crate) dir: tempfile::TempDir,
}

impl Lab {
    /// `None`: there can be none here, or one of these programs is missing, which is told; in CI it is a failure.
    pub(crate) fn open(programs: &[&str]) -> Option<Self> {
        if !programs.iter().all(|program| super::is_installed(program)) {
            return None;
        }
        if let Err(why) = probe() {
            let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
            assert!(!in_ci, "no network can be made here: {why}; run the tests as root");
            println!("not run: no network can be made here: {why}; run the tests as root");
            return None;
        }
        let hold = || {
            let process = Process::start(
                // Whatever becomes of this process, they end with it.
                Command::new("setpriv").args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c"]).arg(HOLD),
            );
            process.line(&["held"]);
            process
        };
        let lab = Self { near: hold(), far: hold(), dir: tempfile::tempdir().unwrap() };
        let far = lab.far.id().to_string();
        lab.run_near(&["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &far]);
        lab.run_near(&["ip", "addr", "add", &format!("{NEAR}/24"), "dev", "near"]);
        lab.run_near(&["ip", "link", "set", "near", "up"]);
        lab.run_far(&["ip", "addr", "add", &format!("{FAR}/24"), "dev", "far"]);
        lab.run_far(&["ip", "link", "set", "far", "up"]);
        Some(lab)
    }

    fn inside(holder: &Process, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &holder.id().to_string(), "--", program]);
        command
    }

    /// A program on the daemon's side.
    pub(crate) fn near(&self, program: &str) -> Command {
        Self::inside(&self.near, program)
    }

    /// A program on the phone's side.
    pub(crate) fn far(&self, program: &str) -> Command {
        Self::inside(&self.far, program)
    }

    #[track_caller]
    pub(crate) fn run_near(&self, command: &[&str]) -> String {
        succeed(self.near(command[0]).args(&command[1..]))
    }

    #[track_caller]
    pub(crate) fn run_far(&self, command: &[&str]) -> String {
        succeed(self.far(command[0]).args(&command[1..]))
    }

    /// So many in a hundred of the UDP datagrams that come to either side are lost, signalling or not.
    pub(crate) fn lose(&self, percent: u32) {
        let rules = format!(
            "add table ip lossy; flush table ip lossy; \
             add chain ip lossy in {{ type filter hook input priority 0; }}; \
             add rule ip lossy in ip protocol udp numgen random mod 100 < {percent} counter drop"
        );
        self.run_near(&["nft", &rules]);
        self.run_far(&["nft", &rules]);
    }

    /// The phone's side of the cable takes 128 kbit/s, little more than a call does, and something else wants to go along it
    /// every second or so: what waits behind that is up to 200 ms late. For as long as the process lives.
    pub(crate) fn crowd(&self) -> Process {
        let rate = ["rate", "128kbit", "burst", "2000", "latency", "300ms"];
        succeed(self.far("tc").args(["qdisc", "add", "dev", "far", "root", "tbf"]).args(rate));
        let (datagram, device) = ("head -c 1400 /dev/zero", format!("/dev/udp/{NEAR}/9"));
        let crowd = format!("while :; do {datagram} >{device}; {datagram} >{device}; sleep 1.2; done");
        Process::start(self.far("bash").args(["-c", &crowd]))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The daemon with a SIP line at port 5060 of its side, and an agent that echoes or does what these say.
    pub(crate) fn site(&self, line: &str, agent: &[&str]) -> LabSite {
        self.site_in("ozonetel", line, agent)
    }

    /// The same with an agent of this dialect.
    pub(crate) fn site_in(&self, dialect: &str, line: &str, agent: &[&str]) -> LabSite {
        let agent = Process::start(
            self.near(TRUNKLINE)
                .args(["agent", "--listen", "127.0.0.1:8765", "--dialect", dialect])
                .args(agent)
                .args(["--tls".as_ref(), self.dir.path().as_os_str()]),
        );
        agent.line(&["listening on ws"]);
        let config = format!(
            "[control]\nsocket = {:?}\ndrain-seconds = 0\n\
             [line.pbx]\nkind = \"sip\"\nlisten = \"{NEAR}:5060\"\nallow = [\"{FAR}\"]\n{line}\n\
             [trunk.agent]\nurl = \"wss://localhost:8765/\"\ndialect = \"{dialect}\"\nca-file = {:?}\n\
             [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n",
            self.path("control.sock"),
            self.path("ca.pem"),
        );
        let file = self.path("trunkline.toml");
        std::fs::write(&file, config).unwrap();
        let daemon = Process::start(self.near(TRUNKLINE).args(["run", "--config"]).arg(file));
        daemon.line(&["ready for calls"]);
        LabSite { agent, daemon }
    }

    /// baresip with a wave file for its microphone, what it sends and hears kept as waves in `heard`. It answers by itself.
    pub(crate) fn baresip(&self, microphone: &Path) -> Baresip {
        self.baresip_with(microphone, "PCMU/8000/1", 8_000)
    }

    /// The same with a codec, as baresip names it, and the rate of its audio.
    pub(crate) fn baresip_with(&self, microphone: &Path, codec: &str, hz: u32) -> Baresip {
        let (home, heard) = (self.path("baresip"), self.path("heard"));
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&heard).unwrap();
        let config = BARESIP
            .replace("MICROPHONE", microphone.to_str().unwrap())
            .replace("SPEAKER", self.path("speaker.wav").to_str().unwrap())
            .replace("HEARD", heard.to_str().unwrap())
            .replace("HZ", &hz.to_string());
        std::fs::write(home.join("config"), config).unwrap();
        let account = format!("<sip:{PHONE}@{FAR}>;regint=0;audio_codecs={codec};answermode=auto\n");
        std::fs::write(home.join("accounts"), account).unwrap();
        std::fs::write(home.join("contacts"), "").unwrap();
        let process = Process::start(self.far("baresip").arg("-f").arg(&home));
        process.line(&["baresip is ready"]);
        Baresip { process, heard }
    }
}

/// `trunkline run` and its agent on the near side.
pub(crate) struct LabSite {
    pub(crate) agent: Process,
    pub(crate) daemon: Process,
}

/// A phone that is not ours.
pub(crate) struct Baresip {
    pub(crate) process: Process,
    heard: PathBuf,
}

impl Baresip {
    /// Types this, a command (`/dial URI` and a line's end) or keys: a digit, `x` to hold, `X` to resume, `b` to hang up.
    pub(crate) fn types(&self, keys: &str) {
        self.process.types(keys);
    }

    /// Types this and waits until the call is over.
    #[track_caller]
    pub(crate) fn hangs_up(&self) {
        self.types("b");
        self.process.line(&["terminated (duration"]);
    }

    /// Ends it. Returns all that it has said: how many bits a second go and come it says in one line that never ends.
    pub(crate) fn ends(self) -> String {
        self.process.terminate();
        self.process.wait(SOON).1
    }

    /// What it has sent (`enc`) or heard (`dec`) in its only call, once it is over.
    pub(crate) fn recorded(&self, which: &str) -> Vec<i16> {
        let mut files = std::fs::read_dir(&self.heard).unwrap().map(|file| file.unwrap().path());
        let end = format!("-{which}.wav");
        let file = files.find(|file| file.to_str().unwrap().ends_with(&end)).expect("a recording");
        crate::site::read_wav(&file)
    }
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let (status, said) = Process::start(command).wait(SOON);
    assert!(status.success(), "{command:?}: {said}");
    said
}

/// Whether namespaces can be made, with a cable between them.
fn probe() -> Result<(), String> {
    let mut command = Command::new("unshare");
    command.args(["--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]);
    let Ok(mut child) = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn() else {
        return Err("there is no unshare".to_owned());
    };
    if child.wait().is_ok_and(|status| status.success()) { Ok(()) } else { Err("it is not permitted".to_owned()) }
}

const HOLD: &str = "ip link set lo up && echo held && exec sleep infinity";

/// The rest is off; `ausine` would need 48 kHz.
const BARESIP: &str = "\
poll_method epoll
sip_listen 10.77.0.2:5060
audio_player aufile,SPEAKER
audio_source aufile,MICROPHONE
audio_alert aufile,SPEAKER
ausrc_srate HZ
auplay_srate HZ
ausrc_channels 1
auplay_channels 1
jitter_buffer_type fixed
jitter_buffer_delay 1-5
snd_path HEARD
module_path /usr/lib/baresip/modules
module stdio.so
module g711.so
module g722.so
module aufile.so
module sndfile.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
";
