//! Calls that a cloud connects to us, in virtual time: a vendor's WebSocket bytes in at one end, an agent's at the other,
//! no sockets and no clock. The vendor plays what it gets as a telephone platform does: at real time, from a queue.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use trunkline::{
    call::{
        Bridge, EndReason, State, bridge::Limits, state::Event as CallEvent, tap::Happening, websocket_line::LineSetup,
    },
    dialect::{self, Carrier, Direction, Event, Facts, Options, Role, Say, StopReason},
    leg::websocket::{
        leg::{Flow, Leg, Setup, Sink},
        wire::Side,
    },
    media::{
        Now, Rate,
        pool::{BLOCK, Link, Pool},
    },
};

/// What one side heard.
#[derive(Default)]
struct Ears {
    rate: Option<Rate>,
    staged: Vec<i16>,
    heard: Vec<i16>,
    /// Events with the number of samples that came before them.
    events: Vec<(usize, String)>,
}

impl Sink for Ears {
    fn rate(&self) -> Rate {
        self.rate.unwrap()
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
        let what = match event {
            Event::Heard(name) => format!("heard {name}"),
            Event::Mark(name) => format!("mark {name}"),
            Event::Dtmf(digit) => format!("dtmf {}", char::from(digit)),
            other => format!("{other:?}").split(['(', ' ']).next().unwrap().to_owned(),
        };
        self.events.push((self.heard.len(), what));
    }
}

impl Ears {
    fn count(&self, what: &str) -> usize {
        self.events.iter().filter(|(_, event)| event == what).count()
    }
}

/// A peer: its leg and what it heard.
struct Peer {
    leg: Leg,
    ears: Ears,
}

impl Peer {
    fn new(name: &str, role: Role, side: Side, rate: Option<Rate>, options: &Options) -> Self {
        let dialect = dialect::open(name, role, rate, Rate::Hz8000, options).unwrap();
        let rate = dialect.rate();
        let facts = Facts {
            call_id: "abcdefghijkl".try_into().unwrap(),
            ucid: "17000000000001234".try_into().unwrap(),
            stream_sid: "s1".try_into().unwrap(),
            call_sid: "c1".try_into().unwrap(),
            account: "office".try_into().unwrap(),
            from: "5550100011".try_into().unwrap(),
            to: "5550100022".try_into().unwrap(),
            ..Facts::default()
        };
        let epoch_ms = 1_700_000_000_000;
        let ping_every = Now::from_secs(20);
        let leg = Leg::new(Setup { side, dialect, facts, rate, now: Now::ZERO, epoch_ms, ping_every });
        Self { leg, ears: Ears { rate: Some(rate), ..Ears::default() } }
    }

    fn take_out(&mut self) -> Vec<u8> {
        let out = self.leg.out().to_vec();
        self.leg.written(out.len());
        out
    }

    fn read(&mut self, now: Now, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.leg.feed(bytes)..];
            let _ = self.leg.handle(now, &mut self.ears);
            self.leg.set_rate(self.ears.rate.unwrap());
        }
    }
}

/// The vendor's queue of the agent's audio.
#[derive(Default)]
struct VendorQueue {
    /// Samples of what the vendor heard that were played or thrown away.
    played: usize,
    /// Events that were looked at.
    looked_at: usize,
    /// Marks that wait, with the position that has to be played.
    marks: VecDeque<(usize, String)>,
    /// What the caller heard, silence included.
    line: Vec<i16>,
    /// The most that waited (samples).
    most: usize,
}

/// A vendor, a daemon's call and an agent, joined by wires without delay.
struct Site {
    now: Now,
    pool: Pool,
    bridge: Bridge,
    vendor: Peer,
    queue: VendorQueue,
    agent: Peer,
    /// Bytes for the daemon that it has not read.
    from_vendor: VecDeque<u8>,
    from_agent: VecDeque<u8>,
    spoken: Vec<i16>,
    echoes: bool,
}

struct Plan<'p> {
    vendor: &'p str,
    vendor_rate: Option<Rate>,
    vendor_options: Options,
    agent: &'p str,
    agent_rate: Option<Rate>,
    agent_options: Options,
}

impl<'p> Plan<'p> {
    fn new(vendor: &'p str, agent: &'p str) -> Self {
        Self {
            vendor,
            vendor_rate: None,
            vendor_options: Options::default(),
            agent,
            agent_rate: None,
            agent_options: Options::default(),
        }
    }
}

impl Site {
    fn new(vendor: &str, agent: &str) -> Self {
        Self::of(Plan::new(vendor, agent))
    }

    fn of(plan: Plan<'_>) -> Self {
        let Plan { vendor: vendor_name, vendor_rate, vendor_options, agent, agent_rate, agent_options } = plan;
        let mut pool = Pool::new(vec![0; 2400 * BLOCK].leak(), vec![Link::FREE; 2400].leak(), 0, 0);
        let mut vendor = Peer::new(vendor_name, Role::Vendor, Side::Client, vendor_rate, &vendor_options);
        vendor.leg.open(Now::ZERO);
        let rate = vendor.ears.rate.unwrap();
        let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
        let mut bridge = Bridge::new(Now::ZERO, Now::from_secs(5), rate, limits, &mut pool).unwrap();
        bridge.listen(true);
        let line = Peer::new(vendor_name, Role::Agent, Side::Server, vendor_rate, &vendor_options);
        bridge.set_line(Now::ZERO, line.leg, LineSetup { silent_after: Some(Now::from_secs(60)) });
        let trunk = Peer::new(agent, Role::Vendor, Side::Client, agent_rate, &agent_options);
        let mut agent = Peer::new(agent, Role::Agent, Side::Server, agent_rate, &agent_options);
        agent.leg.open(Now::ZERO);
        bridge.handle_trunk_answered(Now::ZERO, trunk.leg, &mut pool);
        let mut site = Self {
            now: Now::ZERO,
            pool,
            bridge,
            vendor,
            queue: VendorQueue::default(),
            agent,
            from_vendor: VecDeque::new(),
            from_agent: VecDeque::new(),
            spoken: Vec::new(),
            echoes: false,
        };
        site.exchange();
        site
    }

    fn rate(&self) -> Rate {
        self.vendor.ears.rate.unwrap()
    }

    /// Moves bytes both ways until nothing moves any more.
    fn exchange(&mut self) {
        loop {
            self.bridge.pump(self.now, &mut self.pool);
            self.bridge.pump_line(self.now, &mut self.pool);
            let mut moved = false;
            if let Some(trunk) = self.bridge.trunk_mut() {
                let out = trunk.out().to_vec();
                trunk.written(out.len());
                moved |= !out.is_empty();
                self.agent.read(self.now, &out);
                if self.echoes {
                    self.echo();
                }
            }
            if let Some(line) = self.bridge.line_mut() {
                let out = line.out().to_vec();
                line.written(out.len());
                moved |= !out.is_empty();
                self.vendor.read(self.now, &out);
                self.vendor_obeys();
            }
            self.from_agent.extend(self.agent.take_out());
            self.from_vendor.extend(self.vendor.take_out());
            moved |= self.daemon_reads_agent() + self.daemon_reads_vendor() > 0;
            if !moved {
                return;
            }
        }
    }

    fn echo(&mut self) {
        let unit = self.agent.leg.unit();
        let whole = self.agent.ears.heard.len() / unit * unit;
        let chunk = (self.agent.leg.chunk() / unit).max(1) * unit;
        let heard: Vec<_> = self.agent.ears.heard.drain(..whole).collect();
        for samples in heard.chunks(chunk) {
            assert!(self.agent.leg.write_audio(self.now, samples));
        }
    }

    fn daemon_reads_agent(&mut self) -> usize {
        let before = self.from_agent.len();
        loop {
            if self.bridge.handle_trunk(self.now, &mut self.pool) == Flow::Paused || self.from_agent.is_empty() {
                return before - self.from_agent.len();
            }
            let Some(trunk) = self.bridge.trunk_mut() else { return 0 };
            let n = trunk.feed(self.from_agent.make_contiguous());
            self.from_agent.drain(..n);
        }
    }

    fn daemon_reads_vendor(&mut self) -> usize {
        let before = self.from_vendor.len();
        loop {
            if self.bridge.handle_line(self.now, &mut self.pool) == Flow::Paused || self.from_vendor.is_empty() {
                return before - self.from_vendor.len();
            }
            let Some(line) = self.bridge.line_mut() else { return 0 };
            let n = line.feed(self.from_vendor.make_contiguous());
            self.from_vendor.drain(..n);
        }
    }

    /// The vendor does what it was told: clears at once, marks when their place is played.
    fn vendor_obeys(&mut self) {
        while let Some((at, event)) = self.vendor.ears.events.get(self.queue.looked_at).cloned() {
            self.queue.looked_at += 1;
            if let Some(name) = event.strip_prefix("mark ") {
                self.queue.marks.push_back((at, name.to_owned()));
            } else if event == "Clear" {
                self.queue.played = at;
                let tell = self.vendor.leg.dialect().marks_on_clear() == dialect::MarksOnClear::Tell;
                for (_, name) in self.queue.marks.drain(..) {
                    if tell {
                        self.vendor.leg.say(self.now, Say::Heard(&name));
                    }
                }
                self.vendor.leg.say(self.now, Say::Cleared { unheard_ms: 0 });
            } else if event == "HangUp" {
                self.vendor.leg.say(self.now, Say::Stop(StopReason::Ended));
                self.vendor.leg.close(1000, "");
            }
        }
        self.queue.most = self.queue.most.max(self.vendor.ears.heard.len() - self.queue.played);
    }

    /// 20 ms: the vendor plays a frame, the caller says this, the daemon has its tick.
    fn frame(&mut self, caller: &[i16]) {
        self.now += Now::from_millis(20);
        let frame = self.rate().frame();
        let n = (self.vendor.ears.heard.len() - self.queue.played).min(frame);
        let played = &self.vendor.ears.heard[self.queue.played..self.queue.played + n];
        self.queue.line.extend(played);
        self.queue.line.resize(self.queue.line.len() + frame - n, 0);
        self.queue.played += n;
        while self.queue.marks.front().is_some_and(|(at, _)| *at <= self.queue.played) {
            let (_, name) = self.queue.marks.pop_front().unwrap();
            self.vendor.leg.say(self.now, Say::Heard(&name));
        }
        self.spoken.extend(caller);
        let chunk = self.vendor.leg.chunk();
        for samples in caller.chunks(chunk) {
            self.vendor.leg.write_audio(self.now, samples);
        }
        self.exchange();
        self.bridge.handle_tick(self.now, &mut self.pool);
        self.exchange();
    }

    fn frames(&mut self, n: usize) {
        let silence = vec![0; self.rate().frame()];
        for _ in 0..n {
            self.frame(&silence);
        }
    }

    fn agent_sends(&mut self, speech: &[i16]) {
        let chunk = self.agent.leg.chunk();
        for samples in speech.chunks(chunk) {
            assert!(self.agent.leg.write_audio(self.now, samples));
            self.from_agent.extend(self.agent.take_out());
        }
        self.exchange();
    }

    fn agent_says(&mut self, say: Say<'_>) {
        assert!(self.agent.leg.say(self.now, say), "{say:?}");
        self.exchange();
    }

    /// Bytes of the agent's own: the head of a frame of `len` bytes, and as much of it as there is.
    fn agent_writes(&mut self, op: u8, payload: &[u8], len: u16) {
        self.from_agent.push_back(op);
        if len <= 125 {
            self.from_agent.push_back(len as u8);
        } else {
            self.from_agent.push_back(126);
            self.from_agent.extend(len.to_be_bytes());
        }
        self.from_agent.extend(payload);
        self.exchange();
    }

    fn notes(&mut self) -> Vec<Happening> {
        std::iter::from_fn(|| self.bridge.poll_note()).collect()
    }
}

/// Samples none of which is zero, so that inserted silence can be told from them.
fn speech(n: usize) -> Vec<i16> {
    (0..n).map(|i| ((i * 7919) % 20_000) as i16 - 9_999).map(|s| if s == 0 { 1 } else { s }).collect()
}

/// Which vendors exist that play an agent: every dialect that carries linear samples both ways at one rate.
fn linear_vendors() -> Vec<&'static str> {
    dialect::NAMES
        .iter()
        .copied()
        .filter(|name| {
            let dialect = dialect::open(name, Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap();
            let coding = dialect.expected().coding;
            dialect.direction() == Direction::Both
                && !matches!(coding, dialect::Coding::Mulaw | dialect::Coding::Alaw)
                && *name != "openai"
        })
        .collect()
}

fn voice(samples: &[i16]) -> Vec<i16> {
    samples.iter().copied().filter(|&sample| sample != 0).collect()
}

#[test]
fn what_the_caller_says_comes_back_sample_for_sample_from_an_echo() {
    for vendor in linear_vendors() {
        let mut site = Site::new(vendor, "exotel");
        let same_rate = site.rate() == Rate::Hz8000;
        site.echoes = true;
        let frame = site.rate().frame();
        let said = speech(frame * 500);
        for caller in said.chunks(frame) {
            site.frame(caller);
        }
        site.frames(60);
        let heard = voice(&site.queue.line);
        if same_rate {
            assert!(heard == said, "{vendor}: {} samples said, {} heard", said.len(), heard.len());
        } else {
            assert!(heard.len() >= said.len() - frame, "{vendor}");
        }
        let (up, weather) = (site.bridge.uplink(), site.bridge.weather());
        assert_eq!((up.dropped, weather.flushed, weather.underruns), (0, 0, 0), "{vendor}");
        assert_eq!(up.samples as usize, site.spoken.len(), "{vendor}");
    }
}

#[test]
fn a_burst_is_paced_and_the_vendors_queue_never_holds_more_than_the_lead() {
    for vendor in linear_vendors() {
        let mut site = Site::new(vendor, "binary");
        let rate = site.rate();
        let lead = site.vendor.leg.dialect();
        let lead_ms =
            dialect::open(lead.name(), Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap().lead_ms();
        let ten_seconds = speech(80_000);
        site.agent_sends(&ten_seconds);
        site.frames(560);
        let most = rate.samples(lead_ms as usize);
        assert!(site.queue.most <= most, "{vendor}: {} samples waited, {most} may", site.queue.most);
        if rate == Rate::Hz8000 {
            assert!(voice(&site.queue.line) == ten_seconds, "{vendor}");
            let start = site.queue.line.iter().position(|&sample| sample != 0).unwrap();
            assert!(site.queue.line[start..start + 80_000].iter().all(|&sample| sample != 0), "{vendor}: no gap");
        }
    }
}

#[test]
fn a_clear_silences_the_line_within_one_frame_and_says_how_much_was_not_heard() {
    for vendor in ["ozonetel", "exotel"] {
        let mut site = Site::new(vendor, "exotel");
        site.agent_sends(&speech(80_000));
        site.frames(50);
        let cleared_before = site.vendor.ears.count("Clear");
        site.agent_says(Say::Clear);
        assert_eq!(site.vendor.ears.count("Clear"), cleared_before + 1, "{vendor}: at once");
        let heard = site.queue.line.len();
        site.frames(50);
        assert!(site.queue.line[heard..].iter().all(|&sample| sample == 0), "{vendor}: silence from the next frame on");
        let weather = site.bridge.weather();
        assert_eq!(weather.heard + weather.flushed, 80_000, "{vendor}");
        let played = voice(&site.queue.line).len() as u64;
        assert!(weather.heard.abs_diff(played) <= 320, "{vendor}: {} counted, {played} heard", weather.heard);
        let notes = site.notes();
        let unheard = notes.iter().find_map(|note| match note {
            Happening::Cleared { unheard_ms } => Some(*unheard_ms),
            _ => None,
        });
        assert_eq!(unheard, Some(weather.flushed / 8), "{vendor}: in ms");
        // It speaks again, and is heard again.
        site.agent_sends(&speech(8000));
        site.frames(80);
        assert_eq!(voice(&site.queue.line).len() as u64, played + 8000, "{vendor}");
    }
}

#[test]
fn a_mark_is_told_when_the_vendor_has_played_it_and_not_before() {
    for vendor in ["ozonetel", "exotel", "binary"] {
        let mut site = Site::new(vendor, "exotel");
        site.agent_sends(&speech(8000));
        site.agent_says(Say::Mark("first"));
        site.agent_sends(&speech(8000));
        site.agent_says(Say::Mark("second"));
        let mut told = [None, None];
        for tick in 0..150 {
            for (name, told) in ["heard first", "heard second"].iter().zip(&mut told) {
                if told.is_none() && site.agent.ears.count(name) > 0 {
                    *told = Some((tick, voice(&site.queue.line).len()));
                }
            }
            site.frames(1);
        }
        let [Some((_, first)), Some((_, second))] = told else { panic!("{vendor}: {told:?}") };
        assert!((8000..8000 + 1700).contains(&first), "{vendor}: {first} samples were heard");
        assert_eq!(second, 16_000, "{vendor}");
        assert_eq!(site.bridge.clears_and_marks().1, 2, "{vendor}");
    }
}

#[test]
fn marks_of_flushed_speech_are_told_once_and_late_answers_of_the_vendor_mean_nothing() {
    let mut site = Site::new("exotel", "exotel");
    for i in 0..5 {
        site.agent_sends(&speech(1600));
        site.agent_says(Say::Mark(&format!("m{i}")));
    }
    site.frames(5);
    site.agent_says(Say::Clear);
    site.frames(2);
    for i in 0..5 {
        assert_eq!(site.agent.ears.count(&format!("heard m{i}")), 1, "m{i}");
    }
    // The same name again is a mark of its own.
    site.agent_sends(&speech(1600));
    site.agent_says(Say::Mark("m4"));
    site.frames(4);
    assert_eq!(site.agent.ears.count("heard m4"), 1, "not yet");
    site.frames(30);
    assert_eq!(site.agent.ears.count("heard m4"), 2);
}

#[test]
fn digits_reach_the_agent() {
    let mut site = Site::new("exotel", "exotel");
    for digit in *b"12#" {
        assert!(site.vendor.leg.say(site.now, Say::Dtmf(digit)));
    }
    site.frames(1);
    let digits: Vec<_> = site.agent.ears.events.iter().filter(|(_, event)| event.starts_with("dtmf")).collect();
    assert_eq!(digits.len(), 3, "{digits:?}");
    assert_eq!(site.bridge.uplink().digits, 3);
}

#[test]
fn a_vendor_that_stops_ends_the_call_and_the_agent_is_told() {
    for vendor in ["ozonetel", "exotel"] {
        let mut site = Site::new(vendor, "exotel");
        site.frames(10);
        assert!(site.vendor.leg.say(site.now, Say::Stop(StopReason::CallerHungUp)));
        site.frames(2);
        assert!(!site.bridge.state().has_line(), "{vendor}");
        assert_eq!(site.agent.ears.count("Stop"), 1, "{vendor}");
        // SIWS-like vendors wait for our close.
        assert!(
            site.bridge.line_mut().unwrap().is_closed() || site.vendor.leg.is_closed() || {
                site.frames(150);
                site.bridge.is_line_done(site.now)
            }
        );
        site.frames(300);
        assert_eq!(site.bridge.state(), State::Ended(EndReason::LineHungUp), "{vendor}");
    }
}

#[test]
fn an_agents_close_hands_the_caller_back_and_its_word_hangs_up() {
    // Exotel has no word to hang up: the next applet runs.
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(8000));
    site.agent.leg.close(1000, "");
    site.frames(20);
    assert!(site.bridge.state().has_line(), "what was said is heard first");
    site.frames(400);
    assert_eq!(voice(&site.queue.line).len(), 8000);
    assert_eq!(site.vendor.ears.count("Clear"), 0, "its last syllable may still be on its way to the caller");
    let State::Ended(reason) = site.bridge.state() else { panic!("{:?}", site.bridge.state()) };
    assert_eq!(site.bridge.reason_of(reason), EndReason::HandedBack);
    assert!(site.bridge.is_line_done(site.now));

    // Ozonetel has one, and an Ozonetel agent says it.
    let mut site = Site::new("ozonetel", "ozonetel");
    site.agent_says(Say::HangUp);
    site.frames(400);
    assert_eq!(site.vendor.ears.count("HangUp"), 1);
    let State::Ended(reason) = site.bridge.state() else { panic!("{:?}", site.bridge.state()) };
    assert_eq!(site.bridge.reason_of(reason), EndReason::TrunkHungUp);
    assert!(site.bridge.is_line_done(site.now));
}

#[test]
fn a_vendor_that_sends_no_audio_for_a_minute_has_lost_its_call() {
    let mut site = Site::new("ozonetel", "exotel");
    site.frames(10);
    for _ in 0..2990 {
        site.frame(&[]);
    }
    assert!(site.bridge.state().has_line());
    for _ in 0..30 {
        site.frame(&[]);
    }
    assert_eq!(site.bridge.state().reason(), Some(EndReason::LineSilent));
}

#[test]
fn a_drained_call_says_goodbye_to_both_sides() {
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(8000));
    site.frames(10);
    site.bridge.handle_event(site.now, CallEvent::Ordered(EndReason::Drained), &mut site.pool);
    site.exchange();
    site.frames(150);
    assert_eq!(site.agent.ears.count("Stop"), 1);
    assert!(site.bridge.is_line_done(site.now));
}

/// What OpenAI says when a session has lasted for an hour.
const SESSION_EXPIRED: &[u8] = br#"{"type":"error","event_id":"event_1","error":{"type":"invalid_request_error","code":"session_expired","message":"Your session hit the maximum duration of 60 minutes.","param":null,"event_id":null}}"#;

#[test]
fn a_session_that_ran_out_goes_on_over_another_connection_however_its_server_closes() {
    for close in [Some(1000_u16), Some(1001), Some(1011), None] {
        let mut site = Site::new("exotel", "openai");
        site.frames(10);
        site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
        assert!(site.bridge.poll_redial());
        match close {
            Some(code) => site.agent_writes(0x88, &code.to_be_bytes(), 2),
            None => site.bridge.handle_event(site.now, CallEvent::TrunkClosed, &mut site.pool),
        }
        assert_eq!(site.bridge.state(), State::Bridged, "{close:?}");
        assert!(!site.bridge.poll_redial(), "{close:?}: it is being dialled already");
        assert!(site.bridge.is_ready_to_change(site.now), "{close:?}");
    }
}

#[test]
fn half_a_message_of_a_lost_trunk_is_not_heard_before_what_the_next_one_says() {
    let mut site = Site::new("exotel", "openai");
    site.frames(10);
    site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
    let mut half =
        br#"{"type":"response.output_audio.delta","response_id":"resp_1","item_id":"item_1","delta":""#.to_vec();
    half.resize(30_000, b'I');
    site.agent_writes(0x81, &half, 60_000);
    site.bridge.handle_event(site.now, CallEvent::TrunkClosed, &mut site.pool);
    site.from_agent.clear();
    site.agent = Peer::new("openai", Role::Agent, Side::Server, None, &Options::default());
    site.agent.leg.open(site.now);
    let trunk = Peer::new("openai", Role::Vendor, Side::Client, None, &Options::default());
    assert!(site.bridge.handle_trunk_changed(site.now, trunk.leg, &mut site.pool).is_none());
    site.exchange();
    site.agent_sends(&speech(2400));
    site.frames(50);
    let heard = voice(&site.queue.line).len();
    assert!((700..900).contains(&heard), "100 ms were said, {heard} samples were heard");
}

#[test]
fn a_trunk_that_cannot_be_had_again_gives_the_vendor_its_line_back() {
    let mut site = Site::new("exotel", "openai");
    site.frames(10);
    site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
    assert!(site.bridge.poll_redial());
    site.bridge.handle_event(site.now, CallEvent::TrunkClosed, &mut site.pool);
    site.frames(1501);
    assert_eq!(site.bridge.state(), State::Bridged, "it is dialled again");
    site.bridge.handle_redial_failed(site.now, EndReason::TrunkRefused, &mut site.pool);
    assert_eq!(site.bridge.state(), State::Ended(EndReason::TrunkRefused));
    assert_eq!(site.bridge.times().ended, Some(site.now));
    site.exchange();
    assert!(site.bridge.is_line_done(site.now), "both have said goodbye");
    assert!(site.vendor.leg.is_closed());
}

#[test]
fn a_caller_who_hangs_up_while_the_trunk_is_dialled_again_wants_none_any_more() {
    let mut site = Site::new("exotel", "openai");
    site.frames(10);
    site.agent_writes(0x81, SESSION_EXPIRED, SESSION_EXPIRED.len() as u16);
    assert!(site.bridge.poll_redial());
    assert!(site.vendor.leg.say(site.now, Say::Stop(StopReason::CallerHungUp)));
    site.exchange();
    assert!(!site.bridge.is_redialing() && !site.bridge.is_ready_to_change(site.now + Now::from_secs(200)));
}

#[test]
fn a_vendor_that_reads_nothing_does_not_keep_a_call_whose_agent_has_left() {
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(80_000));
    site.agent.leg.close(1000, "");
    site.from_agent.extend(site.agent.take_out());
    site.daemon_reads_agent();
    assert!(matches!(site.bridge.state(), State::Finishing { .. }));
    for _ in 0..400 {
        // Its socket takes no byte, and it goes on sending.
        site.now += Now::from_millis(20);
        site.vendor.leg.write_audio(site.now, &[0; 160]);
        site.from_vendor.extend(site.vendor.take_out());
        site.daemon_reads_vendor();
        site.bridge.handle_tick(site.now, &mut site.pool);
    }
    assert!(!site.bridge.state().has_line(), "{:?}", site.bridge.state());
}

#[test]
fn a_mark_that_was_heard_waits_for_an_agent_that_does_not_read() {
    let mut site = Site::new("exotel", "exotel");
    site.agent_sends(&speech(1600));
    site.agent_says(Say::Mark("end"));
    site.frames(1);
    site.queue.marks.clear();
    // The agent's socket takes nothing any more.
    while site.bridge.trunk_mut().unwrap().say(site.now, Say::Dtmf(b'1')) {}
    assert!(site.vendor.leg.say(site.now, Say::Heard("end")));
    site.from_vendor.extend(site.vendor.take_out());
    site.daemon_reads_vendor();
    assert_eq!(site.bridge.clears_and_marks().1, 0);
    site.frames(2);
    assert_eq!((site.agent.ears.count("heard end"), site.bridge.clears_and_marks().1), (1, 1));
}

#[test]
fn a_vendor_that_answers_our_goodbye_is_not_on_record_as_the_one_who_closed() {
    let mut site = Site::new("exotel", "exotel");
    site.frames(10);
    site.bridge.handle_event(site.now, CallEvent::TrunkEnded(EndReason::TrunkLost), &mut site.pool);
    site.frames(5);
    assert!(site.vendor.leg.is_closed() && site.bridge.is_line_done(site.now));
    assert_eq!(site.bridge.line_over(), (None, None), "it only gave our 1011 back");
}

#[test]
fn what_an_agent_owes_after_the_call_is_over_is_not_on_record() {
    let mut site = Site::new("exotel", "openai");
    // A server that has not said `session.created`, and says nothing.
    let silent = Peer::new("openai", Role::Vendor, Side::Client, None, &Options::default());
    site.bridge.handle_trunk_changed(site.now, silent.leg, &mut site.pool);
    site.agent = Peer::new("openai", Role::Agent, Side::Server, None, &Options::default());
    site.frames(350);
    assert!(site.vendor.leg.say(site.now, Say::Stop(StopReason::CallerHungUp)));
    for _ in 0..240 {
        site.now += Now::from_millis(20);
        site.bridge.handle_tick(site.now, &mut site.pool);
        site.from_vendor.extend(site.vendor.take_out());
        site.daemon_reads_vendor();
    }
    assert_eq!((site.bridge.overdue(), site.bridge.state().reason()), (None, Some(EndReason::LineHungUp)));
}

#[test]
fn whoever_listens_hears_both_sides_in_step_with_the_caller() {
    let mut site = Site::new("exotel", "exotel");
    let (mut caller, mut agent) = (Vec::new(), Vec::new());
    site.agent_sends(&speech(8000));
    for said in speech(16_000).chunks(160) {
        site.frame(said);
        site.bridge.overhear(None, |rate, left, right| {
            assert_eq!(rate, Rate::Hz8000);
            caller.extend_from_slice(left);
            agent.extend_from_slice(right);
        });
    }
    assert_eq!(voice(&caller), speech(16_000));
    assert_eq!(voice(&agent), speech(8000));
    let first = agent.iter().position(|&sample| sample != 0).unwrap();
    let heard = site.queue.line.iter().position(|&sample| sample != 0).unwrap();
    assert!(first.abs_diff(heard) <= 320, "recorded at {first}, heard at {heard}");
}

#[test]
fn the_carrier_of_every_dialect_is_one_that_a_line_can_read() {
    for name in dialect::NAMES {
        let dialect = dialect::open(name, Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap();
        assert!(matches!(dialect.expected().carrier, Carrier::Array | Carrier::Base64 | Carrier::Raw));
        assert!(dialect.chunk().is_multiple_of(dialect.unit()), "{name}");
    }
}
