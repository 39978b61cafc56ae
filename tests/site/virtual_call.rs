//! A whole call in virtual time: a vendor's WebSocket bytes in at one end, an agent's at the other, no sockets and no clock.
//! The vendor plays what it gets as a telephone platform does: at real time, from a queue.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part, and is a crate of its own")]

use std::collections::VecDeque;

use trunkline::{
    call::{Bridge, bridge::Limits, tap::Happening, websocket_line::LineSetup},
    dialect::{self, Direction, Event, Facts, OptionValue, Options, Role, Say, StopReason},
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
pub struct Ears {
    pub rate: Option<Rate>,
    pub staged: Vec<i16>,
    pub heard: Vec<i16>,
    /// Events with the number of samples that came before them.
    pub events: Vec<(usize, String)>,
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
    pub fn count(&self, what: &str) -> usize {
        self.events.iter().filter(|(_, event)| event == what).count()
    }
}

/// A peer: its leg and what it heard.
pub struct Peer {
    pub leg: Leg,
    pub ears: Ears,
}

impl Peer {
    pub fn new(name: &str, role: Role, side: Side, rate: Option<Rate>, options: &Options) -> Self {
        Self::at(Now::ZERO, name, role, side, rate, options)
    }

    pub fn at(now: Now, name: &str, role: Role, side: Side, rate: Option<Rate>, options: &Options) -> Self {
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
        let leg = Leg::new(Setup { side, dialect, facts, rate, now, epoch_ms, ping_every });
        Self { leg, ears: Ears { rate: Some(rate), ..Ears::default() } }
    }

    pub fn take_out(&mut self) -> Vec<u8> {
        let out = self.leg.out().to_vec();
        self.leg.written(out.len());
        out
    }

    pub fn read(&mut self, now: Now, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.leg.feed(bytes)..];
            let _ = self.leg.handle(now, &mut self.ears);
            self.leg.set_rate(self.ears.rate.unwrap());
        }
    }
}

/// The vendor's queue of the agent's audio.
#[derive(Default)]
pub struct VendorQueue {
    /// Samples of what the vendor heard that were played or thrown away.
    pub played: usize,
    /// Events that were looked at.
    pub looked_at: usize,
    /// Marks that wait, with the position that has to be played.
    pub marks: VecDeque<(usize, String)>,
    /// What the caller heard, silence included.
    pub line: Vec<i16>,
    /// The most that waited (samples).
    pub most: usize,
}

/// A vendor, a daemon's call and an agent, joined by wires without delay.
pub struct Site {
    pub now: Now,
    pub pool: Pool,
    pub bridge: Bridge,
    pub vendor: Peer,
    pub queue: VendorQueue,
    pub agent: Peer,
    /// Bytes for the daemon that it has not read.
    pub from_vendor: VecDeque<u8>,
    pub from_agent: VecDeque<u8>,
    pub spoken: Vec<i16>,
    pub echoes: bool,
    /// Samples that the agent heard and has echoed.
    pub echoed: usize,
    /// What the agent sends does not reach the daemon yet.
    pub is_agent_slow: bool,
    trunk: (String, Option<Rate>, Options),
}

pub struct Plan<'p> {
    pub vendor: &'p str,
    pub vendor_rate: Option<Rate>,
    pub vendor_options: Options,
    /// What the line's path says, where that is not what the vendor does.
    pub line_options: Option<Options>,
    /// Which way the line's path says that audio flows.
    pub direction: Direction,
    pub agent: &'p str,
    pub agent_rate: Option<Rate>,
    pub agent_options: Options,
    /// What the agent sends does not reach the daemon at first.
    pub is_agent_slow: bool,
}

impl<'p> Plan<'p> {
    pub fn new(vendor: &'p str, agent: &'p str) -> Self {
        Self {
            vendor,
            vendor_rate: None,
            vendor_options: Options::default(),
            line_options: None,
            direction: Direction::Both,
            agent,
            agent_rate: None,
            agent_options: Options::default(),
            is_agent_slow: false,
        }
    }
}

impl Site {
    pub fn new(vendor: &str, agent: &str) -> Self {
        Self::of(Plan::new(vendor, agent))
    }

    pub fn of(plan: Plan<'_>) -> Self {
        let Plan { vendor: vendor_name, vendor_rate, vendor_options, line_options, direction, .. } = plan;
        let Plan { agent: agent_name, agent_rate, agent_options, is_agent_slow, .. } = plan;
        let mut pool = Pool::new(vec![0; 2400 * BLOCK].leak(), vec![Link::FREE; 2400].leak(), 0, 0);
        let mut vendor = Peer::new(vendor_name, Role::Vendor, Side::Client, vendor_rate, &vendor_options);
        vendor.leg.open(Now::ZERO);
        let rate = vendor.ears.rate.unwrap();
        let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
        let mut bridge = Bridge::new(Now::ZERO, Now::from_secs(5), rate, limits, &mut pool).unwrap();
        bridge.listen(true);
        // The door has read the start, and with it the rate.
        let line_options = line_options.as_ref().unwrap_or(&vendor_options);
        let line = Peer::new(vendor_name, Role::Agent, Side::Server, Some(rate), line_options);
        bridge.set_line(Now::ZERO, line.leg, LineSetup { silent_after: Some(Now::from_secs(60)), direction });
        let (trunk, agent) = trunk_and_agent(Now::ZERO, agent_name, agent_rate, &agent_options);
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
            echoed: 0,
            is_agent_slow,
            trunk: (agent_name.to_owned(), agent_rate, agent_options),
        };
        site.exchange();
        site
    }

    /// Bytes of the agent's own: the head of a frame of `len` bytes, and as much of it as there is.
    pub fn agent_writes(&mut self, op: u8, payload: &[u8], len: u16) {
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

    pub fn rate(&self) -> Rate {
        self.vendor.ears.rate.unwrap()
    }

    /// Moves bytes both ways until nothing moves any more.
    pub fn exchange(&mut self) {
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
            moved |= self.daemon_reads_vendor() > 0;
            moved |= !self.is_agent_slow && self.daemon_reads_agent() > 0;
            if !moved {
                return;
            }
        }
    }

    pub fn echo(&mut self) {
        // After its goodbye an agent says no more.
        if !self.bridge.state().has_line() {
            return;
        }
        let unit = self.agent.leg.unit();
        let chunk = (self.agent.leg.chunk() / unit).max(1) * unit;
        let whole = (self.agent.ears.heard.len() - self.echoed) / unit * unit;
        for samples in self.agent.ears.heard[self.echoed..self.echoed + whole].chunks(chunk) {
            assert!(self.agent.leg.write_audio(self.now, samples));
        }
        self.echoed += whole;
    }

    pub fn daemon_reads_agent(&mut self) -> usize {
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

    pub fn daemon_reads_vendor(&mut self) -> usize {
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
    pub fn vendor_obeys(&mut self) {
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
    pub fn frame(&mut self, caller: &[i16]) {
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
        self.vendor.leg.say_due(self.now);
        self.agent.leg.say_due(self.now);
        self.exchange();
        self.bridge.handle_tick(self.now, &mut self.pool);
        self.exchange();
    }

    pub fn frames(&mut self, n: usize) {
        let silence = vec![0; self.rate().frame()];
        for _ in 0..n {
            self.frame(&silence);
        }
    }

    pub fn agent_sends(&mut self, speech: &[i16]) {
        let chunk = self.agent.leg.chunk();
        for samples in speech.chunks(chunk) {
            assert!(self.agent.leg.write_audio(self.now, samples));
            self.from_agent.extend(self.agent.take_out());
        }
        self.exchange();
    }

    pub fn agent_says(&mut self, say: Say<'_>) {
        assert!(self.agent.leg.say(self.now, say), "{say:?}");
        self.exchange();
    }

    /// The agent's side sends a text as it stands here.
    pub fn agent_sends_text(&mut self, text: &str) {
        // RFC 6455 5.2: the whole of a text, not masked.
        self.from_agent.push_back(0x81);
        match u16::try_from(text.len()).unwrap() {
            len @ 0..=125 => self.from_agent.push_back(len as u8),
            len => self.from_agent.extend([[126].as_slice(), &len.to_be_bytes()].concat()),
        }
        self.from_agent.extend(text.bytes());
        self.exchange();
    }

    /// Another connection takes the trunk's place. Gives the agent of the old one, and our leg to it, if there still was
    /// one.
    pub fn change_trunk(&mut self) -> (Peer, Option<Leg>) {
        let (name, rate, options) = &self.trunk;
        let (trunk, agent) = trunk_and_agent(self.now, name, *rate, options);
        let old = self.bridge.handle_trunk_changed(self.now, trunk.leg, &mut self.pool);
        self.from_agent.clear();
        self.echoed = 0;
        let before = core::mem::replace(&mut self.agent, agent);
        self.exchange();
        (before, old)
    }

    pub fn notes(&mut self) -> Vec<Happening> {
        std::iter::from_fn(|| self.bridge.poll_note()).collect()
    }
}

/// Both ends of a connection to an agent.
fn trunk_and_agent(now: Now, name: &str, rate: Option<Rate>, options: &Options) -> (Peer, Peer) {
    let trunk = Peer::at(now, name, Role::Vendor, Side::Client, rate, options);
    let mut agent = Peer::at(now, name, Role::Agent, Side::Server, rate, options);
    agent.leg.open(now);
    (trunk, agent)
}

/// Options of one dialect, as the config spells them.
pub fn options(dialect: &str, pairs: &[(&str, OptionValue<'_>)]) -> Options {
    let mut options = Options::default();
    pairs.iter().for_each(|(key, value)| options.set(dialect, key, *value).unwrap());
    options
}

/// Something like a person saying "aoeaoe", below 3 kHz: pulses of a gliding pitch through three gliding resonances, in
/// syllables.
pub fn person(rate: Rate, ms: usize) -> Vec<i16> {
    let hz = f64::from(rate.hz());
    let mut memory = [[0.0_f64; 2]; 3];
    let mut phase = 0.0;
    let mut spoken = Vec::new();
    for n in 0..rate.samples(ms) {
        let t = n as f64 / hz;
        phase += (120.0 + 25.0 * (t * 9.0).sin()) / hz;
        let mut sample = f64::from(u8::from(phase >= 1.0));
        phase %= 1.0;
        let glide = (t * 11.0).sin();
        let formants = [(600.0 + 200.0 * glide, 80.0), (1300.0 + 500.0 * glide, 100.0), (2600.0, 150.0)];
        for (state, (formant, width)) in memory.iter_mut().zip(formants) {
            let r = (-core::f64::consts::PI * width / hz).exp();
            let turn = core::f64::consts::TAU * formant / hz;
            let next = sample + 2.0 * r * turn.cos() * state[0] - r * r * state[1];
            *state = [next, state[0]];
            sample = next * (1.0 - r);
        }
        spoken.push(sample * (0.55 - 0.45 * (t * core::f64::consts::TAU * 4.0).cos()));
    }
    let peak = spoken.iter().fold(0.0_f64, |peak, sample| peak.max(sample.abs()));
    spoken.into_iter().map(|sample| (sample * 12_000.0 / peak) as i16).collect()
}

/// Samples none of which is zero, so that inserted silence can be told from them.
pub fn speech(n: usize) -> Vec<i16> {
    (0..n).map(|i| ((i * 7919) % 20_000) as i16 - 9_999).map(|s| if s == 0 { 1 } else { s }).collect()
}

/// A recording less the silence in it.
pub fn voice(samples: &[i16]) -> Vec<i16> {
    samples.iter().copied().filter(|&sample| sample != 0).collect()
}
