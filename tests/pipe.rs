//! Lines that are pipes: FIFOs, Unix sockets, and the commands `trunkline pipe` and `trunkline eagi`, against a stand-in
//! agent that echoes.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, Signal, kill_process},
};
use site::{Daemon, Process, SOON, TRUNKLINE, assert_same, noise, number, voice};

fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// An agent that echoes, and where it is.
fn agent(more: &[&str]) -> (Process, String) {
    let mut command = Command::new(TRUNKLINE);
    command.args(["agent", "--listen", "127.0.0.1:0", "--dialect", "binary", "--plain"]).args(more);
    let agent = Process::start(&mut command);
    let said = agent.line(&["ws://"]);
    let url = said.split_whitespace().find(|word| word.starts_with("ws://")).unwrap().to_owned();
    (agent, url)
}

/// A daemon with this one line, whose calls go to that agent.
fn daemon(line: &str, url: &str, media: &str, more: &str) -> Daemon {
    Daemon::start_of(&[], media, "", |_| {
        format!(
            "[line.desk]\nkind = \"pipe\"\n{line}\n[trunk.agent]\nurl = \"{url}\"\ndialect = \"binary\"\n\
             [[route]]\nline = \"desk\"\ntrunks = [\"agent\"]\n{more}\n"
        )
    })
}

fn bytes(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

#[test]
fn each_writer_of_a_fifo_has_a_call_and_the_daemon_stays_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (mic, ear) = (fifo(dir.path(), "mic.fifo"), fifo(dir.path(), "ear.fifo"));
    let (_agent, url) = agent(&[]);
    let daemon = daemon(&format!("input = {mic:?}\noutput = {ear:?}"), &url, "max-calls = 1", "");
    for call in 0..2 {
        let said = noise(0.6, call + 1);
        let (ear, enough) = (ear.clone(), said.len());
        let listener = thread::spawn(move || {
            let mut ear_of_call = File::open(&ear).unwrap();
            let mut heard = Vec::new();
            let mut piece = [0; 320];
            while voice(&samples(&heard)).len() < enough {
                match ear_of_call.read(&mut piece).unwrap() {
                    // The end of the call before, which was just closing.
                    0 => ear_of_call = File::open(&ear).unwrap(),
                    n => heard.extend_from_slice(&piece[..n]),
                }
            }
            voice(&samples(&heard))
        });
        OpenOptions::new().write(true).open(&mic).unwrap().write_all(&bytes(&said)).unwrap();
        let heard = listener.join().unwrap();
        let ended = daemon.process.nth_line(call as usize, &["call ended", "end_reason=line-hung-up"]);
        assert_same(&ended, &heard, &said);
    }
    assert_eq!(daemon.metric("trunkline_calls"), 0);
}

#[test]
fn a_fifo_whose_agent_hangs_up_shuts_its_writer_out() {
    let dir = tempfile::tempdir().unwrap();
    let mic = fifo(dir.path(), "mic.fifo");
    let (_agent, url) = agent(&["--hangup-after", "300"]);
    let daemon = daemon(&format!("input = {mic:?}\ndirection = \"uplink\""), &url, "max-calls = 1", "");
    let mut writer = OpenOptions::new().write(true).open(&mic).unwrap();
    // What does not fit waits, as in a recorder.
    let refused = std::iter::repeat_with(|| writer.write_all(&[1; 640])).find_map(Result::err).unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
    daemon.process.line(&["call ended", "end_reason=trunk-hung-up"]);
}

/// A connection that said who calls, and what it was answered.
fn hello(socket: &Path, told: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(format!("TRUNKLINE/1 {told}\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
    }
    (stream, String::from_utf8(answer).unwrap())
}

/// Says this, closes its half, and hears the rest.
fn converse(mut stream: UnixStream, said: &[i16]) -> Vec<i16> {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&bytes(said)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    voice(&samples(&heard))
}

#[test]
fn a_unix_socket_has_a_call_for_each_connection_as_long_as_there_are_seats() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/desk.sock");
    let records = dir.path().join("records");
    fs::create_dir(&records).unwrap();
    let (_agent, url) = agent(&[]);
    let keep = format!("[records]\ndirectory = {records:?}\nfull-numbers = true");
    let daemon = daemon(&format!("listen = {socket:?}"), &url, "max-calls = 2", &keep);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);

    let told = r#"{"from":"+49301234","to":"700","custom":{"desk":"7"}}"#;
    let (first, answer) = hello(&socket, told);
    let call_id = answer.split('"').nth(3).unwrap().to_owned();
    assert!(answer.ends_with("\"sample_rate\":8000,\"direction\":\"both\"}\n"), "{answer}");
    let mut second = UnixStream::connect(&socket).unwrap();
    second.write_all(&[0; 320]).unwrap();
    daemon.process.nth_line(1, &["call started", "line=desk"]);
    let (mut third, refused) = hello(&socket, "{}");
    assert!(refused.contains(r#"{"refused":"all seats are taken"#), "{refused}");
    assert_eq!(third.read(&mut [0]).unwrap(), 0);

    let (one, other) = (noise(0.6, 1), noise(0.8, 2));
    let (heard_one, heard_other) = thread::scope(|scope| {
        let first = scope.spawn(|| converse(first, &one));
        let second = scope.spawn(|| converse(second, &other));
        (first.join().unwrap(), second.join().unwrap())
    });
    let ended = daemon.process.line(&["call ended", &call_id, "end_reason=line-hung-up"]);
    assert_same(&ended, &heard_one, &one);
    daemon.process.nth_line(1, &["call ended", "end_reason=line-hung-up"]);
    let log = daemon.process.said();
    let ended = log.lines().find(|line| line.contains("call ended") && !line.contains(&call_id)).unwrap();
    assert_same(ended, &heard_other, &other);
    let mut record = String::new();
    site::wait_for("the record", || {
        let kept = fs::read_to_string(records.join("records.jsonl")).unwrap_or_default();
        record = kept.lines().find(|line| line.contains(&call_id)).unwrap_or_default().to_owned();
        !record.is_empty()
    });
    assert!(record.contains(r#""from":"+49301234""#) && record.contains(r#""to":"700""#), "{record}");

    // What is no line of ours is told so, and a whole close hangs up.
    let (_, refused) = hello(&socket, r#"{"caller":"1"}"#);
    assert!(refused.contains("unknown field `caller`"), "{refused}");
    let (third, _) = hello(&socket, "{}");
    drop(third);
    // Before or after the agent was there.
    let ended = daemon.process.nth_line(2, &["call ended"]);
    assert!(ended.contains("end_reason=abandoned") || ended.contains("end_reason=line-hung-up"), "{ended}");
}

/// A process whose output is audio, killed when its handle goes.
struct Piped {
    child: Child,
    stderr: Option<thread::JoinHandle<String>>,
}

impl Piped {
    fn start(command: &mut Command) -> (Self, ChildStdin, ChildStdout) {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output, mut stderr) =
            (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stderr = thread::spawn(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            said
        });
        (Self { child, stderr: Some(stderr) }, input, output)
    }

    /// Its end, and what it said on standard error.
    fn wait(mut self) -> (ExitStatus, String) {
        let said = self.stderr.take().unwrap().join().unwrap();
        (self.child.wait().unwrap(), said)
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn trunkline_pipe(args: &[&str]) -> Command {
    let mut command = Command::new(TRUNKLINE);
    command.arg("pipe").args(args);
    command
}

/// Says this into a process, and gives how it ended, what was heard, and what it said.
fn talk(command: &mut Command, said: &[i16]) -> (ExitStatus, Vec<i16>, String) {
    let (process, mut input, mut output) = Piped::start(command);
    let said = bytes(said);
    let speaker = thread::spawn(move || {
        // A call that is over takes no more.
        let _ = input.write_all(&said);
    });
    let mut heard = Vec::new();
    output.read_to_end(&mut heard).unwrap();
    speaker.join().unwrap();
    let (status, told) = process.wait();
    (status, samples(&heard), told)
}

#[test]
fn standard_input_is_heard_by_an_agent_and_standard_output_has_its_answer() {
    let (_agent, url) = agent(&[]);
    let said = noise(0.8, 5);
    for rate in ["8000", "16000"] {
        let (status, heard, told) =
            talk(&mut trunkline_pipe(&[&url, "--dialect", "binary", "--sample-rate", rate]), &said);
        assert!(status.success(), "{told}");
        let ended = told.lines().find(|line| line.contains("call ended")).unwrap();
        assert_same(ended, &voice(&heard), &said);
    }
    // A token comes from the environment, and nothing of it is said.
    let mut command = trunkline_pipe(&[&url, "--dialect", "binary", "--bearer-env", "AGENT_TOKEN"]);
    let (status, _, told) = talk(command.env("AGENT_TOKEN", "hush"), &said);
    assert!(status.success() && !told.contains("hush"), "{told}");
}

#[test]
fn a_call_that_does_not_come_about_is_told_by_the_exit_code() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (status, _, told) = talk(&mut trunkline_pipe(&[&format!("ws://{nobody}"), "--dialect", "binary"]), &[1; 160]);
    assert!(status.code() == Some(1) && told.contains("trunk did not take the call"), "{told}");
    let (status, heard, told) = talk(&mut trunkline_pipe(&["wss://a.example.com", "--dialect", "binry"]), &[]);
    assert_eq!((status.code(), heard.len()), (Some(78), 0));
    assert!(told.starts_with("trunkline: --dialect \"binry\": no such dialect; did you mean `binary`?"), "{told}");
    let (status, _, told) = talk(&mut trunkline_pipe(&["--socket", "/nowhere/desk.sock"]), &[]);
    assert!(status.code() == Some(1) && told.contains("no line at /nowhere/desk.sock"), "{told}");
}

#[test]
fn a_line_of_a_running_daemon_is_joined() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("desk.sock");
    let (_agent, url) = agent(&[]);
    let daemon = daemon(&format!("listen = {socket:?}\nsample-rate = 16000"), &url, "max-calls = 1", "");
    let path = socket.to_str().unwrap();
    let said = noise(0.8, 6);
    let (status, heard, told) = talk(&mut trunkline_pipe(&["--socket", path, "--sample-rate", "16000"]), &said);
    assert!(status.success(), "{told}");
    let ended = daemon.process.line(&["call ended", "end_reason=line-hung-up"]);
    assert_same(&ended, &voice(&heard), &said);
    let (status, _, told) = talk(&mut trunkline_pipe(&["--socket", path]), &said);
    assert!(status.code() == Some(78) && told.contains("say --sample-rate 16000"), "{told}");
}

/// What Asterisk 20 says first to `EAGI()` (res_agi).
const ENVIRONMENT: &str = "agi_request: /usr/bin/trunkline\nagi_channel: PJSIP/201-00000007\nagi_language: en\n\
                           agi_type: PJSIP\nagi_uniqueid: 1753423310.14\nagi_version: 20.14.0\nagi_callerid: 201\n\
                           agi_calleridname: Desk\nagi_callingpres: 0\nagi_callingani2: 0\nagi_callington: 0\n\
                           agi_callingtns: 0\nagi_dnid: unknown\nagi_rdnis: unknown\nagi_context: internal\n\
                           agi_extension: 700\nagi_priority: 2\nagi_enhanced: 1.0\nagi_accountcode: \n\
                           agi_threadid: 140242132\nagi_arg_1: eagi\n\n";

/// Asterisk, as far as a program that it runs by EAGI() sees it.
struct Asterisk {
    program: Piped,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// The caller's voice. Dropped, it is at its end.
    voice: Option<File>,
}

impl Asterisk {
    fn run(dir: &Path, socket: &Path) -> Self {
        let pipe = fifo(dir, "audio");
        let mut command = Command::new("sh");
        // Descriptors are inherited; only a shell can name the third.
        command.args(["-c", r#"exec "$0" eagi --socket "$1" 3<"$2""#, TRUNKLINE]).arg(socket).arg(&pipe);
        let (program, mut to, from) = Piped::start(&mut command);
        let voice = OpenOptions::new().write(true).open(&pipe).unwrap();
        fs::remove_file(pipe).unwrap();
        to.write_all(ENVIRONMENT.as_bytes()).unwrap();
        Self { program, to, from: BufReader::new(from), voice: Some(voice) }
    }

    /// The next command, which is answered.
    fn command(&mut self) -> String {
        let mut command = String::new();
        self.from.read_line(&mut command).unwrap();
        // Whoever has ended needs no answer.
        let _ = self.to.write_all(b"200 result=1\n");
        command.trim_end().to_owned()
    }

    /// The commands up to the last one, and how it ended.
    fn end(mut self) -> (String, ExitStatus, String) {
        let last = self.command();
        let Self { program, .. } = self;
        let (status, said) = program.wait();
        (last, status, said)
    }
}

#[test]
fn an_agent_listens_to_a_caller_of_eagi_who_is_told_that_there_is_no_way_back() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, records) = (dir.path().join("eagi.sock"), dir.path().join("records"));
    fs::create_dir(&records).unwrap();
    let (_agent, url) = agent(&[]);
    let keep = format!("[records]\ndirectory = {records:?}\nfull-numbers = true");
    let daemon = daemon(&format!("listen = {socket:?}\ndirection = \"uplink\""), &url, "max-calls = 4", &keep);
    let said = noise(0.6, 9);
    for (call, hangup) in ["the audio ends", "SIGHUP", "HANGUP"].into_iter().enumerate() {
        let mut asterisk = Asterisk::run(dir.path(), &socket);
        let id = asterisk.command();
        let id = id.strip_prefix("SET VARIABLE TRUNKLINE_CALL_ID ").unwrap().trim_matches('"').to_owned();
        let told = asterisk.command();
        assert!(told.starts_with(&format!("VERBOSE \"trunkline: call {id}: ")), "{told}");
        assert!(told.contains("EAGI has no way back, the caller hears nothing"), "{told}");
        asterisk.voice.as_mut().unwrap().write_all(&bytes(&said)).unwrap();
        daemon.process.nth_line(call, &["trunk answered"]);
        match hangup {
            "SIGHUP" => {
                kill_process(Pid::from_child(&asterisk.program.child), Signal::HUP).unwrap();
            }
            "HANGUP" => asterisk.to.write_all(b"HANGUP\n").unwrap(),
            _ => drop(asterisk.voice.take()),
        }
        let (last, status, errors) = asterisk.end();
        assert_eq!(last, "SET VARIABLE TRUNKLINE_RESULT \"ok\"", "{hangup}: {errors}");
        assert!(status.success(), "{hangup}: {errors}");
        let ended = daemon.process.line(&["call ended", &id]);
        // Who hangs up at once may be faster than a trunk that has just answered.
        let is_abandoned = hangup != "the audio ends" && ended.contains("end_reason=abandoned");
        assert!(is_abandoned || ended.contains("end_reason=line-hung-up"), "{hangup}: {ended}");
        assert_eq!(number(&ended, "samples_heard"), 0, "{ended}");
        if hangup == "the audio ends" {
            assert_eq!(number(&ended, "samples_up"), said.len() as u64, "{ended}");
        }
        site::wait_for("the record", || {
            fs::read_to_string(records.join("records.jsonl")).is_ok_and(|text| text.lines().count() == call + 1)
        });
        let text = fs::read_to_string(records.join("records.jsonl")).unwrap();
        let record = text.lines().last().unwrap();
        for member in [r#""from":"201""#, r#""to":"700""#, r#""direction":"uplink""#] {
            assert!(record.contains(member), "{member}: {record}");
        }
    }
}

#[test]
fn a_dialplan_is_told_when_an_agent_hangs_up_and_when_there_is_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("eagi.sock");
    let mut asterisk = Asterisk::run(dir.path(), &socket);
    let told = asterisk.command();
    assert!(told.starts_with("VERBOSE \"trunkline: no line at /"), "{told}");
    let (last, status, errors) = asterisk.end();
    assert_eq!((last.as_str(), status.code()), ("SET VARIABLE TRUNKLINE_RESULT \"unreachable\"", Some(1)), "{errors}");

    let (_agent, url) = agent(&["--hangup-after", "200"]);
    let daemon = daemon(&format!("listen = {socket:?}\ndirection = \"uplink\""), &url, "max-calls = 1", "");
    let mut asterisk = Asterisk::run(dir.path(), &socket);
    asterisk.command();
    asterisk.command();
    let (last, status, errors) = asterisk.end();
    assert_eq!((last.as_str(), status.code()), ("SET VARIABLE TRUNKLINE_RESULT \"ended\"", Some(0)), "{errors}");
    daemon.process.line(&["call ended", "end_reason=trunk-hung-up"]);
}

#[test]
fn agi_without_the_e_is_told_what_it_lacks() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" eagi 3<&-"#, TRUNKLINE]);
    let (program, mut to, from) = Piped::start(&mut command);
    to.write_all(ENVIRONMENT.as_bytes()).unwrap();
    let mut from = BufReader::new(from);
    let mut told = String::new();
    from.read_line(&mut told).unwrap();
    assert!(told.contains("the dialplan has to say EAGI(), not AGI()"), "{told}");
    to.write_all(b"200 result=1\n200 result=1\n").unwrap();
    let (status, _) = program.wait();
    assert_eq!(status.code(), Some(1));
}
