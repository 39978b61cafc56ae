//! A line as a PBX sees it: bytes in, bytes out, and the clock a variable.

#![allow(clippy::unwrap_used)]

mod called;
mod calling;
mod flood;
mod network;
mod ours;
mod refused;
mod within;

use super::*;
use crate::{
    config::{Cidr, Secret},
    leg::{rtp::dice::Dice, sip::parse},
    media::codec::Codec,
};

/// A line and the PBX that it talks to: chan_pjsip of Asterisk 20, whose call is the one in `tests/sip/peers`.
struct Bench {
    line: Line,
    now: Now,
    /// What was sent, when, and what it says.
    sent: Vec<(Now, Transmit, Message)>,
    /// How much of that was looked at.
    seen: usize,
    events: Vec<Event>,
    heard: usize,
    /// The number of the PBX's last request in its call, and of its last INVITE.
    cseq: u32,
    invite_cseq: u32,
    branches: u32,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut LineSetup)) -> Self {
        let mut setup = setup("192.0.2.20", 1);
        change(&mut setup);
        Self {
            line: Line::new(setup),
            now: secs(1000.0),
            sent: vec![],
            seen: 0,
            events: vec![],
            heard: 0,
            cseq: 3424,
            invite_cseq: 3424,
            branches: 0,
        }
    }

    /// A call that rings.
    fn ringing() -> (Self, LegId) {
        Self::ringing_of(Self::new(), &invite(""))
    }

    fn ringing_of(mut bench: Self, invite: &str) -> (Self, LegId) {
        bench.receive(invite);
        let leg = bench.leg();
        bench.line.ring(bench.now, leg, rtp());
        bench.fetch();
        bench.forget();
        (bench, leg)
    }

    /// A call of the PBX's that is up.
    fn up() -> (Self, LegId) {
        Self::up_of(Self::new(), &invite(""))
    }

    fn up_of(bench: Self, invite: &str) -> (Self, LegId) {
        let (mut bench, leg) = Self::ringing_of(bench, invite);
        bench.accept(leg);
        bench.ack("");
        bench.forget();
        (bench, leg)
    }

    /// A call of ours to 6001 that nobody has answered.
    fn calling() -> (Self, LegId) {
        Self::calling_of(Self::new())
    }

    fn calling_of(mut bench: Self) -> (Self, LegId) {
        let uri = "sip:6001@192.0.2.10".parse().unwrap();
        let leg = bench.line.call(bench.now, uri, pbx(), rtp()).expect("there is room");
        bench.fetch();
        assert_eq!(bench.said(), ["INVITE"]);
        (bench, leg)
    }

    /// The leg that was told of last.
    fn leg(&self) -> LegId {
        let invited = self.events.iter().rev().find_map(|event| match event {
            Event::Invited(invitation) => Some(invitation.leg),
            _ => None,
        });
        invited.expect("somebody called")
    }

    fn accept(&mut self, leg: LegId) {
        self.line.accept(self.now, leg);
        self.fetch();
    }

    fn hang_up(&mut self, leg: LegId) {
        self.line.hang_up(self.now, leg);
        self.fetch();
    }

    /// Takes a message from the PBX.
    fn receive(&mut self, text: &str) {
        self.receive_from(pbx(), text);
    }

    fn receive_from(&mut self, flow: Flow, text: &str) {
        self.receive_bytes(flow, text.as_bytes());
    }

    fn receive_bytes(&mut self, flow: Flow, bytes: &[u8]) {
        self.line.handle_message(self.now, flow, parse(bytes));
        self.fetch();
    }

    /// A request inside of the PBX's call; gives its text, for copies.
    fn ask(&mut self, method: &str, headers: &str, body: &str) -> String {
        self.cseq += 1;
        if method == "INVITE" {
            self.invite_cseq = self.cseq;
        }
        let text = self.request(method, self.cseq, headers, body);
        self.receive(&text);
        text
    }

    fn ack(&mut self, body: &str) -> String {
        let text = self.request("ACK", self.invite_cseq, "", body);
        self.receive(&text);
        text
    }

    fn request(&mut self, method: &str, cseq: u32, headers: &str, body: &str) -> String {
        self.branches += 1;
        let tag = self.tag();
        let kind = if body.is_empty() || headers.contains("Content-Type") { "" } else { SDP };
        format!(
            "{method} sip:trunkline@192.0.2.20:5060 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bKPjwithin{}\r\n\
             From: \"Keller, Ruth\" <sip:6001@192.0.2.10>;tag=7e826d40-db17-4666-85e5-7a580b962429\r\n\
             To: <sip:trunkline@192.0.2.20>;tag={tag}\r\n\
             Contact: <sip:asterisk@192.0.2.10:5060>\r\n\
             Call-ID: 2fe2b037-4e09-4dbb-9f2a-87984af6a866\r\n\
             CSeq: {cseq} {method}\r\n\
             Max-Forwards: 70\r\n\
             {headers}{kind}Content-Length: {}\r\n\r\n{body}",
            self.branches,
            body.len()
        )
    }

    /// The tag that our answers gave the PBX's call.
    fn tag(&self) -> String {
        let tag = self.sent.iter().find_map(|(_, _, message)| match message {
            Message::Response(response) if response.status > 100 => Some(response.to().ok()?.tag()?.to_owned()),
            Message::Response(_) | Message::Request(_) => None,
        });
        tag.expect("an answer had a tag")
    }

    /// The PBX answers the last request of ours with this method.
    fn reply(&mut self, method: &str, status: u16, headers: &str, body: &str) -> String {
        self.reply_as("as1", method, status, headers, body)
    }

    fn reply_as(&mut self, tag: &str, method: &str, status: u16, headers: &str, body: &str) -> String {
        let text = answer(&self.asked(method), tag, status, headers, body);
        self.receive(&text);
        text
    }

    /// The last request of ours with this method.
    fn asked(&self, method: &str) -> Request {
        let found = self.sent.iter().rev().find_map(|(_, _, message)| match message {
            Message::Request(request) if request.method.as_str() == method => Some(request.clone()),
            Message::Request(_) | Message::Response(_) => None,
        });
        found.unwrap_or_else(|| panic!("no {method} was sent"))
    }

    /// The last answer of ours to a request with this method.
    fn answered(&self, method: &str) -> Response {
        let found = self.sent.iter().rev().find_map(|(_, _, message)| match message {
            Message::Response(response) if response.cseq().is_ok_and(|cseq| cseq.method.as_str() == method) => {
                Some(response.clone())
            }
            Message::Request(_) | Message::Response(_) => None,
        });
        found.unwrap_or_else(|| panic!("no {method} was answered"))
    }

    fn fetch(&mut self) {
        while let Some(transmit) = self.line.poll_transmit() {
            let message = parse(&transmit.bytes).expect("we can read what we write");
            self.sent.push((self.now, transmit, message));
        }
        while let Some(event) = self.line.poll_event() {
            self.events.push(event);
        }
    }

    fn run_until(&mut self, end: Now) {
        while let Some(at) = self.line.poll_timeout()
            && at <= end
        {
            self.now = self.now.max(at);
            self.line.handle_timeout(self.now);
            self.fetch();
        }
        self.now = end;
    }

    fn run(&mut self, for_secs: f64) {
        self.run_until(self.now + secs(for_secs));
    }

    /// What was said since the last time: `180 INVITE` is an answer, `BYE` a request.
    fn said(&mut self) -> Vec<String> {
        let said = self.sent[self.seen..].iter().map(|(_, _, message)| in_short(message)).collect();
        self.seen = self.sent.len();
        said
    }

    /// What was told since the last time.
    fn told(&mut self) -> Vec<String> {
        let told = self.events[self.heard..].iter().map(word).collect();
        self.heard = self.events.len();
        told
    }

    fn forget(&mut self) {
        self.said();
        self.told();
    }

    /// Seconds since `from` at which this was said.
    fn times(&self, from: Now, what: &str) -> Vec<f64> {
        let times = self.sent.iter().filter(|(at, _, message)| *at >= from && in_short(message) == what);
        times.map(|(at, ..)| (*at - from).as_secs_f64()).collect()
    }

    /// Nothing is left of anything, once what lingers is over.
    fn assert_over(&mut self) {
        assert!(self.line.is_empty(), "{} legs are left", self.line.len());
        self.run(100.0);
        assert!(self.line.transactions.is_empty(), "{} transactions are left", self.line.transactions.len());
        assert_eq!(self.line.poll_timeout(), None);
    }
}

fn setup(host: &str, seed: u64) -> LineSetup {
    LineSetup {
        leg: Setup {
            user: "trunkline".into(),
            host: host.into(),
            ports: [Some(5060), Some(5060), None],
            user_agent: Some("Trunkline/1".into()),
            codecs: vec![Codec::Pcma, Codec::Pcmu],
            rtp_digits: true,
            tone: false,
            session_expires: secs(1800.0),
            min_session_expires: secs(90.0),
            answer_timeout: secs(20.0),
            from: format!("\"Agent\" <sip:trunkline@{host}>").parse().unwrap(),
            told_headers: vec![Name::from("X-Queue")],
        },
        admission: admission::Policy {
            allow: vec![Cidr::parse("192.0.2.0/24").unwrap()],
            takes_anyone: false,
            invites_per_second: 0,
            burst: 0,
            max_unacked: 30,
            max_ringing: 30,
        },
        credentials: None,
        registration: None,
        timers: Timers::default(),
        random: [dice(seed), dice(seed + 1000)],
    }
}

fn credentials() -> digest::Credentials {
    digest::Credentials { username: "trunkline".into(), password: Secret::new("harbour"), realm: None }
}

fn dice(seed: u64) -> Random {
    let mut dice = Dice::new(seed);
    Box::new(move || dice.roll())
}

fn secs(secs: f64) -> Now {
    Now::from_secs_f64(secs)
}

fn pbx() -> Flow {
    Flow::udp(0, "192.0.2.10:5060".parse().unwrap())
}

fn rtp() -> SocketAddr {
    "192.0.2.20:30000".parse().unwrap()
}

/// Asterisk's INVITE with more headers.
fn invite(headers: &str) -> String {
    const ASTERISK: &str = include_str!("../../../../../tests/sip/peers/asterisk.sip");
    ASTERISK.replacen("Max-Forwards", &format!("{headers}Max-Forwards"), 1)
}

/// The same without a body.
fn bare_invite() -> String {
    let invite = invite("");
    let (head, _) = invite.split_once("\r\n\r\n").expect("a head");
    head.replace("Content-Type: application/sdp\r\n", "").replace("Content-Length:   279", "Content-Length: 0")
        + "\r\n\r\n"
}

/// The same as another call.
fn other_invite(number: u32) -> String {
    invite("").replace("z9hG4bKPj", &format!("z9hG4bKPj{number}")).replace("Call-ID: ", &format!("Call-ID: {number}-"))
}

/// What the PBX describes: its lines of direction and connection are the tests' to say.
fn sdp(connection: &str, direction: &str) -> String {
    format!(
        "v=0\r\no=- 397958033 397958034 IN IP4 192.0.2.10\r\ns=Asterisk\r\nc=IN IP4 {connection}\r\nt=0 0\r\n\
         m=audio 18082 RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
         a=fmtp:101 0-16\r\na={direction}\r\n"
    )
}

fn speech() -> String {
    sdp("192.0.2.10", "sendrecv")
}

/// An answer of the PBX's.
fn answer(request: &Request, tag: &str, status: u16, headers: &str, body: &str) -> String {
    let mut to = request.to().expect("To");
    if to.tag().is_none() && status > 100 {
        to.set_tag(tag);
    }
    let via = request.headers.get(&Name::Via).expect("Via");
    let from = request.headers.get(&Name::From).expect("From");
    let call_id = request.call_id().expect("Call-ID");
    let cseq = request.headers.get(&Name::CSeq).unwrap();
    let kind = if body.is_empty() { "" } else { SDP };
    format!(
        "SIP/2.0 {status} {}\r\nVia: {via}\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n\
         Contact: <sip:asterisk@192.0.2.10:5060>\r\n{headers}{kind}Content-Length: {}\r\n\r\n{body}",
        crate::leg::sip::phrase(status),
        body.len()
    )
}

fn in_short(message: &Message) -> String {
    match message {
        Message::Request(request) => request.method.to_string(),
        Message::Response(response) => format!("{} {}", response.status, response.cseq().unwrap().method),
    }
}

fn word(event: &Event) -> String {
    use crate::leg::sip::leg::Transferred;
    match event {
        Event::Invited(_) => "invited".into(),
        Event::Early { .. } => "early".into(),
        Event::Up { media, .. } => format!("up {} {:?}", media.codec.codec.name(), media.direction),
        Event::Changed { media, .. } => {
            format!("changed {:?}{}", media.direction, if media.hold { " held" } else { "" })
        }
        Event::Digit { digit, .. } => format!("digit {}", char::from(*digit)),
        Event::Transfer { what: Transferred::Trying, .. } => "transfer tried".into(),
        Event::Transfer { what: Transferred::Done, .. } => "transfer done".into(),
        Event::Transfer { what: Transferred::Failed(status, _), .. } => format!("transfer failed {status}"),
        Event::NotTaken { status, .. } => format!("not taken {status}"),
        Event::Reach(_) => "reach".into(),
        Event::Registration(_) => "registration".into(),
        Event::Ended { why, .. } => format!("ended: {why}"),
    }
}

/// A header of a message.
fn header<'m>(headers: &'m crate::leg::sip::Headers, name: &str) -> &'m str {
    headers.get(&Name::from(name)).unwrap_or_default()
}

/// A line of a description.
fn line_of<'b>(body: &'b [u8], start: &str) -> &'b str {
    let text = core::str::from_utf8(body).expect("text");
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}"))
}

const SDP: &str = "Content-Type: application/sdp\r\n";
