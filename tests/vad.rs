//! What the voice activity detector hears of recorded speech in noise, and what it takes for speech.
//!
//! `cargo test --test vad -- --nocapture` prints the table that benches/RESULTS.md has.

#![allow(clippy::unwrap_used)]

use core::ops::Range;

use trunkline::media::{
    self, Rate,
    vad::{HANG_OVER, Vad},
};

#[path = "../benches/vad/src/material.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark hears more")]
mod material;
#[path = "site/recorded.rs"]
mod recorded;
#[path = "../benches/vad/src/score.rs"]
#[allow(unreachable_pub, reason = "it is the benchmark's, a crate of its own")]
mod score;

use material::{Material, at_rate, hum, mix, pink, power, white};
use recorded::{Recorded, resampled};
use score::Score;

/// Something to listen to, at 16 kHz, and how well it has to be heard.
struct Track {
    name: String,
    samples: Vec<i16>,
    speaks: bool,
    floor: Floor,
}

/// What no change may make worse; the table tells how far from it we are.
#[derive(Clone, Copy)]
struct Floor {
    unheard: usize,
    false_starts: u32,
    false_alarm_percent: f64,
    late_ms: f64,
}

/// What the detector makes of this, `spoken` being where in it somebody speaks.
fn listen(samples: &[i16], spoken: &[Range<u64>], rate: Rate) -> Score {
    let mut score = Score::new(spoken, rate, HANG_OVER);
    let mut vad = Vad::new(rate, HANG_OVER);
    for frame in samples.chunks(rate.frame()) {
        let change = vad.push(frame);
        score.frame(frame.len(), vad.is_speech(), change, vad.spoken_until());
    }
    score
}

fn tracks(material: &Material, speech: &[i16], spoken: &[Range<usize>]) -> Vec<Track> {
    let level = power(spoken.iter().flat_map(|span| &speech[span.clone()]));
    let len = speech.len().max(MINUTE);
    let well = Floor { unheard: 0, false_starts: 0, false_alarm_percent: 0.5, late_ms: 180.0 };
    let hard = Floor { false_starts: 1, false_alarm_percent: 5.0, late_ms: 250.0, ..well };
    // 50 Hz and its harmonics hide low voices.
    let low = Floor { unheard: 1, late_ms: 300.0, ..well };
    let some = Floor { false_starts: 4, false_alarm_percent: 15.0, ..well };
    // Nobody tells voices from voices that are as loud.
    let any = Floor { unheard: 0, false_starts: u32::MAX, false_alarm_percent: 100.0, late_ms: f64::MAX };
    let mut tracks = vec![Track { name: "clean".into(), samples: speech.to_vec(), speaks: true, floor: well }];
    for (name, noise, floors) in [
        ("white", white(len), [well, well, hard, well]),
        ("pink", pink(len), [well, well, hard, well]),
        ("hum", hum(len), [well, well, low, well]),
        ("babble", material.babble(len), [some, any, any, any]),
    ] {
        for (snr_db, floor) in [20, 10, 0].into_iter().zip(floors) {
            let samples = mix(speech, &noise, level, snr_db);
            tracks.push(Track { name: format!("{name} noise, SNR {snr_db} dB"), samples, speaks: true, floor });
        }
        // As loud as the speech would be.
        let samples = mix(&vec![0; MINUTE], &noise, level, 0);
        tracks.push(Track { name: format!("a minute of {name} noise"), samples, speaks: false, floor: floors[3] });
    }
    tracks
}

#[test]
fn speech_is_heard_in_noise_and_noise_is_not_taken_for_speech() {
    let Some(Recorded { utterances, readings }) = Recorded::find() else { return };
    let material = Material::of(&utterances, readings);
    let (speech, spoken) = material.speech();
    let tracks = &tracks(&material, &speech, &spoken);
    let listen_at = |rate: Rate| {
        let spoken: Vec<_> =
            spoken.iter().map(|span| at_rate(span.start as u64, rate)..at_rate(span.end as u64, rate)).collect();
        let scores = tracks.iter().map(|track| {
            let samples = resampled(&track.samples, Rate::Hz16000, rate);
            listen(&samples, if track.speaks { &spoken } else { &[] }, rate)
        });
        scores.collect::<Vec<_>>()
    };
    let rates = [Rate::Hz8000, Rate::Hz16000];
    let scores = std::thread::scope(|scope| {
        let listen_at = &listen_at;
        rates.map(|rate| scope.spawn(move || listen_at(rate))).map(|listens| listens.join().unwrap())
    });
    println!(
        "| rate | track | speech missed % | pauses taken for speech % | of utterances not heard | false starts | begin late p50 / p95 ms | end off p50 / p95 ms |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let mut worse = Vec::new();
    for (rate, scores) in rates.into_iter().zip(&scores) {
        for (Track { name, floor, .. }, score) in tracks.iter().zip(scores) {
            println!("| {} | {name} | {score} |", rate.hz() / 1000);
            let holds = score.unheard() <= floor.unheard
                && score.false_starts() <= floor.false_starts
                && score.false_alarm_percent().is_none_or(|percent| percent <= floor.false_alarm_percent)
                && score.late_ms(50).is_none_or(|ms| ms <= floor.late_ms);
            if !holds {
                worse.push(format!("{rate}, {name}: {score}"));
            }
        }
    }
    assert!(worse.is_empty(), "worse than it was: {worse:#?}");
}

/// Of samples at 16 kHz.
const MINUTE: usize = 60 * 16_000;
