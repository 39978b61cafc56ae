//! A daemon that reads its config again while it has calls.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::Path,
    process::Command,
    time::Duration,
};

use site::{
    Daemon, End, FRAME, Phone, Process, Route, SOON, TRUNKLINE, assert_same, field, free_ports, noise, number,
    wait_for, write_wav,
};

/// An agent that gives every caller their own voice back.
fn agent() -> (Process, String) {
    let agent = Process::start(Command::new(TRUNKLINE).args(["agent", "--listen", "127.0.0.1:0", "--plain"]));
    let port = agent.line(&["ws://127.0.0.1:"]).split("ws://127.0.0.1:").nth(1).unwrap().to_owned();
    let port = port.split(|c: char| !c.is_ascii_digit()).next().unwrap().to_owned();
    (agent, format!("ws://127.0.0.1:{port}/"))
}

fn site(agent: &str) -> Daemon {
    Daemon::start(&[Route { name: "pbx", url: agent.to_owned(), dialect: "ozonetel", ca: None }])
}

/// Whether somebody takes connections there.
fn is_open(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether a call there is taken and hears itself.
fn serves_a_call(port: u16) {
    let said = noise(0.5, 7);
    let phone = Phone::dial(port, &said);
    phone.until_voice(said.len() / 2);
    phone.hang_up();
}

#[test]
fn a_call_goes_on_while_its_line_its_trunk_and_its_route_are_taken_from_the_config() {
    let (_first, url) = agent();
    let (_second, other) = agent();
    let daemon = site(&url);
    let said = noise(4.0, 1);
    let phone = Phone::dial(daemon.port("pbx"), &said);
    phone.until_voice(FRAME * 20);

    let ports = free_ports(3);
    let [desk, moved, http] = ports[..] else { panic!("{ports:?}") };
    let told = daemon.reload(|config| {
        let kept = config.split("[line.pbx]").next().unwrap();
        format!(
            "account = \"depot\"\n{kept}[line.desk]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{desk}\"\n\
             [trunk.spare]\nurl = \"{other}\"\ndialect = \"binary\"\n[[route]]\nline = \"desk\"\ntrunks = [\"spare\"]\n"
        )
    });
    for words in ["line pbx closes", "line desk opens", "trunk agent is gone", "trunk spare is new", "routes change"] {
        assert!(told.contains(&words.replace("agent", "pbx")), "{words}: {told}");
    }
    wait_for("its port is closed", || !is_open(daemon.port("pbx")));
    serves_a_call(desk);
    // Once more, and what only a restart can change is told.
    let told = daemon.reload(|config| {
        let moved = config.replace(&format!(":{desk}\""), &format!(":{moved}\""));
        moved.replace(&format!("127.0.0.1:{}\"", daemon.http()), &format!("127.0.0.1:{http}\""))
    });
    assert!(told.contains("line desk changes; only a restart can change [control]"), "{told}");
    serves_a_call(moved);
    assert!(!is_open(desk) && !is_open(http));

    phone.until_voice(said.len());
    let heard = phone.hang_up();
    let ended = daemon.ended("pbx");
    assert_same(&ended, &heard.voice(), &said);
    assert_eq!(number(&ended, "dropped"), 0, "{ended}");
    assert_eq!((field(&ended, "end_reason"), field(&ended, "trunk")), ("line-hung-up", "pbx"), "{ended}");
}

#[test]
fn a_file_that_is_wrong_is_refused_by_its_line_and_nothing_changes() {
    let (_agent, url) = agent();
    let daemon = site(&url);
    let told = daemon.reload(|config| config.replace("dialect =", "dialekt ="));
    assert!(told.contains("is refused; the one before stays in use"), "{told}");
    let problem = daemon.process.line(&["did you mean `dialect`?"]);
    assert!(problem.contains("trunkline.toml:") && problem.contains("[trunk.pbx] dialekt"), "{problem}");
    serves_a_call(daemon.port("pbx"));
    // As it was, it is taken again.
    let told = daemon.reload(|config| config.replace("dialekt =", "dialect ="));
    assert!(told.ends_with("the config is read again: nothing changes"), "{told}");
    serves_a_call(daemon.port("pbx"));
}

#[test]
fn a_port_that_somebody_has_leaves_everything_as_it_was() {
    let (_agent, url) = agent();
    let daemon = site(&url);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let free = free_ports(1)[0];
    let told = daemon.reload(|config| {
        let more = |name: &str, port: u16| {
            format!(
                "[line.{name}]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{port}\"\n[[route]]\nline = \"{name}\"\n\
                 trunks = [\"pbx\"]\n"
            )
        };
        format!("{config}{}{}", more("good", free), more("bad", port))
    });
    assert!(told.contains("is refused"), "{told}");
    let problem = daemon.process.line(&["[line.bad] listen = "]);
    assert!(problem.contains(&format!("ss -ltnp sport = :{port}")), "{problem}");
    assert!(!is_open(free));
    serves_a_call(daemon.port("pbx"));
}

#[test]
fn a_line_that_gets_another_name_keeps_its_port_open() {
    let (_agent, url) = agent();
    let daemon = site(&url);
    let port = daemon.port("pbx");
    let live = Phone::dial(port, &noise(1.0, 3));
    live.until_voice(FRAME);
    let told = daemon.reload(|config| {
        config.replace("[line.pbx]", "[line.asterisk]").replace("line = \"pbx\"", "line = \"asterisk\"")
    });
    assert!(told.contains("line asterisk opens, line pbx closes"), "{told}");
    serves_a_call(port);
    daemon.process.line(&["call ended", "line=asterisk "]);
    live.hang_up();
    assert_eq!(field(&daemon.ended("pbx"), "end_reason"), "line-hung-up");
}

#[test]
fn who_may_connect_is_asked_anew() {
    let (_agent, url) = agent();
    let daemon = site(&url);
    let port = daemon.port("pbx");
    let listen = format!("listen = \"127.0.0.1:{port}\"\n");
    daemon.reload(|config| config.replace(&listen, &format!("{listen}allow = [\"192.0.2.0/24\"]\n")));
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "it is closed");
    daemon.process.line(&["a connection from outside `allow` was closed", "line=pbx"]);
    daemon.reload(|config| config.replace("allow = [\"192.0.2.0/24\"]\n", ""));
    serves_a_call(port);
}

#[test]
fn a_secret_that_was_changed_opens_the_next_call() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    let keep = |token: &str| {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&secret);
        std::io::Write::write_all(&mut file.unwrap(), token.as_bytes()).unwrap();
    };
    keep("first-1f0a");
    // It reads what it is asked with and answers nothing that would do.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let route = Route { name: "pbx", url, dialect: "binary", ca: None };
    let trunk = format!("bearer = {{ file = {secret:?} }}");
    let daemon = Daemon::start_with(&[route], "max-calls = 8", "", &trunk);
    let asked = || {
        let phone = Phone::dial(daemon.port("pbx"), &[]);
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        drop(stream);
        assert_eq!(phone.wait().end, Some(End::Hangup));
        String::from_utf8(head).unwrap()
    };
    assert!(asked().contains("Authorization: Bearer first-1f0a\r\n"));
    keep("second-77c3");
    assert!(asked().contains("Authorization: Bearer first-1f0a\r\n"), "nobody has told the daemon");
    let told = daemon.reload(str::to_owned);
    assert!(told.ends_with("trunk pbx changes"), "{told}");
    assert!(asked().contains("Authorization: Bearer second-77c3\r\n"));
    assert!(!daemon.process.said().contains("77c3"), "it is a secret");
}

#[test]
fn a_ca_file_that_was_changed_is_trusted_by_the_next_call() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Process::start(
        Command::new(TRUNKLINE).args(["agent", "--listen", "127.0.0.1:0", "--tls"]).arg(folder.path().join("agent")),
    );
    let said = agent.line(&["wss://127.0.0.1:"]);
    let port = said.split("wss://127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
    trunkline::leg::websocket::tls::throwaway_ca(&folder.path().join("other"), &[]).unwrap();
    let trusted = folder.path().join("trusted");
    fs::create_dir(&trusted).unwrap();
    let trust = |whom: &str| fs::copy(folder.path().join(whom).join("ca.pem"), trusted.join("ca.pem")).unwrap();
    trust("other");
    let (url, ca) = (format!("wss://localhost:{port}/"), Some(trusted.as_path()));
    let daemon = Daemon::start(&[Route { name: "pbx", url, dialect: "ozonetel", ca }]);
    assert_eq!(Phone::dial(daemon.port("pbx"), &[]).wait().end, Some(End::Hangup));
    daemon.process.line(&["trunk did not take the call", "certificate"]);
    trust("agent");
    let told = daemon.reload(str::to_owned);
    assert!(told.ends_with("nothing changes"), "the file is the same, and what it names is read: {told}");
    serves_a_call(daemon.port("pbx"));
}

#[test]
fn pipes_are_opened_and_closed_while_their_calls_go_on() {
    let (_agent, url) = agent();
    let daemon = site(&url);
    let folder = tempfile::tempdir().unwrap();
    let (socket, fifo) = (folder.path().join("calls.sock"), folder.path().join("in.fifo"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let lines = format!(
        "[line.box]\nkind = \"pipe\"\nlisten = {socket:?}\n[[route]]\nline = \"box\"\ntrunks = [\"pbx\"]\n\
         [line.fifo]\nkind = \"pipe\"\ninput = {fifo:?}\ndirection = \"uplink\"\n[[route]]\nline = \"fifo\"\ntrunks = [\"pbx\"]\n"
    );
    let told = daemon.reload(|config| format!("{config}{lines}"));
    assert!(told.contains("line box opens, line fifo opens"), "{told}");
    let mut live = UnixStream::connect(&socket).unwrap();
    let mut writer = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    let sound = vec![1; 2 * FRAME * 5];
    std::io::Write::write_all(&mut live, &sound).unwrap();
    std::io::Write::write_all(&mut writer, &sound).unwrap();
    daemon.process.line(&["call started", "line=box"]);
    daemon.process.line(&["call started", "line=fifo"]);

    let told = daemon.reload(|config| config.replace(&lines, ""));
    assert!(told.contains("line box closes, line fifo closes"), "{told}");
    wait_for("the socket is gone", || UnixStream::connect(&socket).is_err());
    std::io::Write::write_all(&mut live, &sound).unwrap();
    std::io::Write::write_all(&mut writer, &sound).unwrap();
    drop(writer);
    // It has said all, and hears its voice to the end.
    live.shutdown(Shutdown::Write).unwrap();
    live.set_read_timeout(Some(SOON)).unwrap();
    let mut heard = Vec::new();
    live.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.iter().filter(|&&byte| byte == 1).count(), 2 * sound.len());
    for line in ["box", "fifo"] {
        let ended = daemon.ended(line);
        assert_eq!(number(&ended, "samples_up"), 10 * FRAME as u64, "{ended}");
    }
    // And open again, both take calls as before.
    let told = daemon.reload(|config| format!("{config}{lines}"));
    assert!(told.contains("line box opens, line fifo opens"), "{told}");
    let mut writer = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    std::io::Write::write_all(&mut writer, &sound).unwrap();
    daemon.process.nth_line(1, &["call started", "line=fifo"]);
    UnixStream::connect(&socket).unwrap();
}

#[test]
fn a_websocket_line_lets_in_whom_the_new_config_lets_in() {
    let folder = tempfile::tempdir().unwrap();
    let wav = folder.path().join("said.wav");
    write_wav(&wav, &noise(0.4, 5));
    let (_agent, url) = agent();
    let daemon = Daemon::start_of(&["clouds"], "max-calls = 8", "", |ports| {
        format!(
            "[line.clouds]\nkind = \"websocket\"\nlisten = \"127.0.0.1:{}\"\nplain = true\n[[line.clouds.path]]\npath = \
             \"/old\"\ndialect = \"ozonetel\"\n[trunk.agent]\nurl = \"{url}\"\ndialect = \"ozonetel\"\n[[route]]\nline = \
             \"clouds\"\ntrunks = [\"agent\"]\n",
            ports[0]
        )
    });
    let call = |path: &str| {
        let url = format!("ws://127.0.0.1:{}{path}", daemon.port("clouds"));
        vendor(&url, &wav, folder.path())
    };
    assert!(call("/old"));
    let told = daemon.reload(|config| config.replace("\"/old\"", "\"/new\""));
    assert!(told.ends_with("line clouds changes"), "{told}");
    assert!(call("/new"));
    assert!(!call("/old"));
    daemon.process.line(&["a connection did not become a call", "path=/old", "status=404"]);
}

/// Whether a vendor's call at this URL is taken.
fn vendor(url: &str, wav: &Path, folder: &Path) -> bool {
    let mut call = Command::new(TRUNKLINE);
    call.args(["call", "--websocket", url, "--dialect", "ozonetel", "--hangup-after", "600", "--play"]);
    let (status, _) = Process::start(call.arg(wav).arg("--record").arg(folder.join("heard.wav"))).wait(SOON);
    status.success()
}

#[test]
fn whoever_orders_it_is_told_what_comes_of_it() {
    let (_agent, url) = agent();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let route = Route { name: "pbx", url, dialect: "ozonetel", ca: None };
    let daemon = Daemon::start_with(&[route], "max-calls = 8", &format!("socket = {socket:?}"), "");
    let order = || {
        let (status, said) = Process::start(Command::new(TRUNKLINE).arg("reload").arg("--socket").arg(&socket))
            .wait(Duration::from_secs(20));
        (status.success(), said)
    };
    assert_eq!(order(), (true, "the config is read again: nothing changes".to_owned()));
    daemon.reload(|config| format!("{config}[trunk.more]\nurl = \"ws://127.0.0.1:1/\"\n"));
    let (is_good, said) = order();
    assert!(!is_good && said.contains("[trunk.more] dialect: missing"), "{said}");
}
