//! Speech to be played, and how much of it is in what was heard.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{path::Path, process::Command};

use trunkline::media::elastic::Elastic;

use super::room::HZ;

/// So many seconds of recorded speech and of a synthesizer's, at [`HZ`].
pub(crate) fn speech(dir: &Path, seconds: usize) -> Vec<i16> {
    let mut all = Vec::new();
    for name in RECORDED {
        add(&mut all, Path::new(&format!("/usr/share/sounds/alsa/{name}.wav")));
    }
    for (n, (voice, words)) in SPOKEN.iter().cycle().enumerate() {
        if all.len() >= seconds * HZ {
            break;
        }
        let file = dir.join(format!("spoken-{n}.wav"));
        let rate = (150 + n % 5 * 10).to_string();
        let espeak = Command::new("espeak-ng").args(["-v", voice, "-s", &rate, "-w"]).arg(&file).arg(words).status();
        assert!(espeak.unwrap().success());
        add(&mut all, &file);
    }
    all.truncate(seconds * HZ);
    all
}

/// Adds a WAV file's only or first channel, at half its loudness, and a pause.
fn add(all: &mut Vec<i16>, file: &Path) {
    let mut wav = hound::WavReader::open(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let spec = wav.spec();
    let samples = wav.samples::<i16>().step_by(spec.channels.into()).map(|sample| sample.unwrap() / 2);
    // By way of 12 kHz: what lies at the edge of 8 kHz, an s, no two resamplers keep alike.
    let low = resampled(&samples.collect::<Vec<_>>(), spec.sample_rate, 12_000);
    all.extend(resampled(&low, 12_000, HZ as u32));
    all.resize(all.len() + HZ / 4, 0);
}

fn resampled(samples: &[i16], from_hz: u32, to_hz: u32) -> Vec<i16> {
    let mut elastic = Elastic::new(from_hz, to_hz);
    let (mut made, mut space) = (Vec::new(), [0; 1024]);
    let mut rest = samples;
    loop {
        let progress = elastic.process(rest, &mut space);
        made.extend(&space[..progress.produced]);
        rest = &rest[progress.consumed..];
        if rest.is_empty() && progress.produced < space.len() {
            return made;
        }
    }
}

/// What is left of what was said.
#[derive(Debug)]
pub(crate) struct Likeness {
    /// Of all windows that have speech, each as loud as it is.
    pub(crate) correlation: f64,
    /// The window with the least, of those that are not quiet, and where it is (s).
    pub(crate) worst: (f64, f64),
    /// How many such windows are hardly alike: something was left out, or put in.
    pub(crate) seams: usize,
    /// How much later the end was heard than the beginning, beyond as much as it was said later (samples).
    pub(crate) drift: f64,
    /// The least and the most of the same on the way (samples).
    pub(crate) range: (f64, f64),
}

/// Compares in windows of a fifth of a second, each where it fits best: two sound cards' clocks, and the bending that
/// brings them together, may shift what is heard by parts of a sample within a window, and not by more.
pub(crate) fn likeness(said: &[i16], heard: &[i16]) -> Result<Likeness, String> {
    let onset = |samples: &[i16]| samples.iter().position(|sample| sample.unsigned_abs() > 1_000);
    let (Some(first), Some(begins)) = (onset(said), onset(heard)) else { return Err("nothing was heard".to_owned()) };
    let mut lag = begins as i64 - first as i64;
    let loud = energy(said) / said.len() as f64 * WINDOW as f64;
    let (mut product, mut energies) = (0.0, [0.0; 2]);
    let (mut worst, mut lags) = ((1.0, 0.0), Vec::new());
    let (mut reach, mut seams) = (FIRST_REACH, 0);
    for (n, window) in said.chunks_exact(WINDOW).enumerate() {
        let own = energy(window);
        if own < loud / 100.0 {
            continue;
        }
        let from = (n * WINDOW) as i64 + lag - reach;
        let Some(near) =
            usize::try_from(from).ok().and_then(|from| heard.get(from..from + WINDOW + 2 * reach as usize))
        else {
            return Err(format!("of {} windows {n} were heard", said.len() / WINDOW));
        };
        let (at, found) = best(window, near);
        let there = at.round().max(0.0) as usize;
        let other = energy(&near[there..there + WINDOW]);
        product += found;
        energies[0] += own;
        energies[1] += other;
        let alike = found / (own * other).max(1.0).sqrt();
        if own > loud / 10.0 {
            if alike < worst.0 {
                worst = (alike, (n * WINDOW) as f64 / HZ as f64);
            }
            let exact = lag as f64 - reach as f64 + at;
            // What is hardly alike does not tell where it is: there is a seam in it, and the next is looked for further away.
            if alike > 0.9 {
                lags.push(exact);
                lag = exact.round() as i64;
                reach = REACH;
            } else {
                seams += 1;
                reach = FIRST_REACH;
            }
        }
    }
    let Some((&start, &end)) = lags.first().zip(lags.last()) else { return Err("nothing alike was heard".to_owned()) };
    let least = lags.iter().copied().fold(start, f64::min);
    let most = lags.iter().copied().fold(start, f64::max);
    let correlation = product / (energies[0] * energies[1]).sqrt();
    Ok(Likeness { correlation, worst, seams, drift: end - start, range: (least - start, most - start) })
}

/// Where in `near` the window fits best, in parts of a sample, and its product with what is there.
fn best(window: &[i16], near: &[i16]) -> (f64, f64) {
    let products: Vec<f64> = near.windows(window.len()).map(|part| product(window, part)).collect();
    let (at, _) = products.iter().enumerate().fold(
        (0, f64::MIN),
        |best, (n, &product)| {
            if product > best.1 { (n, product) } else { best }
        },
    );
    // The product over the lag has no more than the sound's own frequencies: between two samples it is as they say.
    let between = |at: f64| {
        let nearby = (at as usize).saturating_sub(TAPS)..(at as usize + TAPS + 1).min(products.len());
        nearby.map(|n| products[n] * windowed_sinc(at - n as f64)).sum::<f64>()
    };
    let steps = -16..=16;
    let places = steps.map(|step| at as f64 + f64::from(step) / 16.0).filter(|place| *place >= 0.0);
    places.map(|place| (place, between(place))).fold((at as f64, products[at]), |best, (place, product)| {
        if product > best.1 { (place, product) } else { best }
    })
}

fn windowed_sinc(x: f64) -> f64 {
    use std::f64::consts::PI;
    if x.abs() < 1e-9 {
        return 1.0;
    }
    let window = 0.5 + 0.5 * (PI * x / (TAPS as f64 + 1.0)).cos();
    (PI * x).sin() / (PI * x) * window
}

fn product(a: &[i16], b: &[i16]) -> f64 {
    // Pieces whose sum fits: 1,024 products of 30 bits.
    let pieces = a.chunks(1024).zip(b.chunks(1024));
    pieces
        .map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| i64::from(i32::from(a) * i32::from(b))).sum::<i64>() as f64)
        .sum()
}

fn energy(samples: &[i16]) -> f64 {
    product(samples, samples)
}

/// Samples of a tone, softly begun.
pub(crate) fn tone(hz: f64, seconds: f64) -> Vec<i16> {
    let sample = |n: usize| {
        let at = n as f64 / HZ as f64;
        8_000.0 * (at / 0.01).min(1.0) * (std::f64::consts::TAU * hz * at).sin()
    };
    (0..(seconds * HZ as f64) as usize).map(|n| sample(n) as i16).collect()
}

const WINDOW: usize = HZ / 5;
/// How far from where the last one was a window is looked for (samples): what a jump may be.
const REACH: i64 = 640;
/// And the first, which is known by its onset only.
const FIRST_REACH: i64 = 4_000;
const TAPS: usize = 24;

/// Debian's alsa-utils: a man who says where a loudspeaker stands.
const RECORDED: [&str; 8] =
    ["Front_Center", "Front_Left", "Front_Right", "Rear_Center", "Rear_Left", "Rear_Right", "Side_Left", "Side_Right"];

const SPOKEN: [(&str, &str); 4] = [
    ("en-us", "Hello, this is the front door. I have a parcel for the second floor, and nobody answers the bell."),
    ("en-gb+f2", "Thank you for calling. Please leave it at the desk, and somebody will come down in five minutes."),
    ("en-us+m3", "The number is four seven nine one two, and it has to be signed for before Thursday afternoon."),
    (
        "en-gb+f4",
        "Could you read that back to me, please? There was a lorry in the street, and I heard only half of it.",
    ),
];
