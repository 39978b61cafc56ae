//! Whole calls over real sockets, agent, daemon and caller each its own process; and what strangers may send to them.

#![allow(clippy::unwrap_used)]

mod site;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use site::{
    Daemon, End, FRAME, Phone, Process, Route, SOON, TRUNKLINE, assert_same, audio, field, hello, json_field, message,
    noise, number, voice, write_wav,
};

/// `trunkline agent`, and where it listens.
fn agent(args: &[&str]) -> (Process, u16) {
    let agent = Process::start(Command::new(TRUNKLINE).args(["agent", "--listen", "127.0.0.1:0"]).args(args));
    let greeting = agent.line(&["listening on ws"]);
    let port = greeting.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    (agent, port)
}

/// An agent on wss and a daemon that calls it.
fn site(dir: &Path, dialect: &str, args: &[&str]) -> (Process, Daemon) {
    let (agent, port) = agent(&[&["--tls", dir.to_str().unwrap()][..], args].concat());
    let daemon =
        Daemon::start(&[Route { name: "pbx", url: format!("wss://localhost:{port}/"), dialect, ca: Some(dir) }]);
    (agent, daemon)
}

/// `trunkline call`, started.
fn call(daemon: &Daemon, dir: &Path, seconds: f64, args: &[&str]) -> Process {
    let play = dir.join("in.wav");
    write_wav(&play, &noise(seconds, 1));
    let mut command = Command::new(TRUNKLINE);
    command.args(["call", "--json", "--audiosocket", &format!("127.0.0.1:{}", daemon.port("pbx")), "--play"]);
    Process::start(command.arg(&play).arg("--record").arg(dir.join("out.wav")).args(args))
}

/// The JSON of a call that has ended.
fn summary(call: Process, at_most: Duration) -> String {
    let (status, said) = call.wait(at_most);
    assert!(status.success(), "{said}");
    said.lines().rfind(|line| line.starts_with('{')).unwrap().to_owned()
}

#[test]
fn half_a_minute_of_echo_over_tls_is_bit_exact() {
    // The daemon gives delay back where the machine stood still, and then samples are missing on purpose.
    for attempt in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let (agent, daemon) = site(dir.path(), "ozonetel", &["--behave", "echo"]);
        let call = call(&daemon, dir.path(), 30.0, &["--marks"]);
        let json = summary(call, Duration::from_secs(60));
        let ended = daemon.ended("pbx");
        if number(&ended, "repaid") > 0 && attempt < 3 {
            println!("this machine stood still: {ended}");
            continue;
        }
        assert_eq!(json_field(&json, "bit_exact"), "true", "{json} {ended}");
        assert_eq!((json_field(&json, "frames_sent"), json_field(&json, "lost")), ("1500", "0"), "{json}");
        assert_eq!((json_field(&json, "frames_heard"), json_field(&json, "ended_by")), ("1500", "caller"), "{json}");
        let counted = ["end_reason", "dropped", "malformed", "unknown"].map(|key| field(&ended, key));
        assert_eq!(counted, ["line-hung-up", "0", "0", "0"], "{ended}");
        assert_eq!(daemon.metric("trunkline_uplink_dropped_samples_total"), 0);
        let sent = daemon.metric("trunkline_uplink_sent_samples_total");
        assert_eq!(sent, daemon.metric("trunkline_uplink_samples_total"), "every sample of the line went to the trunk");
        assert!(agent.line(&["call ended"]).contains("vendor: said stop"));
        return;
    }
}

#[test]
fn a_hang_up_of_either_side_ends_the_call_on_the_other() {
    for (dialect, theirs) in [("ozonetel", "agent: hung up"), ("exotel", "agent: hung up")] {
        let dir = tempfile::tempdir().unwrap();
        let (agent, daemon) = site(dir.path(), dialect, &["--behave", "echo"]);
        let json = summary(call(&daemon, dir.path(), 5.0, &["--hangup-after", "1000"]), SOON);
        assert_eq!(json_field(&json, "ended_by"), "caller", "{json}");
        assert_eq!(field(&daemon.ended("pbx"), "end_reason"), "line-hung-up");
        let ended = agent.line(&["call ended"]);
        assert!(ended.contains("vendor: said stop") && field(&ended, "dialect") == dialect, "{ended}");

        let dir = tempfile::tempdir().unwrap();
        let (agent, daemon) = site(dir.path(), dialect, &["--behave", "echo", "--hangup-after", "1000"]);
        let json = summary(call(&daemon, dir.path(), 5.0, &[]), SOON);
        assert_eq!(json_field(&json, "ended_by"), "server", "{json}");
        let seconds: f64 = json_field(&json, "seconds").parse().unwrap();
        assert!((1.0..4.0).contains(&seconds), "{json}");
        assert_eq!(field(&daemon.ended("pbx"), "end_reason"), "trunk-hung-up");
        assert!(agent.line(&["call ended"]).contains(theirs));
    }
}

#[test]
fn a_daemon_that_is_terminated_in_a_call_says_goodbye_to_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, daemon) = site(dir.path(), "ozonetel", &["--behave", "echo"]);
    let phone = Phone::dial(daemon.port("pbx"), &noise(30.0, 4));
    phone.until_voice(1000);
    daemon.process.terminate();
    assert_eq!(phone.wait().end, Some(End::Hangup));
    assert!(agent.line(&["call ended"]).contains("vendor: said stop"));
    assert_eq!(field(&daemon.ended("pbx"), "end_reason"), "drained");
    let (status, said) = daemon.process.wait(SOON);
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_call_too_many_is_given_back_at_once_and_the_seat_is_free_again_later() {
    let (_agent, port) = agent(&["--plain"]);
    let route = Route { name: "pbx", url: format!("ws://127.0.0.1:{port}/"), dialect: "ozonetel", ca: None };
    let daemon = Daemon::start_with(&[route], "max-calls = 2", "", "");
    let phones = [Phone::dial(daemon.port("pbx"), &[]), Phone::dial(daemon.port("pbx"), &[])];
    phones.iter().for_each(|phone| phone.until(SOON, |heard| !heard.frames.is_empty()));
    let mut third = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.port("pbx"))).unwrap();
    third.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = Vec::new();
    third.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [0, 0, 0]);
    assert_eq!(daemon.metric("trunkline_calls_refused_total"), 1);
    assert_eq!(daemon.metric("trunkline_calls"), 2);
    for phone in phones {
        assert_ne!(phone.hang_up().end, Some(End::Broken));
    }
    daemon.process.nth_line(1, &["call ended"]);
    a_good_call(&daemon, "pbx");
}

#[test]
fn a_pbx_that_names_no_call_is_closed_after_two_seconds() {
    let (_agent, port) = agent(&["--plain"]);
    let route = Route { name: "pbx", url: format!("ws://127.0.0.1:{port}/"), dialect: "ozonetel", ca: None };
    let daemon = Daemon::start_with(&[route], "max-calls = 1", "", "");
    let began = Instant::now();
    let mut silent = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.port("pbx"))).unwrap();
    silent.set_read_timeout(Some(SOON)).unwrap();
    // Half a name is none.
    silent.write_all(&hello()[..10]).unwrap();
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer);
    assert!((1.9..6.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    assert_eq!(answer, []);
    daemon.process.line(&["end_reason=line-silent"]);
    a_good_call(&daemon, "pbx");
}

// Strangers

/// A call to an agent that echoes, as good as any.
fn a_good_call(daemon: &Daemon, line: &str) {
    let said = noise(0.5, 2);
    let before = daemon.process.count(&["call ended", &format!("line={line} ")]);
    let phone = Phone::dial(daemon.port(line), &said);
    phone.until_voice(said.len());
    let heard = phone.hang_up();
    let ended = daemon.process.nth_line(before, &["call ended", &format!("line={line} ")]);
    assert_same(&ended, &heard.voice(), &said);
    assert_eq!(field(&ended, "end_reason"), "line-hung-up");
}

fn assert_unhurt(daemon: &Daemon) {
    assert_eq!(daemon.metric("trunkline_calls_ended_total{end_reason=\"bug\"}"), 0);
    assert_eq!(daemon.process.count(&["panicked"]), 0);
}

/// What a stranger does to a line.
#[derive(Clone)]
enum Deed {
    /// One write.
    Write(Vec<u8>),
    /// A write for each byte.
    Drip(Vec<u8>),
    /// No more will come, but an answer is read.
    HalfClose,
    /// Gone without a word.
    Reset,
}

use Deed::{Drip, HalfClose, Reset, Write as Send};

/// A stranger and the end reasons that fit; none if there was never a call.
type Stranger = (&'static str, Vec<Deed>, &'static [&'static str]);

/// The caller may be faster than the dial.
const GONE: &[&str] = &["line-hung-up", "abandoned"];

/// What comes to a line, after its first message has named the call where there is an end reason.
fn strangers() -> Vec<Stranger> {
    let hangup = || message(0x00, &[]);
    let many = |n: usize, message: &[u8]| Send([message.repeat(n), hangup()].concat());
    let junk: Vec<u8> = noise(2.0, 3).iter().flat_map(|sample| sample.to_be_bytes()).collect();
    let rates = [(0x10, 160), (0x12, 320), (0x16, 960), (0x13, 480), (0x10, 160), (0x12, 7), (0x10, 160)];
    let changing: Vec<u8> =
        rates.iter().flat_map(|&(kind, samples)| audio(kind, &vec![1000; samples]).repeat(12)).collect();
    let whole = [audio(0x10, &[5; FRAME]).repeat(3), message(0x03, b"5"), hangup()].concat();
    vec![
        ("says nothing and half-closes", vec![HalfClose], &[]),
        ("is gone at once", vec![Reset], &[]),
        ("speaks HTTP", vec![Send(b"GET / HTTP/1.1\r\nHost: pbx\r\n\r\n".to_vec())], &[]),
        ("speaks TLS", vec![Send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()), HalfClose], &[]),
        ("speaks SIP", vec![Send(b"OPTIONS sip:pbx SIP/2.0\r\n\r\n".to_vec())], &[]),
        ("begins with a hangup", vec![Send(hangup())], &[]),
        ("begins with audio", vec![Send(audio(0x10, &[1; FRAME]))], &[]),
        ("sends a name of 15 bytes", vec![Send(message(0x01, &[1; 15]))], &[]),
        ("sends a name of 65,535 bytes", vec![Send(b"\x01\xff\xff".to_vec())], &[]),
        ("stops within the header", vec![Send(vec![0x01, 0x00]), HalfClose], &[]),
        ("stops within the name", vec![Drip(hello()[..12].to_vec()), HalfClose], &[]),
        ("writes byte by byte", vec![Drip(whole)], GONE),
        ("half-closes", vec![HalfClose], GONE),
        ("is reset", vec![Reset], &["line-lost", "line-hung-up", "abandoned"]),
        ("sends a hangup of five bytes", vec![Send(message(0x00, &[0; 5]))], &["protocol"]),
        ("sends two digits as one", vec![Send(message(0x03, b"12"))], &["protocol"]),
        ("names the call again, wrongly", vec![Send(message(0x01, &[1; 4]))], &["protocol"]),
        ("names the call a hundred times", vec![many(100, &hello())], GONE),
        ("sends 12 kHz", vec![Send(message(0x11, &[0; 480]))], &["bad-codec"]),
        ("says that it failed", vec![Send(message(0xff, &[4]))], &["line-lost"]),
        ("says that it failed in 65,535 bytes", vec![Send(message(0xff, &[4; 65_535]))], &["line-lost"]),
        ("stops within 64 kB of audio", vec![Send(message(0x10, &[9; 65_535])[..40_000].to_vec()), HalfClose], GONE),
        ("sends unknown kinds", vec![many(2000, &message(0x42, b"what?"))], GONE),
        ("sends unknown kinds of 64 kB", vec![many(4, &message(0x80, &[0; 65_535]))], GONE),
        ("sends audio of no length", vec![many(2000, &message(0x10, &[]))], GONE),
        ("sends audio of odd lengths", vec![many(300, &[message(0x12, &[1; 3]), message(0x12, &[1])].concat())], GONE),
        ("sends digits that no phone has", vec![many(500, &message(0x03, &[0xee]))], GONE),
        ("changes its rate in mid-call", vec![Send([changing, hangup()].concat())], GONE),
        ("sends a minute at once", vec![many(3000, &audio(0x12, &[77; 2 * FRAME]))], GONE),
        ("speaks on after its hangup", vec![Send([hangup(), junk.clone()].concat())], GONE),
        ("sends junk for a name", vec![Send(junk.clone()), HalfClose], &[]),
        ("sends junk in a call", vec![Send([message(0x42, &[1; 9]), junk].concat()), HalfClose], ANY),
    ]
}

/// Junk may mean anything.
const ANY: &[&str] = &["line-hung-up", "abandoned", "protocol", "bad-codec", "line-lost"];

/// Lets a stranger do his deeds as call `n`; waits until the daemon has closed.
fn meet(port: u16, n: u16, (name, deeds, reasons): &Stranger) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    if !reasons.is_empty() {
        stream.write_all(&message(0x01, &uuid(n))).unwrap();
    }
    for deed in deeds {
        // The daemon may have had enough already.
        let done = match deed {
            Send(bytes) => stream.write_all(bytes),
            Drip(bytes) => bytes.iter().try_for_each(|byte| stream.write_all(&[*byte])),
            HalfClose => stream.shutdown(Shutdown::Write),
            Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
        };
        if done.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "one who {name} is not let go");
    }
}

fn uuid(n: u16) -> [u8; 16] {
    let mut uuid = [0xaa; 16];
    uuid[14..].copy_from_slice(&n.to_be_bytes());
    uuid
}

#[test]
fn no_stranger_on_a_line_hurts_the_next_call() {
    let (agent, port) = agent(&["--plain"]);
    let route = Route { name: "pbx", url: format!("ws://127.0.0.1:{port}/"), dialect: "ozonetel", ca: None };
    let daemon = Daemon::start(&[route]);
    for (n, stranger) in strangers().iter().enumerate() {
        let (name, _, reasons) = stranger;
        meet(daemon.port("pbx"), n as u16, stranger);
        if reasons.is_empty() {
            continue;
        }
        let started = daemon.process.line(&["call started", &format!("uuid=aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaa{n:04x}")]);
        let call_id = format!("call_id={} ", field(&started, "call_id"));
        let ended = daemon.process.line(&["call ended", &call_id]);
        assert!(reasons.contains(&field(&ended, "end_reason")), "one who {name}: {ended}");
    }
    assert_eq!(daemon.process.count(&["call started"]), strangers().iter().filter(|(.., it)| !it.is_empty()).count());
    assert!(daemon.process.said().contains("c(slin16)"), "who sends 12 kHz is told what to write");
    a_good_call(&daemon, "pbx");
    assert_unhurt(&daemon);
    assert_eq!(agent.count(&["panicked"]), 0);
}

/// A WebSocket frame: its first byte, and its payload under this mask.
fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        n @ ..126 => frame.push(bit | n as u8),
        n @ ..65_536 => {
            frame.push(bit | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(bit | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| frame.extend(mask)).unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame with no payload whose header claims so many bytes.
fn claims(first: u8, masked: bool, len: u64) -> Vec<u8> {
    let mut frame = vec![first, 127 | if masked { 0x80 } else { 0 }];
    frame.extend(len.to_be_bytes());
    frame.extend([0; 4].iter().filter(|_| masked));
    frame
}

/// What breaks the rules of RFC 6455, and the close code that says so (7.4.1). `mask` is how frames ought to be masked.
fn violations(mask: Option<[u8; 4]>) -> Vec<(&'static str, Vec<u8>, u16)> {
    let wrong_mask = if mask.is_some() { None } else { Some([1, 2, 3, 4]) };
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let key = mask.unwrap_or_default();
    let in_frames: Vec<u8> =
        (0..17).flat_map(|n| frame(if n == 0 { 0x01 } else { 0x00 }, mask, &b"x".repeat(65_536))).collect();
    let mut longer_than_needed = vec![0x81, bit | 126, 0, 5];
    longer_than_needed.extend(key.iter().filter(|_| mask.is_some()));
    longer_than_needed.extend(b"hello");
    vec![
        ("reserved bits", frame(0xc1, mask, b"{}"), 1002),
        ("an unknown opcode", frame(0x83, mask, b""), 1002),
        ("the wrong mask", frame(0x81, wrong_mask, b"{}"), 1002),
        ("a ping in fragments", frame(0x09, mask, b""), 1002),
        ("a ping of 126 bytes", frame(0x89, mask, &[b'p'; 126]), 1002),
        ("a continuation of nothing", frame(0x80, mask, b"{}"), 1002),
        ("a message within a message", [frame(0x01, mask, b"{"), frame(0x81, mask, b"{}")].concat(), 1002),
        ("a length with bytes to spare", longer_than_needed, 1002),
        ("half a close code", frame(0x88, mask, &[3]), 1002),
        ("a close code that is none", frame(0x88, mask, &1005_u16.to_be_bytes()), 1002),
        ("2^63 bytes", claims(0x82, mask.is_some(), 1 << 63), 1009),
        ("2^64-1 bytes", claims(0x81, mask.is_some(), u64::MAX), 1009),
        ("a byte more than 1 MiB", claims(0x81, mask.is_some(), (1 << 20) + 1), 1009),
        ("more than 1 MiB in fragments", in_frames, 1009),
        ("a text that is not UTF-8", frame(0x81, mask, b"{\"event\":\"\xff\xfe\"}"), 1007),
        ("a text that ends in half a character", [frame(0x01, mask, b"\xc3"), frame(0x80, mask, b"")].concat(), 1007),
        ("a reason that is not UTF-8", frame(0x88, mask, b"\x03\xe8\xff"), 1007),
    ]
}

/// What is odd and no reason to end a call, in Ozonetel's grammar; what audio it has is silence.
fn oddities(mask: Option<[u8; 4]>) -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| frame(0x81, mask, text.as_bytes());
    let zeros = |n: usize| vec!["0"; n].join(",");
    let media = |samples: &str, more: &str| {
        format!(r#"{{"event":"media","type":"media","ucid":"1","data":{{"samples":[{samples}]{more}}}}}"#)
    };
    let rates = ["8000", "16000", "24000", "48000", "44100", "0", "-1", "1e9", "\"16000\"", "\"fast\"", "null", "[]"];
    let changing: Vec<u8> =
        rates.iter().flat_map(|rate| text(&media(&zeros(160), &format!(",\"sampleRate\":{rate}")))).collect();
    let contradicted: Vec<u8> = ["16000", "8000", "44100", "24000"]
        .iter()
        .flat_map(|rate| text(&media(&zeros(5000), &format!(",\"sampleRate\":{rate}"))))
        .collect();
    let flood: Vec<u8> = (0..5000)
        .flat_map(|n| text(&format!(r#"{{"event":"media","seqid":"{n}","data":{{"samples":[0],"sampleRate":8000}}}}"#)))
        .collect();
    let marks_alone: Vec<u8> = (0..2000)
        .flat_map(|n| text(&format!(r#"{{"event":"media","seqid":"{n}","data":{{"samples":[],"sampleRate":8000}}}}"#)))
        .collect();
    let pieces: Vec<u8> = media(&zeros(80), "")
        .bytes()
        .enumerate()
        .flat_map(|(n, byte)| [frame(u8::from(n == 0), mask, &[byte]), frame(0x89, mask, b"there?")].concat())
        .chain(frame(0x80, mask, b""))
        .collect();
    let trifles = ["", "null", "0", "\"", "{", "}", "[]", "{}", "{\"event\":7}", "{\"event\":\"media\"}", "\u{feff}{}"];
    let trifles: Vec<u8> = trifles.iter().flat_map(|it| text(it)).collect();
    vec![
        ("100,000 brackets", text(&"[".repeat(100_000))),
        ("100,000 brackets for samples", text(&media(&"[".repeat(100_000), ""))),
        ("20,000 objects within one another", text(&r#"{"a":"#.repeat(20_000))),
        ("a control text of 200 kB", text(&format!(r#"{{"event":"x","y":"{}"}}"#, "z".repeat(200_000)))),
        ("a key of 200 kB", text(&format!(r#"{{"{}":1}}"#, "k".repeat(200_000)))),
        ("a number of 50,000 digits", text(&media(&"0".repeat(50_000), ""))),
        ("binary junk", frame(0x82, mask, &[0xfe; 10_000])),
        ("trifles", trifles),
        ("a rate that changes in mid-call", changing),
        ("long messages whose end contradicts", contradicted),
        ("5,000 marks, one a sample", flood),
        ("2,000 marks and nothing to be heard", marks_alone),
        ("a message in fragments of one byte with pings in between", pieces),
        ("1,000 pings", frame(0x89, mask, b"are you there?").repeat(1000)),
        ("1,000 pongs to no ping", frame(0x8a, mask, b"here").repeat(1000)),
        ("1,000 empty messages", frame(0x82, mask, b"").repeat(1000)),
    ]
}

/// The code of the close frame among the frames of a peer; 0: there was none, 1: it broke off.
fn close_code(mut frames: &[u8]) -> u16 {
    while let [first, second, rest @ ..] = frames {
        let (len, at) = match second & 0x7f {
            126 if rest.len() >= 2 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 | 126 => return 1,
            len => (usize::from(len), 0),
        };
        let masked = second & 0x80 != 0;
        let from = at + if masked { 4 } else { 0 };
        let Some(payload) = rest.get(from..from + len) else { return 1 };
        if first & 0x0f == 8 && len >= 2 {
            let key = if masked { [rest[at], rest[at + 1]] } else { [0, 0] };
            return u16::from_be_bytes([payload[0] ^ key[0], payload[1] ^ key[1]]);
        }
        frames = &rest[from + len..];
    }
    0
}

/// What a strange cloud does with a connection.
#[derive(Clone)]
enum Cloud {
    /// Takes the call and sends this in one write, or byte by byte.
    Says(Vec<u8>),
    Drips(Vec<u8>),
    /// Takes the call and does this.
    HalfCloses,
    Resets,
    /// Answers this instead.
    Answers(Vec<u8>),
    /// Never answers.
    Keeps,
}

/// Serves what the path asks for, and tells the close code that it got.
fn strange_cloud(clouds: Vec<Cloud>) -> (u16, mpsc::Receiver<(usize, u16)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, clouds, tell) = (stream.unwrap(), clouds.clone(), tell.clone());
            thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                let head = read_head(&mut stream);
                let n: usize = head.split([' ', '/']).nth(2).unwrap().parse().unwrap();
                let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
                let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
                let upgrade = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                // Whoever has been closed need not be told.
                let mut writer = stream.try_clone().unwrap();
                let cloud = clouds[n].clone();
                let written = thread::spawn(move || -> io::Result<()> {
                    match cloud {
                        Cloud::Says(bytes) => writer.write_all(&[upgrade.as_bytes(), &bytes].concat()),
                        Cloud::Drips(bytes) => {
                            writer.write_all(upgrade.as_bytes())?;
                            bytes.iter().try_for_each(|byte| writer.write_all(&[*byte]))
                        }
                        Cloud::HalfCloses => {
                            writer.write_all(upgrade.as_bytes())?;
                            writer.shutdown(Shutdown::Write)
                        }
                        Cloud::Resets => {
                            writer.write_all(upgrade.as_bytes())?;
                            socket2::SockRef::from(&writer).set_linger(Some(Duration::ZERO))?;
                            writer.shutdown(Shutdown::Both)
                        }
                        Cloud::Answers(bytes) => {
                            writer.write_all(&bytes)?;
                            writer.shutdown(Shutdown::Write)
                        }
                        Cloud::Keeps => Ok(()),
                    }
                });
                let mut frames = Vec::new();
                let _ = stream.read_to_end(&mut frames);
                let _ = written.join();
                let _ = tell.send((n, close_code(&frames)));
            });
        }
    });
    (port, told)
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// The daemon with a line for each cloud, and one to an agent that echoes.
fn daemon_under(clouds: &[(&str, Cloud)], echo: u16, trunk: &str) -> (Daemon, mpsc::Receiver<(usize, u16)>) {
    let (port, told) = strange_cloud(clouds.iter().map(|(_, cloud)| cloud.clone()).collect());
    let names: Vec<String> = (0..clouds.len()).map(|n| format!("c{n}")).collect();
    let mut routes: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| Route { name, url: format!("ws://127.0.0.1:{port}/{n}"), dialect: "ozonetel", ca: None })
        .collect();
    routes.push(Route { name: "echo", url: format!("ws://127.0.0.1:{echo}/"), dialect: "ozonetel", ca: None });
    (Daemon::start_with(&routes, "max-calls = 64", "", trunk), told)
}

#[test]
fn a_cloud_that_breaks_the_websocket_is_told_how_by_the_right_close_code() {
    let (_agent, echo) = agent(&["--plain"]);
    let violations = violations(None);
    let mut clouds: Vec<_> = violations.iter().map(|(name, bytes, _)| (*name, Cloud::Says(bytes.clone()))).collect();
    clouds.extend(
        violations
            .iter()
            .filter(|(_, bytes, _)| bytes.len() < 1000)
            .map(|(name, bytes, _)| (*name, Cloud::Drips(bytes.clone()))),
    );
    let codes: Vec<u16> = violations
        .iter()
        .chain(violations.iter().filter(|(_, bytes, _)| bytes.len() < 1000))
        .map(|&(.., code)| code)
        .collect();
    let (daemon, told) = daemon_under(&clouds, echo, "");
    for (n, (name, _)) in clouds.iter().enumerate() {
        let line = format!("c{n}");
        let heard = Phone::dial(daemon.port(&line), &[]).wait();
        assert_eq!(heard.end, Some(End::Hangup), "{name}: the caller goes back to the dialplan");
        assert_eq!(field(&daemon.ended(&line), "end_reason"), "protocol", "{name}");
        assert_eq!(told.recv_timeout(SOON).unwrap(), (n, codes[n]), "{name}");
    }
    a_good_call(&daemon, "echo");
    assert_unhurt(&daemon);
}

#[test]
fn a_cloud_that_talks_nonsense_keeps_its_call() {
    const WORD: i16 = 4242;
    let (_agent, echo) = agent(&["--plain"]);
    // Every one of them ends with a word that has to be heard, and a proper close.
    let word =
        format!(r#"{{"event":"media","data":{{"samples":[{}],"sampleRate":8000}}}}"#, vec!["4242"; 160].join(","));
    let goodbye = [frame(0x81, None, word.as_bytes()), frame(0x88, None, &1000_u16.to_be_bytes())].concat();
    let clouds: Vec<_> = oddities(None)
        .into_iter()
        .map(|(name, bytes)| (name, Cloud::Says([bytes, goodbye.clone()].concat())))
        .chain([("one byte a write", Cloud::Drips(goodbye.clone()))])
        .collect();
    let (daemon, told) = daemon_under(&clouds, echo, "");
    // All at once: none may hold up another.
    let phones: Vec<_> = (0..clouds.len()).map(|n| Phone::dial(daemon.port(&format!("c{n}")), &[])).collect();
    for (n, phone) in phones.into_iter().enumerate() {
        let name = clouds[n].0;
        phone.until(SOON, |heard| heard.frames.iter().any(|(_, frame)| frame.contains(&WORD)));
        let heard = phone.wait();
        assert_eq!(heard.voice(), [WORD; 160], "{name}: the word, once, and nothing else");
        assert_eq!(heard.end, Some(End::Hangup), "{name}");
        let ended = daemon.ended(&format!("c{n}"));
        assert_eq!(field(&ended, "end_reason"), "trunk-hung-up", "{name}: {ended}");
        if name == "5,000 marks, one a sample" {
            // Those that were still to be heard when the cloud closed cannot be told.
            assert!((4500..=5000).contains(&number(&ended, "marks")), "{ended}");
        }
    }
    for _ in &clouds {
        let (n, code) = told.recv_timeout(SOON).unwrap();
        assert_eq!(code, 1000, "{}", clouds[n].0);
    }
    a_good_call(&daemon, "echo");
    assert_unhurt(&daemon);
}

#[test]
fn a_cloud_that_is_no_cloud_gives_the_caller_back() {
    let (_agent, echo) = agent(&["--plain"]);
    let wrong_key = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
    let (refused, lost) = ("trunk-refused", "trunk-lost");
    let clouds = [
        ("half-closes", Cloud::HalfCloses, lost),
        ("is reset", Cloud::Resets, lost),
        ("says nothing and closes", Cloud::Answers(Vec::new()), refused),
        ("speaks SSH", Cloud::Answers(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), refused),
        ("speaks TLS", Cloud::Answers(b"\x15\x03\x03\x00\x02\x02\x46".to_vec()), refused),
        ("answers another key", Cloud::Answers(wrong_key.into()), refused),
        ("has no such page", Cloud::Answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()), refused),
        (
            "has a head without end",
            Cloud::Answers([b"HTTP/1.1 101 OK\r\n", &b"X: y\r\n".repeat(50_000)[..]].concat()),
            refused,
        ),
        ("answers in zeros", Cloud::Answers(vec![0; 100_000]), refused),
        ("keeps us waiting", Cloud::Keeps, "trunk-timeout"),
    ];
    let named: Vec<_> = clouds.iter().map(|(name, cloud, _)| (*name, cloud.clone())).collect();
    let (daemon, _told) = daemon_under(&named, echo, "connect-timeout-ms = 500");
    for (n, (name, _, reason)) in clouds.iter().enumerate() {
        let line = format!("c{n}");
        let heard = Phone::dial(daemon.port(&line), &[]).wait();
        assert_eq!((heard.end, voice(&heard.samples()).len()), (Some(End::Hangup), 0), "a cloud that {name}");
        assert_eq!(field(&daemon.ended(&line), "end_reason"), *reason, "a cloud that {name}");
    }
    a_good_call(&daemon, "echo");
    assert_unhurt(&daemon);
}

// Strangers who call our agent

const MASK: Option<[u8; 4]> = Some([0x9a, 0x01, 0xfe, 0x33]);
const START: &[u8] = br#"{"event":"start","type":"text","ucid":"21990011223344556","did":"1"}"#;

/// Opens a WebSocket, says this, half-closes, and gives the close code of the answer.
fn visit(port: u16, bytes: &[u8]) -> u16 {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: agent\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    let mut writer = stream.try_clone().unwrap();
    let bytes = bytes.to_vec();
    // It may have closed before it has read all of it.
    let written = thread::spawn(move || writer.write_all(&bytes).and_then(|()| writer.shutdown(Shutdown::Write)));
    let mut frames = Vec::new();
    let _ = stream.read_to_end(&mut frames);
    let _ = written.join().unwrap();
    close_code(&frames)
}

#[test]
fn whoever_breaks_the_websocket_of_our_agent_is_told_how() {
    let (agent, port) = agent(&["--plain"]);
    let start = frame(0x81, MASK, START);
    for (name, bytes, code) in violations(MASK) {
        if bytes.len() < 1 << 20 {
            assert_eq!(visit(port, &bytes), code, "{name}, first of all");
        }
        assert_eq!(visit(port, &[start.clone(), bytes].concat()), code, "{name}, in a call");
    }
    let stop = frame(0x81, MASK, br#"{"event":"stop","ucid":"21990011223344556"}"#);
    for (name, bytes) in oddities(MASK) {
        assert_eq!(visit(port, &[start.clone(), bytes, stop.clone()].concat()), 1000, "{name}");
    }
    for other in ["hello", r#"{"event":"start","start":{"sessionKey":"MZ1"}}"#] {
        assert_eq!(visit(port, &frame(0x81, MASK, other.as_bytes())), 1003, "a dialect that is not ours");
    }
    assert_eq!(agent.count(&["panicked"]) + agent.count(&["a bug of ours"]), 0);
}

#[test]
fn two_thousand_strangers_leave_no_trace_in_memory() {
    let (agent, port) = agent(&["--plain"]);
    let mut clouds: Vec<_> = violations(None).into_iter().map(|(name, bytes, _)| (name, Cloud::Says(bytes))).collect();
    clouds.push(("half-closes", Cloud::HalfCloses));
    clouds.push(("is reset", Cloud::Resets));
    let (daemon, _told) = daemon_under(&clouds, port, "");
    let strangers = strangers();
    let vendors: Vec<Vec<u8>> = violations(MASK)
        .into_iter()
        .flat_map(|(_, bytes, _)| [bytes.clone(), [frame(0x81, MASK, START), bytes].concat()])
        .collect();
    let named: Stranger = ("comes to a strange cloud", Vec::new(), GONE);
    let round = |n: usize| {
        thread::scope(|scope| {
            for worker in 0..4 {
                let (daemon, strangers, vendors, clouds, named) = (&daemon, &strangers, &vendors, &clouds, &named);
                scope.spawn(move || {
                    for n in (worker..n).step_by(4) {
                        meet(daemon.port("echo"), n as u16, &strangers[n % strangers.len()]);
                        visit(port, &vendors[n % vendors.len()]);
                        if n % 2 == 0 {
                            meet(daemon.port(&format!("c{}", n / 2 % clouds.len())), n as u16, named);
                        }
                    }
                });
            }
        });
    };
    let settled = |at_most: Duration| {
        let until = Instant::now() + at_most;
        while daemon.metric("trunkline_calls") > 0 {
            assert!(Instant::now() < until, "calls are left over");
        }
    };
    // What is used once stays: pool blocks, buffers, the allocator's own.
    round(300);
    settled(SOON);
    let before = (daemon.process.rss_kb(), agent.rss_kb());
    round(2000);
    settled(SOON);
    let after = (daemon.process.rss_kb(), agent.rss_kb());
    println!("resident: daemon {} kB, then {} kB; agent {} kB, then {} kB", before.0, after.0, before.1, after.1);
    assert!(after.0 <= before.0 + 4096, "daemon: {} kB, then {} kB", before.0, after.0);
    assert!(after.1 <= before.1 + 4096, "agent: {} kB, then {} kB", before.1, after.1);
    a_good_call(&daemon, "echo");
    assert_unhurt(&daemon);
    assert_eq!(agent.count(&["panicked"]), 0);
}
