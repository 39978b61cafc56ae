//! Once a call is bridged, moving its audio allocates nothing.
//!
//! Whole calls in virtual time, from AudioSocket bytes to a trunk's WebSocket bytes and back. Every allocation of the
//! thread is counted while the daemon's side works; what peers send was made before, and what they are sent is only
//! looked at. The one exception is a control text longer than the fixed buffers, which says so in [`Tally::gathered`].

#![cfg(feature = "count-allocs")]
#![allow(clippy::unwrap_used)]

use allocation_counter::{AllocationInfo, measure};
use trunkline::{
    call::{Bridge, EndReason, State, bridge::Limits, state::Event as CallEvent, websocket_line::LineSetup},
    dialect::{self, Direction, Event, Facts, Options, Role, Say},
    leg::{
        audiosocket::{
            line::{Input, Line, MAX_MESSAGE},
            message::Reader,
        },
        websocket::{
            leg::{Flow, Leg, Setup, Sink, Tally},
            wire::Side,
        },
    },
    media::{
        Now, Rate,
        frame::MAX_SAMPLES,
        g711::Law,
        playout::Tick,
        pool::{BLOCK, Link, Pool},
    },
};

#[path = "no_alloc/sip.rs"]
mod sip;
#[cfg(feature = "sound")]
mod site;
#[cfg(feature = "sound")]
#[path = "no_alloc/sound.rs"]
mod sound;

/// Those in which a trunk's agent is heard from the first message on.
const DIALECTS: [&str; 9] =
    ["ozonetel", "exotel", "binary", "telnyx", "twilio", "plivo", "vonage", "asterisk", "audiofork"];
/// Those in which nobody hears it.
const LISTENERS: [&str; 2] = ["rtaa", "exostreamkit"];
/// The one that sets up a session before anybody is heard.
const SESSION: &str = "openai";

/// The daemon's side of one call.
struct Call {
    now: Now,
    pool: Pool,
    line: Line,
    bridge: Bridge,
    /// Bytes that the trunk and the line were sent.
    to_trunk: usize,
    to_line: usize,
    allocations: u64,
    /// Of [`allocations`](Self::allocations), bytes that are still held.
    held: i64,
}

impl Call {
    fn new(dialect: &'static str) -> Self {
        let blocks = 1_600;
        let mut pool = Pool::new(vec![0; blocks * BLOCK].leak(), vec![Link::FREE; blocks].leak(), 0, 0);
        let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
        let mut bridge = Bridge::new(Now::ZERO, Now::from_secs(5), Rate::Hz8000, limits, &mut pool).unwrap();
        bridge.handle_trunk_answered(Now::ZERO, leg(dialect, Role::Vendor), &mut pool);
        let line = Line::new(Reader::new());
        Self { now: Now::ZERO, pool, line, bridge, to_trunk: 0, to_line: 0, allocations: 0, held: 0 }
    }

    /// 20 ms: the PBX sends these bytes and is sent a frame, the agent's bytes come in reads of at most `read` bytes.
    fn frame(&mut self, caller: &[u8], agent: &[u8], read: usize) {
        let AllocationInfo { count_total, bytes_current, .. } = measure(|| {
            self.now += Now::from_millis(20);
            self.hear_line(caller);
            self.bridge.pump(self.now, &mut self.pool);
            self.write_trunk(1_000);
            self.hear_trunk(agent, read);
            self.tick();
            self.write_trunk(usize::MAX);
        });
        self.allocations += count_total;
        self.held += bytes_current;
    }

    fn hear_line(&mut self, mut bytes: &[u8]) {
        loop {
            while let Some(input) = self.line.poll(self.now).unwrap() {
                match input {
                    Input::Audio(rate, samples) => {
                        self.bridge.handle_line_audio(self.now, rate, samples, &mut self.pool);
                    }
                    Input::Digit(digit) => self.bridge.handle_digit(self.now, digit),
                    Input::Hangup => {
                        let hung_up = CallEvent::LineEnded(EndReason::LineHungUp);
                        self.bridge.handle_event(self.now, hung_up, &mut self.pool);
                    }
                    other => panic!("{other:?}"),
                }
            }
            if bytes.is_empty() {
                return;
            }
            let n = self.line.feed(bytes);
            bytes = &bytes[n..];
        }
    }

    fn hear_trunk(&mut self, mut bytes: &[u8], read: usize) {
        while self.bridge.handle_trunk(self.now, &mut self.pool) == Flow::Hungry && !bytes.is_empty() {
            let trunk = self.bridge.trunk_mut().unwrap();
            let n = if read > 100 {
                trunk.feed(&bytes[..bytes.len().min(read)])
            } else {
                let spare = trunk.spare();
                let n = spare.len().min(bytes.len()).min(read);
                spare[..n].copy_from_slice(&bytes[..n]);
                trunk.filled(n);
                n
            };
            bytes = &bytes[n..];
            self.write_trunk(usize::MAX);
        }
        assert!(bytes.is_empty(), "there is room for all that these tests send");
    }

    fn tick(&mut self) {
        if self.bridge.state().has_line() {
            let tick = Tick { now: self.now, late: Now::ZERO, missed: 0 };
            let mut frame = [0; MAX_SAMPLES];
            let frame = &mut frame[..self.bridge.line_rate().frame()];
            let heard = self.bridge.poll_frame(tick, &mut self.pool, frame);
            let mut message = [0; MAX_MESSAGE];
            self.to_line += self.line.write_frame(frame, &mut message).len();
            self.bridge.handle_frame_written(self.now, heard, &mut self.pool);
        }
        self.bridge.handle_tick(self.now, &mut self.pool);
    }

    /// The trunk's socket takes this much.
    fn write_trunk(&mut self, most: usize) {
        if let Some(trunk) = self.bridge.trunk_mut() {
            let n = trunk.out().len().min(most);
            trunk.written(n);
            self.to_trunk += n;
        }
    }

    /// The caller says nothing for so long, and of the agent there is only a sign of life.
    fn frames(&mut self, n: usize) {
        let ping = frame(PING, true, b"");
        for i in 0..n {
            self.frame(&[], if i % 50 == 0 { &ping } else { &[] }, 1);
        }
    }

    fn tally(&self) -> Tally {
        self.bridge.trunk_tally()
    }
}

fn leg(dialect: &'static str, role: Role) -> Leg {
    leg_of(dialect, role, if role == Role::Vendor { Side::Client } else { Side::Server })
}

fn leg_of(dialect: &'static str, role: Role, side: Side) -> Leg {
    let facts = Facts {
        call_id: "abcdefgh2345".try_into().unwrap(),
        ucid: "17672256001231234".try_into().unwrap(),
        stream_sid: "abcdefgh2345".try_into().unwrap(),
        account: "harbour".try_into().unwrap(),
        ..Facts::default()
    };
    Leg::new(Setup {
        side,
        dialect: dialect::open(dialect, role, Some(Rate::Hz8000), Rate::Hz8000, &Options::default()).unwrap(),
        facts,
        rate: Rate::Hz8000,
        now: Now::ZERO,
        epoch_ms: 1_767_225_600_000,
        ping_every: Now::from_secs(20),
    })
}

fn speech(n: usize) -> Vec<i16> {
    (0..n).map(|i| ((i * 7919) % 60_000) as i16).collect()
}

/// One message of AudioSocket.
fn said(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    [&[kind, high, low], payload].concat()
}

fn pcm(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// What a PBX sends in 20 ms, by its kind: PCM at a rate or, under 0x10, G.711.
fn lines() -> [(&'static str, Rate, Vec<u8>); 5] {
    let slin = |kind, rate: Rate| said(kind, &pcm(&speech(rate.frame())));
    let mut codes = [0; 160];
    Law::Mu.encode_slice(&speech(160).iter().map(|sample| sample / 4).collect::<Vec<_>>(), &mut codes);
    [
        ("PCM at 8 kHz", Rate::Hz8000, slin(0x10, Rate::Hz8000)),
        ("G.711", Rate::Hz8000, said(0x10, &codes)),
        ("PCM at 16 kHz", Rate::Hz16000, slin(0x12, Rate::Hz16000)),
        ("PCM at 24 kHz", Rate::Hz24000, slin(0x13, Rate::Hz24000)),
        ("PCM at 48 kHz", Rate::Hz48000, slin(0x16, Rate::Hz48000)),
    ]
}

/// A frame of a server (RFC 6455 5.2).
fn frame(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(is_final) << 7 | opcode];
    match payload.len() {
        len @ ..=125 => frame.push(len as u8),
        len @ ..=65_535 => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// A message in fragments of this many bytes, with a ping after every thousandth.
fn fragments(opcode: u8, message: &[u8], len: usize) -> Vec<u8> {
    let last = message.len().div_ceil(len) - 1;
    let mut frames = vec![];
    for (i, piece) in message.chunks(len).enumerate() {
        frames.extend(frame(if i == 0 { opcode } else { 0 }, i == last, piece));
        if i % 1_000 == 999 && i < last {
            frames.extend(frame(PING, true, b"are you there?"));
        }
    }
    frames
}

/// What an agent's leg of ours sends when it is used so.
fn agent_sends(dialect: &'static str, mut speak: impl FnMut(&mut Leg)) -> Vec<u8> {
    let mut leg = leg(dialect, Role::Agent);
    speak(&mut leg);
    leg.out().to_vec()
}

/// One message with as many samples as fit `bytes`, and how many those are.
fn largest(dialect: &str, bytes: usize) -> (u8, Vec<u8>, usize) {
    let around = |head: &str, body: &str, tail: &str| format!("{head}{body}{tail}").into_bytes();
    match dialect {
        "ozonetel" => {
            let (head, tail) =
                (r#"{"event":"media","type":"media","ucid":"1","data":{"samples":["#, r#"],"sampleRate":8000}}"#);
            let samples = (bytes - head.len() - tail.len()) / "-32768,".len();
            (TEXT, around(head, vec!["-32768"; samples].join(",").as_str(), tail), samples)
        }
        "exotel" => {
            let (head, tail) = (r#"{"event":"media","stream_sid":"s","media":{"payload":""#, r#"","chunk":"7"}}"#);
            let groups = (bytes - head.len() - tail.len()) / 8;
            (TEXT, around(head, "AQIDBAUG".repeat(groups).as_str(), tail), groups * 3)
        }
        "telnyx" | "twilio" | "plivo" => {
            // Mu-law: a group is three samples.
            let event = if dialect == "plivo" { "playAudio" } else { "media" };
            let (head, tail) = (format!(r#"{{"event":"{event}","media":{{"payload":""#), r#""}}"#);
            let groups = (bytes - head.len() - tail.len()) / 4;
            (TEXT, around(&head, "AQID".repeat(groups).as_str(), tail), groups * 3)
        }
        _ => (BINARY, pcm(&speech(bytes / 2)), bytes / 2),
    }
}

#[test]
fn a_call_of_20_ms_messages_with_pings_both_ways_allocates_nothing() {
    for dialect in DIALECTS {
        for (format, rate, caller) in lines() {
            let mut call = Call::new(dialect);
            let speech = speech(160);
            let audio = agent_sends(dialect, |leg| {
                for half in speech.chunks(leg.dialect().chunk().min(160)) {
                    assert!(leg.write_audio(Now::ZERO, half));
                }
            });
            let ping = [frame(PING, true, b"12345678"), audio.clone()].concat();
            let pong = [frame(PONG, true, &1_u64.to_be_bytes()), audio.clone()].concat();
            let digit = [caller.clone(), said(0x03, b"5")].concat();
            for i in 0..3_250 {
                let caller = if i % 100 == 50 { &digit } else { &caller };
                let agent = match i % 50 {
                    0 => &ping,
                    1 => &pong,
                    _ => &audio,
                };
                call.frame(caller, agent, if i % 2 == 0 { 16 * 1024 } else { 100 });
            }
            let what = format!("{dialect}, {format}");
            assert_eq!((call.allocations, call.held), (0, 0), "{what}");
            // And it was a call, with a ping of ours in each 20 s.
            assert_eq!((call.bridge.state(), call.bridge.line_rate()), (State::Bridged, rate), "{what}");
            let samples = 3_200 * rate.frame() as u64;
            // The downlink goes over to the line's rate when it is dry once, and this agent never is.
            assert!(call.bridge.weather().heard >= 3_200 * 160, "{what}: {:?}", call.bridge.weather());
            assert!(call.bridge.uplink().sent >= samples, "{what}: {:?}", call.bridge.uplink());
            assert_eq!(call.bridge.uplink().digits, 32, "{what}");
            assert!(call.bridge.trunk_mut().unwrap().round_trip().is_some(), "{what}");
            assert!(call.to_trunk > 3_200 * 320 && call.to_line > 3_200 * 160, "{what}");
        }
    }
}

/// What of so many bytes a peer may send in one message: chan_websocket closes beyond 65,535.
fn taken(dialect: &str, bytes: usize) -> usize {
    if dialect == "asterisk" { bytes.min(65_500) } else { bytes }
}

#[test]
fn the_largest_messages_allocate_nothing_however_they_are_cut() {
    for dialect in DIALECTS {
        for bytes in [100_000, 1 << 20].map(|bytes| taken(dialect, bytes)) {
            let (opcode, message, samples) = largest(dialect, bytes);
            assert!(bytes - message.len() < 200);
            let cuts = [
                ("in one frame", frame(opcode, true, &message)),
                ("in fragments", fragments(opcode, &message, 1_000)),
                ("in fragments of one byte", fragments(opcode, &message, 1)),
            ];
            for (cut, sent) in cuts {
                for (read, play) in [(16 * 1024, true), (99, false)] {
                    let mut call = Call::new(dialect);
                    call.frame(&[], &sent, read);
                    let what = format!("{dialect}, {bytes} bytes {cut}, {read} at a time");
                    assert_eq!((call.tally().messages_in, call.tally().samples_in), (1, samples as u64), "{what}");
                    if play {
                        call.frames(samples / 160 + 10);
                        assert_eq!(call.bridge.weather().heard, samples as u64, "{what}");
                    }
                    assert_eq!((call.allocations, call.tally().gathered), (0, 0), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_large_message_for_a_wideband_line_allocates_nothing() {
    for dialect in DIALECTS {
        let (opcode, message, samples) = largest(dialect, taken(dialect, 1 << 20));
        let frames = (samples / 160).min(500) as u64;
        let sent = fragments(opcode, &message, 700);
        for (format, rate, caller) in lines() {
            let mut call = Call::new(dialect);
            for _ in 0..20 {
                call.frame(&caller, &[], 1);
            }
            call.frame(&caller, &sent, 16 * 1024);
            for _ in 0..500 {
                call.frame(&caller, &[], 1);
            }
            let what = format!("{dialect}, {format}");
            assert_eq!((call.bridge.line_rate(), call.tally().samples_in), (rate, samples as u64), "{what}");
            assert!(
                call.bridge.weather().heard >= (frames - 1) * rate.frame() as u64,
                "{what}: {:?}",
                call.bridge.weather()
            );
            assert_eq!((call.allocations, call.tally().gathered), (0, 0), "{what}");
        }
    }
}

#[test]
fn a_line_that_changes_its_rate_in_mid_burst_costs_no_allocation() {
    for dialect in DIALECTS {
        let (opcode, message, _) = largest(dialect, taken(dialect, 100_000));
        let mut call = Call::new(dialect);
        call.frame(&[], &frame(opcode, true, &message), 16 * 1024);
        for (_, rate, caller) in lines().iter().chain(&lines()) {
            for _ in 0..15 {
                call.frame(caller, &[], 1);
            }
            assert_eq!(call.bridge.line_rate(), *rate, "{dialect}");
        }
        assert!(call.bridge.weather().heard > 80 * 160, "{dialect}");
        assert_eq!(call.allocations, 0, "{dialect}");
    }
}

#[test]
fn a_mark_on_every_packet_and_a_clear_in_mid_burst_allocate_nothing() {
    for dialect in ["ozonetel", "exotel"] {
        let packets = 3_000;
        let mut burst = vec![];
        for i in 0..packets {
            burst.extend(agent_sends(dialect, |leg| {
                let mark = format!("5b0e6d1e-0c1f-4a2b-9a57-{i:040}");
                // Ozonetel's mark goes on the packet, Exotel's comes behind it.
                let before = dialect == "ozonetel" && leg.say(Now::ZERO, Say::Mark(&mark));
                assert!(leg.write_audio(Now::ZERO, &speech(160)[..leg.dialect().chunk().min(160)]));
                assert!(before || leg.say(Now::ZERO, Say::Mark(&mark)));
            }));
        }
        let clear = agent_sends(dialect, |leg| assert!(leg.say(Now::ZERO, Say::Clear)));

        let mut call = Call::new(dialect);
        call.frame(&[], &burst, 16 * 1024);
        call.frames(500);
        let (_, marks) = call.bridge.clears_and_marks();
        assert!((400..=packets).contains(&marks), "{dialect}: {marks} marks were told");
        assert!(call.to_trunk > marks as usize * 100, "{dialect}");
        call.frame(&[], &clear, 16 * 1024);
        call.frames(100);
        call.frame(&[], &burst, 7);
        call.frame(&[], &clear, 7);
        // Those that were flushed are forgotten by the one and told by the other.
        call.frames(400);
        assert_eq!(call.bridge.clears_and_marks().0, 2, "{dialect}");
        assert!(dialect != "exotel" || call.bridge.clears_and_marks().1 == 2 * packets, "{dialect}");
        assert_eq!((call.allocations, call.tally().malformed), (0, 0), "{dialect}");
    }
}

#[test]
fn only_a_control_text_longer_than_the_buffers_takes_the_heap_and_it_is_counted_apart() {
    for dialect in ["ozonetel", "exotel"] {
        let text = |len: usize| format!(r#"{{"event":"note","text":"{}"}}"#, "n".repeat(len)).into_bytes();
        let (opcode, audio, _) = largest(dialect, 100_000);
        let audio = frame(opcode, true, &audio);
        let mut call = Call::new(dialect);

        // One that fits the socket's buffer in one frame, and a small one in fragments.
        call.frame(&[], &frame(TEXT, true, &text(8_000)), 16 * 1024);
        call.frame(&[], &fragments(TEXT, &text(900), 1), 16 * 1024);
        assert_eq!((call.allocations, call.tally().gathered, call.tally().unknown), (0, 0, 2), "{dialect}");

        for (n, (len, read)) in [(9_000, 16 * 1024), (60_000, 16 * 1024), (60_000, 50)].into_iter().enumerate() {
            let n = n as u64 + 1;
            call.frame(&[], &frame(TEXT, true, &text(len)), read);
            assert_eq!((call.allocations, call.tally().gathered), (n, n), "{dialect}: one each");
            assert_eq!((call.held, call.tally().unknown), (0, 2 + n), "{dialect}: understood, and given back");
            call.frame(&[], &audio, 16 * 1024);
            assert_eq!(call.allocations, n, "{dialect}: audio does not");
        }

        // Beyond the limit it is dropped, and takes no more than any other.
        call.frame(&[], &frame(TEXT, true, &text(500_000)), 16 * 1024);
        assert_eq!((call.allocations, call.held), (4, 0), "{dialect}");
        assert_eq!((call.tally().gathered, call.tally().malformed, call.tally().unknown), (4, 1, 5), "{dialect}");
        assert_eq!(call.bridge.state(), State::Bridged, "{dialect}");
    }
}

#[test]
fn nothing_that_a_peer_gets_wrong_allocates() {
    let wrong: [&[u8]; 4] = [
        b"{\"event\":\"media\"",
        b"{\"event\":\"media\",\"data\":{\"samples\":[1,x]}}",
        b"{\"event\":\"media\",\"media\":{\"payload\":\"****\"}}",
        b"{\"event\":\"media\",\"data\":{\"samples\":[1,2],\"sampleRate\":44100}}",
    ];
    for dialect in DIALECTS {
        let mut call = Call::new(dialect);
        let deep = [b'[', b'{'].map(|bracket| vec![bracket; taken(dialect, 100_000)]);
        for wrong in wrong.into_iter().chain(deep.iter().map(Vec::as_slice)) {
            for opcode in [TEXT, BINARY] {
                call.frame(&[], &frame(opcode, true, wrong), 16 * 1024);
                call.frame(&[], &fragments(opcode, wrong, 3), 16 * 1024);
            }
        }
        // Half of a long message was good, and is taken back.
        let (opcode, mut message, _) = largest(dialect, taken(dialect, 100_000));
        message.truncate(50_000);
        call.frame(&[], &frame(opcode, true, &message), 16 * 1024);
        call.frame(&said(0x77, b"who knows"), &[], 1);
        assert_eq!((call.allocations, call.bridge.state()), (0, State::Bridged), "{dialect}");
        assert!(call.tally().malformed > 0 || dialect == "binary", "{dialect}");
        // The protocol itself broken: the call ends, and still nothing is allocated.
        call.frame(&[], &frame(TEXT, true, b"caf\xe9"), 16 * 1024);
        assert_eq!(call.bridge.state(), State::Ended(EndReason::Protocol), "{dialect}");
        assert_eq!(call.allocations, 0, "{dialect}");
    }
}

#[test]
fn both_ways_to_hang_up_allocate_nothing() {
    for dialect in DIALECTS {
        let (opcode, message, _) = largest(dialect, 100_000);
        let burst = frame(opcode, true, &message);
        let mut call = Call::new(dialect);
        call.frame(&[], &burst, 16 * 1024);
        call.frame(&said(0x00, b""), &[], 1);
        assert!(!call.bridge.state().has_line(), "{dialect}");
        assert_eq!(call.allocations, 0, "{dialect}");

        let mut call = Call::new(dialect);
        let close = [frame(BINARY, true, &[]), frame(CLOSE, true, &1000_u16.to_be_bytes())].concat();
        call.frame(&[], &close, 16 * 1024);
        call.frames(5);
        assert_eq!(call.bridge.state(), State::Ended(EndReason::TrunkHungUp), "{dialect}");
        assert_eq!(call.allocations, 0, "{dialect}");
    }
}

/// A sink of fixed size.
struct Ears {
    staged: usize,
    heard: usize,
    events: usize,
}

impl Sink for Ears {
    fn rate(&self) -> Rate {
        Rate::Hz16000
    }
    fn room(&self) -> usize {
        1 << 20
    }
    fn stage(&mut self, samples: &[i16]) {
        self.staged += samples.len();
    }
    fn publish(&mut self, _: Now) {
        self.heard += core::mem::take(&mut self.staged);
    }
    fn rollback(&mut self) {
        self.staged = 0;
    }
    fn event(&mut self, _: Now, _: Event<'_>) {
        self.events += 1;
    }
}

#[test]
fn a_leg_in_the_agents_role_allocates_nothing_from_the_vendors_first_word_on() {
    for dialect in DIALECTS.into_iter().chain(LISTENERS) {
        let mut vendor = leg(dialect, Role::Vendor);
        let mut sent = vec![];
        let mut send = |vendor: &mut Leg| {
            sent.extend(vendor.out());
            let n = vendor.out().len();
            vendor.written(n);
        };
        vendor.open(Now::ZERO);
        let speech = speech(160);
        for i in 0..500 {
            for half in speech.chunks(vendor.dialect().chunk()) {
                assert!(vendor.write_audio(Now::ZERO, half));
            }
            if i % 100 == 0 {
                vendor.say(Now::ZERO, Say::Heard("greeting"));
                vendor.say(Now::ZERO, Say::Dtmf(b'7'));
            }
            send(&mut vendor);
        }
        let mut agent = leg(dialect, Role::Agent);
        agent.set_rate(Rate::Hz16000);
        let mut ears = Ears { staged: 0, heard: 0, events: 0 };
        let counted = measure(|| {
            let mut rest = &sent[..];
            loop {
                agent.handle(Now::ZERO, &mut ears).unwrap();
                if rest.is_empty() {
                    break;
                }
                let n = agent.feed(&rest[..rest.len().min(500)]);
                rest = &rest[n..];
                assert!(agent.write_audio(Now::ZERO, &speech));
                agent.say(Now::ZERO, Say::Mark("greeting"));
                agent.say(Now::ZERO, Say::Clear);
                let n = agent.out().len();
                agent.written(n);
            }
            assert!(agent.beat(Now::from_secs(30)));
        });
        assert_eq!(counted.count_total, 0, "{dialect}");
        assert!(ears.heard > 2 * 499 * 160, "{dialect}: {}", ears.heard);
        assert!(ears.events > 5 || dialect == "binary" || LISTENERS.contains(&dialect), "{dialect}: {}", ears.events);
    }
}

#[test]
fn an_openai_session_allocates_nothing_from_its_first_event_on() {
    let event = |text: &str| frame(TEXT, true, text.as_bytes());
    let delta = |response: &str, groups: usize| {
        let kind = "response.output_audio.delta";
        let payload = "AQIDBAUG".repeat(groups);
        event(&format!(r#"{{"type":"{kind}","response_id":"{response}","item_id":"i{response}","delta":"{payload}"}}"#))
    };
    let mut call = Call::new("openai");
    let caller = &lines()[0].2;
    let session = r#"{"type":"realtime","audio":{"output":{"format":{"type":"audio/pcm","rate":24000}}}}"#;
    call.frame(caller, &event(&format!(r#"{{"type":"session.created","session":{session}}}"#)), 16 * 1024);
    call.frame(caller, &event(&format!(r#"{{"type":"session.updated","session":{session}}}"#)), 16 * 1024);
    for i in 0..1_000 {
        let response = format!("r{}", i / 100);
        let agent = match i % 100 {
            0 => event(&format!(r#"{{"type":"response.created","response":{{"id":"{response}"}}}}"#)),
            // One that fits the leg's buffer (20 ms), and one that does not (a second).
            1..=30 => delta(&response, 160),
            31 => delta(&response, 8_000),
            40 => event(r#"{"type":"response.output_audio_transcript.delta","delta":"so"}"#),
            50 => event(r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":1}"#),
            51 => delta(&response, 8_000),
            52 => {
                event(&format!(r#"{{"type":"response.done","response":{{"id":"{response}","status":"cancelled"}}}}"#))
            }
            60 => event(r#"{"type":"error","error":{"code":"x","message":"y"}}"#),
            _ => vec![],
        };
        let digit = [caller.clone(), said(0x03, b"5")].concat();
        call.frame(if i % 100 == 70 { &digit } else { caller }, &agent, if i % 2 == 0 { 16 * 1024 } else { 101 });
    }
    assert_eq!((call.allocations, call.held), (0, 0));
    let (tally, weather) = (call.tally(), call.bridge.weather());
    assert_eq!((tally.malformed, tally.unknown, tally.skipped, tally.faults), (0, 0, 10, 10), "{tally:?}");
    assert_eq!(call.bridge.clears_and_marks().0, 10);
    assert!(weather.heard > 10 * 45 * 160 && weather.flushed > 0, "{weather:?}");
    // A session.update, a greeting, ten truncations, ten keys and their answers beside the caller's speech.
    assert!(tally.messages_out > 980 + 2 + 10 + 10 + 10, "{tally:?}");
}

#[test]
fn every_dialect_is_tried() {
    for name in dialect::NAMES {
        assert!(DIALECTS.contains(name) || LISTENERS.contains(name) || *name == SESSION, "{name}");
    }
    assert_eq!(dialect::NAMES.len(), DIALECTS.len() + LISTENERS.len() + 1);
}

#[test]
fn an_agent_that_only_listens_costs_no_allocation() {
    for dialect in LISTENERS {
        for (format, rate, caller) in lines() {
            let mut call = Call::new(dialect);
            let text = |text: &str| frame(TEXT, true, text.as_bytes());
            call.frame(&caller, &text(r#"{"event":"started","interaction_id":"abcdefgh2345"}"#), 16 * 1024);
            let ping = frame(PING, true, b"12345678");
            let pong = frame(PONG, true, &1_u64.to_be_bytes());
            let digit = [caller.clone(), said(0x03, b"5")].concat();
            let nothing = vec![];
            for i in 0..1_500_u64 {
                let ack = text(&format!(r#"{{"event":"ack","seq":{i}}}"#));
                let agent = match i % 100 {
                    0 => &ack,
                    20 => &ping,
                    40 => &pong,
                    _ => &nothing,
                };
                let caller = if i % 100 == 50 { &digit } else { &caller };
                call.frame(caller, agent, if i % 2 == 0 { 16 * 1024 } else { 100 });
            }
            let what = format!("{dialect}, {format}");
            assert_eq!((call.allocations, call.held), (0, 0), "{what}");
            assert_eq!((call.bridge.state(), call.bridge.line_rate()), (State::Bridged, rate), "{what}");
            assert!(call.bridge.uplink().sent >= 1_400 * rate.frame() as u64, "{what}: {:?}", call.bridge.uplink());
            assert_eq!((call.tally().malformed, call.tally().unknown), (0, 0), "{what}");
            call.frame(&said(0x00, b""), &[], 1);
            assert!(!call.bridge.state().has_line(), "{what}");
            assert_eq!(call.allocations, 0, "{what}");
        }
    }
}

/// The daemon's side of a call that a vendor connected to us, between the legs of its peers.
struct CloudCall {
    now: Now,
    pool: Pool,
    bridge: Bridge,
    vendor: Leg,
    agent: Leg,
    caller: Ears,
    model: Ears,
    allocations: u64,
    /// Of the caller and of the agent, as they were overheard.
    overheard: [u64; 2],
    notes: u64,
}

impl CloudCall {
    fn new(vendor: &'static str) -> Self {
        let blocks = 1_600;
        let mut pool = Pool::new(vec![0; blocks * BLOCK].leak(), vec![Link::FREE; blocks].leak(), 0, 0);
        let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
        let mut bridge = Bridge::new(Now::ZERO, Now::from_secs(5), Rate::Hz8000, limits, &mut pool).unwrap();
        bridge.listen(true);
        // The vendor is the one that dials.
        let setup = LineSetup { silent_after: None, direction: Direction::Both };
        bridge.set_line(Now::ZERO, leg_of(vendor, Role::Agent, Side::Server), setup);
        bridge.handle_trunk_answered(Now::ZERO, leg("exotel", Role::Vendor), &mut pool);
        let (mut vendor, mut agent) = (leg_of(vendor, Role::Vendor, Side::Client), leg("exotel", Role::Agent));
        vendor.open(Now::ZERO);
        agent.open(Now::ZERO);
        let ears = || Ears { staged: 0, heard: 0, events: 0 };
        let (caller, model) = (ears(), ears());
        vendor.set_rate(caller.rate());
        agent.set_rate(model.rate());
        let mut call = Self {
            now: Now::ZERO,
            pool,
            bridge,
            vendor,
            agent,
            caller,
            model,
            allocations: 0,
            overheard: [0; 2],
            notes: 0,
        };
        // A start may name another rate, and what is overheard makes room for it once.
        for _ in 0..10 {
            call.frame(&[]);
        }
        call.allocations = 0;
        call
    }

    /// 20 ms: the caller says this, and everything that anybody wrote is read.
    fn frame(&mut self, caller: &[i16]) {
        self.now += Now::from_millis(20);
        self.vendor.say_due(self.now);
        self.agent.say_due(self.now);
        for samples in caller.chunks(self.vendor.chunk().max(1)) {
            self.vendor.write_audio(self.now, samples);
        }
        self.exchange();
        let Self { now, pool, bridge, allocations, overheard, notes, .. } = self;
        *allocations += measure(|| {
            bridge.handle_tick(*now, pool);
            bridge.overhear(None, |_, caller, agent| {
                for (sum, samples) in overheard.iter_mut().zip([caller, agent]) {
                    *sum += samples.iter().filter(|&&sample| sample != 0).count() as u64;
                }
            });
            while bridge.poll_note().is_some() {
                *notes += 1;
            }
        })
        .count_total;
        self.exchange();
    }

    /// Only the daemon's part is counted.
    fn exchange(&mut self) {
        loop {
            let Self { now, pool, bridge, vendor, agent, caller, model, allocations, .. } = self;
            let mut moved = 0;
            *allocations += measure(|| {
                bridge.pump(*now, pool);
                bridge.pump_line(*now, pool);
                while bridge.handle_line(*now, pool) == Flow::Hungry && !vendor.out().is_empty() {
                    let n = bridge.line_mut().unwrap().feed(vendor.out());
                    vendor.written(n);
                    moved += n;
                }
                while bridge.handle_trunk(*now, pool) == Flow::Hungry && !agent.out().is_empty() {
                    let n = bridge.trunk_mut().unwrap().feed(agent.out());
                    agent.written(n);
                    moved += n;
                }
            })
            .count_total;
            moved += pass(*now, bridge.line_mut().unwrap(), vendor, caller);
            moved += pass(*now, bridge.trunk_mut().unwrap(), agent, model);
            if moved == 0 {
                return;
            }
        }
    }
}

/// One side reads what the other wrote; gives how many bytes.
fn pass(now: Now, from: &mut Leg, to: &mut Leg, ears: &mut Ears) -> usize {
    let mut passed = 0;
    while !from.out().is_empty() {
        let n = to.feed(from.out());
        from.written(n);
        to.handle(now, ears).unwrap();
        passed += n;
    }
    passed
}

#[test]
fn a_line_that_is_a_websocket_allocates_nothing_while_its_agent_is_paced_marked_and_cleared() {
    for dialect in dialect::NAMES {
        let mut call = CloudCall::new(dialect);
        let speech = speech(320);
        for i in 0..3_000 {
            // A sentence is 3 s of speech at once, which is more than a vendor takes ahead; it is marked in its midst.
            if i % 300 == 10 {
                for turn in 0..150 {
                    assert!(call.agent.write_audio(call.now, &speech), "{dialect}");
                    if turn % 10 == 9 {
                        assert!(call.agent.say(call.now, Say::Mark("in mid sentence")), "{dialect}");
                    }
                    call.exchange();
                }
            }
            if i % 600 == 100 {
                assert!(call.agent.say(call.now, Say::Clear), "{dialect}");
            }
            match i % 100 {
                // The vendor says of one that it was played; of the others it forgets to.
                30 => {
                    call.vendor.say(call.now, Say::Heard("in mid sentence"));
                }
                70 => {
                    call.vendor.say(call.now, Say::Dtmf(b'7'));
                }
                _ => {}
            }
            call.frame(if i % 200 < 120 { &speech } else { &[] });
        }
        // Marks that the vendor does not give back are told when they must have been heard long ago.
        for _ in 0..400 {
            call.frame(&[]);
        }
        assert_eq!(call.allocations, 0, "{dialect}");
        // And it was a call.
        assert_eq!(call.bridge.state(), State::Bridged, "{dialect}");
        let (clears, marks) = call.bridge.clears_and_marks();
        let is_both = call.bridge.direction() == Direction::Both;
        assert!(call.model.heard > 1_700 * 160, "{dialect}: {}", call.model.heard);
        assert!(call.overheard[0] > 1_700 * 100 && call.notes > 0, "{dialect}: {:?}", call.overheard);
        assert!(!is_both || call.overheard[1] > 1_000 * 100, "{dialect}: {:?}", call.overheard);
        assert!(!is_both || call.caller.heard > 1_000 * 160, "{dialect}: {}", call.caller.heard);
        assert!(!is_both || (clears, marks) == (5, 150), "{dialect}: {clears} clears, {marks} marks");
        let malformed = (call.bridge.line_tally().unwrap().malformed, call.bridge.trunk_tally().malformed);
        assert_eq!(malformed, (0, 0), "{dialect}");
    }
}

#[test]
fn both_sides_of_an_openai_session_allocate_nothing() {
    let (mut vendor, mut agent) = (leg("openai", Role::Vendor), leg("openai", Role::Agent));
    agent.set_rate(Rate::Hz16000);
    let (mut caller, mut model) = (Ears { staged: 0, heard: 0, events: 0 }, Ears { staged: 0, heard: 0, events: 0 });
    let speech = speech(160);
    let counted = measure(|| {
        agent.open(Now::ZERO);
        vendor.open(Now::ZERO);
        for i in 0..1_000 {
            let now = Now::from_millis(20 * i);
            pass(now, &mut agent, &mut vendor, &mut caller);
            if vendor.has_room() {
                assert!(vendor.write_audio(now, &speech));
            }
            if i % 100 == 70 {
                vendor.say(now, Say::Dtmf(b'7'));
                vendor.say(now, Say::BargeIn);
                vendor.say(now, Say::Cleared { unheard_ms: 100 });
            }
            vendor.say_due(now);
            pass(now, &mut vendor, &mut agent, &mut model);
            if i % 100 < 60 {
                assert!(agent.write_audio(now, &speech));
            }
            if i % 100 == 30 {
                agent.say(now, Say::Clear);
            }
        }
    });
    assert_eq!(counted.count_total, 0);
    assert!(model.heard > 990 * 160 && caller.heard > 500 * 80, "{} {}", model.heard, caller.heard);
    assert!(model.events > 10 && caller.events >= 10, "{} {}", model.events, caller.events);
    assert_eq!((vendor.tally().malformed, agent.tally().malformed), (0, 0));
    assert_eq!((vendor.tally().unknown, agent.tally().unknown, vendor.tally().faults), (0, 0, 0));
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
