//! A room with a loudspeaker and a microphone, made the same each time: what is played, what the microphone hears, and
//! the echo and the person of which that is the sum.
//!
//! ```text
//!  0 s          3 s                    10 s                          18 s
//!  | the agent speaks ................................................ |
//!  | learns     | echo is measured      | a person speaks as well ..... |
//! ```
//!
//! The agent is a synthetic voice of `espeak-ng`, as agents are; the person is the recorded one of alsa-utils.
//! `scripts/setup test` installs both.

use std::{f64::consts::PI, fs, io::Cursor, process::Command};

/// From here on the echo is measured (s).
const LEARNED: f64 = 3.0;

/// From here on the person speaks (s).
const BOTH: f64 = 10.0;

/// Where the scene ends (s).
const END: f64 = 18.0;

/// How loud both speak where they are heard, pauses left out (dB of full scale).
const VOICE_DB: f64 = -20.0;

/// How loud the echo is beside what is played (dB).
const ECHO_DB: f64 = -6.0;

/// The noise of the microphone (dB of full scale).
const NOISE_DB: f64 = -70.0;

/// Where sound goes between the loudspeaker and the microphone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// What it is called.
    pub(crate) name: &'static str,
    /// When the first of it arrives (ms).
    pub(crate) delay_ms: f64,
    /// How long it takes to fall by 60 dB (ms).
    pub(crate) decay_ms: f64,
    /// The loudspeaker cuts off what is louder than so much of the loudest sample.
    pub(crate) clips_at: f64,
}

/// A booth: near, short, and a good loudspeaker.
pub(crate) const BOOTH: Room = Room { name: "30 ms", delay_ms: 30.0, decay_ms: 30.0, clips_at: 1.0 };

/// A hall: far, long, and a loudspeaker that is driven too hard.
pub(crate) const HALL: Room = Room { name: "120 ms, clipped", delay_ms: 120.0, decay_ms: 120.0, clips_at: 0.5 };

/// What was said, long enough for a scene, at no level in particular.
pub(crate) struct Voices {
    /// Hz.
    rate: f64,
    /// The one that is played.
    pub(crate) agent: Vec<f64>,
    /// The one in the room.
    pub(crate) person: Vec<f64>,
}

impl Voices {
    /// At this rate (Hz), or what is missing.
    pub(crate) fn at(rate: u32) -> Result<Self, String> {
        let rate = f64::from(rate);
        let mut agent = Vec::new();
        for text in AGENT_SAYS {
            let said = Command::new("espeak-ng").args(["--stdout", "-v", "en-us+m3", "-s", "165", text]).output();
            let said = said.map_err(|_| "espeak-ng is not installed")?.stdout;
            agent.extend(spoken(&said, rate)?);
        }
        let mut person = Vec::new();
        for name in PERSON_SAYS {
            let file = format!("/usr/share/sounds/alsa/{name}.wav");
            let said = fs::read(&file).map_err(|_| format!("{file} is not installed (alsa-utils)"))?;
            person.extend(spoken(&said, rate)?);
        }
        Ok(Self { rate, agent, person })
    }
}

/// A WAV file's samples at this rate, and a pause.
fn spoken(wav: &[u8], rate: f64) -> Result<Vec<f64>, String> {
    let mut wav = hound::WavReader::new(Cursor::new(wav)).map_err(|e| format!("no WAV file: {e}"))?;
    let (from, channels) = (f64::from(wav.spec().sample_rate), usize::from(wav.spec().channels));
    let samples: Vec<f64> = wav.samples::<i16>().step_by(channels).map_while(Result::ok).map(f64::from).collect();
    let mut samples = at_rate(&samples, from, rate);
    samples.extend(std::iter::repeat_n(0.0, (rate * 0.2) as usize));
    Ok(samples)
}

/// What is played and what is heard.
pub(crate) struct Scene {
    rate: f64,
    /// What goes to the loudspeaker.
    pub(crate) played: Vec<i16>,
    /// What the microphone hears: echo, person and noise.
    pub(crate) heard: Vec<i16>,
    /// The echo in it.
    echo: Vec<f64>,
    /// The person in it.
    person: Vec<f64>,
}

impl Scene {
    /// These voices in this room.
    pub(crate) fn new(voices: &Voices, room: Room) -> Self {
        let rate = voices.rate;
        let len = (END * rate) as usize;
        let begins = (BOTH * rate) as usize;
        let played = levelled(voices.agent.iter().copied().cycle().take(len).collect());
        let mut person = vec![0.0; begins];
        person.extend(levelled(voices.person.iter().copied().cycle().take(len - begins).collect()));

        let loudest = played.iter().fold(0.0_f64, |loudest, sample| loudest.max(sample.abs()));
        let limit = loudest * room.clips_at;
        let emitted: Vec<f64> = played.iter().map(|sample| sample.clamp(-limit, limit)).collect();
        let mut echo = convolved(&emitted, &response(room, rate));
        let gain = from_db(ECHO_DB) * rms(&played) / rms(&echo);
        echo.iter_mut().for_each(|sample| *sample *= gain);

        let mut noise = Noise(2);
        let heard = echo.iter().zip(&person);
        let heard = heard.map(|(echo, person)| to_i16(echo + person + noise.gauss() * 32_768.0 * from_db(NOISE_DB)));
        Self { rate, heard: heard.collect(), played: played.into_iter().map(to_i16).collect(), echo, person }
    }

    /// What a canceller that left this of [`heard`](Self::heard) is worth.
    pub(crate) fn judge(&self, cleaned: &[i16]) -> Verdict {
        let cleaned: Vec<f64> = cleaned.iter().map(|&sample| sample.into()).collect();
        let at = |seconds: f64| (seconds * self.rate) as usize;
        let loss_db = to_db(rms(&self.echo[at(LEARNED)..at(BOTH)]) / rms(&cleaned[at(LEARNED)..at(BOTH)]));

        // What is cleaned comes later by a constant that is the canceller's own matter, in half samples.
        let person = &self.person[at(BOTH)..at(END) - at(0.05)];
        let cleaned = at_rate(&cleaned[at(BOTH)..], 1.0, 2.0);
        let later = |lag: usize| cleaned[lag..].iter().step_by(2).take(person.len());
        let likeness = |lag: usize| person.iter().zip(later(lag)).map(|(one, other)| one * other).sum::<f64>();
        let alike = (0..at(0.015) * 2).map(|lag| (lag, likeness(lag)));
        let (delay, _) = alike.max_by(|(_, one), (_, other)| one.total_cmp(other)).unwrap_or_default();
        let left: Vec<f64> = later(delay).copied().collect();
        Verdict {
            loss_db,
            correlation: product(person, &left) / (norm(person) * norm(&left)),
            level_db: to_db(norm(&left) / norm(person)),
            person_db: to_db(product(person, &left).max(1e-9) / product(person, person)),
            delay_ms: delay as f64 * 500.0 / self.rate,
        }
    }
}

/// What a canceller is worth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    /// How much quieter the echo became, from [`LEARNED`] on, while nobody else spoke (dB).
    pub(crate) loss_db: f64,
    /// How like the person in the room what is left is, while both speak.
    pub(crate) correlation: f64,
    /// How loud what is left is beside the person (dB).
    pub(crate) level_db: f64,
    /// How loud what is left of the person is beside the person (dB).
    pub(crate) person_db: f64,
    /// How much later that came out.
    pub(crate) delay_ms: f64,
}

/// An impulse response: the way itself, then reflections that fade.
fn response(room: Room, rate: f64) -> Vec<f64> {
    let (delay, decay) = ((room.delay_ms / 1000.0 * rate) as usize, room.decay_ms / 1000.0 * rate);
    let mut noise = Noise(1);
    let mut response = vec![0.0; delay];
    response.push(1.0);
    // Reflections begin a millisecond later, 12 dB under the way itself, some 16,000 a second.
    let step = (rate as usize / 16_000).max(1);
    let loudness = 0.25 * (16_000.0 * step as f64 / rate).sqrt();
    let silent = (rate / 1000.0) as usize;
    for n in 1..decay as usize {
        let faded = from_db(-60.0 * n as f64 / decay);
        response.push(if n < silent || n % step > 0 { 0.0 } else { loudness * faded * noise.gauss() });
    }
    response
}

/// One signal through an impulse response.
fn convolved(signal: &[f64], response: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; signal.len()];
    for (delay, &tap) in response.iter().enumerate().filter(|(_, tap)| **tap != 0.0) {
        for (sum, sample) in sum[delay..].iter_mut().zip(signal) {
            *sum += tap * sample;
        }
    }
    sum
}

/// At another rate, by a windowed sinc out of a table.
fn at_rate(samples: &[f64], from: f64, to: f64) -> Vec<f64> {
    const STEPS: f64 = 1024.0; // a sample
    let cut = (to / from).min(1.0) * 0.95;
    let reach = (24.0 / cut).ceil();
    let tap = |step: usize| {
        let x = step as f64 / STEPS;
        let window = 0.5 + 0.5 * (PI * x / reach).cos();
        let sinc = if step == 0 { 1.0 } else { (PI * cut * x).sin() / (PI * cut * x) };
        cut * window * sinc
    };
    let taps: Vec<f64> = (0..=(reach * STEPS) as usize).map(tap).collect();
    let sample = |n: usize| {
        let middle = n as f64 * from / to;
        let (first, last) = ((middle - reach).ceil().max(0.0) as usize, (middle + reach) as usize);
        let under = &samples[first..samples.len().min(last + 1)];
        let from_middle = |i: usize| ((i + first) as f64 - middle).abs();
        under.iter().enumerate().map(|(i, sample)| sample * taps[(from_middle(i) * STEPS).round() as usize]).sum()
    };
    (0..(samples.len() as f64 * to / from) as usize).map(sample).collect()
}

/// As loud as [`VOICE_DB`] where it speaks: pieces of 20 ms that are over a hundredth of the mean count.
fn levelled(mut samples: Vec<f64>) -> Vec<f64> {
    let mean = rms(&samples);
    let spoken: Vec<f64> = samples.chunks(320).filter(|piece| rms(piece) > mean / 10.0).flatten().copied().collect();
    let gain = 32_768.0 * from_db(VOICE_DB) / rms(&spoken);
    samples.iter_mut().for_each(|sample| *sample *= gain);
    samples
}

fn product(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn norm(samples: &[f64]) -> f64 {
    product(samples, samples).max(1e-9).sqrt()
}

fn rms(samples: &[f64]) -> f64 {
    norm(samples) / (samples.len() as f64).sqrt()
}

fn from_db(db: f64) -> f64 {
    10_f64.powf(db / 20.0)
}

fn to_db(ratio: f64) -> f64 {
    20.0 * ratio.log10()
}

fn to_i16(sample: f64) -> i16 {
    sample.round().clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// Noise that is the same each time (xorshift).
struct Noise(u64);

impl Noise {
    /// Between 0 and 1.
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of variance 1: twelve of the other, less their mean.
    fn gauss(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// The agent's side, a sentence at a time.
const AGENT_SAYS: [&str; 5] = [
    "Welcome to the front desk. How can I help you today?",
    "I can open the door for a delivery, or call somebody who works here.",
    "Please say the name of the person whom you would like to visit.",
    "One moment, I am looking that up. It should not take very long.",
    "Thank you for waiting. She is on the third floor, the second room on your right.",
];

/// The person's, a file at a time.
const PERSON_SAYS: [&str; 8] =
    ["Front_Center", "Rear_Left", "Side_Right", "Front_Left", "Rear_Center", "Front_Right", "Side_Left", "Rear_Right"];
