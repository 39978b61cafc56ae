//! `trunkline devices`: which sound cards this user can open, and what is wrong where nothing is heard.

use core::fmt;
use std::{
    f64::consts::TAU,
    io::{self, IsTerminal as _, Write},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    leg::sound::{
        Way,
        alsa::{self, DeviceInfo, WayInfo},
        card::{self, Card, CardSetup, Fault},
    },
    media::level::{SILENCE_DBOV, level_dbov},
};

/// Shows the sound cards that this user can open.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DevicesArgs {
    /// Play a tone on this device, show how loud its microphone is, and say what to change
    #[arg(long, value_name = "NAME")]
    pub test: Option<String>,
    /// With --test: the speaker, where it is another device
    #[arg(long, value_name = "NAME", requires = "test")]
    pub output: Option<String>,
    /// With --test: how long the tone is played (seconds)
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60), requires = "test")]
    pub seconds: u64,
    /// Every name that ALSA has, also those for surround sound and digital outputs
    #[arg(long)]
    pub all: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What is wrong.
#[derive(Debug)]
pub enum DevicesError {
    /// The card cannot be opened, or there is no ALSA.
    Card(Fault),
    /// The card was opened, and something is to be changed.
    Advice(&'static str),
}

impl fmt::Display for DevicesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Card(fault) => fault.fmt(f),
            Self::Advice(advice) => f.write_str(advice),
        }
    }
}

impl core::error::Error for DevicesError {}

/// Lists the devices, or tests one.
///
/// # Errors
/// When there is no card to be heard, in the words of what to do about it.
pub fn devices(args: &DevicesArgs) -> Result<(), DevicesError> {
    match &args.test {
        Some(name) => test(args, name),
        None => list(args),
    }
}

fn list(args: &DevicesArgs) -> Result<(), DevicesError> {
    let devices = alsa::list(args.all).map_err(DevicesError::Card)?;
    let mut out = io::stdout().lock();
    // A closed pipe is the reader's choice.
    let _ = if args.json {
        serde_json::to_writer_pretty(&mut out, &devices).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        devices.iter().try_for_each(|device| show(&mut out, device))
    };
    if devices.iter().any(|device| device.input.is_usable() || device.output.is_usable()) {
        return Ok(());
    }
    Err(DevicesError::Advice(
        "this user can open no sound device: see `aplay -l` for the cards that there are; the user has to be in the group \
         `audio` (the service's is by its sound drop-in, see docs/sound.md)",
    ))
}

fn show(out: &mut impl Write, device: &DeviceInfo) -> io::Result<()> {
    writeln!(out, "{}   {}", device.name, device.card)?;
    for (way, info) in [(Way::Input, &device.input), (Way::Output, &device.output)] {
        match info {
            WayInfo::None => {}
            WayInfo::Formats(formats) => writeln!(out, "    {:<12}{formats}", way.noun())?,
            WayInfo::Refused(why) => writeln!(out, "    {:<12}not now: {why}", way.noun())?,
        }
    }
    for (way, info) in [(Way::Input, &device.input), (Way::Output, &device.output)] {
        if info.is_usable() {
            writeln!(out, "    {:<12}{} = \"{}\"", "config", way.key(), device.name)?;
        }
    }
    Ok(())
}

/// What a test heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Heard {
    /// The room before the tone (dBov).
    room_dbov: i8,
    /// The loudest 50 ms of all (dBov).
    loudest_dbov: i8,
    /// The tone itself, as the microphone has it (dBov).
    tone_dbov: i8,
    /// The largest sample.
    peak: u16,
    /// Times that the card had no room or no sound in time.
    xruns: u64,
    /// Callbacks of the microphone, and of the speaker.
    callbacks: [u64; 2],
}

fn test(args: &DevicesArgs, name: &str) -> Result<(), DevicesError> {
    let output = args.output.clone().unwrap_or_else(|| name.to_owned());
    let setup = CardSetup { input: name.to_owned(), output, rate: None, period: PERIOD };
    let mut card = card::open(&setup).map_err(DevicesError::Card)?;
    let told = !args.json;
    if told {
        say(&format!(
            "microphone: {}\nspeaker:    {}\n1 s of silence, then {} s of a tone: say something meanwhile",
            card.input, card.output, args.seconds
        ));
    }
    let heard = measure(&mut card, Duration::from_secs(args.seconds), told)?;
    if args.json {
        say(&serde_json::to_string(&heard).expect("numbers"));
    }
    match advice(&heard) {
        Ok(good) => {
            if told {
                say(good);
            }
            Ok(())
        }
        Err(advice) => Err(DevicesError::Advice(advice)),
    }
}

fn measure(card: &mut Card, tone: Duration, told: bool) -> Result<Heard, DevicesError> {
    let (input_hz, output_hz) = (card.input.hz, card.output.hz);
    let began = Instant::now();
    let (mut played, mut heard) = (0_u64, Vec::new());
    let mut before = Vec::new();
    let mut figures = Heard {
        room_dbov: SILENCE_DBOV,
        loudest_dbov: SILENCE_DBOV,
        tone_dbov: SILENCE_DBOV,
        peak: 0,
        xruns: 0,
        callbacks: [0; 2],
    };
    let mut meter = Meter::new(told);
    while began.elapsed() < ROOM + tone {
        let wanted = (began.elapsed() + AHEAD).as_micros() as u64 * u64::from(output_hz) / 1_000_000;
        while played < wanted && card.to_play.push(sample(played, output_hz)).is_ok() {
            played += 1;
        }
        thread::sleep(STEP);
        let from = heard.len();
        while let Ok(sample) = card.heard.pop() {
            heard.push(sample);
        }
        if let Some(end) = card.counts.ended() {
            let words = format!("the card ended while it was tested ({end:?}): was it unplugged?");
            return Err(DevicesError::Card(Fault { words, is_lasting: false }));
        }
        let new = &heard[from..];
        meter.show(new);
        figures.loudest_dbov = figures.loudest_dbov.max(level_dbov(new));
        figures.peak = new.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0).max(figures.peak);
        if began.elapsed() < ROOM {
            before = core::mem::take(&mut heard);
        }
    }
    meter.end();
    figures.room_dbov = level_dbov(&before);
    figures.tone_dbov = tone_level(&heard, input_hz);
    let counts = &card.counts;
    figures.xruns = counts.xruns.load(Relaxed);
    figures.callbacks = [counts.heard.load(Relaxed), counts.played.load(Relaxed)];
    Ok(figures)
}

/// What the figures say: what is good, or what to change.
const fn advice(heard: &Heard) -> Result<&'static str, &'static str> {
    if heard.callbacks[0] == 0 {
        return Err(
            "the card gave no sound at all, not even silence: take another DEV= of it, or unplug it and plug it in again",
        );
    }
    if heard.callbacks[1] == 0 {
        return Err("the card took no sound to play: take another DEV= of it, or unplug it and plug it in again");
    }
    if heard.loudest_dbov == SILENCE_DBOV {
        return Err(
            "the microphone gives digital silence: it is muted, or another input is chosen; run `alsamixer`, choose \
                    the card (F6) and its capture side (F4), and unmute and raise what is there",
        );
    }
    if heard.loudest_dbov < -60 {
        return Err(
            "the microphone is nearly silent: raise its capture level in `alsamixer` (F6 for the card, F4), or speak \
                    into the right one",
        );
    }
    if heard.peak >= CLIPPED {
        return Err(
            "the microphone is too loud and clips: lower its capture level in `alsamixer` (F6 for the card, F4), or \
                    switch its boost off",
        );
    }
    if heard.tone_dbov > heard.room_dbov && heard.tone_dbov > -50 {
        return Ok(
            "the microphone works, and hears the speaker: set echo-cancel = true or half-duplex = true, or the agent \
                   will hear itself",
        );
    }
    Ok(
        "the microphone works; if no tone was heard, raise the speaker in `alsamixer` (F6 for the card, F3) and look whether \
        MM, for muted, stands under it",
    )
}

/// How loud the tone is in this (dBov): a Goertzel filter over pieces of 100 ms, the loudest counts.
fn tone_level(samples: &[i16], hz: u32) -> i8 {
    let piece = (hz / 10) as usize;
    let power = |samples: &[i16]| {
        let turn = TAU * TONE_HZ / f64::from(hz);
        let (mut one, mut two) = (0.0, 0.0);
        for &sample in samples {
            let next = f64::from(sample) + 2.0 * turn.cos() * one - two;
            (two, one) = (one, next);
        }
        let power = one * one + two * two - 2.0 * turn.cos() * one * two;
        // Of a sine of this amplitude the power is (amplitude * n / 2)^2; its RMS is the amplitude over the root of 2.
        2.0 * power / (samples.len() as f64).powi(2)
    };
    let loudest = samples.chunks_exact(piece.max(1)).map(power).fold(0.0, f64::max);
    let dbov = 10.0 * (loudest / 32_768.0_f64.powi(2)).max(1e-13).log10();
    (dbov.round() as i8).clamp(SILENCE_DBOV, 0)
}

/// Silence, and then the tone with soft ends.
fn sample(number: u64, hz: u32) -> i16 {
    let at = number as f64 / f64::from(hz);
    let since = at - ROOM.as_secs_f64();
    if since < 0.0 {
        return 0;
    }
    (AMPLITUDE * (since / 0.01).min(1.0) * (TAU * TONE_HZ * since).sin()) as i16
}

/// A bar on a terminal, or a line a second elsewhere.
struct Meter {
    told: bool,
    terminal: bool,
    last: Instant,
}

impl Meter {
    fn new(told: bool) -> Self {
        Self { told, terminal: io::stdout().is_terminal(), last: Instant::now() }
    }

    fn show(&mut self, samples: &[i16]) {
        if !self.told || samples.is_empty() {
            return;
        }
        let level = level_dbov(samples);
        // A closed pipe is the reader's choice.
        if self.terminal {
            let full = usize::from(level.saturating_add(60).max(0).unsigned_abs()) * 40 / 60;
            let _ = write!(io::stdout().lock(), "\r[{:<40}] {level:>4} dBov ", "#".repeat(full));
            let _ = io::stdout().flush();
        } else if self.last.elapsed() >= Duration::from_secs(1) {
            self.last = Instant::now();
            let _ = writeln!(io::stdout().lock(), "{level} dBov");
        }
    }

    fn end(&self) {
        if self.told && self.terminal {
            let _ = writeln!(io::stdout().lock());
        }
    }
}

fn say(words: &str) {
    // A closed pipe is the reader's choice.
    let _ = writeln!(io::stdout().lock(), "{words}");
}

const EXAMPLES: &str = "\
The service may see less than you do. To see what it can open with its sound drop-in (docs/sound.md):
  sudo setpriv --reuid=trunkline --regid=trunkline --groups=audio trunkline devices

Is anything heard?
  trunkline devices --test plughw:CARD=Headset,DEV=0

What to put into the config, e.g.:
  [line.desk]
  kind = \"sound\"
  input = \"plughw:CARD=Headset,DEV=0\"
  output = \"plughw:CARD=Headset,DEV=0\"";

const TONE_HZ: f64 = 440.0;
/// 12 dB below the loudest.
const AMPLITUDE: f64 = 8_000.0;
const PERIOD: Duration = Duration::from_millis(20);
/// How long the room is listened to before the tone.
const ROOM: Duration = Duration::from_secs(1);
/// How far the speaker is fed ahead.
const AHEAD: Duration = Duration::from_millis(150);
const STEP: Duration = Duration::from_millis(50);
/// Nothing that is not clipped comes so close to the largest number there is.
const CLIPPED: u16 = 32_700;

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(amplitude: f64, hz: u32) -> Vec<i16> {
        (0..hz).map(|n| (amplitude * (TAU * TONE_HZ * f64::from(n) / f64::from(hz)).sin()) as i16).collect()
    }

    #[test]
    fn the_tone_is_found_at_its_level_and_a_hum_is_not() {
        for hz in [8_000, 44_100, 48_000] {
            let level = tone_level(&tone(8_000.0, hz), hz);
            assert!((-16..=-14).contains(&level), "{level} at {hz}");
            let hum: Vec<i16> =
                (0..hz).map(|n| (8_000.0 * (TAU * 50.0 * f64::from(n) / f64::from(hz)).sin()) as i16).collect();
            assert!(tone_level(&hum, hz) < -40);
        }
        assert_eq!(tone_level(&[], 8_000), SILENCE_DBOV);
    }

    #[test]
    fn each_state_of_a_microphone_has_its_advice() {
        let heard =
            Heard { room_dbov: -55, loudest_dbov: -30, tone_dbov: -70, peak: 2_000, xruns: 0, callbacks: [50; 2] };
        let says = |heard: Heard| match advice(&heard) {
            Ok(words) | Err(words) => words,
        };
        assert!(says(Heard { callbacks: [0, 9], ..heard }).contains("gave no sound"));
        assert!(says(Heard { callbacks: [9, 0], ..heard }).contains("took no sound"));
        assert!(says(Heard { loudest_dbov: SILENCE_DBOV, ..heard }).contains("digital silence"));
        assert!(says(Heard { loudest_dbov: -75, ..heard }).contains("nearly silent"));
        assert!(says(Heard { peak: 32_767, ..heard }).contains("clips"));
        assert!(says(Heard { tone_dbov: -35, ..heard }).contains("echo-cancel"));
        assert!(advice(&heard).is_ok());
    }

    #[test]
    fn the_tone_begins_softly_after_the_silence() {
        let hz = 48_000;
        let all: Vec<i16> = (0..2 * u64::from(hz)).map(|n| sample(n, hz)).collect();
        assert!(all[..hz as usize].iter().all(|&sample| sample == 0));
        let steps = all.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max();
        assert!(steps < Some(500), "{steps:?}");
    }
}
