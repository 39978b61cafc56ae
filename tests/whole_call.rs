//! Whole calls in virtual time: AudioSocket bytes in at one end, an agent's WebSocket bytes at the other, no sockets and
//! no clock. What happens on a media thread happens here in the same order, faster.

#![allow(clippy::unwrap_used)]

use trunkline::{
    call::{Bridge, EndReason, State, bridge::Limits, state::Event as CallEvent, tap::Happening},
    dialect::{self, Event, Facts, Options, Role, Say, Transfer, Wish},
    leg::{
        audiosocket::{
            line::{Input, Line, MAX_MESSAGE},
            message::Reader,
        },
        websocket::{
            leg::{Flow, Leg, Setup, Sink},
            wire::Side,
        },
    },
    media::{
        Now, Rate,
        playout::Tick,
        pool::{BLOCK, Link, Pool},
    },
};

const FRAME: usize = 160;

/// A PBX, a daemon's call and an agent, joined by wires without delay.
struct Site {
    now: Now,
    pool: Pool,
    line: Line,
    bridge: Bridge,
    agent: Agent,
    /// What the caller said.
    said: Vec<i16>,
    /// What was sent to the line, silence included.
    heard: Vec<i16>,
    /// For each frame on the line, how many samples of it were the agent's.
    voiced: Vec<usize>,
    /// Bytes of the agent that the daemon has not read.
    unread: std::collections::VecDeque<u8>,
}

struct Agent {
    leg: Leg,
    ears: Ears,
    echoes: bool,
    dialect: &'static str,
}

#[derive(Default)]
struct Ears {
    rate: Option<Rate>,
    staged: Vec<i16>,
    heard: Vec<i16>,
    marks: Vec<String>,
    stopped: bool,
    started: bool,
    digits: Vec<u8>,
    holds: Vec<bool>,
    transfers: Vec<Transfer>,
}

impl Sink for Ears {
    fn rate(&self) -> Rate {
        self.rate.unwrap_or(Rate::Hz8000)
    }
    fn room(&self) -> usize {
        usize::MAX / 1024
    }
    fn stage(&mut self, samples: &[i16]) {
        self.staged.extend(samples);
    }
    fn publish(&mut self, _: Now) {
        self.heard.append(&mut self.staged);
    }
    fn rollback(&mut self) {
        self.staged.clear();
    }
    fn event(&mut self, _: Now, event: Event<'_>) {
        match event {
            Event::Heard(name) => self.marks.push(name.to_owned()),
            Event::Stop => self.stopped = true,
            Event::Start => self.started = true,
            Event::Dtmf(digit) => self.digits.push(digit),
            Event::Held(held) => self.holds.push(held),
            Event::Transfer(transfer) => self.transfers.push(transfer),
            _ => {}
        }
    }
}

fn facts() -> Facts {
    Facts {
        call_id: "abcdefghijkl".try_into().unwrap(),
        ucid: "17000000000001234".try_into().unwrap(),
        stream_sid: "abcdefghijkl".try_into().unwrap(),
        call_sid: "8e3d…".try_into().unwrap(),
        account: "office".try_into().unwrap(),
        ..Facts::default()
    }
}

fn leg(dialect: &'static str, role: Role, now: Now) -> Leg {
    Leg::new(Setup {
        side: if role == Role::Vendor { Side::Client } else { Side::Server },
        dialect: dialect::open(dialect, role, None, Rate::Hz8000, &Options::default()).unwrap(),
        facts: if role == Role::Vendor { facts() } else { Facts::default() },
        rate: Rate::Hz8000,
        now,
        epoch_ms: 1_700_000_000_000,
        ping_every: Now::from_secs(20),
    })
}

fn pool(blocks: usize) -> Pool {
    Pool::new(vec![0; blocks * BLOCK].leak(), vec![Link::FREE; blocks].leak(), 0, 0)
}

impl Site {
    fn new(dialect: &'static str, downlink_seconds: usize) -> Self {
        let mut pool = pool(2400);
        let limits = Limits { downlink_seconds, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
        let give_up_at = Now::from_secs(5);
        let mut bridge = Bridge::new(Now::ZERO, give_up_at, Rate::Hz8000, limits, &mut pool).unwrap();
        bridge.handle_trunk_answered(Now::ZERO, leg(dialect, Role::Vendor, Now::ZERO), &mut pool);
        let agent = Agent { leg: leg(dialect, Role::Agent, Now::ZERO), ears: Ears::default(), echoes: false, dialect };
        let line = Line::new(Reader::new());
        let mut site = Self {
            now: Now::ZERO,
            pool,
            line,
            bridge,
            agent,
            said: vec![],
            heard: vec![],
            voiced: vec![],
            unread: Default::default(),
        };
        site.exchange();
        // Until the format is certain the trunk hears silence.
        for _ in 0..12 {
            site.frame(&[0; FRAME], 0);
        }
        site.said.clear();
        site
    }

    fn echo(dialect: &'static str) -> Self {
        let mut site = Self::new(dialect, 600);
        site.agent.ears.heard.clear();
        site.agent.echoes = true;
        site
    }

    /// Another connection takes the trunk's place, with another agent at its far end.
    fn reconnect(&mut self, dialect: &'static str) {
        self.unread.clear();
        self.agent.leg = leg(dialect, Role::Agent, self.now);
        self.agent.ears = Ears::default();
        self.bridge.handle_trunk_changed(self.now, leg(dialect, Role::Vendor, self.now), &mut self.pool);
        self.agent.leg.open(self.now);
        self.exchange();
    }

    /// 20 ms: the caller says this, and the line gets a frame. Before it, `missed` frames' time passes unserved.
    fn frame(&mut self, caller: &[i16], missed: usize) {
        self.now += Now::from_millis(20 * (missed as u64 + 1));
        self.say(caller);
        self.tick(missed);
    }

    fn say(&mut self, caller: &[i16]) {
        let mut message = vec![0x10];
        message.extend(((caller.len() * 2) as u16).to_be_bytes());
        message.extend(caller.iter().flat_map(|sample| sample.to_le_bytes()));
        self.said.extend(caller);
        self.line_bytes(&message);
    }

    fn line_bytes(&mut self, bytes: &[u8]) {
        assert_eq!(self.line.feed(bytes), bytes.len());
        while let Some(input) = self.line.poll(self.now).unwrap() {
            match input {
                Input::Audio(rate, samples) => self.bridge.handle_line_audio(self.now, rate, samples, &mut self.pool),
                Input::Digit(digit) => self.bridge.handle_digit(self.now, digit),
                Input::Hangup => {
                    let event = CallEvent::LineEnded(EndReason::LineHungUp);
                    self.bridge.handle_event(self.now, event, &mut self.pool);
                }
                other => panic!("{other:?}"),
            }
        }
        self.exchange();
    }

    fn tick(&mut self, missed: usize) {
        if self.bridge.state().has_line() {
            let tick = Tick { now: self.now, late: Now::from_millis(20 * missed as u64), missed };
            let mut frame = [0; FRAME];
            let voiced = self.bridge.poll_frame(tick, &mut self.pool, &mut frame);
            let mut message = [0; MAX_MESSAGE];
            let message = self.line.write_frame(&frame, &mut message);
            assert_eq!(message[..3], [0x10, 1, 64], "one message of 20 ms");
            self.heard.extend(message[3..].chunks(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
            self.voiced.push(voiced);
            self.bridge.handle_frame_written(self.now, voiced, &mut self.pool);
        }
        self.bridge.handle_tick(self.now, &mut self.pool);
        self.exchange();
    }

    /// Moves bytes both ways until nothing moves any more.
    fn exchange(&mut self) {
        loop {
            self.bridge.pump(self.now, &mut self.pool);
            let mut moved = false;
            if let Some(trunk) = self.bridge.trunk_mut() {
                let out = trunk.out().to_vec();
                trunk.written(out.len());
                moved |= !out.is_empty();
                self.agent_reads(&out);
            }
            let out = self.agent.leg.out().to_vec();
            self.agent.leg.written(out.len());
            self.unread.extend(out);
            moved |= self.daemon_reads() > 0;
            if !moved {
                return;
            }
        }
    }

    fn agent_reads(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.agent.leg.feed(bytes)..];
            let _ = self.agent.leg.handle(self.now, &mut self.agent.ears);
            if self.agent.echoes {
                let heard = std::mem::take(&mut self.agent.ears.heard);
                let unit = if self.agent.dialect == "ozonetel" { 80 } else { 160 };
                for chunk in heard.chunks(unit) {
                    assert!(self.agent.leg.write_audio(self.now, chunk));
                }
            }
        }
    }

    /// The daemon reads what the agent sent, as far as it wants to; says how many bytes.
    fn daemon_reads(&mut self) -> usize {
        let before = self.unread.len();
        loop {
            if self.bridge.handle_trunk(self.now, &mut self.pool) == Flow::Paused || self.unread.is_empty() {
                return before - self.unread.len();
            }
            let Some(trunk) = self.bridge.trunk_mut() else { return 0 };
            let bytes = self.unread.make_contiguous();
            let n = trunk.feed(bytes);
            self.unread.drain(..n);
        }
    }

    /// The agent sends speech as fast as it can: everything is on the wire at once.
    fn burst(&mut self, speech: &[i16], mark: Option<&str>) {
        let chunk = self.agent.leg.dialect().chunk();
        for (i, samples) in speech.chunks(chunk).enumerate() {
            if let Some(mark) = mark {
                assert!(self.agent.leg.say(self.now, Say::Mark(&format!("{mark}{i}"))));
            }
            assert!(self.agent.leg.write_audio(self.now, samples));
            let out = self.agent.leg.out().to_vec();
            self.agent.leg.written(out.len());
            self.unread.extend(out);
        }
        self.exchange();
    }

    fn agent_says(&mut self, say: Say<'_>) {
        assert!(self.agent.leg.say(self.now, say));
        let out = self.agent.leg.out().to_vec();
        self.agent.leg.written(out.len());
        self.unread.extend(out);
        self.exchange();
    }

    fn frames(&mut self, n: usize) {
        for _ in 0..n {
            self.frame(&[0; FRAME], 0);
        }
    }

    /// What the agent said that reached the line, without the silence around it.
    fn voice(&self) -> Vec<i16> {
        self.voiced
            .iter()
            .zip(self.heard.chunks(FRAME))
            .flat_map(|(&voiced, frame)| frame[..voiced].iter().copied())
            .collect()
    }
}

/// Speech-like samples, none of which is zero, so that inserted silence can be told from them.
fn speech(from: usize, n: usize) -> Vec<i16> {
    (from..from + n).map(|i| ((i * 7919) % 20_000) as i16 - 9_999).map(|s| if s == 0 { 1 } else { s }).collect()
}

/// Three tones that rise a little, so that no two places of it are alike.
fn loud_music(from: usize, n: usize) -> Vec<i16> {
    let wave = |i: usize, hz: f64| {
        let seconds = i as f64 / 8000.0;
        f64::sin((hz * seconds + 2.0 * seconds * seconds) * std::f64::consts::TAU)
    };
    (from..from + n).map(|i| ((wave(i, 220.0) + wave(i, 277.2) + 0.7 * wave(i, 415.3)) * 7000.0) as i16).collect()
}

#[test]
fn ten_minutes_of_echo_come_back_sample_for_sample() {
    for dialect in ["ozonetel", "exotel", "binary"] {
        let mut site = Site::echo(dialect);
        for i in 0..30_000 {
            site.frame(&speech(i * FRAME, FRAME), 0);
        }
        site.frames(20);
        let weather = site.bridge.weather();
        let heard: Vec<_> = site.voice().into_iter().filter(|&sample| sample != 0).collect();
        let said: Vec<_> = site.said.iter().copied().filter(|&sample| sample != 0).collect();
        assert!(heard == said, "{dialect}: {} samples said, {} heard", said.len(), heard.len());
        assert_eq!((site.bridge.uplink().dropped, weather.repaid, weather.flushed), (0, 0, 0), "{dialect}");
        assert_eq!((weather.underruns, weather.missed), (0, 0), "{dialect}");
    }
}

#[test]
fn ten_seconds_sent_in_a_burst_are_played_once_and_evenly() {
    for dialect in ["ozonetel", "exotel", "binary"] {
        let mut site = Site::new(dialect, 600);
        site.burst(&speech(0, 80_000), None);
        let before = site.voiced.len();
        site.frames(510);
        assert!(site.voice() == speech(0, 80_000), "{dialect}");
        let voiced = &site.voiced[before..];
        let first = voiced.iter().position(|&n| n > 0).unwrap();
        assert!(first <= 1, "{dialect}: the first frame leaves on the first tick after the cushion");
        assert!(voiced[first..first + 500].iter().all(|&n| n == FRAME), "{dialect}: no gap");
    }
}

#[test]
fn five_minutes_sent_in_a_burst_are_silenced_by_a_clear_within_a_frame() {
    for dialect in ["ozonetel", "exotel"] {
        let mut site = Site::new(dialect, 600);
        site.burst(&speech(0, 300 * 8000), None);
        assert!(site.unread.is_empty(), "{dialect}: an ordinary burst is read at once");
        site.frames(200);
        let frames = site.voiced.iter().filter(|&&n| n > 0).count();
        site.agent_says(Say::Clear);
        site.frames(10);
        let voice = site.voice();
        assert!(voice[..frames * FRAME] == speech(0, frames * FRAME), "{dialect}: all before the clear, once");
        assert!(voice.len() - frames * FRAME <= 40, "{dialect}: 5 ms of fade and nothing more");
        assert_eq!(site.voiced[site.voiced.len() - 9..], [0; 9], "{dialect}");
        // The trunk lives, and the next utterance is heard.
        site.burst(&speech(7, 1600), None);
        site.frames(12);
        assert!(site.voice().ends_with(&speech(7, 1600)), "{dialect}");
    }
}

#[test]
fn a_three_minute_burst_with_a_seqid_on_every_packet_is_acknowledged_in_order_when_heard() {
    let mut site = Site::new("ozonetel", 600);
    let samples = 180 * 8000;
    site.burst(&speech(0, samples), Some("5b0e6d1e-0c1f-4a2b-9a57-"));
    for second in 1..=180 {
        site.frames(50);
        let heard = site.voice().len();
        assert_eq!(site.agent.ears.marks.len(), heard / 80, "after {second} s: none early, none late");
    }
    site.frames(5);
    let names: Vec<_> = (0..samples / 80).map(|i| format!("5b0e6d1e-0c1f-4a2b-9a57-{i}")).collect();
    assert!(site.agent.ears.marks == names);
    assert!(site.voice() == speech(0, samples));
}

#[test]
fn above_the_cap_the_agent_waits_and_no_sample_is_lost() {
    let mut site = Site::new("ozonetel", 60);
    site.burst(&speech(0, 300 * 8000), None);
    assert!(!site.unread.is_empty(), "the cap is 60 s and 300 were sent");
    site.frames(290 * 50);
    assert!(site.voice() == speech(0, site.voice().len()));
    assert!(site.voice().len() >= 289 * 8000, "and no gap: {}", site.voice().len());
    // A clear is obeyed within one frame of being read.
    let read_before = site.unread.len();
    site.agent_says(Say::Clear);
    assert!(read_before == 0 && site.unread.is_empty());
    site.frames(2);
    assert_eq!(*site.voiced.last().unwrap(), 0);
}

#[test]
fn a_message_longer_than_the_whole_cap_is_played_to_its_end() {
    let mut site = Site::new("binary", 4);
    let samples = speech(0, 16 * 8000);
    let payload: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    // One binary frame of 256 kB from the server (RFC 6455 5.2: 127 and eight bytes of length).
    let mut bytes = vec![0x82, 127];
    bytes.extend((payload.len() as u64).to_be_bytes());
    bytes.extend(&payload);
    site.unread.extend(bytes);
    site.exchange();
    site.frames(17 * 50);
    assert!(site.voice() == samples, "{} of {}", site.voice().len(), samples.len());
    assert_eq!(site.bridge.weather().underruns, 0);
}

/// The delay of an echo in frames: by how many frames what is heard lies behind what was said.
fn echo_delay(site: &Site, signal: fn(usize, usize) -> Vec<i16>, said_at: usize) -> usize {
    let heard = &site.heard[site.heard.len() - 64..];
    (0..site.said.len())
        .rev()
        .find(|&at| at + 64 <= said_at && signal(at, 64) == heard)
        .map_or(usize::MAX, |at| said_at - at - 64)
}

#[test]
fn a_stop_of_500_ms_during_an_echo_is_repaid_within_three_seconds() {
    for signal in [speech as fn(usize, usize) -> Vec<i16>, loud_music] {
        let mut site = Site::echo("ozonetel");
        for i in 0..250 {
            site.frame(&signal(i * FRAME, FRAME), 0);
        }
        let before = echo_delay(&site, signal, 250 * FRAME);
        assert!(before <= 2 * FRAME, "{before}");

        // The process stops; 26 frames of the caller wait in the kernel, and 25 of ours are never made.
        site.now += Now::from_millis(26 * 20);
        for i in 250..276 {
            site.say(&signal(i * FRAME, FRAME));
        }
        site.tick(25);
        site.frame(&signal(276 * FRAME, FRAME), 0);
        let late = echo_delay(&site, signal, 277 * FRAME);
        assert!(late > before + 24 * FRAME, "the delay is there at first: {late}");

        for i in 277..426 {
            site.frame(&signal(i * FRAME, FRAME), 0);
        }
        let after = echo_delay(&site, signal, 426 * FRAME);
        assert!(after <= before + FRAME, "before {before} samples, 3 s after the stop {after}");
        assert_eq!(site.bridge.weather().missed, 25);
        assert!(site.bridge.weather().repaid >= 24 * FRAME as u64);
    }
}

#[test]
fn a_stop_of_500_ms_during_a_burst_costs_no_sample_and_the_next_utterance_is_not_late() {
    let run = |missed: usize| {
        let mut site = Site::new("ozonetel", 600);
        site.burst(&speech(0, 80_000), None);
        site.frames(100);
        site.frame(&[0; FRAME], missed);
        while site.now < Now::from_millis(12_000) {
            site.frames(1);
        }
        assert!(site.voice() == speech(0, 80_000));
        let from = site.voiced.len();
        site.burst(&speech(9, 8_000), None);
        site.frames(60);
        assert!(site.voice().ends_with(&speech(9, 8_000)));
        assert_eq!(site.bridge.weather().repaid, 0);
        site.voiced[from..].iter().position(|&n| n > 0).unwrap()
    };
    assert_eq!(run(0), run(25));
}

#[test]
fn the_caller_hangs_up_and_the_agent_is_told_to_stop() {
    for dialect in ["ozonetel", "exotel"] {
        let mut site = Site::new(dialect, 600);
        assert!(site.agent.ears.started, "{dialect}");
        site.burst(&speech(0, 80_000), None);
        site.frames(10);
        site.line_bytes(&[0x00, 0, 0]);
        assert!(site.agent.ears.stopped, "{dialect}: stop comes at once");
        assert!(!site.bridge.state().has_line());
        assert_ne!(site.bridge.state(), State::Ended(EndReason::LineHungUp), "{dialect}: the close gives it a second");
        site.now += Now::from_secs(1);
        site.tick(0);
        assert_eq!(site.bridge.state(), State::Ended(EndReason::LineHungUp), "{dialect}");
        let heard = site.bridge.weather().heard as usize;
        assert_eq!(site.bridge.weather().flushed as usize, 80_000 - heard - 40, "{dialect}: the rest was never heard");
    }
}

#[test]
fn the_agent_hangs_up_after_its_last_words_were_heard() {
    let mut site = Site::new("ozonetel", 600);
    site.burst(&speech(0, 8_000), None);
    site.agent_says(Say::HangUp);
    site.frames(60);
    assert!(site.voice() == speech(0, 8_000));
    assert!(site.agent.ears.stopped);
    site.frames(60);
    assert_eq!(site.bridge.state(), State::Ended(EndReason::TrunkHungUp));
}

#[test]
fn an_agent_that_closes_its_socket_hands_the_caller_back_after_its_last_words() {
    let mut site = Site::new("exotel", 600);
    site.burst(&speech(0, 8_000), None);
    site.agent.leg.close(1000, "");
    let out = site.agent.leg.out().to_vec();
    site.agent.leg.written(out.len());
    site.unread.extend(out);
    site.exchange();
    assert!(site.bridge.state().has_line());
    site.frames(60);
    assert!(site.voice() == speech(0, 8_000));
    assert_eq!(site.bridge.state(), State::Ended(EndReason::TrunkHungUp));
}

#[test]
fn a_dead_trunk_gives_the_caller_back_at_once() {
    let mut site = Site::new("ozonetel", 600);
    site.burst(&speech(0, 80_000), None);
    site.frames(10);
    let lost = CallEvent::TrunkEnded(EndReason::TrunkLost);
    site.bridge.handle_event(site.now, lost, &mut site.pool);
    assert_eq!(site.bridge.state(), State::Ended(EndReason::TrunkLost));
}

#[test]
fn a_lost_ingest_hears_on_its_next_connection_what_the_caller_said_meanwhile() {
    let mut site = Site::new("rtaa", 600);
    let lost = CallEvent::TrunkEnded(EndReason::TrunkLost);
    site.bridge.handle_event(site.now, lost, &mut site.pool);
    assert!(site.bridge.state().has_line() && site.bridge.poll_redial() && !site.bridge.poll_redial());
    for n in 0..100 {
        site.frame(&[n; FRAME], 0);
    }
    site.reconnect("rtaa");
    assert!(site.agent.ears.started);
    let heard = site.agent.ears.heard.len();
    assert!((1_800..=2_200).contains(&(heard / 8)), "{} ms", heard / 8);
}

#[test]
fn an_ingest_that_drops_every_connection_at_once_is_given_up() {
    let mut site = Site::new("rtaa", 600);
    let lost = CallEvent::TrunkEnded(EndReason::TrunkLost);
    while site.bridge.state().has_line() {
        assert!(site.now < Now::from_secs(32), "at {:?}", site.now);
        site.bridge.handle_event(site.now, lost, &mut site.pool);
        site.frames(50);
        if site.bridge.poll_redial() {
            site.reconnect("rtaa");
        }
    }
    assert!(site.now > Now::from_secs(30));
    assert_eq!(site.bridge.state(), State::Ended(EndReason::TrunkLost));
}

#[test]
fn a_trunk_that_ends_after_it_said_so_does_not_end_the_call() {
    let mut site = Site::new("openai", 600);
    let expired = br#"{"type":"error","error":{"type":"invalid_request_error","code":"session_expired","message":"Your session hit the maximum duration of 60 minutes."}}"#;
    // One text message from a server (RFC 6455 5.2), and its close.
    site.unread.extend([0x81, 126, (expired.len() >> 8) as u8, expired.len() as u8]);
    site.unread.extend(expired);
    site.agent.leg.close(1001, "");
    site.exchange();
    assert!(site.bridge.poll_redial());
    assert!(site.bridge.state().has_line() && site.bridge.is_ready_to_change(site.now));
    site.reconnect("openai");
    site.frames(10);
    assert_eq!(site.bridge.state(), State::Bridged);
}

#[test]
fn a_trunk_that_answers_no_ping_is_dead_after_two() {
    let mut site = Site::new("binary", 600);
    while site.now < Now::from_secs(59) {
        // The agent's bytes never arrive.
        site.now += Now::from_millis(20);
        site.bridge.handle_tick(site.now, &mut site.pool);
        if let Some(trunk) = site.bridge.trunk_mut() {
            let n = trunk.out().len();
            trunk.written(n);
        }
        assert!(site.bridge.state().has_line(), "at {:?}", site.now);
    }
    while site.now < Now::from_secs(61) {
        site.now += Now::from_millis(20);
        site.bridge.handle_tick(site.now, &mut site.pool);
    }
    assert_eq!(site.bridge.state(), State::Ended(EndReason::TrunkLost));
}

#[test]
fn pings_are_answered_while_a_burst_is_played() {
    let mut site = Site::new("ozonetel", 600);
    site.burst(&speech(0, 300 * 8000), None);
    while site.now < Now::from_secs(65) {
        site.frames(1);
        assert!(site.agent.leg.beat(site.now), "the daemon answers the agent's pings");
    }
    assert!(site.bridge.state().has_line(), "and the agent the daemon's");
    assert!(site.agent.leg.round_trip().is_some());
}

#[test]
fn flushed_marks_are_forgotten_on_ozonetel_and_told_on_exotel() {
    let mut site = Site::new("ozonetel", 600);
    site.burst(&speech(0, 8000), Some("m"));
    site.frames(10);
    let heard = site.agent.ears.marks.len();
    site.agent_says(Say::Clear);
    site.frames(10);
    assert_eq!(site.agent.ears.marks.len(), heard, "no flushed packet is acknowledged");

    let mut site = Site::new("exotel", 600);
    site.burst(&speech(0, 8000), None);
    site.agent_says(Say::Mark("last words"));
    site.frames(10);
    assert!(site.agent.ears.marks.is_empty(), "not early");
    site.agent_says(Say::Clear);
    site.frames(2);
    assert_eq!(site.agent.ears.marks, ["last words"]);
}

#[test]
fn a_mark_that_comes_in_one_read_with_a_clear_is_still_acknowledged() {
    let mut site = Site::new("ozonetel", 600);
    site.burst(&speech(0, 8000), Some("old-"));
    site.frames(10);
    let heard = site.agent.ears.marks.len();
    // The clear and the whole next utterance are in one segment.
    assert!(site.agent.leg.say(site.now, Say::Clear));
    assert!(site.agent.leg.say(site.now, Say::Mark("new")));
    assert!(site.agent.leg.write_audio(site.now, &speech(5, 80)));
    let out = site.agent.leg.out().to_vec();
    site.agent.leg.written(out.len());
    site.unread.extend(out);
    site.exchange();
    site.frames(10);
    assert_eq!(site.agent.ears.marks[heard..], ["new"]);
}

#[test]
fn a_clear_behind_a_burst_above_the_cap_is_obeyed_within_one_frame_of_being_read() {
    let mut site = Site::new("ozonetel", 60);
    site.burst(&speech(0, 70 * 8000), None);
    site.agent_says(Say::Clear);
    assert!(!site.unread.is_empty(), "it stands behind what was not read yet");
    let mut frames = 0;
    while site.bridge.clears_and_marks().0 == 0 {
        site.frames(1);
        frames += 1;
    }
    assert!((8 * 50..=12 * 50).contains(&frames), "it is read when ten seconds were heard: {frames}");
    site.frames(2);
    assert_eq!(site.voiced[site.voiced.len() - 1], 0);
    let voice = site.voice();
    assert!(voice[..voice.len() - 40] == speech(0, voice.len() - 40), "all that was heard before it, once");
}

#[test]
fn a_call_that_waits_above_its_cap_leaves_the_others_alone() {
    let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
    let seat = Limits::reserve(Rate::Hz8000);
    let blocks = 2 * seat + 40;
    let samples = vec![0; blocks * BLOCK].leak();
    let mut pool = Pool::new(samples, vec![Link::FREE; blocks].leak(), 2, seat);
    let mut greedy = Bridge::new(Now::ZERO, Now::from_secs(5), Rate::Hz8000, limits, &mut pool).unwrap();
    greedy.handle_trunk_answered(Now::ZERO, leg("binary", Role::Vendor, Now::ZERO), &mut pool);
    let minute: Vec<u8> = speech(0, 60 * 8000).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut bytes = vec![0x82, 127];
    bytes.extend((minute.len() as u64).to_be_bytes());
    bytes.extend(&minute);
    let mut rest = &bytes[..];
    while greedy.handle_trunk(Now::ZERO, &mut pool) == Flow::Hungry && !rest.is_empty() {
        rest = &rest[greedy.trunk_mut().unwrap().feed(rest)..];
    }
    assert!(!rest.is_empty(), "the pool is smaller than the minute");
    // Another call has its two seconds, down and up.
    let mut modest = Bridge::new(Now::ZERO, Now::from_secs(5), Rate::Hz8000, limits, &mut pool).unwrap();
    modest.handle_trunk_answered(Now::ZERO, leg("binary", Role::Vendor, Now::ZERO), &mut pool);
    let second: Vec<u8> = speech(0, 8000).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    for chunk in second.chunks(320) {
        let trunk = modest.trunk_mut().unwrap();
        assert_eq!(trunk.feed(&[0x82, 126, 1, 64]), 4);
        assert_eq!(trunk.feed(chunk), 320);
        assert_eq!(modest.handle_trunk(Now::ZERO, &mut pool), Flow::Hungry);
    }
    for _ in 0..100 {
        modest.handle_line_audio(Now::ZERO, Rate::Hz8000, &[1; FRAME], &mut pool);
    }
    assert_eq!(modest.uplink().dropped, 0);
}

#[test]
fn what_the_caller_said_last_goes_out_before_the_goodbye() {
    let mut site = Site::new("ozonetel", 600);
    // A second of the caller's speech that the trunk's socket has not taken yet.
    for i in 0..50 {
        site.bridge.handle_line_audio(site.now, Rate::Hz8000, &speech(i * FRAME, FRAME), &mut site.pool);
        site.bridge.pump(site.now, &mut site.pool);
    }
    let event = CallEvent::LineEnded(EndReason::LineHungUp);
    site.bridge.handle_event(site.now, event, &mut site.pool);
    assert!(matches!(site.bridge.state(), State::Closing { .. }));
    site.exchange();
    assert!(site.agent.ears.stopped);
    assert!(site.agent.ears.heard.ends_with(&speech(0, 50 * FRAME)), "to the last sample");
    let up = site.bridge.uplink();
    assert_eq!((up.samples, up.dropped), (up.sent, 0));
}

#[test]
fn digits_reach_an_agent_whose_dialect_has_them() {
    let mut site = Site::new("exotel", 600);
    site.line_bytes(&[0x03, 0, 1, b'7', 0x03, 0, 1, b'#']);
    assert_eq!(site.agent.ears.digits, b"7#");
}

#[test]
fn keys_that_are_pressed_while_the_trunk_is_dialled_are_told_to_whoever_answers() {
    let mut pool = pool(200);
    let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
    let mut bridge = Bridge::new(Now::ZERO, Now::from_secs(9), Rate::Hz8000, limits, &mut pool).unwrap();
    b"42#".iter().for_each(|&digit| bridge.handle_digit(Now::ZERO, digit));
    bridge.handle_trunk_answered(Now::from_secs(1), leg("exotel", Role::Vendor, Now::ZERO), &mut pool);
    let mut agent = leg("exotel", Role::Agent, Now::ZERO);
    let mut ears = Ears::default();
    let out = bridge.trunk_mut().unwrap().out().to_vec();
    let mut rest = &out[..];
    while !rest.is_empty() {
        rest = &rest[agent.feed(rest)..];
        agent.handle(Now::ZERO, &mut ears).unwrap();
    }
    assert_eq!(ears.digits, b"42#");
}

#[test]
fn what_the_caller_said_while_the_trunk_was_dialled_is_sent_first() {
    // One begins with audio, and one has a start in front of it, which its socket has not taken yet.
    for dialect in ["binary", "exotel"] {
        let mut pool = pool(200);
        let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
        let mut bridge = Bridge::new(Now::ZERO, Now::from_secs(9), Rate::Hz8000, limits, &mut pool).unwrap();
        for i in 0..300 {
            bridge.handle_line_audio(Now::ZERO, Rate::Hz8000, &speech(i * FRAME, FRAME), &mut pool);
        }
        bridge.handle_trunk_answered(Now::from_secs(6), leg(dialect, Role::Vendor, Now::ZERO), &mut pool);
        let mut agent = leg(dialect, Role::Agent, Now::ZERO);
        let mut ears = Ears::default();
        while bridge.has_uplink() {
            bridge.pump(Now::from_secs(6), &mut pool);
            let trunk = bridge.trunk_mut().unwrap();
            let out = trunk.out().to_vec();
            trunk.written(out.len());
            let mut rest = &out[..];
            while !rest.is_empty() {
                rest = &rest[agent.feed(rest)..];
                agent.handle(Now::ZERO, &mut ears).unwrap();
            }
        }
        assert!(ears.heard == speech(50 * FRAME, 250 * FRAME), "{dialect}: the last five of six seconds");
        assert_eq!(bridge.uplink().dropped, 8000, "{dialect}");
    }
}

#[test]
fn a_trunk_that_reads_slowly_costs_the_oldest_of_the_callers_words() {
    let mut site = Site::new("binary", 600);
    for i in 0..500 {
        // Nothing of the trunk's out is taken.
        site.bridge.handle_line_audio(site.now, Rate::Hz8000, &speech(i * FRAME, FRAME), &mut site.pool);
        site.bridge.pump(site.now, &mut site.pool);
    }
    let dropped = site.bridge.uplink().dropped as usize;
    assert!((500 * FRAME - dropped).abs_diff(16_000) < 10_000, "about two seconds are kept, {dropped} dropped");
    site.exchange();
    let heard = &site.agent.ears.heard;
    assert!(heard.ends_with(&speech(300 * FRAME, 200 * FRAME)[FRAME * 100..]), "the newest are there");
}

#[test]
fn a_line_that_turns_wideband_is_answered_wideband_and_a_narrow_trunk_is_served_all_the_same() {
    let mut site = Site::new("binary", 600);
    // Asterisk under c(slin16): kind 0x12.
    let samples: Vec<i16> = speech(0, 320);
    let mut message = vec![0x12, 2, 128];
    message.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    site.line_bytes(&message);
    assert_eq!(site.bridge.line_rate(), Rate::Hz16000);
    let mut frame = [0; 320];
    let tick = Tick { now: site.now, late: Now::ZERO, missed: 0 };
    site.bridge.poll_frame(tick, &mut site.pool, &mut frame);
    let mut out = [0; MAX_MESSAGE];
    assert_eq!(site.line.write_frame(&frame, &mut out)[..3], [0x12, 2, 128]);
    // 20 ms at 16 kHz are 160 samples for a trunk at 8 kHz, and what it says fills the line's frames.
    assert_eq!(site.agent.ears.heard.len(), 12 * FRAME + FRAME);
    site.burst(&[1000; 8000], None);
    let mut heard = 0;
    for _ in 0..60 {
        site.now += Now::from_millis(20);
        let tick = Tick { now: site.now, late: Now::ZERO, missed: 0 };
        let voiced = site.bridge.poll_frame(tick, &mut site.pool, &mut frame);
        site.bridge.handle_frame_written(site.now, voiced, &mut site.pool);
        heard += frame.iter().filter(|&&sample| sample == 1000).count();
    }
    assert!((15_900..=16_000).contains(&heard), "a second at 16 kHz, less the filter's edges: {heard}");
}

/// Asks for the transfer as soon as the agent's last words were heard, and says after how many frames that was.
fn frames_until_spoken(site: &mut Site) -> usize {
    site.bridge.ask_spoken(site.now);
    (0..1000).find(|_| site.bridge.poll_spoken(site.now) || (site.frames(1), false).1).unwrap()
}

#[test]
fn a_transfer_waits_for_the_last_word_that_the_agent_said_before_it() {
    let mut site = Site::new("exotel", 600);
    site.bridge.listen(false);
    site.burst(&speech(0, 8000), None);
    let wish = Wish::transfer("sip:300@pbx.example.com").unwrap();
    site.agent_says(Say::Wish(&wish));
    assert_eq!(site.bridge.poll_wish(), Some(wish));
    assert_eq!(site.bridge.poll_wish(), None);
    let frames = frames_until_spoken(&mut site);
    assert!((50..=51).contains(&frames), "one second of speech: {frames}");
    assert_eq!(site.voice(), speech(0, 8000), "and all of it was heard");
    assert!(!site.bridge.poll_spoken(site.now), "it is said once");

    let failed = Transfer::Failed { status: 486 };
    for transfer in [Transfer::Trying, failed] {
        site.bridge.handle_transfer(site.now, transfer);
        site.exchange();
    }
    assert_eq!(site.agent.ears.transfers, [Transfer::Trying, failed]);
    assert_eq!(site.bridge.wishes().transfer, Some(failed));
    let notes: Vec<_> = std::iter::from_fn(|| site.bridge.poll_note()).collect();
    let told = [Happening::TransferAsked, Happening::Transfer(Transfer::Trying), Happening::Transfer(failed)];
    assert!(told.iter().all(|told| notes.contains(told)), "{notes:?}");
}

#[test]
fn a_transfer_does_not_wait_for_what_was_flushed_nor_for_an_agent_that_goes_on_and_on() {
    let mut site = Site::new("exotel", 600);
    assert_eq!(frames_until_spoken(&mut site), 0, "the agent had said nothing");
    site.burst(&speech(0, 80_000), None);
    site.bridge.ask_spoken(site.now);
    site.frames(10);
    assert!(!site.bridge.poll_spoken(site.now));
    site.agent_says(Say::Clear);
    assert!(site.bridge.poll_spoken(site.now));
    // What is said after the wish is not waited for.
    site.burst(&speech(0, 1600), None);
    site.bridge.ask_spoken(site.now);
    site.burst(&speech(0, 80_000), None);
    site.frames(12);
    assert!(site.bridge.poll_spoken(site.now));
    site.burst(&speech(0, 160_000), None);
    let frames = frames_until_spoken(&mut site);
    assert!((499..=501).contains(&frames), "ten seconds at most: {frames}");
}

#[test]
fn an_agent_is_told_of_hold_and_so_is_the_one_that_takes_its_place() {
    let mut site = Site::new("exotel", 600);
    site.bridge.handle_hold(site.now, true);
    site.bridge.handle_hold(site.now, true);
    site.frames(100);
    assert_eq!(site.agent.ears.holds, [true], "told once");
    site.reconnect("exotel");
    assert_eq!(site.agent.ears.holds, [true]);
    site.frames(50);
    site.bridge.handle_hold(site.now, false);
    site.exchange();
    assert_eq!(site.agent.ears.holds, [true, false]);
    site.bridge.handle_hold(site.now, true);
    site.frames(50);
    // Hanging up on hold ends the hold.
    site.line_bytes(&[0, 0, 0]);
    let figures = site.bridge.wishes();
    assert_eq!((figures.holds, figures.held), (2, Now::from_secs(4)));
}

#[test]
fn a_model_that_asks_for_keys_without_end_is_heard_in_part() {
    let mut site = Site::new("exotel", 600);
    for _ in 0..10 {
        site.agent_says(Say::Wish(&Wish::digits("12#").unwrap()));
    }
    assert_eq!(std::iter::from_fn(|| site.bridge.poll_wish()).count(), 4);
    assert_eq!((site.bridge.wishes().wishes, site.bridge.wishes().dropped), (10, 6));
    site.frames(10);
    assert!(site.bridge.state().has_line());
}
