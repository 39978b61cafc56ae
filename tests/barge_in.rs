//! Local barge-in in virtual time: the caller's word silences the line within a frame, what the agent still says of it is
//! not heard, and the agent's own echo is not taken for the caller.

#![allow(clippy::unwrap_used)]

#[path = "site/recorded.rs"]
mod recorded;
#[path = "site/virtual_call.rs"]
mod virtual_call;

use recorded::{Recorded, at_level, resampled};
use trunkline::{
    call::{Bridge, attention::BargeIn, bridge::Limits, tap::Happening},
    dialect::{Options, Role, Say},
    leg::websocket::{leg::Flow, wire::Side},
    media::{
        Now, Rate,
        playout::Tick,
        pool::{BLOCK, Link, Pool},
        vad::{Change, HANG_OVER, Vad},
    },
};
use virtual_call::{Peer, Site, person, speech, voice};

const RATE: Rate = Rate::Hz8000;
/// Samples of a frame.
const FRAME: usize = RATE.frame();

/// What of the line comes back.
#[derive(Clone, Copy, Debug)]
struct Echo {
    loss_db: f64,
    ms: usize,
}

/// A call on a line that is fed by ticks.
struct Call {
    now: Now,
    pool: Pool,
    bridge: Bridge,
    agent: Peer,
    from_agent: Vec<u8>,
    echo: Option<Echo>,
    /// What the caller hears.
    line: Vec<i16>,
    /// The frames in which a barge-in came, counted from the first.
    barge_ins: Vec<usize>,
    /// Those in which the caller was told to have begun to speak.
    started: Vec<usize>,
}

impl Call {
    fn new(agent: &str, barge_in: BargeIn, echo: Option<Echo>) -> Self {
        let mut pool = Pool::new(vec![0; 2400 * BLOCK].leak(), vec![Link::FREE; 2400].leak(), 0, 0);
        let limits = Limits { downlink_seconds: 600, uplink_max_ms: 2000, cushion: Now::from_millis(10) };
        let mut bridge = Bridge::new(Now::ZERO, Now::from_secs(5), RATE, limits, &mut pool).unwrap();
        bridge.set_barge_in(barge_in);
        bridge.listen(false);
        let options = Options::default();
        let trunk = Peer::new(agent, Role::Vendor, Side::Client, Some(RATE), &options);
        let mut agent = Peer::new(agent, Role::Agent, Side::Server, Some(RATE), &options);
        agent.leg.open(Now::ZERO);
        bridge.handle_trunk_answered(Now::ZERO, trunk.leg, &mut pool);
        let (now, from_agent, line) = (Now::ZERO, Vec::new(), Vec::new());
        let (barge_ins, started) = (Vec::new(), Vec::new());
        let mut call = Self { now, pool, bridge, agent, from_agent, echo, line, barge_ins, started };
        call.exchange();
        call
    }

    fn exchange(&mut self) {
        loop {
            self.bridge.pump(self.now, &mut self.pool);
            let trunk = self.bridge.trunk_mut().unwrap();
            let out = trunk.out().to_vec();
            trunk.written(out.len());
            self.agent.read(self.now, &out);
            self.from_agent.extend(self.agent.take_out());
            let mut moved = !out.is_empty();
            while self.bridge.handle_trunk(self.now, &mut self.pool) != Flow::Paused && !self.from_agent.is_empty() {
                let n = self.bridge.trunk_mut().unwrap().feed(&self.from_agent);
                self.from_agent.drain(..n);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn agent_sends(&mut self, speech: &[i16]) {
        for samples in speech.chunks(self.agent.leg.chunk()) {
            assert!(self.agent.leg.write_audio(self.now, samples));
            self.from_agent.extend(self.agent.take_out());
        }
        self.exchange();
    }

    fn agent_says(&mut self, say: Say<'_>) {
        assert!(self.agent.leg.say(self.now, say), "{say:?}");
        self.from_agent.extend(self.agent.take_out());
        self.exchange();
    }

    /// 20 ms: the caller says this, with the echo in it, and the line gets its frame.
    fn frame(&mut self, caller: &[i16]) {
        self.now += Now::from_millis(20);
        let mut said = caller.to_vec();
        if let Some(Echo { loss_db, ms }) = self.echo {
            let gain = 10_f64.powf(-loss_db / 20.0);
            let at = self.line.len() as i64 - RATE.samples(ms) as i64;
            for (n, sample) in said.iter_mut().enumerate() {
                let back = usize::try_from(at + n as i64).ok().and_then(|at| self.line.get(at)).copied().unwrap_or(0);
                *sample = (f64::from(*sample) + f64::from(back) * gain).clamp(-32_768.0, 32_767.0) as i16;
            }
        }
        self.bridge.handle_line_audio(self.now, RATE, &said, &mut self.pool);
        self.exchange();
        let at = self.line.len() / FRAME;
        while let Some(note) = self.bridge.poll_note() {
            match note {
                Happening::BargeIn { .. } => self.barge_ins.push(at),
                Happening::SpeechStarted(_) => self.started.push(at),
                _ => {}
            }
        }
        self.bridge.handle_tick(self.now, &mut self.pool);
        let mut frame = [0; FRAME];
        let tick = Tick { now: self.now, late: Now::ZERO, missed: 0 };
        let heard = self.bridge.poll_frame(tick, &mut self.pool, &mut frame);
        self.bridge.handle_frame_written(self.now, heard, &mut self.pool);
        self.exchange();
        self.line.extend(frame);
    }

    fn frames(&mut self, n: usize) {
        for _ in 0..n {
            self.frame(&[0; FRAME]);
        }
    }

    fn say(&mut self, caller: &[i16]) {
        for said in caller.chunks_exact(FRAME) {
            self.frame(said);
        }
    }
}

/// Frames after which a detector that nothing guards has heard this begin, after so many of silence.
fn onset(said: &[i16], silent: usize) -> usize {
    let mut vad = Vad::new(RATE, HANG_OVER);
    vad.push(&vec![0; silent * FRAME]);
    said.chunks(FRAME).position(|said| vad.push(said) == Some(Change::Started)).unwrap()
}

/// An agent who speaks for 11 s at -15 dBov, with pauses.
fn agent() -> Vec<i16> {
    let said: Vec<i16> = (0..4).flat_map(|_| [person(RATE, 2500), vec![0; RATE.samples(300)]].concat()).collect();
    at_level(-15.0, &said)
}

/// How many frames after the caller's first, spoken over the agent, the agent is interrupted.
fn interrupted_after(agent: &[i16], caller: &[i16], echo: Option<Echo>) -> Option<usize> {
    let mut call = Call::new("exotel", BargeIn::Flush, echo);
    call.agent_sends(agent);
    call.frames(75);
    assert!(call.barge_ins.is_empty(), "the caller has not spoken");
    call.say(caller);
    call.barge_ins.first().map(|at| at - 75)
}

#[test]
fn an_agent_is_not_silenced_by_its_own_echo() {
    for barge_in in [BargeIn::Flush, BargeIn::Notify] {
        for (loss_db, ms) in [6.0, 12.0, 20.0].into_iter().flat_map(|loss_db| [60, 150, 250].map(|ms| (loss_db, ms))) {
            let mut call = Call::new("exotel", barge_in, Some(Echo { loss_db, ms }));
            let agent = agent();
            call.agent_sends(&agent);
            call.frames(agent.len() / FRAME + 50);
            assert!(!call.started.is_empty(), "the detector heard the echo, or this shows nothing");
            assert!(call.barge_ins.is_empty(), "an echo {loss_db} dB down after {ms} ms: {:?}", call.barge_ins);
            assert_eq!(call.bridge.weather().heard, agent.len() as u64);
        }
    }
}

#[test]
fn a_caller_is_heard_over_the_agents_echo() {
    for ms in [60, 150] {
        for (loss_db, dbov) in [(6.0, -12.0), (12.0, -20.0), (20.0, -20.0), (20.0, -25.0), (30.0, -30.0)] {
            let caller = at_level(dbov, &person(RATE, 1500));
            let after = interrupted_after(&agent(), &caller, Some(Echo { loss_db, ms }));
            println!("{dbov} dBov over an echo {loss_db} dB down after {ms} ms: {after:?} frames");
            assert!(after.is_some_and(|after| after <= 20), "{dbov} dBov, {loss_db} dB, {ms} ms: {after:?}");
        }
    }
}

#[test]
fn a_caller_on_a_line_without_an_echo_is_heard_as_soon_as_ever() {
    for dbov in [-20.0, -25.0, -30.0] {
        let caller = at_level(dbov, &person(RATE, 1500));
        // From a second after the agent's first word on.
        for begin in [50, 100, 175] {
            let mut call = Call::new("exotel", BargeIn::Flush, None);
            call.agent_sends(&agent());
            call.frames(begin);
            call.say(&caller);
            assert_eq!(call.barge_ins, call.started, "{dbov} dBov: nothing was waited for");
            assert_eq!(call.barge_ins, [begin + onset(&caller, begin)], "{dbov} dBov");
        }
    }
}

#[test]
fn with_recorded_voices_too_the_caller_is_told_from_the_agents_echo() {
    let Some(Recorded { utterances, readings }) = Recorded::find() else { return };
    let narrow = |dbov, said: &Vec<i16>| at_level(dbov, &resampled(said, Rate::Hz16000, RATE));
    for said in &readings {
        let agent = narrow(-15.0, said);
        for (loss_db, ms) in [(6.0, 60), (6.0, 150), (12.0, 150), (20.0, 60), (20.0, 250)] {
            let mut call = Call::new("exotel", BargeIn::Flush, Some(Echo { loss_db, ms }));
            call.agent_sends(&agent);
            call.frames(agent.len() / FRAME + 50);
            assert!(call.barge_ins.is_empty(), "an echo {loss_db} dB down after {ms} ms: {:?}", call.barge_ins);
        }
    }
    let agent = narrow(-15.0, &readings[0]);
    for (dbov, echo) in [
        (-20.0, None),
        (-30.0, None),
        (-20.0, Some(Echo { loss_db: 12.0, ms: 150 })),
        (-25.0, Some(Echo { loss_db: 20.0, ms: 60 })),
        (-30.0, Some(Echo { loss_db: 30.0, ms: 150 })),
    ] {
        let mut late: Vec<_> = utterances
            .iter()
            .map(|said| {
                let caller = narrow(dbov, said);
                let after = interrupted_after(&agent, &caller, echo);
                after.map_or(1000, |after| after as i64 - onset(&caller, 75) as i64)
            })
            .collect();
        late.sort_unstable();
        let [median, most] = [late[late.len() / 2], late[late.len() - 1]];
        println!("{dbov} dBov, {echo:?}: {late:?} frames after an unguarded detector");
        assert!(median <= 1 && most <= if echo.is_some() { 50 } else { 5 }, "{dbov} dBov, {echo:?}: {late:?}");
    }
}

#[test]
fn an_echo_from_a_vendors_far_side_does_not_silence_the_agent_and_the_caller_does() {
    for vendor in ["exotel", "ozonetel", "twilio"] {
        let mut site = Site::new(vendor, "exotel");
        site.bridge.set_barge_in(BargeIn::Flush);
        site.frames(20);
        site.agent_sends(&agent());
        let frame = |site: &mut Site, caller: &[i16]| {
            // 12 dB down, 160 ms after the vendor has played it.
            let from = site.queue.line.len().saturating_sub(8 * FRAME);
            let echo = site.queue.line.get(from..from + FRAME).unwrap_or(&[0; FRAME]);
            let said: Vec<i16> = caller.iter().zip(echo).map(|(said, echo)| said + echo / 4).collect();
            site.frame(&said);
        };
        (0..200).for_each(|_| frame(&mut site, &[0; FRAME]));
        let flushed = |site: &mut Site| {
            let notes = site.notes();
            let started = notes.iter().any(|note| matches!(note, Happening::SpeechStarted(_)));
            (started, notes.iter().filter(|note| matches!(note, Happening::BargeIn { .. })).count())
        };
        assert_eq!(flushed(&mut site), (true, 0), "{vendor}");
        at_level(-20.0, &person(RATE, 1500)).chunks_exact(FRAME).for_each(|said| frame(&mut site, said));
        assert_eq!(flushed(&mut site).1, 1, "{vendor}");
        assert_eq!(site.vendor.ears.count("Clear"), 1, "{vendor}");
    }
}

/// A call whose agent, who had 10 s to say, was silenced by the caller a moment ago. Gives the frame in which.
fn silenced() -> (Call, usize) {
    let mut call = Call::new("exotel", BargeIn::Flush, None);
    call.agent_sends(&at_level(-15.0, &speech(RATE.samples(10_000))));
    call.frames(75);
    for said in at_level(-20.0, &person(RATE, 400)).chunks_exact(FRAME) {
        call.frame(said);
        if let [at] = call.barge_ins[..] {
            return (call, at);
        }
    }
    panic!("the caller was not heard");
}

/// Whether the line was silent from this sample on.
fn is_silent_from(call: &Call, sample: usize) -> bool {
    call.line[sample..].iter().all(|&sample| sample == 0)
}

#[test]
fn the_line_is_silent_5_ms_into_the_frame_in_which_the_caller_was_heard() {
    let (mut call, at) = silenced();
    call.frames(50);
    let fade = &call.line[at * FRAME..][..RATE.samples(5)];
    assert!(fade[..fade.len() / 2].iter().any(|&sample| sample != 0), "it is no click");
    assert!(is_silent_from(&call, at * FRAME + RATE.samples(5)));
    let weather = call.bridge.weather();
    assert_eq!(weather.heard + weather.flushed, RATE.samples(10_000) as u64, "every sample is counted");
}

#[test]
fn what_still_comes_of_interrupted_speech_is_not_heard_until_nothing_came_for_300_ms() {
    let (mut call, at) = silenced();
    let rest = speech(FRAME);
    for _ in 0..50 {
        call.agent_sends(&rest);
        call.frames(1);
    }
    // A gap of the network's, not the agent's.
    call.frames(13);
    call.agent_sends(&rest);
    call.frames(15);
    assert!(is_silent_from(&call, (at + 1) * FRAME));
    call.frames(1);
    call.agent_sends(&speech(8000));
    call.frames(60);
    let heard = voice(&call.line[(at + 1) * FRAME..]);
    assert!(heard == speech(8000), "after the pause it is another answer, all of it: {} samples", heard.len());
}

#[test]
fn an_agent_that_never_pauses_is_heard_again_after_5_s() {
    let (mut call, at) = silenced();
    for _ in 0..300 {
        call.agent_sends(&speech(FRAME));
        call.frames(1);
    }
    let first = call.line[(at + 1) * FRAME..].iter().position(|&sample| sample != 0).unwrap() / FRAME;
    assert!((248..=253).contains(&first), "{first} frames later");
}

#[test]
fn after_a_clear_from_the_cloud_the_next_word_is_heard_at_once() {
    let (mut call, at) = silenced();
    for _ in 0..5 {
        call.agent_sends(&speech(FRAME));
        call.frames(1);
    }
    assert!(is_silent_from(&call, (at + 1) * FRAME));
    call.agent_says(Say::Clear);
    call.agent_sends(&speech(1600));
    call.frames(20);
    assert!(voice(&call.line[(at + 1) * FRAME..]) == speech(1600));
}
