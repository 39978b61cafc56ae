//! What is listened to: speech with pauses between, as it is and spoilt, and sounds that are no speech.

use std::{f64::consts::TAU, fs, ops::Range, path::Path};

use crate::media::{Rate, g711::Law, level::level_dbov, resample::Resampler};

/// Utterances and voices for babble, at 16 kHz.
pub struct Material {
    utterances: Vec<Vec<i16>>,
    babble: Vec<Vec<i16>>,
    music: Vec<Vec<i16>>,
}

/// Something to listen to, and where in it somebody speaks.
pub struct Track {
    /// What was done to it.
    pub name: String,
    /// At the rate that was asked for.
    pub samples: Vec<i16>,
    /// Positions at that rate.
    pub spoken: Vec<Range<u64>>,
}

impl Material {
    /// Of these utterances and voices.
    pub fn of(utterances: &[Vec<i16>], babble: Vec<Vec<i16>>) -> Self {
        Self { utterances: utterances.iter().map(|samples| trimmed(samples)).collect(), babble, music: Vec::new() }
    }

    /// Reads the WAVs of a folder.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        let read = |prefix: &str| -> Result<Vec<_>, String> {
            let ours = paths
                .iter()
                .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
            ours.map(|path| {
                let reader = hound::WavReader::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let samples: Result<Vec<i16>, _> = reader.into_samples().collect();
                samples.map_err(|error| format!("{}: {error}", path.display()))
            })
            .collect()
        };
        let this = Self { music: read("music-")?, ..Self::of(&read("speech-")?, read("babble-")?) };
        if this.utterances.is_empty() || this.babble.is_empty() || this.music.is_empty() {
            return Err(format!("{}: speech-*, babble-* or music-*.wav are missing", folder.display()));
        }
        Ok(this)
    }

    /// The tracks, one after another.
    pub fn tracks(&self, rate: Rate) -> impl Iterator<Item = Track> {
        let (speech, spoken) = self.speech();
        let spoken_at: Vec<Range<u64>> =
            spoken.iter().map(|span| at_rate(span.start as u64, rate)..at_rate(span.end as u64, rate)).collect();
        let len = speech.len();
        let level = power(spoken.iter().flat_map(|span| &speech[span.clone()]));
        let mut tracks = vec![("clean".to_owned(), speech.clone(), true)];
        let quiet = speech.iter().map(|sample| sample / 20).collect();
        tracks.push(("clean, 26 dB quieter".to_owned(), quiet, true));
        for (name, noise) in [
            ("white", white(len)),
            ("pink", pink(len)),
            ("hum", hum(len)),
            ("babble", self.babble(len)),
            ("music", self.music(len)),
        ] {
            for snr_db in [20, 10, 5] {
                let mixed = mix(&speech, &noise, level, snr_db);
                tracks.push((format!("{name} noise, SNR {snr_db} dB"), mixed, true));
            }
        }
        let minute = 60 * 16_000;
        let alone = |noise: &[f64]| mix(&vec![0; minute], &noise[..minute.min(noise.len())], level, 10);
        tracks.push(("a minute of silence".to_owned(), vec![0; minute], false));
        tracks.push(("a minute of 425 Hz".to_owned(), tone(minute, &[425.0], |_| true), false));
        let cadence = |ms: usize| ms % 5000 < 1000;
        tracks.push(("a minute of 425 Hz, 1 s of 5".to_owned(), tone(minute, &[425.0], cadence), false));
        let keys = |ms: usize| ms % 500 < 100;
        tracks.push(("a minute of DTMF 1, 0.1 s of 0.5".to_owned(), tone(minute, &[697.0, 1209.0], keys), false));
        tracks.push(("a minute of white noise".to_owned(), alone(&white(minute)), false));
        tracks.push(("a minute of pink noise".to_owned(), alone(&pink(minute)), false));
        for (n, music) in self.music.iter().enumerate() {
            let music = music.iter().copied().cycle().take(minute).collect();
            tracks.push((format!("a minute of music on hold {}", n + 1), music, false));
        }
        let mut tracks: Vec<Track> = tracks
            .into_iter()
            .map(|(name, samples, speaks)| Track {
                name,
                samples: resampled(&samples, rate),
                spoken: if speaks { spoken_at.clone() } else { Vec::new() },
            })
            .collect();
        if rate == Rate::Hz8000 {
            let coded = |track: &Track| Track {
                name: format!("{}, G.711 A-law", track.name),
                samples: track.samples.iter().map(|&sample| Law::A.decode(Law::A.encode(sample))).collect(),
                spoken: track.spoken.clone(),
            };
            let added: Vec<_> = tracks
                .iter()
                .filter(|t| {
                    ["clean", "pink noise, SNR 10 dB", "a minute of 425 Hz", "a minute of DTMF 1, 0.1 s of 0.5"]
                        .contains(&t.name.as_str())
                })
                .map(coded)
                .collect();
            tracks.extend(added);
        }
        tracks.into_iter()
    }

    /// Every utterance once, 1.2 to 3 s apart.
    pub fn speech(&self) -> (Vec<i16>, Vec<Range<usize>>) {
        let mut dice = Dice(1);
        let (mut samples, mut spoken) = (vec![0; 16_000], Vec::new());
        for utterance in &self.utterances {
            let begin = samples.len();
            samples.extend_from_slice(utterance);
            spoken.push(begin..samples.len());
            let pause = 19_200 + (dice.uniform() * 28_800.0) as usize;
            samples.resize(samples.len() + pause, 0);
        }
        (samples, spoken)
    }

    /// The pieces one after another.
    fn music(&self, len: usize) -> Vec<f64> {
        self.music.iter().flatten().cycle().take(len).map(|&sample| f64::from(sample)).collect()
    }

    /// All voices at once, each in a loop and from another place.
    pub fn babble(&self, len: usize) -> Vec<f64> {
        let mut noise = vec![0.0; len];
        for (n, voice) in self.babble.iter().enumerate() {
            let shifted = voice.iter().cycle().skip(n * 7919);
            let gain = 1.0 / power(voice).sqrt().max(1.0);
            noise.iter_mut().zip(shifted).for_each(|(sum, &sample)| *sum += f64::from(sample) * gain);
        }
        noise
    }
}

pub fn at_rate(position: u64, rate: Rate) -> u64 {
    position * u64::from(rate.hz()) / 16_000
}

/// Less what is 35 dB under the loudest 10 ms at both ends.
fn trimmed(samples: &[i16]) -> Vec<i16> {
    let levels: Vec<i8> = samples.chunks(160).map(level_dbov).collect();
    let floor = levels.iter().copied().max().unwrap_or(0) - 35;
    let first = levels.iter().position(|&level| level > floor).unwrap_or(0);
    let last = levels.iter().rposition(|&level| level > floor).unwrap_or(0);
    samples[first * 160..((last + 1) * 160).min(samples.len())].to_vec()
}

pub fn power<'s>(samples: impl IntoIterator<Item = &'s i16>) -> f64 {
    let (sum, count) = samples.into_iter().fold((0.0, 0.0), |(sum, n), &s| (sum + f64::from(s).powi(2), n + 1.0));
    sum / count
}

pub fn mix(speech: &[i16], noise: &[f64], level: f64, snr_db: i32) -> Vec<i16> {
    let noise_power = noise.iter().map(|sample| sample.powi(2)).sum::<f64>() / noise.len() as f64;
    let gain = (level / noise_power / 10_f64.powf(f64::from(snr_db) / 10.0)).sqrt();
    speech.iter().zip(noise).map(|(&sample, noise)| (f64::from(sample) + noise * gain) as i16).collect()
}

pub fn white(len: usize) -> Vec<f64> {
    let mut dice = Dice(7);
    (0..len).map(|_| dice.uniform() - 0.5).collect()
}

/// White noise through six first-order filters; the coefficients are Paul Kellet's "refined method".
pub fn pink(len: usize) -> Vec<f64> {
    const FILTERS: [(f64, f64); 6] = [
        (0.998_86, 0.055_517_9),
        (0.993_32, 0.075_075_9),
        (0.969_00, 0.153_852_0),
        (0.866_50, 0.310_485_6),
        (0.550_00, 0.532_952_2),
        (-0.761_6, -0.016_898_0),
    ];
    let mut state = [0.0; 6];
    white(len)
        .into_iter()
        .map(|white| {
            for (held, (keep, take)) in state.iter_mut().zip(FILTERS) {
                *held = keep * *held + take * white;
            }
            state.iter().sum::<f64>() + white * 0.536_2
        })
        .collect()
}

/// What mains leaves in a bad line: 50 Hz and its first harmonics, less and less of each.
pub fn hum(len: usize) -> Vec<f64> {
    let part = |n: usize, k: usize| (n as f64 * 50.0 * k as f64 * TAU / 16_000.0).sin() / k as f64;
    (0..len).map(|n| (1..=8).map(|k| part(n, k)).sum()).collect()
}

fn tone(len: usize, hz: &[f64], sounds: impl Fn(usize) -> bool) -> Vec<i16> {
    let sample = |n: usize| {
        let sum: f64 = hz.iter().map(|hz| (n as f64 * hz * TAU / 16_000.0).sin()).sum();
        if sounds(n / 16) { (sum * 8000.0) as i16 } else { 0 }
    };
    (0..len).map(sample).collect()
}

pub fn resampled(samples: &[i16], rate: Rate) -> Vec<i16> {
    let mut resampler = Resampler::new(Rate::Hz16000, rate);
    let mut out = vec![0; resampler.max_output(samples.len())];
    let progress = resampler.process(samples, &mut out);
    out.truncate(progress.produced);
    out
}

/// The same numbers each time.
struct Dice(u64);

impl Dice {
    fn uniform(&mut self) -> f64 {
        // Knuth's MMIX generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
