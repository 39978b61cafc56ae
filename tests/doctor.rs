//! `trunkline doctor` on sites with something wrong: each fault is there for real, and one line names it with the next
//! step, for people and in JSON. And on sites with nothing wrong, where nothing is said to be.

#![allow(clippy::unwrap_used)]

mod sip;
mod site;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::OpenOptionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use sip::{
    agent,
    extension::{PASSWORD, registrar},
    is_installed,
};
use site::{Daemon, TRUNKLINE, free_ports, number};
use trunkline::leg::websocket::tls;

/// What was said of a site, both ways.
struct Told {
    code: i32,
    text: String,
    json: Value,
}

impl Told {
    /// By `trunkline doctor`, or by that in another command.
    fn of(command: impl Fn() -> Command) -> Self {
        let run = |more: &[&str]| -> Output {
            let began = Instant::now();
            let output = command().args(more).output().unwrap();
            assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
            output
        };
        let (text, json) = (run(&[]), run(&["--json"]));
        assert_eq!(text.status.code(), json.status.code());
        let said = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
        let parsed = serde_json::from_str(&said(&json));
        let json = parsed.unwrap_or_else(|error| panic!("{error}: {}{:?}", said(&json), json.stderr));
        let told = Self { code: text.status.code().unwrap(), text: said(&text), json };
        println!("{}", told.text);
        assert!(!told.text.contains('\x1b'), "colours, and no terminal");
        // What every site here has for a secret.
        for secret in [PASSWORD, WRONG, TOKEN] {
            assert!(!told.text.contains(secret) && !told.json.to_string().contains(secret), "a secret is told");
        }
        told
    }

    fn findings(&self) -> impl Iterator<Item = (&str, &str, String)> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        self.json["findings"].as_array().unwrap().iter().map(move |finding| {
            let words = format!("{} {} {}", text(finding, "subject"), text(finding, "found"), text(finding, "fix"));
            (finding["check"].as_str().unwrap(), finding["status"].as_str().unwrap(), words)
        })
    }

    /// One line has this status and all of these words, and one finding of this check does.
    #[track_caller]
    fn says(&self, check: &str, status: &str, words: &[&str]) {
        let has = |text: &str| words.iter().all(|word| text.contains(word));
        let mut lines = self.text.lines().filter(|line| line.starts_with(status) && has(line));
        assert!(lines.next().is_some(), "no line `{status}` with {words:?} in\n{}", self.text);
        let is_it = |(of, is, said): &(&str, &str, String)| *of == check && *is == status && has(said);
        assert!(self.findings().any(|finding| is_it(&finding)), "no {check} with {words:?} in {:#}", self.json);
    }

    /// The same of a fault: one line names it with the next step, and nothing else is said to have failed.
    #[track_caller]
    fn blames(&self, check: &str, fault: &str, next: &str) {
        self.says(check, "fail", &[fault, next]);
        let line = self.text.lines().find(|line| line.starts_with("fail") && line.contains(fault)).unwrap();
        assert!(line.split_once(". Next: ").is_some_and(|(_, step)| step.contains(next)), "{line}");
        let is_it = |(of, status, _): &(&str, &str, String)| *status == "fail" && (*of != "disk" || check == "disk");
        let failed: Vec<_> = self.findings().filter(is_it).collect();
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!((self.code, self.json["status"].as_str()), (1, Some("fail")));
    }

    /// How full the disk of this machine is, is its own affair.
    #[track_caller]
    fn is_well(&self) {
        let is_bad = |(_, status, _): &(&str, &str, String)| matches!(*status, "fail" | "warn");
        let (disk, bad): (Vec<_>, Vec<_>) = self.findings().filter(is_bad).partition(|(check, ..)| *check == "disk");
        assert!(bad.is_empty(), "{bad:#?}");
        let is_full = disk.iter().any(|(_, status, _)| *status == "fail");
        assert_eq!(self.code, i32::from(is_full));
    }
}

/// A folder with a config in it.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    /// An AudioSocket line, and this trunk; then what else there is.
    fn new(trunk: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(2);
        let text = format!(
            "[control]\nhttp = \"127.0.0.1:{}\"\nsocket = \"control.sock\"\n[records]\ndirectory = \"records\"\n\
             [line.desk]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{}\"\n\
             [trunk.agent]\ndialect = \"ozonetel\"\n{trunk}\n[[route]]\nline = \"desk\"\ntrunks = [\"agent\"]\n{more}",
            ports[0], ports[1]
        );
        fs::write(folder.path().join("trunkline.toml"), text).unwrap();
        for (name, secret) in [("password", PASSWORD), ("wrong", WRONG), ("token", TOKEN)] {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.path().join(name));
            file.unwrap().write_all(secret.as_bytes()).unwrap();
        }
        Self { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("trunkline.toml")
    }

    fn doctor(&self, more: &[&str]) -> Told {
        self.doctor_by(&[TRUNKLINE], more)
    }

    /// In another command, such as one that has another time.
    fn doctor_by(&self, by: &[&str], more: &[&str]) -> Told {
        Told::of(|| {
            let mut command = Command::new(by[0]);
            command.args(&by[1..]).arg("doctor").arg("--config").arg(self.config()).args(more);
            command.env_remove("TRUNKLINE_SOCKET");
            command
        })
    }
}

/// A SIP line that registers there, beside the route of [`Site::new`].
fn pbx(registrar: u16, password: &str) -> String {
    let ports = free_ports(1);
    format!(
        "[line.pbx]\nkind = \"sip\"\nlisten = \"127.0.0.1:{}\"\n[line.pbx.register]\n\
         registrar = \"sip:127.0.0.1:{registrar}\"\nuser = \"201\"\npassword = {{ file = \"{password}\" }}\n\
         [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n",
        ports[0]
    )
}

/// An agent by TLS, whose CA is in this folder.
fn secure_agent(folder: &Path, behave: &str) -> (site::Process, String) {
    let args = ["--dialect", "ozonetel", "--behave", behave, "--tls", folder.to_str().unwrap()];
    let (agent, port) = agent(&args);
    let ca = folder.join("ca.pem");
    (agent, format!("url = \"wss://localhost:{port}/\"\nca-file = {ca:?}"))
}

/// A server by TLS with a certificate for this name, good from one year's beginning to another's; gives its port. Its CA
/// is in the folder.
fn server(folder: &Path, name: &str, (from, to): (i32, i32)) -> u16 {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "a CA of the site");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    let config = tls::server_config(&folder.join("server.pem"), &folder.join("key.pem")).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let _ = rustls::Stream::new(&mut connection, &mut stream).read(&mut [0; 4096]);
        }
    });
    port
}

/// Where `CI` is set everything is there.
#[track_caller]
fn not_run(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{why}");
    println!("not run: {why}");
}

#[test]
fn nothing_is_said_to_be_wrong_where_nothing_is() {
    if !is_installed("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_agent, trunk) = secure_agent(folder.path(), "echo");
    let registrar = registrar(&[]);
    let port = u16::try_from(number(&registrar.line(&["listening="]), "listening")).unwrap();
    let told = Site::new(&trunk, &pbx(port, "password")).doctor(&[]);
    told.is_well();
    told.says("tls", "ok", &["[trunk.agent] TLS", "its certificate is good for", "days more, until 20"]);
    told.says("trunk", "ok", &["[trunk.agent]", "answered in", "WebSocket"]);
    told.says("call", "ok", &["[trunk.agent] call", "sound came back after"]);
    told.says("sip-options", "ok", &["OPTIONS", "answered 200"]);
    told.says("sip-register", "ok", &["takes 201 with its password"]);
    told.says("codecs", "ok", &["[line.pbx] codecs", "G722"]);
    told.says("port", "ok", &["[line.desk] listen", "is free"]);
    told.says("rtp-ports", "ok", &["61000-64999"]);
    assert!(told.text.contains("[records] directory"), "{}", told.text);
    told.says("dns", "ok", &["DNS localhost", "127.0.0.1"]);
    told.says("daemon", "skip", &["does not run"]);
    // What was registered was taken back, by the same contact.
    let requests: Vec<_> =
        registrar.said().lines().filter(|line| line.contains("status=200")).map(str::to_owned).collect();
    let contact = |line: &str| site::field(line, "contact").split(';').next().unwrap().to_owned();
    let [.., taken, back] = &requests[..] else { panic!("{requests:#?}") };
    assert_eq!((number(back, "expires"), contact(taken)), (0, contact(back)));
}

#[test]
fn a_daemon_that_runs_is_asked_and_its_registration_is_left_alone() {
    if !is_installed("python3") {
        return;
    }
    let registrar = registrar(&[]);
    let port = number(&registrar.line(&["listening="]), "listening");
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("password");
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret);
    file.unwrap().write_all(PASSWORD.as_bytes()).unwrap();
    let (_agent, agent_port) = agent(&["--dialect", "ozonetel", "--behave", "silent", "--plain"]);
    let (file, socket) = (folder.path().join("trunkline.toml"), folder.path().join("control.sock"));
    let _daemon = Daemon::start_of(&["pbx", "desk"], "max-calls = 8", &format!("socket = {socket:?}"), |ports| {
        let config = format!(
            "[line.pbx]\nkind = \"sip\"\nlisten = \"127.0.0.1:{}\"\n[line.pbx.register]\n\
             registrar = \"sip:127.0.0.1:{port}\"\nuser = \"201\"\npassword = {{ file = {secret:?} }}\n\
             [line.desk]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{}\"\n\
             [trunk.agent]\nurl = \"ws://127.0.0.1:{agent_port}/\"\ndialect = \"ozonetel\"\n\
             [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n[[route]]\nline = \"desk\"\ntrunks = [\"agent\"]\n",
            ports[0], ports[1]
        );
        let control = format!("[media]\nmax-calls = 8\n[control]\nhttp = \"off\"\nsocket = {socket:?}\n");
        fs::write(&file, control + &config).unwrap();
        config
    });
    registrar.line(&["method=REGISTER", "status=200"]);
    let before = registrar.count(&["method=REGISTER"]);
    let told = Told::of(|| {
        let mut command = Command::new(TRUNKLINE);
        command.args(["doctor", "--config"]).arg(&file);
        command
    });
    told.is_well();
    told.says("daemon", "ok", &["runs (pid"]);
    told.says("port", "ok", &["[line.desk] listen", "the daemon has it"]);
    told.says("port", "ok", &["[line.pbx] listen", "udp", "the daemon has it"]);
    told.says("sip-register", "ok", &["the daemon's line pbx says registered"]);
    told.says("call", "ok", &["normal for an agent that waits"]);
    assert_eq!(registrar.count(&["method=REGISTER"]), before);
}

#[test]
fn the_ports_of_a_daemon_that_cannot_be_asked_are_no_failure() {
    let (_agent, agent) = agent(&["--dialect", "ozonetel", "--behave", "echo", "--plain"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.toml");
    let _daemon = Daemon::start_of(&["desk"], "max-calls = 8", "socket = \"off\"", |ports| {
        let config = format!(
            "[line.desk]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{}\"\n\
             [trunk.agent]\nurl = \"ws://127.0.0.1:{agent}/\"\ndialect = \"ozonetel\"\n\
             [[route]]\nline = \"desk\"\ntrunks = [\"agent\"]\n",
            ports[0]
        );
        fs::write(&file, format!("[control]\nhttp = \"off\"\nsocket = \"off\"\n{config}")).unwrap();
        config
    });
    let told = Told::of(|| {
        let mut command = Command::new(TRUNKLINE);
        command.arg("doctor").arg("--config").arg(&file).env_remove("TRUNKLINE_SOCKET");
        command
    });
    told.is_well();
    told.says("daemon", "skip", &["this config has no control socket"]);
    told.says("port", "skip", &["[line.desk] listen", "is in use by trunkline (pid ", "probably the daemon"]);
}

#[test]
fn a_daemon_that_gives_no_answer() {
    let (_agent, port) = agent(&["--dialect", "ozonetel", "--behave", "echo", "--plain"]);
    let site = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\""), "");
    let _silent = UnixListener::bind(site.folder.path().join("control.sock")).unwrap();
    let told = site.doctor(&["--no-call"]);
    told.blames("daemon", "gave no answer in 5 s", "sudo systemctl restart trunkline");
}

#[test]
fn an_expired_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let port = server(folder.path(), "localhost", (2020, 2021));
    let ca = folder.path().join("ca.pem");
    let site = Site::new(&format!("url = \"wss://localhost:{port}/\"\nca-file = {ca:?}"), "");
    let told = site.doctor(&[]);
    told.blames("tls", "[trunk.agent] TLS", "whoever runs localhost has to renew it");
    told.says("tls", "fail", &["its certificate expired on 2021-01-01", "openssl s_client"]);
}

#[test]
fn a_certificate_for_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let port = server(folder.path(), "other.example.com", (2020, 2090));
    let ca = folder.path().join("ca.pem");
    let site = Site::new(&format!("url = \"wss://localhost:{port}/\"\nca-file = {ca:?}"), "");
    site.doctor(&[]).blames(
        "tls",
        "its certificate is for other.example.com, not for localhost",
        "write the url with a name that the certificate has",
    );
}

#[test]
fn a_certificate_from_nobody_that_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let port = server(folder.path(), "localhost", (2020, 2090));
    let site = Site::new(&format!("url = \"wss://localhost:{port}/\""), "");
    site.doctor(&[]).blames("tls", "an issuer that is not trusted here", "name its file by `ca-file`");
}

#[test]
fn a_clock_before_the_build() {
    if !is_installed("faketime") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_agent, trunk) = secure_agent(folder.path(), "echo");
    let site = Site::new(&trunk, "");
    let then = ["faketime", "-f", "@2019-06-01 12:00:00", TRUNKLINE];
    let told = site.doctor_by(&then, &["--offline"]);
    told.blames("clock", "it is 2019-06-01 here, and this trunkline was built on 20", "timedatectl set-ntp true");
    // What follows from it is told as such.
    let told = site.doctor_by(&then, &[]);
    told.says("tls", "fail", &["its certificate is valid from 20", "set this machine's clock (see the line `clock`)"]);
}

#[test]
fn a_port_in_use() {
    let (_agent, port) = agent(&["--dialect", "ozonetel", "--behave", "echo", "--plain"]);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let more = format!(
        "[line.second]\nkind = \"audiosocket\"\nlisten = \"{at}\"\n[[route]]\nline = \"second\"\ntrunks = [\"agent\"]\n"
    );
    let told = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\""), &more).doctor(&[]);
    let pid = std::process::id();
    told.blames("port", &format!("(pid {pid})"), "names its service), or take another port here");
    told.says("port", "fail", &["[line.second] listen", &format!("tcp {at} is in use by ")]);
}

#[test]
fn a_name_that_is_not_there() {
    let told = Site::new("url = \"wss://agent.invalid/ws\"", "").doctor(&[]);
    // Where no resolver is to be had that is the fault.
    let is_asked = told.text.contains("there is no such name");
    let next = if is_asked { "`getent hosts agent.invalid`" } else { "is the network up (`ip route`)?" };
    told.blames("dns", "DNS agent.invalid", next);
    told.says("trunk", "skip", &["[trunk.agent]", "see the line on DNS"]);
}

#[test]
fn no_dns_at_all() {
    if !is_installed("unshare") || !Command::new("unshare").args(["--net", "true"]).status().unwrap().success() {
        return not_run("there may be no network namespaces here");
    }
    let site = Site::new("url = \"wss://agent.example.com/ws\"", "");
    // Nor loopback: nobody asks a resolver on this machine by mistake.
    let told = site.doctor_by(&["unshare", "--net", TRUNKLINE], &[]);
    told.says("dns", "fail", &["DNS agent.example.com", "no DNS server answers", "is the network up (`ip route`)?"]);
}

#[test]
fn a_wrong_sip_password() {
    if !is_installed("python3") {
        return;
    }
    let (_agent, port) = agent(&["--dialect", "ozonetel", "--behave", "echo", "--plain"]);
    let registrar = registrar(&[]);
    let at = u16::try_from(number(&registrar.line(&["listening="]), "listening")).unwrap();
    let told = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\""), &pbx(at, "wrong")).doctor(&[]);
    told.blames("sip-register", "answered 403 Forbidden to 201", "write the extension's password anew");
    told.says("sip-options", "ok", &["answered 200"]);
}

#[test]
fn a_bad_token() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let body = format!("unknown token {TOKEN}");
            let head = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    let trunk = format!("url = \"ws://127.0.0.1:{port}/\"\nbearer = {{ file = \"token\" }}");
    Site::new(&trunk, "").doctor(&[]).blames("trunk", "401 Unauthorized", "bearer");
}

#[test]
fn nobody_at_the_trunks_port() {
    let port = free_ports(1)[0];
    let told = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\""), "").doctor(&[]);
    told.blames("trunk", "connection refused", "check the port, and the firewalls on the way");
}

#[test]
fn peers_that_say_nothing_keep_nobody_waiting() {
    if !is_installed("python3") {
        return;
    }
    let registrar = registrar(&["--silent"]);
    let at = u16::try_from(number(&registrar.line(&["listening="]), "listening")).unwrap();
    // Its connections wait in the kernel for ever.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Site::new(&format!("url = \"wss://localhost:{port}/\""), &pbx(at, "password")).doctor(&[]);
    told.says("tls", "fail", &["did not bring the TLS handshake to an end in 4 s", "check the port"]);
    told.says("sip-options", "warn", &["did not answer OPTIONS in 5 s", "fail2ban"]);
    told.says("sip-register", "fail", &["did not answer REGISTER"]);
}

#[test]
fn a_wrong_config_is_listed_and_left_with_its_own_code() {
    let site = Site::new("url = \"wss://agent.example.com/ws\"\nurll = 5", "");
    let told = site.doctor(&[]);
    told.says("config", "fail", &["trunkline.toml:12", "urll", "did you mean"]);
    told.says("clock", "ok", &["UTC"]);
    assert_eq!(told.code, 78);
}

/// A machine with a unit, its user and a card, in a namespace of mounts: nothing of it is on this one.
#[cfg(feature = "sound")]
#[test]
fn no_sound_rights() {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root
        || !is_installed("unshare")
        || !Command::new("unshare").args(["--mount", "true"]).status().unwrap().success()
    {
        return not_run("it takes root and namespaces of mounts");
    }
    let folder = tempfile::tempdir().unwrap();
    let of = |path: &str| folder.path().join(path);
    let copied = Command::new("cp").args(["-a", "/etc"]).arg(of("etc")).status().unwrap();
    assert!(copied.success());
    for name in ["etc/trunkline", "etc/systemd/system/trunkline.service.d", "dev/snd"] {
        fs::create_dir_all(of(name)).unwrap();
    }
    let append = |name: &str, text: &str| {
        fs::OpenOptions::new().append(true).open(of(name)).unwrap().write_all(text.as_bytes()).unwrap();
    };
    append("etc/passwd", "trunkline:x:995:994:Trunkline:/var/lib/trunkline:/usr/sbin/nologin\n");
    append("etc/group", "trunkline:x:994:\n");
    let group = fs::read_to_string(of("etc/group")).unwrap();
    let audio = group.lines().find_map(|line| line.strip_prefix("audio:x:")).unwrap();
    let audio: u32 = audio.split(':').next().unwrap().parse().unwrap();
    fs::write(of("dev/null"), "").unwrap();
    for name in ["dev/snd/controlC0", "dev/snd/pcmC0D0p"] {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o660).open(of(name)).unwrap();
        std::os::unix::fs::fchown(&file, Some(0), Some(audio)).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o660)).unwrap();
    }
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    fs::copy(units.join("trunkline.service"), of("etc/systemd/system/trunkline.service")).unwrap();
    let config = "[line.desk]\nkind = \"sound\"\nstart = \"key\"\n[trunk.agent]\nurl = \"wss://agent.example.com/ws\"\n\
                  dialect = \"ozonetel\"\n[[route]]\nline = \"desk\"\ntrunks = [\"agent\"]\n";
    fs::write(of("etc/trunkline/trunkline.toml"), config).unwrap();
    let script = "mount --bind \"$0/etc\" /etc && mount --bind \"$0/dev\" /dev && exec \"$@\"";
    let doctor = || {
        Told::of(|| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script]).arg(folder.path());
            command.args([TRUNKLINE, "doctor", "--offline"]);
            command
        })
    };
    let told = doctor();
    let next = "ln -s /usr/share/trunkline/trunkline-sound.conf /etc/systemd/system/trunkline.service.d/";
    told.says("sound", "fail", &["sound rights", "the unit keeps the service from every device", next]);
    told.says("realtime", "warn", &["the service may not run before others", next]);
    // The drop-in, and then a card that is not the group's.
    fs::copy(units.join("trunkline-sound.conf"), of("etc/systemd/system/trunkline.service.d/sound.conf")).unwrap();
    let told = doctor();
    told.says("sound", "ok", &["sound rights", "trunkline may open the 2 files of /dev/snd"]);
    told.says("realtime", "ok", &["the service may run before others"]);
    std::os::unix::fs::chown(of("dev/snd/controlC0"), Some(0), Some(0)).unwrap();
    doctor().says(
        "sound",
        "fail",
        &["trunkline is in the group audio, and may not open /dev/snd/controlC0", "udevadm"],
    );
}

const WRONG: &str = "line of fright";
const TOKEN: &str = "tok-9f1c77aa";

/// How often somebody was asked to register us.
fn registers(registrar: &site::Process) -> usize {
    registrar.count(&["method=REGISTER"])
}

#[test]
fn a_line_whose_port_somebody_has_is_not_registered() {
    if !is_installed("python3") {
        return;
    }
    let (_agent, port) = agent(&["--dialect", "ozonetel", "--behave", "echo", "--plain"]);
    let registrar = registrar(&[]);
    let at = u16::try_from(number(&registrar.line(&["listening="]), "listening")).unwrap();
    // As a daemon has it that was started by hand, and has no socket.
    let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let held_at = held.local_addr().unwrap();
    let line = pbx(at, "password");
    let free = line.lines().find(|line| line.starts_with("listen")).unwrap().to_owned();
    let line = line.replace(&free, &format!("listen = \"{held_at}\""));
    let told = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\""), &line).doctor(&[]);
    told.says("sip-register", "skip", &["[line.pbx] REGISTER", &format!("udp {held_at} is in use, maybe by a daemon")]);
    told.says("sip-options", "ok", &["answered 200"]);
    assert_eq!(registers(&registrar), 0);
}

#[test]
fn a_daemon_with_another_config_keeps_its_registration() {
    if !is_installed("python3") {
        return;
    }
    let registrar = registrar(&[]);
    let at = u16::try_from(number(&registrar.line(&["listening="]), "listening")).unwrap();
    let (_agent, port) = agent(&["--dialect", "ozonetel", "--behave", "silent", "--plain"]);
    let site = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\""), &pbx(at, "password"));
    let socket = site.folder.path().join("control.sock");
    let _daemon = Daemon::start_of(&["desk"], "max-calls = 8", &format!("socket = {socket:?}"), |ports| {
        format!(
            "[line.desk]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{}\"\n\
             [trunk.agent]\nurl = \"ws://127.0.0.1:{port}/\"\ndialect = \"ozonetel\"\n\
             [[route]]\nline = \"desk\"\ntrunks = [\"agent\"]\n",
            ports[0]
        )
    });
    let told = site.doctor(&[]);
    told.says("daemon", "ok", &["runs (pid"]);
    told.says("sip-register", "skip", &["the daemon runs with another config"]);
    assert_eq!(registers(&registrar), 0);
}

#[test]
fn a_host_that_drops_what_comes_is_not_said_to_take_connections() {
    // A queue of one that is full: further SYNs get no answer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let silent = socket.local_addr().unwrap().as_socket().unwrap();
    let _queued = TcpStream::connect(silent).unwrap();
    let told = Site::new(&format!("url = \"wss://localhost:{}/\"", silent.port()), "").doctor(&[]);
    told.blames("trunk", "no connection", "firewalls on the way");
    assert!(!told.findings().any(|(check, ..)| check == "tls"), "nothing is known of its TLS");
}

#[test]
fn silent_peers_of_a_line_are_waited_for_together() {
    let (_agent, port) = agent(&["--dialect", "ozonetel", "--behave", "silent", "--plain"]);
    let silent: Vec<_> = (0..3).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    let [registrar, backup, proxy] = [0, 1, 2].map(|n| silent[n].local_addr().unwrap().port());
    let line = pbx(registrar, "password");
    let more = line.replace("user = ", &format!("backup-registrar = \"sip:127.0.0.1:{backup}\"\nuser = "));
    let dial = format!("[line.pbx.dial]\nproxy = \"sip:127.0.0.1:{proxy}\"\nplan = [\"2??\"]\n[[route]]");
    let more = more.replace("[[route]]", &dial);
    // It takes less than 15 s, as every one does.
    let told = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\""), &more).doctor(&[]);
    for place in ["[line.pbx] OPTIONS", "[line.pbx] backup OPTIONS", "[line.pbx] proxy OPTIONS"] {
        told.says("sip-options", "warn", &[place, "did not answer OPTIONS in 5 s"]);
    }
}

#[test]
fn an_agent_may_take_as_long_as_its_config_says() {
    // Its connections wait in the kernel for ever.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Site::new(&format!("url = \"ws://127.0.0.1:{port}/\"\nconnect-timeout-ms = 6000"), "").doctor(&[]);
    told.blames("trunk", "no WebSocket handshake within 6000 ms", "check the port");
}
