//! A phone of single datagrams: for what sipp would not send, or would not tell.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::site::SOON;

/// A socket that speaks SIP to one line.
pub(crate) struct Wire {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Wire {
    pub(crate) fn open(to: SocketAddr) -> Self {
        Self::open_at(Ipv4Addr::LOCALHOST, to)
    }

    /// From another address of this machine.
    pub(crate) fn open_at(address: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, to }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sends these lines. A datagram that the kernel has no room for is lost, as on any network.
    pub(crate) fn send(&self, text: &str) {
        let _ = self.socket.send_to(text.replace('\n', "\r\n").as_bytes(), self.to);
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn next(&self) -> Answer {
        self.within(SOON).expect("an answer")
    }

    /// The next message, if one comes in this time.
    pub(crate) fn within(&self, at_most: Duration) -> Option<Answer> {
        self.socket.set_read_timeout(Some(at_most.max(Duration::from_millis(1)))).unwrap();
        let mut datagram = [0; 65_536];
        let (length, from) = self.socket.recv_from(&mut datagram).ok()?;
        assert_eq!(from, self.to, "an answer comes from where the request went");
        Some(Answer { at: Instant::now(), text: String::from_utf8(datagram[..length].to_vec()).unwrap() })
    }

    /// Waits for a message that begins like this, whatever comes before it.
    #[track_caller]
    pub(crate) fn until(&self, start: &str) -> Answer {
        let until = Instant::now() + SOON;
        let mut seen = Vec::new();
        while let Some(answer) = self.within(until.saturating_duration_since(Instant::now())) {
            if answer.text.starts_with(start) {
                return answer;
            }
            seen.push(answer.text);
        }
        panic!("no {start:?} in {SOON:?}, but {seen:#?}");
    }

    /// Throws away what has come.
    pub(crate) fn drain(&self) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        let mut datagram = [0; 65_536];
        let count = std::iter::from_fn(|| self.socket.recv_from(&mut datagram).ok()).count();
        self.socket.set_nonblocking(false).unwrap();
        count
    }

    /// An INVITE with an offer of PCMU at this port.
    pub(crate) fn invite(&self, call: &str, media: u16) -> String {
        let sdp = offer(media);
        let here = self.address();
        format!(
            "{}Contact: <sip:wire@{here}>\nContent-Type: application/sdp\nContent-Length: {}\n\n{sdp}",
            self.head("INVITE", call, 1, ""),
            // As it is sent, with both bytes of a line's end.
            sdp.replace('\n', "\r\n").len()
        )
    }

    /// A re-INVITE, with the audio going this way: `sendonly` is hold, `sendrecv` is back again.
    pub(crate) fn invite_again(&self, call: &str, cseq: u32, to_tag: &str, media: u16, direction: &str) -> String {
        let sdp = offer(media).replace("o=wire 1 1", &format!("o=wire 1 {cseq}")) + &format!("a={direction}\n");
        let here = self.address();
        format!(
            "{}Contact: <sip:wire@{here}>\nContent-Type: application/sdp\nContent-Length: {}\n\n{sdp}",
            self.head("INVITE", call, cseq, to_tag),
            sdp.replace('\n', "\r\n").len()
        )
    }

    /// A request without a body. The branch is the CSeq's number, so that a CANCEL has that of its INVITE.
    pub(crate) fn request(&self, method: &str, call: &str, cseq: u32, to_tag: &str) -> String {
        format!("{}Content-Length: 0\n\n", self.head(method, call, cseq, to_tag))
    }

    /// The ACK of an answer that is no 200, which belongs to the INVITE's transaction.
    pub(crate) fn refusal_ack(&self, call: &str, to_tag: &str) -> String {
        self.request("ACK", call, 1, to_tag).replace("-1a\n", "-1\n")
    }

    /// The answer to a request that came.
    pub(crate) fn answer(request: &Answer, status: &str) -> String {
        let ties: String =
            ["Via", "From", "To", "Call-ID", "CSeq"].map(|name| format!("{name}: {}\n", request.header(name))).concat();
        format!("SIP/2.0 {status}\n{ties}Content-Length: 0\n\n")
    }

    /// A NOTIFY of how a transfer stands (RFC 3515 2.4.4).
    pub(crate) fn notify(&self, call: &str, cseq: u32, to_tag: &str, (state, fragment): (&str, &str)) -> String {
        format!(
            "{}Contact: <sip:wire@{}>\nEvent: refer\nSubscription-State: {state}\nContent-Type: message/sipfrag\n\
             Content-Length: {}\n\n{fragment}",
            self.head("NOTIFY", call, cseq, to_tag),
            self.address(),
            fragment.len()
        )
    }

    fn head(&self, method: &str, call: &str, cseq: u32, to_tag: &str) -> String {
        let (here, to) = (self.address(), self.to);
        let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
        // The ACK of a 200 is a transaction of its own.
        let own = if method == "ACK" && !to_tag.is_empty() { "a" } else { "" };
        format!(
            "{method} sip:agent@{to} SIP/2.0\n\
             Via: SIP/2.0/UDP {here};rport;branch=z9hG4bK{call}-{cseq}{own}\n\
             From: <sip:wire@{here}>;tag={call}\n\
             To: <sip:agent@{to}>{to_tag}\n\
             Call-ID: {call}\nCSeq: {cseq} {method}\nMax-Forwards: 70\n"
        )
    }
}

/// An offer of PCMU at this port of this machine.
pub(crate) fn offer(media: u16) -> String {
    format!(
        "v=0\no=wire 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\n\
         m=audio {media} RTP/AVP 0 101\na=rtpmap:0 PCMU/8000\na=rtpmap:101 telephone-event/8000\na=ptime:20\n"
    )
}

/// What came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

impl Answer {
    /// Of an answer; 0 for a request.
    pub(crate) fn status(&self) -> u16 {
        let status = self.text.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3));
        status.map_or(0, |digits| digits.parse().unwrap())
    }

    /// The first header of this name, in its long form.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {}", self.text))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.text.lines().take_while(|line| !line.is_empty()).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[track_caller]
    pub(crate) fn to_tag(&self) -> &str {
        let tag = self.header("To").split(";tag=").nth(1);
        tag.unwrap_or_else(|| panic!("no tag in To of {}", self.text))
    }

    /// Where it wants its RTP.
    #[track_caller]
    pub(crate) fn media(&self) -> SocketAddr {
        let line = |start: &str| {
            let found = self.text.lines().find_map(|line| line.strip_prefix(start));
            found.unwrap_or_else(|| panic!("no {start} in {}", self.text))
        };
        let address: Ipv4Addr = line("c=IN IP4 ").trim().parse().unwrap();
        let port: u16 = line("m=audio ").split(' ').next().unwrap().parse().unwrap();
        (address, port).into()
    }
}

/// One RTP packet, RFC 3550 5.1.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'p> {
    pub(crate) payload_type: u8,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    pub(crate) payload: &'p [u8],
}

impl Packet<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x80, self.payload_type];
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        bytes.extend(self.payload);
        bytes
    }
}

/// Packets of key presses that a [`Voice`] was sent, RFC 4733: the marker, timestamp and payload of each.
pub(crate) type Keys = Vec<(bool, u32, Vec<u8>)>;

/// What a [`Voice`] heard: sequence number, timestamp and PCMU of each packet, in the order in which they came.
pub(crate) type Heard = Vec<(u16, u32, Vec<u8>)>;

/// The media side of a phone: speaks its speech once, then silence, a packet every 20 ms, and keeps what comes.
pub(crate) struct Voice {
    socket: Arc<UdpSocket>,
    heard: Arc<Mutex<Heard>>,
    keys: Arc<Mutex<Keys>>,
    cues: mpsc::Sender<Cue>,
    speaker: thread::JoinHandle<()>,
    listener: thread::JoinHandle<()>,
}

enum Cue {
    /// A key is pressed: its code in RFC 4733.
    Press(u8),
    Stop,
}

/// The SSRC of every [`Voice`].
pub(crate) const SSRC: u32 = 0x5150_5150;

/// The payload type of key presses in every [`offer`].
const EVENTS: u8 = 101;

/// The sequence number and timestamp of its first packet.
pub(crate) const FIRST: (u16, u32) = (65_530, 0xffff_ff00);

impl Voice {
    /// A socket for media, silent as yet.
    pub(crate) fn socket() -> (UdpSocket, u16) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    }

    pub(crate) fn speak(socket: UdpSocket, to: SocketAddr, speech: Vec<u8>) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (socket, heard, keys) =
            (Arc::new(socket), Arc::new(Mutex::new(Heard::new())), Arc::<Mutex<Keys>>::default());
        let (cues, cue) = mpsc::channel();
        let speaker = {
            let socket = Arc::clone(&socket);
            thread::spawn(move || speak(&socket, to, &speech, &cue))
        };
        let listener = {
            let (socket, heard, keys) = (Arc::clone(&socket), Arc::downgrade(&heard), Arc::clone(&keys));
            thread::spawn(move || {
                let mut datagram = [0; 2048];
                // Until nobody wants to know any more.
                while let Some(heard) = heard.upgrade() {
                    let Ok((length, _)) = socket.recv_from(&mut datagram) else { continue };
                    let packet = &datagram[..length];
                    if length <= 12 || packet[0] != 0x80 {
                        continue;
                    }
                    let sequence = u16::from_be_bytes([packet[2], packet[3]]);
                    let timestamp = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
                    let (marker, payload) = (packet[1] & 0x80 != 0, packet[12..].to_vec());
                    match packet[1] & 0x7f {
                        0 => heard.lock().unwrap().push((sequence, timestamp, payload)),
                        EVENTS => keys.lock().unwrap().push((marker, timestamp, payload)),
                        _ => {}
                    }
                }
            })
        };
        Self { socket, heard, keys, cues, speaker, listener }
    }

    /// Sends this from the phone's own socket, between its own packets.
    pub(crate) fn slip_in(&self, to: SocketAddr, packet: &[u8]) {
        self.socket.send_to(packet, to).unwrap();
    }

    /// Presses a key for 100 ms, in place of what would be said meanwhile.
    pub(crate) fn press(&self, event: u8) {
        self.cues.send(Cue::Press(event)).unwrap();
    }

    /// Packets of key presses that have come so far.
    pub(crate) fn keys(&self) -> Keys {
        self.keys.lock().unwrap().clone()
    }

    /// What has been heard so far.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().iter().flat_map(|(_, _, payload)| payload).copied().collect()
    }

    pub(crate) fn packets(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until so many of what was heard are no silence.
    #[track_caller]
    pub(crate) fn until_heard(&self, samples: usize) {
        let heard = self.hears(samples);
        assert!(heard.is_ok(), "{heard:?}");
    }

    /// The same; an error says that it was not heard in time.
    pub(crate) fn hears(&self, samples: usize) -> Result<(), String> {
        let until = Instant::now() + SOON / 2 + Duration::from_millis(samples as u64 / 8);
        loop {
            let heard = self.heard().iter().filter(|&&code| !is_silence(code)).count();
            if heard >= samples {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{heard} of {samples} samples were heard"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Silent from now on. Returns what was heard.
    pub(crate) fn stop(self) -> Heard {
        let _ = self.cues.send(Cue::Stop);
        self.speaker.join().unwrap();
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        drop(self.heard);
        self.listener.join().unwrap();
        heard
    }
}

/// Both zeros of mu-law.
pub(crate) fn is_silence(code: u8) -> bool {
    code & 0x7f == 0x7f
}

fn speak(socket: &UdpSocket, to: SocketAddr, speech: &[u8], cues: &mpsc::Receiver<Cue>) {
    let mut due = Instant::now();
    let mut frames = speech.chunks_exact(160);
    // The key that is down: since when, and in which of its packets it is.
    let mut pressed: Option<(u8, u32, u16)> = None;
    for n in 0u16.. {
        let now = FIRST.1.wrapping_add(160 * u32::from(n));
        let said = frames.next().unwrap_or(&[0xff; 160]);
        let mut packet =
            Packet { payload_type: 0, sequence: FIRST.0.wrapping_add(n), timestamp: now, ssrc: SSRC, payload: said };
        let event;
        if let Some((key, since, step)) = pressed {
            // RFC 4733 2.5.1: the end three times.
            let (end, duration) = if step < 5 { (0, 160 * (step + 1)) } else { (0x80, 800) };
            let [high, low] = duration.to_be_bytes();
            event = [key, end | 10, high, low];
            let marker = if step == 0 { 0x80 } else { 0 };
            packet = Packet { payload_type: EVENTS | marker, timestamp: since, payload: &event, ..packet };
            pressed = (step < 7).then_some((key, since, step + 1));
        }
        let _ = socket.send_to(&packet.bytes(), to);
        due += Duration::from_millis(20);
        let wait = due.saturating_duration_since(Instant::now());
        match cues.recv_timeout(wait) {
            Ok(Cue::Press(key)) => pressed = Some((key, now.wrapping_add(160), 0)),
            Ok(Cue::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// The share of what was said that is heard, each sample as it was said, wherever the best of a few frames puts its
/// beginning.
pub(crate) fn share_heard(said: &[u8], heard: &[u8]) -> f64 {
    let spots = [said.len() / 8, said.len() / 2, said.len() * 7 / 8];
    let share = |spot: usize| {
        let frame = &said[spot..spot + 80];
        let at = heard.windows(80).position(|window| window == frame)?;
        let start = at.checked_sub(spot)?;
        let same = said.iter().zip(&heard[start..]).filter(|(said, heard)| said == heard).count();
        Some(same as f64 / said.len() as f64)
    };
    spots.into_iter().filter_map(share).fold(0.0, f64::max)
}

/// The share of what was said that is heard, 25 ms by 25 ms, each sample as it was said, wherever it is: what is said after
/// a pause, or while the machine is busy with something else, may come a little sooner or later than what was before it.
pub(crate) fn share_found(said: &[u8], heard: &[u8]) -> f64 {
    let pieces = said.chunks_exact(200);
    let count = pieces.len();
    let found = pieces.filter(|piece| heard.windows(200).any(|window| window == *piece)).count();
    found as f64 / count as f64
}
