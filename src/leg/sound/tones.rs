//! Short tones for the person in the room: they tell what becomes of a call where there is no screen.
//!
//! All are made, or read, when the line opens. While one plays nothing is allocated, computed or read.

use core::fmt;
use std::path::{Path, PathBuf};

use hound::{SampleFormat, WavReader, WavSpec};

use crate::media::{
    Now, Rate,
    resample::Resampler,
    tone::{FADE_MS, Sine},
};

/// What a tone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A trunk is being dialled. It is repeated until that is over.
    Connecting,
    /// A trunk took the call: speak.
    Connected,
    /// The call broke off, or no trunk took it.
    Lost,
    /// There was no room for the call.
    Busy,
}

impl Tone {
    /// Every one, as the config spells them.
    pub const ALL: [(&'static str, Self); 4] =
        [("connecting", Self::Connecting), ("connected", Self::Connected), ("lost", Self::Lost), ("busy", Self::Busy)];
}

/// Where a tone comes from: a key of `[line.NAME.tones]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Our own.
    #[default]
    BuiltIn,
    /// There is none.
    None,
    /// A WAV file.
    File(PathBuf),
}

/// `[line.NAME.tones]`, in the order of [`Tone::ALL`].
pub type Sources = [Source; 4];

/// The tones of a line, ready to be played.
#[derive(Debug)]
pub struct Tones {
    rate: Rate,
    /// In the order of [`Tone::ALL`]; empty where there is none.
    sounds: [Box<[i16]>; 4],
}

/// A file that is no tone.
#[derive(Debug)]
pub struct Refused {
    /// Which tone it was to be.
    pub tone: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Tones {
    /// Makes the tones for a line of this rate and reads those that are files.
    ///
    /// # Errors
    /// For the first file that cannot be read or is no tone.
    pub fn open(sources: &Sources, rate: Rate) -> Result<Self, Refused> {
        let mut tones = Self { rate, sounds: Default::default() };
        for ((sound, source), (name, tone)) in tones.sounds.iter_mut().zip(sources).zip(Tone::ALL) {
            *sound = match source {
                Source::BuiltIn => made(tone, rate),
                Source::None => Box::default(),
                Source::File(path) => {
                    read(path, rate).map_err(|problem| Refused { tone: name, path: path.clone(), problem })?
                }
            };
        }
        Ok(tones)
    }
}

/// Plays the tones of a line, one at a time.
#[derive(Debug)]
pub struct Player {
    tones: Tones,
    playing: Option<Playing>,
    /// Begins when the one that plays has faded.
    next: Option<Tone>,
}

#[derive(Clone, Copy, Debug)]
struct Playing {
    tone: Tone,
    /// Samples since it began, or began again.
    position: usize,
    /// Samples until it has faded, once it is stopped.
    fading: Option<usize>,
}

impl Player {
    /// A player that is silent.
    #[must_use]
    pub const fn new(tones: Tones) -> Self {
        Self { tones, playing: None, next: None }
    }

    /// Plays this tone from its beginning; whatever plays fades first. Where there is no such tone it is the same as
    /// [`stop`](Self::stop).
    pub fn start(&mut self, tone: Tone) {
        self.stop();
        self.next = Some(tone);
    }

    /// Ends the tone that plays, in 5 ms.
    pub fn stop(&mut self) {
        self.next = None;
        match &mut self.playing {
            // Nothing of it has been heard yet, or of its repeat.
            Some(Playing { position: 0, .. }) => self.playing = None,
            Some(Playing { fading: fading @ None, .. }) => *fading = Some(self.tones.rate.samples(FADE_MS)),
            Some(_) | None => {}
        }
    }

    /// The next samples, and whether a tone is heard in them. Where none is, `out` stays as it was: it may hold the
    /// agent's speech. The microphone is to be muted as long as one is.
    pub fn fill(&mut self, out: &mut [i16]) -> bool {
        let fade = self.tones.rate.samples(FADE_MS);
        let mut heard = false;
        let mut from = 0;
        while from < out.len() {
            let Some(playing) = &mut self.playing else {
                let Some(tone) = self.next.take() else { break };
                self.playing = Some(Playing { tone, position: 0, fading: None });
                continue;
            };
            let sound = &self.tones.sounds[playing.tone as usize];
            let whole = if sound.is_empty() { 0 } else { cycle(playing.tone, sound.len(), self.tones.rate) };
            let sounding = sound.get(playing.position..).unwrap_or_default();
            // In a pause there is nothing to be faded.
            let left = match playing.fading {
                Some(left) => left.min(sounding.len()),
                None => whole - playing.position,
            };
            if left == 0 {
                self.playing = None;
                continue;
            }
            let rest = &mut out[from..];
            let len = left.min(rest.len());
            if !sounding.is_empty() {
                if !heard {
                    // What comes before the first sample of a tone, and after its last, belongs to nobody.
                    out.fill(0);
                    heard = true;
                }
                for (n, (out, sample)) in out[from..from + len].iter_mut().zip(sounding).enumerate() {
                    *out = match playing.fading {
                        Some(left) => (i32::from(*sample) * (left - n) as i32 / fade as i32) as i16,
                        None => *sample,
                    };
                }
            }
            from += len;
            playing.position += len;
            if let Some(left) = &mut playing.fading {
                *left -= len;
            }
            if playing.tone == Tone::Connecting && playing.position == whole {
                playing.position = 0;
            }
        }
        heard
    }
}

/// How long a tone is with its pause (samples): one that is repeated comes every [`REPEAT_MS`], or as it is long.
const fn cycle(tone: Tone, len: usize, rate: Rate) -> usize {
    match tone {
        Tone::Connecting if rate.samples(REPEAT_MS) > len => rate.samples(REPEAT_MS),
        Tone::Connecting | Tone::Connected | Tone::Lost | Tone::Busy => len,
    }
}

/// One of our own tones.
fn made(tone: Tone, rate: Rate) -> Box<[i16]> {
    let fade = rate.samples(FADE_MS);
    let mut sound = Vec::new();
    for &Beep { hz, on_ms, off_ms } in score(tone) {
        let mut sine = Sine::new(rate, hz, PEAK);
        let on = rate.samples(on_ms);
        sound.extend((0..on).map(|n| sine.sample(n.min(on - 1 - n).min(fade), fade)));
        sound.resize(sound.len() + rate.samples(off_ms), 0);
    }
    sound.into()
}

struct Beep {
    hz: u32,
    on_ms: usize,
    off_ms: usize,
}

const fn score(tone: Tone) -> &'static [Beep] {
    const fn beep(hz: u32, on_ms: usize, off_ms: usize) -> Beep {
        Beep { hz, on_ms, off_ms }
    }
    match tone {
        // Told apart with the eyes closed: twice the same, up, down, and what every telephone says when it is busy
        // (425 Hz, half a second on and off: ITU-T E.180).
        Tone::Connecting => const { &[beep(440, 80, 80), beep(440, 80, 0)] },
        Tone::Connected => const { &[beep(523, 100, 20), beep(784, 160, 0)] },
        Tone::Lost => const { &[beep(659, 140, 30), beep(523, 140, 30), beep(392, 240, 0)] },
        Tone::Busy => const { &[beep(425, 500, 500), beep(425, 500, 500), beep(425, 500, 0)] },
    }
}

/// Reads a tone; the words of an error are for the operator.
fn read(path: &Path, rate: Rate) -> Result<Box<[i16]>, String> {
    let mut wav = WavReader::open(path).map_err(|error| match error {
        hound::Error::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => error.to_string(),
        _ => format!("it is not a WAV file; {CONVERT}"),
    })?;
    let WavSpec { channels, sample_rate, bits_per_sample, sample_format } = wav.spec();
    let Some(from) = Rate::from_hz(sample_rate)
        .filter(|_| channels == 1 && bits_per_sample == 16 && sample_format == SampleFormat::Int)
    else {
        return Err(format!(
            "it has {channels} channels of {bits_per_sample} bits at {sample_rate} Hz; 16-bit PCM, mono, at 8000, 16000, \
             24000 or 48000 Hz is possible; {CONVERT}"
        ));
    };
    let len = wav.duration() as usize;
    if len == 0 {
        return Err("it is empty; \"\" is for no tone".to_owned());
    }
    if from.duration(len) > LONGEST {
        let seconds = from.duration(len).as_secs_f64();
        return Err(format!(
            "it lasts {seconds:.1} s, and a tone at most {} s; `sox IN.wav OUT.wav trim 0 5`",
            LONGEST.as_secs()
        ));
    }
    let samples: Result<Vec<i16>, _> = wav.samples().collect();
    let mut samples = samples.map_err(|error| format!("it is cut short or damaged ({error})"))?;
    let mut resampler = Resampler::new(from, rate);
    // What the filter still holds is heard, too.
    let held = (from.hz() as u128 * resampler.delay().as_nanos()).div_ceil(1_000_000_000) as usize;
    samples.resize(len + if from == rate { 0 } else { held }, 0);
    let mut sound = vec![0; resampler.max_output(samples.len())];
    resampler.process(&samples, &mut sound);
    Ok(sound.into())
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tone, path, problem } = self;
        write!(f, "{} cannot be the tone `{tone}`: {problem}", path.display())
    }
}

impl core::error::Error for Refused {}

/// An RMS of -20 dBov: well heard in a room that is as loud as the agent's speech, and no fright.
const PEAK: i16 = 4_600;

/// A tone that is repeated begins again every two seconds.
const REPEAT_MS: usize = 2_000;

/// The longest tone: a short sentence. The microphone is muted meanwhile.
const LONGEST: Now = Now::from_secs(5);

const CONVERT: &str = "`sox IN.wav -r 16000 -c 1 -b 16 -e signed OUT.wav` makes one";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::media::level::level_dbov;

    const BUILT_IN: Sources = [const { Source::BuiltIn }; 4];

    fn player(sources: &Sources, rate: Rate) -> Player {
        Player::new(Tones::open(sources, rate).unwrap())
    }

    /// Whether a tone plays, or pauses before it is repeated.
    fn is_playing(player: &Player) -> bool {
        player.playing.is_some() || player.next.is_some()
    }

    /// Plays in pieces of this many samples, each with whether a tone was heard in it.
    fn play(player: &mut Player, samples: usize, piece: usize) -> (Vec<i16>, Vec<bool>) {
        let mut out = vec![UNTOUCHED; samples];
        let heard = out.chunks_mut(piece).map(|piece| player.fill(piece)).collect();
        (out, heard)
    }

    /// What `out` has where no tone is.
    const UNTOUCHED: i16 = 11;

    fn write(path: &Path, rate: u32, channels: u16, samples: &[i16]) {
        let spec = WavSpec { channels, sample_rate: rate, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut wav = hound::WavWriter::create(path, spec).unwrap();
        samples.iter().for_each(|&sample| wav.write_sample(sample).unwrap());
        wav.finalize().unwrap();
    }

    /// Where the sound is in periods of 20 ms: its frequency (Hz), by how often it rises through zero.
    fn pitches(sound: &[i16], rate: Rate) -> Vec<u32> {
        let rising = |part: &[i16]| part.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count() as u32;
        sound
            .chunks(rate.samples(100))
            .map(|part| rising(part) * 1000 / (part.len() as u32 * 1000 / rate.hz()))
            .collect()
    }

    #[test]
    fn the_built_in_tones_are_soft_at_their_edges_and_as_loud_at_every_rate() {
        for rate in Rate::ALL {
            let tones = Tones::open(&BUILT_IN, rate).unwrap();
            for (sound, (name, tone)) in tones.sounds.iter().zip(Tone::ALL) {
                let level = level_dbov(&sound[..rate.samples(score(tone)[0].on_ms)]);
                assert!((-21..=-20).contains(&level), "{name} has {level} dBov at {rate}");
                assert_eq!((sound[0], *sound.last().unwrap()), (0, 0), "{name} at {rate}");
                // As steep as its highest tone is, and no steeper: a click would be.
                let steepest = sound.windows(2).map(|pair| pair[1].abs_diff(pair[0])).max().unwrap();
                let highest = score(tone).iter().map(|beep| beep.hz).max().unwrap();
                let limit = f64::from(PEAK) * 6.3 * f64::from(highest) / f64::from(rate.hz()) + 20.0;
                assert!(f64::from(steepest) <= limit, "{name} jumps by {steepest} at {rate}, {limit}");
            }
        }
    }

    #[test]
    fn the_built_in_tones_are_told_apart_by_ear() {
        let rate = Rate::Hz16000;
        let tones = Tones::open(&BUILT_IN, rate).unwrap();
        let [connecting, connected, lost, busy] = &tones.sounds;
        assert_eq!(connecting.len(), rate.samples(240));
        let up = pitches(connected, rate);
        assert!(up[0] < up[1], "{up:?}");
        let down = pitches(lost, rate);
        assert!(down[0] > down[2] && down[2] > down[4], "{down:?}");
        let phone: Vec<_> = pitches(busy, rate).into_iter().map(|hz| hz > 0).collect();
        assert_eq!(phone, [[true; 5], [false; 5]].concat().repeat(3)[..25]);
    }

    #[test]
    fn a_tone_is_heard_once_and_the_agent_goes_on_after_it() {
        let rate = Rate::Hz16000;
        let mut player = player(&BUILT_IN, rate);
        player.start(Tone::Connected);
        let tone = rate.samples(280);
        let (out, heard) = play(&mut player, tone + 480, 320);
        assert_eq!(out[..tone], *player.tones.sounds[1]);
        assert_eq!(heard, [[true; 14].as_slice(), &[false; 2]].concat());
        assert!(out[tone..].iter().all(|&sample| sample == UNTOUCHED));
        assert!(!is_playing(&player));
    }

    #[test]
    fn the_same_tone_comes_out_however_it_is_cut() {
        let rate = Rate::Hz8000;
        let mut whole = player(&BUILT_IN, rate);
        whole.start(Tone::Lost);
        let (whole, _) = play(&mut whole, 5000, 5000);
        for piece in [1, 80, 213, 441] {
            let mut player = player(&BUILT_IN, rate);
            player.start(Tone::Lost);
            let (out, _) = play(&mut player, 5000, piece);
            let tone = rate.samples(580);
            assert_eq!(out[..tone], whole[..tone], "{piece}");
            assert!(whole[tone..].iter().all(|&sample| sample == 0), "the rest of its piece is silence");
        }
    }

    #[test]
    fn connecting_is_repeated_every_two_seconds_with_the_microphone_open_between() {
        let rate = Rate::Hz8000;
        let mut player = player(&BUILT_IN, rate);
        player.start(Tone::Connecting);
        let (out, heard) = play(&mut player, rate.samples(6000), rate.samples(20));
        let begins = heard.windows(2).enumerate().filter(|(_, pair)| !pair[0] && pair[1]).map(|(n, _)| n + 1);
        assert_eq!(begins.collect::<Vec<_>>(), [100, 200]);
        assert_eq!(heard.iter().filter(|heard| **heard).count(), 3 * 12);
        assert_eq!(out[..rate.samples(240)], out[rate.samples(2000)..rate.samples(2240)]);
        assert!(is_playing(&player));
        // Stopped in its pause it is over at once.
        play(&mut player, rate.samples(1000), 160);
        player.stop();
        assert_eq!(play(&mut player, 160, 160), (vec![UNTOUCHED; 160], vec![false]));
        assert!(!is_playing(&player));
    }

    #[test]
    fn a_stopped_tone_fades_in_five_milliseconds_and_the_next_begins_after_it() {
        let rate = Rate::Hz16000;
        for next in [None, Some(Tone::Connected)] {
            let mut player = player(&BUILT_IN, rate);
            player.start(Tone::Busy);
            play(&mut player, 1600, 160);
            player.stop();
            player.stop(); // is no more
            next.into_iter().for_each(|tone| player.start(tone));
            let (out, heard) = play(&mut player, 1600, 160);
            let fade = rate.samples(5);
            let peak = |part: &[i16]| part.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
            assert!(peak(&out[..fade / 2]) > 2000 && peak(&out[fade - 8..fade]) < 500);
            match next {
                None => {
                    assert!(out[fade..160].iter().all(|&sample| sample == 0));
                    assert_eq!(heard, [[true].as_slice(), &[false; 9]].concat());
                }
                Some(_) => assert_eq!(out[fade..], player.tones.sounds[1][..1600 - fade]),
            }
        }
    }

    #[test]
    fn a_file_is_heard_instead_at_the_lines_rate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bell.wav");
        let bell = made(Tone::Connected, Rate::Hz48000);
        write(&path, 48_000, 1, &bell);
        let sources = [Source::None, Source::File(path), Source::BuiltIn, Source::None];
        let tones = Tones::open(&sources, Rate::Hz16000).unwrap();
        assert_eq!(tones.sounds[0].len(), 0);
        let length_ms = tones.sounds[1].len() / Rate::Hz16000.samples(1);
        assert!((280..=282).contains(&length_ms), "{length_ms}");
        let (was, is) = (level_dbov(&bell), level_dbov(&tones.sounds[1]));
        assert!(was.abs_diff(is) <= 1, "{was} {is}");
    }

    #[test]
    fn a_file_that_is_repeated_has_its_pause_or_none_if_it_is_longer() {
        let folder = tempfile::tempdir().unwrap();
        let rate = Rate::Hz8000;
        for (ms, period) in [(500, 2000), (3000, 3000)] {
            let path = folder.path().join("music.wav");
            write(&path, 8000, 1, &vec![500; rate.samples(ms)]);
            let mut player = player(&[Source::File(path), Source::None, Source::None, Source::None], rate);
            player.start(Tone::Connecting);
            let (_, heard) = play(&mut player, rate.samples(2 * period), rate.samples(20));
            let expected: Vec<_> = (0..2 * period / 20).map(|n| n * 20 % period < ms).collect();
            assert_eq!(heard, expected);
        }
    }

    #[test]
    fn no_tone_is_silence() {
        let mut player = player(&[const { Source::None }; 4], Rate::Hz8000);
        for (_, tone) in Tone::ALL {
            player.start(tone);
            assert_eq!(play(&mut player, 80, 80), (vec![UNTOUCHED; 80], vec![false]));
            assert!(!is_playing(&player));
        }
    }

    #[test]
    fn a_file_that_is_no_tone_is_refused_with_its_name_and_what_would_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.wav");
        let refusal = || {
            let sources = [Source::None, Source::None, Source::File(path.clone()), Source::None];
            Tones::open(&sources, Rate::Hz8000).unwrap_err().to_string()
        };
        let starts = format!("{} cannot be the tone `lost`: ", path.display());
        let missing = refusal();
        assert!(missing.starts_with(&starts) && missing.contains("No such file"), "{missing}");
        std::fs::write(&path, "ID3 of an MP3, say").unwrap();
        let other = refusal();
        assert!(other.contains("it is not a WAV file; `sox"), "{other}");
        for (rate, channels, len, words) in [
            (44_100, 1, 100, "at 44100 Hz; 16-bit PCM, mono, at 8000"),
            (8000, 2, 100, "it has 2 channels of 16 bits"),
            (8000, 1, 0, "it is empty; \"\" is for no tone"),
            (8000, 1, 40_001, "it lasts 5.0 s, and a tone at most 5 s; `sox"),
        ] {
            write(&path, rate, channels, &vec![0; len]);
            let said = refusal();
            assert!(said.starts_with(&starts) && said.contains(words), "{said}");
        }
    }
}
