//! A trunk: how its handshake went, and what came of a second of sound.

use core::{f64::consts::TAU, time::Duration};

use super::{Check, Finding};
use crate::{
    leg::websocket::dial::Stages,
    media::{Rate, clock::PTIME},
};

/// Judges a handshake: its peer and stages, or why it failed in the dialler's words.
#[must_use]
pub fn judge_handshake(subject: impl Into<String>, shaken: Result<(&str, Stages), &str>) -> Finding {
    match shaken {
        Ok((peer, Stages { dns, connect, tls, upgrade })) => {
            let (whole, ms) = (dns + connect + tls + upgrade, |time: Duration| time.as_millis());
            let said = format!(
                "{peer} answered in {} ms: name {}, connection {}, TLS {}, WebSocket {}",
                ms(whole),
                ms(dns),
                ms(connect),
                ms(tls),
                ms(upgrade)
            );
            if whole > SLOW {
                return Finding::warn(
                    Check::Trunk,
                    subject,
                    said,
                    "callers wait as long before they hear anything: the stage that takes longest is the place to look",
                );
            }
            Finding::ok(Check::Trunk, subject, said)
        }
        Err(words) => Finding::fail_in_words(Check::Trunk, subject, words, "check the url, and what listens there"),
    }
}

/// What came of a short call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tried {
    /// How long it lasted.
    pub seconds: f64,
    /// From the beginning to the first sound of the agent (ms).
    pub first_voice_ms: Option<f64>,
    /// From playing a sound to hearing it again (ms).
    pub round_trip_ms: Option<f64>,
    /// What went wrong, in words.
    pub trouble: Option<String>,
    /// The agent ended it.
    pub was_ended: bool,
    /// Nobody hears an agent in this dialect.
    pub listen_only: bool,
}

/// Judges it.
#[must_use]
pub fn judge_call(subject: impl Into<String>, tried: &Tried) -> Finding {
    let Tried { seconds, first_voice_ms, round_trip_ms, trouble, was_ended, listen_only } = tried;
    let said = |trouble: &str| format!("a call of {seconds:.1} s had trouble: {trouble}");
    let log = "the agent's log has the reason; are `dialect` and `sample-rate` those that it speaks?";
    match trouble {
        Some(trouble) if *was_ended => return Finding::fail(Check::Call, subject, said(trouble), log),
        // It was borne to the end, as a caller's would be.
        Some(trouble) => return Finding::warn(Check::Call, subject, said(trouble), log),
        None => {}
    }
    if *was_ended {
        return Finding::warn(
            Check::Call,
            subject,
            format!("the agent hung up after {seconds:.1} s"),
            "its log has the reason: an agent may refuse a call without numbers, or be closed",
        );
    }
    let said = match (round_trip_ms, first_voice_ms) {
        (Some(ms), _) => format!("sound came back after {ms:.0} ms"),
        (None, Some(ms)) => format!("the agent spoke after {ms:.0} ms; no echo, which is as it should be"),
        (None, None) if *listen_only => "it takes calls; in this dialect nobody hears the agent".to_owned(),
        (None, None) => {
            format!("it takes calls, and said nothing in {seconds:.1} s (that is normal for an agent that waits)")
        }
    };
    Finding::ok(Check::Call, subject, said)
}

/// A quiet second that rises from 300 to 3000 Hz: like nothing that anybody says, and every codec lets it through.
#[must_use]
pub fn sound(rate: Rate) -> Vec<i16> {
    let (hz, seconds) = (f64::from(rate.hz()), SOUND.as_secs_f64());
    let fade = 0.02;
    (0..rate.samples(SOUND.as_millis() as usize))
        .map(|n| {
            let at = n as f64 / hz;
            let phase = TAU * (LOWEST * at + (HIGHEST - LOWEST) * at * at / (2.0 * seconds));
            let edge = (at / fade).min((seconds - at) / fade).clamp(0.0, 1.0);
            (phase.sin() * LOUD * edge) as i16
        })
        .collect()
}

/// Where in what was heard the middle of [`sound`] is, if it is there: the sample at which [`LOOKED_FOR`] of it begins.
#[must_use]
pub fn find(heard: &[i16], rate: Rate) -> Option<usize> {
    // Below the highest tone 8 kHz are enough.
    let every = (rate.hz() / Rate::Hz8000.hz()).max(1) as usize;
    let thin =
        |samples: &[i16]| -> Vec<f32> { samples.iter().step_by(every).map(|&sample| f32::from(sample)).collect() };
    let (first, last) = (at(rate, LOOKED_FOR.0), at(rate, LOOKED_FOR.1));
    let wanted = thin(sound(rate).get(first..last)?);
    let heard = thin(heard);
    let power = |samples: &[f32]| samples.iter().map(|sample| sample * sample).sum::<f32>();
    let own = power(&wanted);
    let likeness = |part: &[f32]| {
        let both: f32 = part.iter().zip(&wanted).map(|(heard, wanted)| heard * wanted).sum();
        let theirs = power(part);
        if theirs < own * FAINT { 0.0 } else { both / (own * theirs).sqrt() }
    };
    let likest = heard.windows(wanted.len()).map(likeness).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    likest.filter(|(_, likeness)| *likeness > ALIKE).map(|(place, _)| place * every)
}

/// The frame of [`sound`] with which what [`find`] looks for begins.
#[must_use]
pub fn first_frame() -> usize {
    (LOOKED_FOR.0.as_millis() / PTIME.as_millis()) as usize
}

fn at(rate: Rate, time: Duration) -> usize {
    rate.samples(time.as_millis() as usize)
}

const SOUND: Duration = Duration::from_secs(1);

/// Part of it is enough, and an agent that needs a moment may miss its beginning.
const LOOKED_FOR: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(600));

const LOWEST: f64 = 300.0;
const HIGHEST: f64 = 3000.0;

/// -22 dB: nobody is startled.
const LOUD: f64 = 2600.0;

/// By mu-law and a resampler the likeness stays above 0.95; speech has less than 0.3.
const ALIKE: f32 = 0.6;

/// An echo at a thousandth of the power is none that anybody hears.
const FAINT: f32 = 0.001;

/// A caller who hears nothing for so long says "hello?".
const SLOW: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn our_sound_is_found_where_it_is_and_nowhere_else() {
        for rate in [Rate::Hz8000, Rate::Hz16000, Rate::Hz24000] {
            let mut heard = vec![0; 4321];
            heard.extend(sound(rate));
            heard.extend([0; 2000]);
            let found = find(&heard, rate).unwrap_or_default();
            assert!(found.abs_diff(4321 + at(rate, LOOKED_FOR.0)) <= 3, "{rate}: {found}");
            // At a quarter of its loudness, with noise over it.
            let mut state = 1_u32;
            for sample in &mut heard {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *sample = *sample / 4 + (state >> 24) as i16 - 128;
            }
            assert!(find(&heard, rate).is_some(), "{rate}");
            let noise: Vec<i16> = heard[..4000].to_vec();
            assert_eq!(find(&noise, rate), None);
            assert_eq!(find(&[], rate), None);
        }
    }

    #[test]
    fn an_agent_that_says_nothing_is_as_good_as_one_that_echoes() {
        let quiet = Tried { seconds: 2.7, ..Tried::default() };
        let finding = judge_call("[trunk.agent] call", &quiet);
        assert_eq!(finding.status, Status::Ok);
        assert!(finding.found.contains("normal for an agent that waits"));
        let echo = Tried { round_trip_ms: Some(43.2), first_voice_ms: Some(300.0), ..quiet.clone() };
        assert_eq!(judge_call("x", &echo).found, "sound came back after 43 ms");
        let ended = Tried { was_ended: true, ..quiet };
        assert_eq!(judge_call("x", &ended).status, Status::Warn);
        let broken = Tried { trouble: Some("the agent closed with code 1008".to_owned()), ..ended };
        assert_eq!(judge_call("x", &broken).status, Status::Fail);
        let borne = Tried { was_ended: false, ..broken };
        assert_eq!(judge_call("x", &borne).status, Status::Warn);
    }

    #[test]
    fn a_handshake_tells_what_took_how_long() {
        let ms = Duration::from_millis;
        let stages = Stages { dns: ms(1), connect: ms(20), tls: ms(30), upgrade: ms(40) };
        let finding = judge_handshake("[trunk.agent]", Ok(("192.0.2.1:443", stages)));
        assert_eq!(finding.status, Status::Ok);
        assert!(finding.found.contains("in 91 ms: name 1, connection 20, TLS 30, WebSocket 40"), "{finding:?}");
        let slow = Stages { connect: ms(2000), ..stages };
        assert_eq!(judge_handshake("x", Ok(("192.0.2.1:443", slow))).status, Status::Warn);
        let words = "agent:443: no connection to 192.0.2.1:443: connection refused; check the port, and the firewalls on the way";
        let finding = judge_handshake("x", Err(words));
        assert_eq!(finding.fix.as_deref(), Some("check the port, and the firewalls on the way"));
    }
}
