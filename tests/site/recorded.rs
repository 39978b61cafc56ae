//! Voices that no test made up: what alsa-utils brings along, and what espeak-ng says, which is the same each time.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part, and is a crate of its own")]

use std::{f64::consts::PI, path::Path, process::Command};

use trunkline::media::{Rate, resample::Resampler};

/// Utterances and readings of one story by several voices, all at 16 kHz and -26 dBov.
pub struct Recorded {
    pub utterances: Vec<Vec<i16>>,
    pub readings: Vec<Vec<i16>>,
}

impl Recorded {
    /// `None`: a program or its files are missing, which is told; in CI it is a failure.
    pub fn find() -> Option<Self> {
        let mut utterances = Vec::new();
        for name in PEOPLE {
            let path = format!("/usr/share/sounds/alsa/{name}.wav");
            let Some(samples) = wav(Path::new(&path)) else { return is_missing(&format!("{path} of alsa-utils")) };
            utterances.push(samples);
        }
        let folder = tempfile::tempdir().unwrap();
        let said = |voice: &str, speed: u32, text: &str| {
            let path = folder.path().join("said.wav");
            let mut espeak = Command::new("espeak-ng");
            espeak.args(["-v", voice, "-s", &speed.to_string(), "-w"]).arg(&path).arg(text);
            espeak.status().is_ok_and(|status| status.success()).then(|| wav(&path))?
        };
        for (voice, speed, text) in SAID {
            let Some(samples) = said(voice, speed, text) else { return is_missing("espeak-ng") };
            utterances.push(samples);
        }
        let readings = READERS.iter().zip(0..).map_while(|(voice, n)| said(voice, 140 + 8 * n, STORY)).collect();
        Some(Self { utterances, readings })
    }
}

fn is_missing<T>(what: &str) -> Option<T> {
    let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
    assert!(!in_ci, "{what} is missing: run scripts/setup test");
    println!("not run: {what} is missing, scripts/setup test installs it");
    None
}

/// The first channel at 16 kHz.
fn wav(path: &Path) -> Option<Vec<i16>> {
    let mut wav = hound::WavReader::open(path).ok()?;
    let spec = wav.spec();
    let samples: Vec<i16> = wav.samples().step_by(spec.channels.into()).map(Result::unwrap).collect();
    Some(at_level(-26.0, &at_16_khz(&samples, spec.sample_rate)))
}

fn at_16_khz(samples: &[i16], hz: u32) -> Vec<i16> {
    if let Some(rate) = Rate::from_hz(hz) {
        return resampled(samples, rate, Rate::Hz16000);
    }
    // A windowed sinc, cut off at 7 kHz: espeak-ng speaks at 22.05 kHz.
    let (step, cut) = (f64::from(hz) / 16_000.0, 14_000.0 / f64::from(hz));
    let tap = |from: f64| {
        let sinc = if from == 0.0 { 1.0 } else { (PI * from * cut).sin() / (PI * from * cut) };
        sinc * cut * (0.5 + 0.5 * (PI * from / TAPS as f64).cos())
    };
    let at = |n: usize| {
        let place = n as f64 * step;
        let first = (place as usize).saturating_sub(TAPS - 1);
        let near = samples.iter().enumerate().skip(first).take(2 * TAPS - 1);
        near.map(|(k, &sample)| f64::from(sample) * tap(k as f64 - place)).sum::<f64>() as i16
    };
    (0..(samples.len() as f64 / step) as usize).map(at).collect()
}

/// The same at another rate.
pub fn resampled(samples: &[i16], from: Rate, to: Rate) -> Vec<i16> {
    let mut resampler = Resampler::new(from, to);
    let mut made = vec![0; resampler.max_output(samples.len())];
    let n = resampler.process(samples, &mut made).produced;
    made.truncate(n);
    made
}

/// So loud on the average (dBov).
pub fn at_level(dbov: f64, samples: &[i16]) -> Vec<i16> {
    let power = samples.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / samples.len() as f64;
    let gain = 32_768.0 * 10_f64.powf(dbov / 20.0) / power.sqrt();
    samples.iter().map(|&sample| (f64::from(sample) * gain) as i16).collect()
}

/// A person, recorded.
const PEOPLE: [&str; 6] = ["Front_Center", "Front_Left", "Rear_Left", "Rear_Right", "Side_Left", "Side_Right"];
const SAID: [(&str, u32, &str); 7] = [
    ("en-us", 165, "Hello, I would like to change my appointment."),
    ("en-us+f3", 175, "Yes."),
    ("en-gb+f2", 150, "No, thank you, that was all."),
    ("en-us+m3", 190, "Could you repeat the last part, please?"),
    ("hi", 150, "नमस्ते, मुझे अपने बिल के बारे में पूछना है।"),
    ("de", 165, "Guten Tag, ich rufe wegen meiner Rechnung an."),
    ("es+f4", 165, "Buenos días, quiero hablar con una persona."),
];
const READERS: [&str; 6] = ["en-us", "en-us+f2", "en-gb+m4", "en-gb+f4", "en-us+m5", "en-us+f5"];
const STORY: &str = "The quick brown fox jumps over the lazy dog while the rain in Spain stays mainly in the plain.";
/// Of each half of the filter.
const TAPS: usize = 16;
