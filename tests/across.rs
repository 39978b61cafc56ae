//! Calls from a cloud of one dialect and rate to an agent of another, in virtual time: what is left of a tone and of a
//! voice at either end, and how soon the caller's word silences the agent.

#![allow(clippy::unwrap_used)]

#[path = "site/virtual_call.rs"]
mod virtual_call;

use std::f64::consts::{PI, TAU};

use trunkline::{
    call::{EndReason, State},
    dialect::{self, Coding, Direction, NAMES, OptionValue, Options, Role, Say, StopReason},
    media::{Now, Rate, resample::Resampler},
};
use virtual_call::{Plan, Site, options, person, speech};

/// A tone of 1 kHz.
fn tone(rate: Rate, ms: usize) -> Vec<i16> {
    let step = TAU * 1000.0 / f64::from(rate.hz());
    (0..rate.samples(ms)).map(|n| ((n as f64 * step).sin() * 16_000.0).round() as i16).collect()
}

/// What is left of a tone of 1 kHz beside what is not it (dB): the sine that fits best, against the rest.
fn snr(samples: &[i16], rate: Rate) -> f64 {
    let step = TAU * 1000.0 / f64::from(rate.hz());
    // Over whole periods sine, cosine and a constant are orthogonal, so each of them fits by itself.
    let samples = &samples[..samples.len() / rate.samples(1) * rate.samples(1)];
    let (n, mut fit) = (samples.len() as f64, [0.0; 3]);
    for (place, &sample) in samples.iter().enumerate() {
        let (sin, cos) = (place as f64 * step).sin_cos();
        for (sum, base) in fit.iter_mut().zip([2.0 * sin, 2.0 * cos, 1.0]) {
            *sum += f64::from(sample) * base / n;
        }
    }
    let [sine, cosine, constant] = fit;
    let rest = |(place, &sample): (usize, &i16)| {
        let (sin, cos) = (place as f64 * step).sin_cos();
        (f64::from(sample) - sine * sin - cosine * cos - constant).powi(2)
    };
    let rest = samples.iter().enumerate().map(rest).sum::<f64>() / n;
    10.0 * ((sine.powi(2) + cosine.powi(2)) / 2.0 / rest.max(1e-9)).log10()
}

/// Where something begins.
fn onset(samples: &[i16]) -> usize {
    samples.iter().position(|sample| sample.unsigned_abs() > 300).unwrap_or_else(|| panic!("nothing was heard"))
}

/// What makes a moment of the samples about it, so much after the [`TAPS`]th of them: the sine cardinal under a window.
fn weights(after: f64) -> Vec<f64> {
    let weight = |tap: usize| {
        let x = after + TAPS as f64 - tap as f64;
        let sine = if x.abs() < 1e-9 { 1.0 } else { (x * PI).sin() / (x * PI) };
        sine * (0.5 + 0.5 * (x * PI / (TAPS + 1) as f64).cos())
    };
    (0..2 * TAPS).map(weight).collect()
}

/// How much what was heard is like what was said once it is laid upon it, to the eighth of a sample, 1 at most. Both are
/// looked at 8000 times a second, at whichever rate they are: they are the same sound at the same moments.
fn likeness(said: &[i16], spoken_at: Rate, heard: &[i16], heard_at: Rate) -> f64 {
    let [spoken_step, heard_step] = [spoken_at, heard_at].map(|rate| rate.hz() as usize / 8000);
    let start = onset(said) / spoken_step;
    let said: Vec<_> = said.iter().step_by(spoken_step).skip(start).map(|&sample| f64::from(sample)).collect();
    // Silence on either side, so that every sample has its neighbours.
    let padded: Vec<_> = [&[0; TAPS][..], heard, &vec![0; said.len() * heard_step]].concat();
    let at = |lag: f64, n: usize| {
        let (first, weights) = (lag.floor() as usize, weights(lag.fract()));
        let weights = if lag.fract() == 0.0 { &[][..] } else { &weights[..] };
        let (mut dot, mut own, mut other) = (0.0, 0.0, 0.0);
        for (place, said) in said[..n].iter().enumerate() {
            let about = &padded[first + place * heard_step..];
            let between = || about.iter().zip(weights).map(|(&sample, weight)| f64::from(sample) * weight).sum::<f64>();
            let heard = if weights.is_empty() { f64::from(about[TAPS]) } else { between() };
            (dot, own, other) = (dot + said * heard, own + said * said, other + heard * heard);
        }
        dot / (own * other).sqrt().max(1.0)
    };
    let best = |lags: &mut dyn Iterator<Item = f64>| lags.max_by(|&a, &b| at(a, 2000).total_cmp(&at(b, 2000))).unwrap();
    let about = onset(heard);
    let near = about.saturating_sub(48 * heard_step)..about + 48 * heard_step;
    let near = best(&mut near.map(|lag| lag as f64));
    let lag = best(&mut (-8..=8).map(|eighth| (near + f64::from(eighth) / 8.0).max(0.0)));
    at(lag, said.len())
}

/// What a caller said, with a second of silence behind it: what the agent heard of that, and what came back.
fn converse(site: &mut Site, said: &[i16]) -> (Vec<i16>, Vec<i16>) {
    let (agent, line) = (site.agent.ears.heard.len(), site.queue.line.len());
    let frame = site.rate().frame();
    for said in said.chunks(frame) {
        site.frame(said);
    }
    site.frames(50);
    (site.agent.ears.heard[agent..].to_vec(), site.queue.line[line..].to_vec())
}

/// The second second of what was heard, which is steady.
fn steady(heard: &[i16], rate: Rate) -> &[i16] {
    let start = onset(heard) + rate.samples(500);
    &heard[start..start + rate.samples(1000)]
}

/// Voices: one that is made here, and those of alsa-utils where they are installed.
fn voices(rate: Rate) -> Vec<(String, Vec<i16>)> {
    let mut voices = vec![("a made voice".to_owned(), person(rate, 3000))];
    for name in ["Front_Center", "Rear_Left"] {
        let Ok(mut wav) = hound::WavReader::open(format!("/usr/share/sounds/alsa/{name}.wav")) else { continue };
        let (from, channels) = (wav.spec().sample_rate, usize::from(wav.spec().channels));
        let samples: Vec<i16> = wav.samples().step_by(channels).map(Result::unwrap).collect();
        // What a telephone lets through: both ends of the way have it.
        let mut narrow = Resampler::new(Rate::from_hz(from).unwrap(), Rate::Hz8000);
        let mut made = vec![0; narrow.max_output(samples.len())];
        let n = narrow.process(&samples, &mut made).produced;
        let mut wide = Resampler::new(Rate::Hz8000, rate);
        let mut spoken = vec![0; wide.max_output(n)];
        let n = wide.process(&made[..n], &mut spoken).produced;
        spoken.truncate(n);
        voices.push((name.to_owned(), spoken));
    }
    voices
}

/// A tone and voices from end to end and back. Gives the least that was left of the tone at the agent and at the line.
#[track_caller]
fn check(name: &str, plan: Plan<'_>, tone_db: f64) {
    let mut site = Site::of(plan);
    site.echoes = true;
    let (near, far) = (site.rate(), site.agent.ears.rate.unwrap());
    let both = site.bridge.direction() == Direction::Both;
    // A byte order that has to be found out is, by the end of this.
    converse(&mut site, &person(near, 1500));
    let (heard, back) = converse(&mut site, &tone(near, 2000));
    let at_agent = snr(steady(&heard, far), far);
    let at_line = if both { snr(steady(&back, near), near) } else { f64::INFINITY };
    println!("{name}: 1 kHz has {at_agent:.1} dB at the agent, {at_line:.1} dB back at the line");
    assert!(at_agent >= tone_db && at_line >= tone_db, "{name}: {at_agent} dB, {at_line} dB");
    for (who, said) in voices(near) {
        let (heard, back) = converse(&mut site, &said);
        let at_agent = likeness(&said, near, &heard, far);
        let at_line = if both { likeness(&said, near, &back, near) } else { 1.0 };
        println!("{name}: {who} is {at_agent:.5} like itself at the agent, {at_line:.5} back at the line");
        assert!(at_agent >= 0.99 && at_line >= 0.99, "{name}, {who}: {at_agent}, {at_line}");
    }
    let (up, weather, times) = (site.bridge.uplink(), site.bridge.weather(), site.bridge.times());
    assert_eq!(up.dropped, 0, "{name}");
    // From 24 to 16 kHz the resampler's first message is a sample short, and what waits for it comes a message later.
    assert!(weather.underruns <= 1, "{name}: {weather:?}");
    let after = |then: Option<Now>| then.map(|then| (then - times.bridged.unwrap()).as_millis());
    println!(
        "{name}: from answer to the first of the caller at the agent {:?} ms, of the agent here {:?} ms, at the line {:?} ms",
        after(times.first_sent),
        after(times.first_said),
        after(times.first_heard)
    );
    site.echoes = false;
    assert!(site.vendor.leg.say(site.now, Say::Stop(StopReason::CallerHungUp)), "{name}");
    site.frames(300);
    assert_eq!(site.bridge.state(), State::Ended(EndReason::LineHungUp), "{name}");
}

#[test]
fn an_exotel_caller_at_8_khz_and_an_openai_agent_at_24_khz_hear_each_other() {
    check("exotel to openai", Plan::new("exotel", "openai"), 60.0);
}

#[test]
fn an_ozonetel_caller_is_heard_by_an_rtaa_that_listens() {
    check("ozonetel to rtaa", Plan::new("ozonetel", "rtaa"), 60.0);
}

#[test]
fn a_telnyx_caller_in_l16_and_an_openai_agent_hear_each_other_whichever_byte_comes_first() {
    for order in ["le", "be"] {
        let l16 = [("encoding", OptionValue::Str("l16")), ("l16-byte-order", OptionValue::Str(order))];
        let plan = Plan {
            vendor_options: options("telnyx", &l16),
            line_options: Some(options("telnyx", &[("l16-byte-order", OptionValue::Str("auto"))])),
            ..Plan::new("telnyx", "openai")
        };
        check(&format!("telnyx l16 {order} to openai"), plan, 60.0);
    }
}

#[test]
fn a_g711_caller_and_an_openai_agent_hear_each_other_as_well_as_g711_lets_them() {
    // ITU-T G.712 has a codec's signal stay 33 dB above its distortion; that is for one pass, and the echo takes two.
    let alaw = options("telnyx", &[("encoding", OptionValue::Str("pcma"))]);
    check("telnyx pcma to openai", Plan { vendor_options: alaw, ..Plan::new("telnyx", "openai") }, 33.0);
    check("twilio to openai", Plan::new("twilio", "openai"), 33.0);
}

/// Whether a dialect moves samples at 8 bits, and whether anybody hears its agent.
fn sort(name: &str) -> (bool, bool) {
    let vendor = dialect::open(name, Role::Vendor, None, Rate::Hz8000, &Options::default()).unwrap();
    let coarse = matches!(vendor.expected().coding, Coding::Mulaw | Coding::Alaw);
    (coarse, vendor.direction() == Direction::Both)
}

#[test]
fn speech_started_silences_every_vendors_line_at_once_and_nothing_late_is_heard() {
    for vendor in NAMES.iter().copied().filter(|name| sort(name).1) {
        let mut site = Site::new(vendor, "openai");
        let far = site.agent.ears.rate.unwrap();
        site.agent_sends(&speech(far.samples(5000)));
        site.frames(30);
        let (cleared, sent) = (site.vendor.ears.count("Clear"), site.vendor.ears.heard.len());
        assert!(sent > site.rate().samples(500), "{vendor}: {sent}");
        site.agent_says(Say::Clear);
        // No time has passed.
        let has_word = vendor != "binary";
        assert_eq!(site.vendor.ears.count("Clear"), cleared + usize::from(has_word), "{vendor}");
        assert_eq!(site.vendor.ears.heard.len(), sent, "{vendor}");
        // What was on its way when the caller spoke: of the response that is over.
        let late = "AQEB".repeat(1600);
        for _ in 0..10 {
            site.agent_sends_text(&format!(
                r#"{{"type":"response.output_audio.delta","event_id":"e","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":"{late}"}}"#
            ));
            site.frames(1);
        }
        site.frames(20);
        assert_eq!(site.vendor.ears.heard.len(), sent, "{vendor}: nothing of the old speech was sent after the clear");
        if has_word {
            let silent = site.queue.line.len() - site.rate().frame() * 30;
            assert!(site.queue.line[silent..].iter().all(|&sample| sample == 0), "{vendor}");
        }
        // The next response is heard.
        site.agent_sends(&speech(far.samples(1000)));
        site.frames(80);
        let heard = site.vendor.ears.heard.len() - sent;
        assert!(heard >= site.rate().samples(1000) - site.rate().frame(), "{vendor}: {heard} samples");
    }
}

#[test]
fn every_vendor_reaches_every_agent_without_a_loss() {
    let mut calls = 0;
    for vendor in NAMES {
        for agent in NAMES {
            let name = format!("{vendor} to {agent}");
            let mut site = Site::new(vendor, agent);
            site.echoes = true;
            let (near, far) = (site.rate(), site.agent.ears.rate.unwrap());
            let said = person(near, 2000);
            let (heard, back) = converse(&mut site, &said);
            let up = site.bridge.uplink();
            assert_eq!((up.dropped, up.samples as usize), (0, site.spoken.len()), "{name}");
            // What is less than a message waits for more.
            let waits = near.samples(200) as u64;
            assert!(up.sent + waits > up.samples, "{name}: {} of {} were sent", up.sent, up.samples);
            let like = likeness(&said, near, &heard, far);
            assert!(like >= 0.99, "{name}: {like} at the agent");
            let both = sort(vendor).1 && sort(agent).1;
            assert_eq!(site.bridge.direction(), if both { Direction::Both } else { Direction::Uplink }, "{name}");
            if both {
                let like = likeness(&said, near, &back, near);
                assert!(like >= 0.99, "{name}: {like} at the line");
            } else {
                assert!(back.iter().all(|&sample| sample == 0), "{name}");
            }
            let met = [site.bridge.trunk_tally(), site.bridge.line_tally().unwrap(), site.agent.leg.tally()];
            assert!(met.iter().all(|tally| (tally.malformed, tally.faults) == (0, 0)), "{name}: {met:?}");
            calls += 1;
        }
    }
    assert_eq!(calls, NAMES.len() * NAMES.len());
}

/// Samples on either side of a moment that it is made of.
const TAPS: usize = 16;
