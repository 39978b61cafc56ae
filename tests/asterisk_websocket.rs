//! Asterisk's chan_websocket and FreeSWITCH's mod_audio_fork as lines: scripted peers that say what those say, byte for
//! byte, over real sockets to the daemon; and what takes longer, in virtual time.

#![allow(clippy::unwrap_used)]

mod site;
#[path = "site/virtual_call.rs"]
mod virtual_call;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
};

use site::{Daemon, Process, SOON, TRUNKLINE, field, noise};
use trunkline::{
    dialect::{OptionValue, Say},
    leg::websocket::{leg::Flow, wire::Side},
    media::{Now, Rate},
};
use virtual_call::{Peer, Plan, Site, options, speech, voice};

/// What Asterisk's client sends, with the query of `v(from=...,to=...)`.
const REQUEST: &str = "GET /asterisk?from=15550100011&to=700 HTTP/1.1\r\nSec-WebSocket-Version: 13\r\n\
                       Upgrade: websocket\r\nConnection: Upgrade\r\nHost: 127.0.0.1:8443\r\n\
                       Authorization: Basic YXN0ZXJpc2s6czNjcmV0\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Protocol: media\r\n\r\n";
const FORK_REQUEST: &str = "GET /freeswitch HTTP/1.1\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
                            Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                            Sec-WebSocket-Protocol: audio.drachtio.org\r\nSec-WebSocket-Version: 13\r\n\r\n";

const PLAIN_START: &str = "MEDIA_START connection_id:trunkline channel:WebSocket/trunkline/0x7f1c04009a90 \
                           channel_id:1754500000.42 format:slin16 optimal_frame_size:640 ptime:20";
const JSON_START: &str = concat!(
    r#"{"event":"MEDIA_START","connection_id":"trunkline","channel":"WebSocket/trunkline/0x7f1c04009a90","#,
    r#""channel_id":"1754500000.42","format":"slin16","optimal_frame_size":640,"ptime":20,"channel_variables":{}}"#
);
/// Before 20.17, 22.7 and 23.1.
const OLD_START: &str = "MEDIA_START connection_id:trunkline channel:WebSocket/trunkline/0x7f1c04009a90 \
                         format:slin16 optimal_frame_size:640 ptime:20";

/// A PBX's end of a WebSocket: as client it masks, as server it does not.
struct Pbx {
    stream: TcpStream,
    masks: bool,
}

/// A frame that came: its opcode, and what was in it.
type Frame = (u8, Vec<u8>);

impl Pbx {
    /// As client, as far as the answer to its request.
    fn connect(port: u16, request: &str) -> (Self, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let head = head(&mut stream);
        (Self { stream, masks: true }, head)
    }

    fn send(&mut self, op: u8, payload: &[u8]) {
        let mask = if self.masks { 0x80 } else { 0 };
        let mut frame = vec![0x80 | op];
        match u16::try_from(payload.len()).unwrap() {
            len @ 0..=125 => frame.push(mask | len as u8),
            len => {
                frame.push(mask | 126);
                frame.extend(len.to_be_bytes());
            }
        }
        if self.masks {
            let key = [0x37, 0xfa, 0x21, 0x3d];
            frame.extend(key);
            frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        } else {
            frame.extend(payload);
        }
        self.stream.write_all(&frame).unwrap();
    }

    fn text(&mut self, text: &str) {
        self.send(1, text.as_bytes());
    }

    /// One Asterisk frame a message.
    fn speak(&mut self, samples: &[i16]) {
        for frame in samples.chunks(320) {
            self.send(2, &bytes(frame));
        }
    }

    fn receive(&mut self) -> Frame {
        let mut two = [0; 2];
        self.stream.read_exact(&mut two).unwrap();
        let mut len = u64::from(two[1] & 0x7f);
        if len == 126 {
            let mut long = [0; 2];
            self.stream.read_exact(&mut long).unwrap();
            len = u16::from_be_bytes(long).into();
        }
        assert_eq!(two[1] & 0x80 != 0, !self.masks, "a client masks, a server does not");
        let mut key = [0; 4];
        if !self.masks {
            self.stream.read_exact(&mut key).unwrap();
        }
        let mut payload = vec![0; len as usize];
        self.stream.read_exact(&mut payload).unwrap();
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        (two[0] & 15, payload)
    }

    /// Plays until so many samples that are none of silence came. Marks that are met come back by `told`.
    fn hear(&mut self, voiced: usize, frame: usize, told: impl Fn(&str) -> Option<String>) -> (Vec<i16>, Vec<String>) {
        let (mut heard, mut texts) = (Vec::new(), Vec::new());
        while voice(&heard).len() < voiced {
            match self.receive() {
                (2, payload) => {
                    assert_eq!(payload.len() % frame, 0, "whole frames");
                    heard.extend(payload.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
                }
                (1, text) => {
                    let text = String::from_utf8(text).unwrap();
                    assert!(text.len() <= 128, "{text}");
                    if let Some(answer) = told(&text) {
                        self.text(&answer);
                    }
                    texts.push(text);
                }
                other => panic!("{other:?} after {texts:?}"),
            }
        }
        (voice(&heard), texts)
    }

    /// The PBX's caller has hung up.
    fn close(mut self) {
        self.send(8, &1000_u16.to_be_bytes());
        while self.receive().0 != 8 {}
    }
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn bytes(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// What Asterisk answers to a command, with nothing in its queue.
fn answer(text: &str) -> Option<String> {
    let id = text.strip_prefix("MARK_MEDIA ")?;
    Some(format!("MEDIA_MARK_PROCESSED {id}"))
}

/// `trunkline agent` in a dialect of 16 kHz, which echoes, and its port.
fn agent() -> (Process, u16) {
    let mut command = Command::new(TRUNKLINE);
    command.args(["agent", "--listen", "127.0.0.1:0", "--dialect", "vonage", "--behave", "echo", "--plain"]);
    let agent = Process::start(&mut command);
    let greeting = agent.line(&["listening on ws"]);
    let port = greeting.split("127.0.0.1:").nth(1).unwrap().split([' ', '/']).next().unwrap().parse().unwrap();
    (agent, port)
}

/// A daemon with a line at which a PBX calls, and a socket of its own.
fn daemon(agent: u16, line: impl Fn(u16) -> String, control: &str) -> Daemon {
    Daemon::start_of(&["pbx"], "max-calls = 4", control, |ports| {
        format!(
            "[line.pbx]\nkind = \"websocket\"\n{}\n[trunk.agent]\nurl = \"ws://127.0.0.1:{agent}/ws\"\n\
             dialect = \"vonage\"\n[[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n",
            line(ports[0])
        )
    })
}

fn listens(port: u16, dir: &std::path::Path) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let password = dir.join("password");
    std::fs::write(&password, "s3cret").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!(
        "listen = \"127.0.0.1:{port}\"\nplain = true\n\
         [[line.pbx.path]]\npath = \"/asterisk\"\ndialect = \"asterisk\"\n\
         basic = {{ user = \"asterisk\", password = {{ file = {password:?} }} }}\n\
         [[line.pbx.path]]\npath = \"/freeswitch\"\n\
         [[line.pbx.path]]\npath = \"/auto\"\n"
    )
}

#[test]
fn asterisk_connects_and_its_caller_hears_the_agent_in_both_spellings() {
    let dir = tempfile::tempdir().unwrap();
    for (start, key) in [
        (PLAIN_START, "DTMF_END digit:5 channel_id:1754500000.42"),
        (JSON_START, r#"{"event":"DTMF_END","channel_id":"1754500000.42","digit":"5"}"#),
        (OLD_START, "DTMF_END digit:5"),
    ] {
        let (agent, port) = agent();
        let daemon = daemon(port, |port| listens(port, dir.path()), "");
        let (mut pbx, answered) = Pbx::connect(daemon.port("pbx"), REQUEST);
        assert!(answered.starts_with("HTTP/1.1 101 "), "{answered}");
        assert!(answered.contains("\r\nSec-WebSocket-Protocol: media\r\n"), "{answered}");
        let said = noise(1.0, 7);
        // A loaded PBX sends audio before it says how it is coded.
        pbx.speak(&said[..640]);
        pbx.text(start);
        pbx.speak(&said[640..]);
        let (heard, texts) = pbx.hear(said.len(), 640, answer);
        // By now an agent is there to be told.
        pbx.text(key);
        assert!(heard == said, "{} of {} samples, {texts:?}", heard.len(), said.len());
        let asked: &[&str] = if start == PLAIN_START { &["MARK_MEDIA trunkline"] } else { &[] };
        assert_eq!(texts, asked);
        pbx.close();
        let ended = daemon.ended("pbx");
        assert_eq!(field(&ended, "end_reason"), "line-hung-up", "{ended}");
        let told = agent.line(&["call ended"]);
        assert_eq!(field(&told, "digits"), "1", "{told}");
    }
}

#[test]
fn another_subprotocol_another_password_and_a_format_that_is_noise_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_agent, port) = agent();
    let daemon = daemon(port, |port| listens(port, dir.path()), "");
    let port = daemon.port("pbx");
    let (_, answered) = Pbx::connect(port, &REQUEST.replace("Protocol: media", "Protocol: audio.drachtio.org"));
    assert!(answered.starts_with("HTTP/1.1 400 "), "{answered}");
    daemon.process.line(&["did not become a call", "subprotocol audio.drachtio.org", "dialect has media"]);
    let (_, answered) = Pbx::connect(port, &REQUEST.replace("czNjcmV0", "b3RoZXI="));
    assert!(answered.starts_with("HTTP/1.1 401 "), "{answered}");
    let (mut pbx, _) = Pbx::connect(port, REQUEST);
    pbx.text(&PLAIN_START.replace("slin16", "opus").replace("640", "0"));
    let (op, why) = pbx.receive();
    assert_eq!((op, &why[..2]), (8, &1011_u16.to_be_bytes()[..]));
    assert!(String::from_utf8_lossy(&why).contains("c(slin16)"), "{why:?}");
}

#[test]
fn asterisk_is_known_by_its_subprotocol_or_its_start_where_the_path_leaves_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let request = REQUEST.replace("/asterisk", "/auto");
    for (request, early) in [(request.clone(), 640), (request.replace("Sec-WebSocket-Protocol: media\r\n", ""), 0)] {
        let (_agent, port) = agent();
        let daemon = daemon(port, |port| listens(port, dir.path()), "");
        let (mut pbx, answered) = Pbx::connect(daemon.port("pbx"), &request);
        assert!(answered.starts_with("HTTP/1.1 101 "), "{answered}");
        let said = noise(0.48, 3);
        pbx.speak(&said[..early]);
        pbx.text(PLAIN_START);
        pbx.speak(&said[early..]);
        assert!(pbx.hear(said.len(), 640, answer).0 == said);
        pbx.close();
        daemon.ended("pbx");
    }
}

#[test]
fn freeswitch_forks_a_call_with_metadata_and_without() {
    let dir = tempfile::tempdir().unwrap();
    for metadata in [Some(r#"{"callSid":"7b59eac0","from":"15550100011","to":"700","sampleRate":16000}"#), None] {
        let (agent, port) = agent();
        let daemon = daemon(port, |port| listens(port, dir.path()), "");
        let (mut pbx, answered) = Pbx::connect(daemon.port("pbx"), FORK_REQUEST);
        assert!(answered.contains("\r\nSec-WebSocket-Protocol: audio.drachtio.org\r\n"), "{answered}");
        if let Some(metadata) = metadata {
            pbx.text(metadata);
        }
        let said = noise(0.48, 5);
        pbx.speak(&said);
        let (heard, texts) = pbx.hear(said.len(), 2, |_| None);
        // By now an agent is there to be told.
        pbx.text(r#"{"event":"dtmf","dtmf":"7"}"#);
        assert!(heard == said, "{metadata:?}: {} samples, {texts:?}", heard.len());
        pbx.close();
        daemon.ended("pbx");
        let told = agent.line(&["call ended"]);
        assert_eq!(field(&told, "digits"), "1", "{told}");
    }
}

#[test]
fn a_call_that_asterisk_holds_ready_is_fetched_by_its_id() {
    let (_agent, agent) = agent();
    let asterisk = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = asterisk.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let line = |_| format!("dial = \"ws://{server}/media/{{id}}\"\ndialect = \"asterisk\"");
    let daemon = daemon(agent, line, &format!("socket = {socket:?}"));
    let dial = |id: &str| {
        let mut command = Command::new(TRUNKLINE);
        command.args(["dial", "pbx", id, "--socket"]).arg(&socket);
        Process::start(&mut command).wait(SOON)
    };
    let (status, said) = dial("../ari/channels");
    assert!(!status.success() && said.contains("MEDIA_WEBSOCKET_CONNECTION_ID"), "{said}");

    // One that is gone is 404, and another comes after it.
    let (status, said) = dial("b7a5ecf5-9a4b-4f8d-8a3a-3b7a0e1f5c55");
    assert!(status.success(), "{said}");
    let (mut stream, _) = asterisk.accept().unwrap();
    let asked = head(&mut stream);
    assert!(asked.starts_with("GET /media/b7a5ecf5-9a4b-4f8d-8a3a-3b7a0e1f5c55 HTTP/1.1\r\n"), "{asked}");
    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
    drop(stream);
    daemon.process.line(&["a call could not be fetched", "404"]);

    let (status, said) = dial("c8a5ecf5-9a4b-4f8d-8a3a-3b7a0e1f5c55");
    assert!(status.success(), "{said}");
    let (mut stream, _) = asterisk.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let asked = head(&mut stream);
    assert!(asked.contains("\r\nSec-WebSocket-Protocol: media\r\n"), "{asked}");
    let key = asked.split("Sec-WebSocket-Key: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answered = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: media\r\n\r\n"
    );
    stream.write_all(answered.as_bytes()).unwrap();
    let mut pbx = Pbx { stream, masks: false };
    let id = "c8a5ecf5-9a4b-4f8d-8a3a-3b7a0e1f5c55";
    pbx.text(&PLAIN_START.replace("connection_id:trunkline", &format!("connection_id:{id}")));
    let speech = noise(0.48, 9);
    pbx.speak(&speech);
    assert!(pbx.hear(speech.len(), 640, answer).0 == speech);
    pbx.close();
    let ended = daemon.ended("pbx");
    assert!(said.contains(field(&ended, "call_id")), "the call has the id that was told: {said} {ended}");
}

/// Our end of a PBX's connection after this start, and what it has said so far.
fn begun(start: &str) -> Peer {
    let options = options("asterisk", &[]);
    let mut line = Peer::new("asterisk", trunkline::dialect::Role::Agent, Side::Server, Some(Rate::Hz16000), &options);
    hears(&mut line, Now::ZERO, start);
    line
}

fn hears(line: &mut Peer, now: Now, text: &str) {
    let mut frame = vec![0x81];
    match text.len() as u16 {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.bytes());
    line.leg.feed(&frame);
    assert_eq!(line.leg.handle(now, &mut line.ears), Ok(Flow::Hungry));
}

#[test]
fn a_release_that_a_ping_would_end_is_not_pinged_and_not_given_up_either() {
    for (start, pings) in [(OLD_START, false), (PLAIN_START, false), (JSON_START, true)] {
        let mut line = begun(start);
        line.take_out();
        let mut pinged = false;
        for second in 0..600 {
            let now = Now::from_secs(second);
            if !line.leg.beat(now) {
                assert!(pings && second >= 60, "{start}");
                break;
            }
            // A ping is 0x89 (RFC 6455 5.2).
            pinged |= line.take_out().first() == Some(&0x89);
        }
        assert_eq!(pinged, pings, "{start}");
    }
    let mut line = begun(PLAIN_START);
    hears(&mut line, Now::ZERO, "MEDIA_MARK_PROCESSED trunkline");
    line.take_out();
    assert!(line.leg.beat(Now::from_secs(21)));
    assert_eq!(line.take_out().first(), Some(&0x89), "it knows marks, so it bears pings");
}

/// Both spellings, and FreeSWITCH.
fn pbxs() -> Vec<Plan<'static>> {
    let plain = Plan::new("asterisk", "exotel");
    let json = options("asterisk", &[("control", OptionValue::Str("json"))]);
    let json =
        Plan { vendor_options: json, line_options: Some(options("asterisk", &[])), ..Plan::new("asterisk", "exotel") };
    vec![plain, json, Plan::new("audiofork", "exotel")]
}

#[test]
fn marks_have_short_names_on_the_way_to_the_pbx_and_their_own_for_the_agent() {
    // A PBX writes escapes anew, and Asterisk reads no more than 128 bytes.
    let names =
        ["greeting", r#"say \"hi\" \u00e9"#, "0123456789012345678901234567890123456789012345678901234567890123"];
    for plan in pbxs() {
        let mut site = Site::of(plan);
        site.frames(5);
        for name in names {
            site.agent_sends(&speech(1_600));
            site.agent_says(Say::Mark(name));
        }
        site.frames(60);
        for name in names {
            assert_eq!(site.agent.ears.count(&format!("heard {name}")), 1, "{name}");
        }
        for name in ["m1", "m2", "m3"] {
            assert_eq!(site.vendor.ears.count(&format!("mark {name}")), 1, "{name}");
        }
    }
}

#[test]
fn a_flush_silences_the_pbx_within_one_frame_and_what_follows_is_heard() {
    for plan in pbxs() {
        let mut site = Site::of(plan);
        let per_8k = site.rate().hz() as usize / 8000;
        site.agent_sends(&speech(80_000));
        site.agent_says(Say::Mark("never heard in full"));
        site.frames(50);
        site.agent_says(Say::Clear);
        assert_eq!(site.vendor.ears.count("Clear"), 1, "at once");
        let heard = site.queue.line.len();
        site.frames(50);
        assert!(site.queue.line[heard..].iter().all(|&sample| sample == 0), "silence from the next frame on");
        let before = voice(&site.queue.line).len();
        site.agent_sends(&speech(8_000));
        site.agent_says(Say::Mark("after it"));
        site.frames(90);
        let more = voice(&site.queue.line).len() - before;
        assert!(more.abs_diff(8_000 * per_8k) < 700, "{more}");
        assert_eq!(site.agent.ears.count("heard after it"), 1);
    }
}

#[test]
fn a_full_queue_of_the_pbx_holds_the_agents_speech_until_it_has_room() {
    let mut site = Site::new("asterisk", "exotel");
    let text = |site: &mut Site, text: &[u8]| {
        site.from_vendor.extend([0x81, 0x80 | text.len() as u8, 0, 0, 0, 0]);
        site.from_vendor.extend(text);
        site.exchange();
    };
    site.frames(5);
    text(&mut site, b"MEDIA_XOFF");
    site.agent_sends(&speech(8_000));
    site.frames(50);
    assert!(voice(&site.queue.line).is_empty());
    text(&mut site, b"MEDIA_XON");
    site.frames(80);
    assert!(voice(&site.queue.line).len() >= 15_500, "nothing of it is lost");
    assert_eq!(site.bridge.weather().flushed, 0);
}
