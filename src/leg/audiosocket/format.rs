//! What is really inside the audio of a PBX.
//!
//! Kind 0x10 says 8 kHz, but Asterisk before 20.17 and 22.7 puts it on every rate, and any Asterisk on every codec:
//! the bytes of a channel without `c(slin)` in its dial string are G.711 or Opus under the same kind. A frame's length
//! alone does not tell (160 bytes every 20 ms are G.711, every 10 ms they are PCM from a phone with a packet time of
//! 10 ms), so three things are weighed over ten frames: bytes a second, length, and how it sounds each way.
//!
//! ```text
//!   arrivals  ||||  |  |  |  |     TCP delivers late, never early: what came before a moment's last byte
//!             ^first cluster       was sent by then, so the bytes after the first cluster over the time
//!                                  since it are the rate, bursts or not
//! ```

use core::{fmt, time::Duration};

use crate::{
    leg::audiosocket::{kind, rate_of},
    media::{Now, Rate, g711::Law},
};

/// How many frames are weighed.
pub const FRAMES: usize = 10;

/// What a PBX sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// PCM16 at this rate.
    Pcm(Rate),
    /// G.711 at 8 kHz.
    G711(Law),
    /// Opus, GSM or something else that we do not decode. As text it says what to write in the dialplan.
    Unsupported,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcm(rate) => write!(f, "PCM16 at {rate}"),
            Self::G711(Law::Mu) => f.write_str("G.711 mu-law"),
            Self::G711(Law::A) => f.write_str("G.711 A-law"),
            Self::Unsupported => f.write_str(
                "the PBX sends a compressed codec; write c(slin16) in its dial string: \
                 Dial(AudioSocket/HOST:PORT/UUID/c(slin16))",
            ),
        }
    }
}

/// Finds the format of the audio under kind 0x10; the other kinds say it themselves.
pub struct FormatFinder {
    arrivals: [Now; FRAMES],
    lens: [usize; FRAMES],
    frames: usize,
    /// Bytes of the message that is coming in pieces.
    so_far: usize,
    restarts: u8,
    sound: Sound,
    verdict: Option<Verdict>,
}

impl Default for FormatFinder {
    fn default() -> Self {
        Self::new()
    }
}

impl FormatFinder {
    /// Nothing heard yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            arrivals: [Now::ZERO; FRAMES],
            lens: [0; FRAMES],
            frames: 0,
            so_far: 0,
            restarts: 0,
            sound: Sound::new(),
            verdict: None,
        }
    }

    /// Takes a message of audio, or the next piece of one, and says what it is as soon as that is known: after ten
    /// messages or a second. From then on the answer does not change.
    pub fn push(&mut self, now: Now, kind: u8, message_len: usize, bytes: &[u8]) -> Option<Verdict> {
        if kind != kind::AUDIO_8000 {
            return Some(rate_of(kind).map_or(Verdict::Unsupported, Verdict::Pcm));
        }
        if self.verdict.is_none() {
            self.sound.push(self.so_far, bytes);
            self.so_far += bytes.len();
            if self.so_far >= message_len {
                self.so_far = 0;
                self.on_frame(now, message_len);
            }
        }
        self.verdict
    }

    fn on_frame(&mut self, now: Now, len: usize) {
        // A pause (a held call sends nothing) would read as a low rate, so the count begins again after it.
        if let Some(last) = self.frames.checked_sub(1) {
            let longest = Duration::from_millis(len as u64 / 8).max(LONGEST_PTIME * 2);
            if self.restarts < RESTARTS && now.saturating_sub(self.arrivals[last]) > longest {
                self.restarts += 1;
                self.frames = 0;
            }
        }
        self.arrivals[self.frames] = now;
        self.lens[self.frames] = len;
        self.frames += 1;
        let elapsed = now.saturating_sub(self.arrivals[0]);
        if self.frames == FRAMES || (self.frames >= 3 && elapsed >= LONGEST) {
            self.verdict = Some(self.decide());
        }
    }

    fn decide(&self) -> Verdict {
        let lens = &self.lens[..self.frames];
        let mut sorted = self.lens;
        let sorted = &mut sorted[..self.frames];
        sorted.sort_unstable();
        let len = sorted[sorted.len() / 2];
        let steady = lens.iter().filter(|&&other| other == len).count() * 10 >= lens.len() * 8;
        let sounds = self.sound.family();

        // Codecs with frames of varying size are compressed ones; a program's pieces of PCM sound like PCM.
        if !steady && sounds != Family::Pcm && len < 320 {
            return Verdict::Unsupported;
        }
        match self.bytes_per_second() {
            Some(rate) if rate > TOO_FAST => self.by_length(len),
            Some(rate) if rate < TOO_SLOW => match len {
                160 | 320 | 640 | 960 | 1920 => self.by_length(len),
                _ => Verdict::Unsupported,
            },
            Some(rate) => self.by_rate(rate, if steady { len } else { 0 }),
            None => self.by_length(len),
        }
    }

    /// How fast it comes; nothing if too much came at once to tell.
    fn bytes_per_second(&self) -> Option<f64> {
        let (&first, rest) = self.arrivals[..self.frames].split_first()?;
        let mut before = first;
        let mut in_first = true;
        let mut clusters = 1;
        let mut bytes = 0;
        let mut best: Option<f64> = None;
        for (n, (&arrival, &len)) in rest.iter().zip(&self.lens[1..]).enumerate() {
            if arrival.saturating_sub(before) >= SAME_TIME {
                in_first = false;
                clusters += 1;
            }
            before = arrival;
            if in_first {
                continue;
            }
            bytes += len;
            // The last frame may be late, which reads as a low rate: the highest of the last few is the truest.
            if n + 2 > self.frames.div_ceil(2) && clusters >= 3 {
                let rate = bytes as f64 / arrival.saturating_sub(first).as_secs_f64();
                best = Some(best.map_or(rate, |best| best.max(rate)));
            }
        }
        best
    }

    /// The format whose rate is nearest. 20 ms is what most phones send, and what it sounds like counts for as much
    /// as a rate that is wrong by two thirds.
    fn by_rate(&self, rate: f64, len: usize) -> Verdict {
        let sounds = self.sound.family();
        let cost = |(family, bytes_per_ms): (Family, u32)| {
            let unusual = match len as u32 / bytes_per_ms {
                20 => 0.0,
                10 | 30 | 40 | 60 => 0.1,
                _ => 0.2,
            };
            let contradicted = if sounds == Family::Unclear || sounds == family { 0.0 } else { 0.5 };
            (rate / f64::from(bytes_per_ms * 1000)).ln().abs() + unusual + contradicted
        };
        let all = [(Family::G711, 8), (Family::Pcm, 16), (Family::Pcm, 32), (Family::Pcm, 48)];
        match all.into_iter().min_by(|&a, &b| cost(a).total_cmp(&cost(b))) {
            Some((_, 16)) => Verdict::Pcm(Rate::Hz8000),
            Some((_, 32)) => Verdict::Pcm(Rate::Hz16000),
            Some((_, 48)) => Verdict::Pcm(Rate::Hz24000),
            _ => Verdict::G711(self.sound.law()),
        }
    }

    /// The format that has frames of this many bytes, when the clock does not help.
    fn by_length(&self, len: usize) -> Verdict {
        match (len, self.sound.family()) {
            (..80, Family::Unclear | Family::G711) => Verdict::Unsupported,
            (80.., Family::G711) | (80 | 160 | 240, Family::Unclear) => Verdict::G711(self.sound.law()),
            (640, _) => Verdict::Pcm(Rate::Hz16000),
            (960, _) => Verdict::Pcm(Rate::Hz24000),
            _ => Verdict::Pcm(Rate::Hz8000),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Pcm,
    G711,
    Unclear,
}

/// The same bytes, heard in three ways. Read in a wrong way, speech and silence alike become loud noise.
struct Sound {
    mu: Voice,
    a: Voice,
    pcm: Voice,
    low: u8,
}

impl Sound {
    const fn new() -> Self {
        Self { mu: Voice::new(), a: Voice::new(), pcm: Voice::new(), low: 0 }
    }

    /// Takes bytes that stand at this place of their message.
    fn push(&mut self, place: usize, bytes: &[u8]) {
        for (n, &byte) in bytes.iter().enumerate() {
            self.mu.push(Law::Mu.decode(byte), 16);
            self.a.push(Law::A.decode(byte), 24);
            if (place + n).is_multiple_of(2) {
                self.low = byte;
            } else {
                self.pcm.push(i16::from_le_bytes([self.low, byte]), 0);
            }
        }
    }

    /// Measured on recorded speech and noise from full scale down to -50 dB, 100 ms at a time: a factor of two between
    /// the costs was right in 1388 of 1392 pieces and unclear in the other four.
    fn family(&self) -> Family {
        let pcm = self.pcm.cost();
        let law = self.mu.cost().min(self.a.cost());
        // below a few steps of either both are silence
        if pcm.max(law) < 64.0 {
            Family::Unclear
        } else if pcm * 2.0 < law {
            Family::Pcm
        } else if law * 2.0 < pcm {
            Family::G711
        } else {
            Family::Unclear
        }
    }

    /// Silence by its own codes (0xff and 0x7f are mu-law's, 0xd5 and 0x55 A-law's); else the law under which the
    /// wave jumps less: right in all pieces of the same measurement.
    fn law(&self) -> Law {
        let (mu, a) = (&self.mu, &self.a);
        let silent = mu.quiet.max(a.quiet) * 2 > mu.samples;
        let is_mu = if silent { mu.quiet >= a.quiet } else { mu.steps <= a.steps };
        if is_mu { Law::Mu } else { Law::A }
    }
}

struct Voice {
    samples: u64,
    /// Sum of the sizes.
    sizes: u64,
    /// Sum of the differences between neighbours.
    steps: u64,
    /// How many are as good as silent.
    quiet: u64,
    last: i16,
}

impl Voice {
    const fn new() -> Self {
        Self { samples: 0, sizes: 0, steps: 0, quiet: 0, last: 0 }
    }

    fn push(&mut self, sample: i16, quiet: u16) {
        self.samples += 1;
        self.sizes += u64::from(sample.unsigned_abs());
        self.steps += u64::from(sample.abs_diff(self.last));
        self.quiet += u64::from(sample.unsigned_abs() <= quiet);
        self.last = sample;
    }

    fn cost(&self) -> f64 {
        (self.sizes + self.steps) as f64 / self.samples.max(1) as f64
    }
}

/// Arrivals closer than this came in one go.
const SAME_TIME: Duration = Duration::from_millis(2);

/// The longest packet time that PBXs are set to.
const LONGEST_PTIME: Duration = Duration::from_millis(60);

/// A program that sends long messages is not made to wait for ten of them.
const LONGEST: Duration = Duration::from_secs(1);

/// After so many pauses they are no pauses.
const RESTARTS: u8 = 3;

/// Half-way (by ratio) below G.711's 8 kB/s (bytes a second).
const TOO_SLOW: f64 = 5_600.0;

/// Half-way (by ratio) above 48 kB/s: no stream in real time (bytes a second).
const TOO_FAST: f64 = 68_000.0;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A voice-like wave: a fundamental with overtones, swelling and dying away.
    fn voice(hz: u32, samples: usize) -> Vec<i16> {
        let wave = |n: usize| {
            let t = n as f64 / f64::from(hz) * core::f64::consts::TAU;
            let swell = (t * 3.0).sin().abs();
            ((t * 140.0).sin() * 3000.0 + (t * 420.0).sin() * 1500.0 + (t * 1300.0).sin() * 500.0) * swell
        };
        (0..samples).map(|n| wave(n) as i16).collect()
    }

    fn pcm(hz: u32, samples: usize) -> Vec<u8> {
        voice(hz, samples).into_iter().flat_map(i16::to_le_bytes).collect()
    }

    /// The nearest code, found the slow way so that it does not lean on the encoder.
    fn g711(law: Law, samples: usize) -> Vec<u8> {
        let near = |x: i16| (0..=u8::MAX).min_by_key(|&code| law.decode(code).abs_diff(x)).unwrap();
        voice(8000, samples).into_iter().map(near).collect()
    }

    /// The verdict on frames of this length that arrive at these times (ms), and after how many it fell.
    fn judge(bytes: &[u8], len: usize, times: &[u64]) -> (Option<Verdict>, usize) {
        let mut finder = FormatFinder::new();
        for (n, (&ms, frame)) in times.iter().zip(bytes.chunks_exact(len)).enumerate() {
            if let Some(verdict) = finder.push(Now::from_millis(1000 + ms), 0x10, len, frame) {
                return (Some(verdict), n + 1);
            }
        }
        (None, times.len())
    }

    fn every(ms: u64) -> [u64; 30] {
        core::array::from_fn(|n| n as u64 * ms)
    }

    #[test]
    fn frames_of_20_ms_are_known_after_ten_of_them() {
        for (bytes, len, verdict) in [
            (pcm(8000, 8000), 320, Verdict::Pcm(Rate::Hz8000)),
            (pcm(16_000, 8000), 640, Verdict::Pcm(Rate::Hz16000)),
            (pcm(24_000, 8000), 960, Verdict::Pcm(Rate::Hz24000)),
            (g711(Law::Mu, 8000), 160, Verdict::G711(Law::Mu)),
            (g711(Law::A, 8000), 160, Verdict::G711(Law::A)),
        ] {
            assert_eq!(judge(&bytes, len, &every(20)), (Some(verdict), FRAMES), "{len}");
        }
    }

    #[test]
    fn the_other_kinds_are_known_at_once() {
        let mut finder = FormatFinder::new();
        for (kind, rate) in [(0x12, Rate::Hz16000), (0x13, Rate::Hz24000), (0x16, Rate::Hz48000)] {
            assert_eq!(finder.push(Now::ZERO, kind, 2, &[0, 0]), Some(Verdict::Pcm(rate)));
        }
        assert_eq!(finder.push(Now::ZERO, 0x10, 2, &[0, 0]), None);
        assert_eq!(finder.push(Now::ZERO, 0x11, 2, &[0, 0]), Some(Verdict::Unsupported));
    }

    #[test]
    fn a_phone_with_a_packet_time_of_10_ms_is_not_taken_for_g711() {
        assert_eq!(judge(&pcm(8000, 8000), 160, &every(10)).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&vec![0; 8000], 160, &every(10)).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&pcm(16_000, 8000), 320, &every(10)).0, Some(Verdict::Pcm(Rate::Hz16000)));
    }

    #[test]
    fn other_packet_times_are_told_by_the_rate() {
        assert_eq!(judge(&g711(Law::A, 8000), 80, &every(10)).0, Some(Verdict::G711(Law::A)));
        assert_eq!(judge(&g711(Law::Mu, 8000), 240, &every(30)).0, Some(Verdict::G711(Law::Mu)));
        assert_eq!(judge(&g711(Law::Mu, 8000), 320, &every(40)).0, Some(Verdict::G711(Law::Mu)));
        assert_eq!(judge(&pcm(8000, 8000), 480, &every(30)).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&pcm(8000, 8000), 960, &every(60)).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&pcm(16_000, 8000), 960, &every(30)).0, Some(Verdict::Pcm(Rate::Hz16000)));
    }

    #[test]
    fn silence_is_told_by_its_codes() {
        for (code, law) in [(0xff, Law::Mu), (0x7f, Law::Mu), (0xd5, Law::A), (0x55, Law::A)] {
            assert_eq!(judge(&[code; 3200], 160, &every(20)).0, Some(Verdict::G711(law)), "{code:#x}");
        }
        assert_eq!(judge(&[0; 6400], 320, &every(20)).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&[0; 16_000], 640, &every(20)).0, Some(Verdict::Pcm(Rate::Hz16000)));
    }

    #[test]
    fn a_burst_at_the_start_changes_nothing() {
        let times = [80, 80, 80, 80, 81, 100, 120, 140, 160, 180];
        assert_eq!(judge(&pcm(8000, 8000), 320, &times).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&g711(Law::Mu, 8000), 160, &times).0, Some(Verdict::G711(Law::Mu)));
        assert_eq!(judge(&pcm(16_000, 8000), 640, &times).0, Some(Verdict::Pcm(Rate::Hz16000)));
    }

    #[test]
    fn frames_that_come_in_pairs_change_nothing() {
        let times = [20, 20, 60, 60, 100, 100, 140, 140, 180, 180];
        assert_eq!(judge(&pcm(8000, 8000), 320, &times).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&g711(Law::A, 8000), 160, &times).0, Some(Verdict::G711(Law::A)));
        assert_eq!(judge(&pcm(24_000, 8000), 960, &times).0, Some(Verdict::Pcm(Rate::Hz24000)));
    }

    #[test]
    fn a_late_last_frame_changes_nothing() {
        let times = [0, 20, 40, 60, 80, 100, 120, 140, 160, 270];
        assert_eq!(judge(&pcm(8000, 8000), 320, &times).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&[0; 6400], 320, &times).0, Some(Verdict::Pcm(Rate::Hz8000)));
        assert_eq!(judge(&pcm(16_000, 8000), 640, &times).0, Some(Verdict::Pcm(Rate::Hz16000)));
    }

    #[test]
    fn a_call_that_comes_off_hold_is_judged_by_what_follows() {
        let times = [0, 20, 40, 60, 4000, 4020, 4040, 4060, 4080, 4100, 4120, 4140, 4160, 4180, 4200];
        assert_eq!(judge(&pcm(8000, 8000), 320, &times), (Some(Verdict::Pcm(Rate::Hz8000)), 14));
    }

    #[test]
    fn frames_that_all_came_at_once_are_told_by_their_length_and_sound() {
        let times = [500; 10];
        for (bytes, len, verdict) in [
            (pcm(8000, 8000), 320, Verdict::Pcm(Rate::Hz8000)),
            (pcm(16_000, 8000), 640, Verdict::Pcm(Rate::Hz16000)),
            (pcm(24_000, 8000), 960, Verdict::Pcm(Rate::Hz24000)),
            (pcm(8000, 8000), 160, Verdict::Pcm(Rate::Hz8000)),
            (g711(Law::Mu, 8000), 160, Verdict::G711(Law::Mu)),
            (g711(Law::A, 8000), 320, Verdict::G711(Law::A)),
            (vec![0xff; 8000], 160, Verdict::G711(Law::Mu)),
        ] {
            assert_eq!(judge(&bytes, len, &times).0, Some(verdict), "{len}");
        }
    }

    #[test]
    fn jitter_of_15_ms_changes_nothing() {
        let mut seed = 7_u64;
        let mut jitter = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % 15
        };
        let (narrow, wide, law) = (pcm(8000, 8000), pcm(16_000, 8000), g711(Law::A, 8000));
        for _ in 0..500 {
            let mut last = 0;
            let times: [u64; 10] = core::array::from_fn(|n| {
                last = last.max(n as u64 * 20 + jitter());
                last
            });
            assert_eq!(judge(&narrow, 320, &times).0, Some(Verdict::Pcm(Rate::Hz8000)), "{times:?}");
            assert_eq!(judge(&wide, 640, &times).0, Some(Verdict::Pcm(Rate::Hz16000)), "{times:?}");
            assert_eq!(judge(&law, 160, &times).0, Some(Verdict::G711(Law::A)), "{times:?}");
        }
    }

    #[test]
    fn compressed_codecs_are_refused_with_a_message_that_says_what_to_write() {
        // GSM, G.729 and iLBC at 20 ms; then sizes as Opus varies them
        for len in [33, 20, 38] {
            let noise: Vec<u8> = (0..len as u32 * 10).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            assert_eq!(judge(&noise, len, &every(20)).0, Some(Verdict::Unsupported), "{len}");
            assert_eq!(judge(&noise, len, &[9; 10]).0, Some(Verdict::Unsupported), "{len}");
        }
        let mut finder = FormatFinder::new();
        let mut verdict = None;
        for (n, len) in [3, 61, 78, 70, 102, 95, 88, 120, 77, 160].into_iter().enumerate() {
            let noise: Vec<u8> = (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
            verdict = finder.push(Now::from_millis(n as u64 * 20), 0x10, len, &noise);
        }
        assert_eq!(verdict, Some(Verdict::Unsupported));
        assert!(Verdict::Unsupported.to_string().contains("c(slin16)"));
    }

    #[test]
    fn long_messages_are_judged_within_a_second_or_so_and_in_any_pieces() {
        let bytes = pcm(8000, 40_000);
        for piece in [1, 2, 4095, 8000] {
            let mut finder = FormatFinder::new();
            let mut decided_at = None;
            for (n, message) in bytes.chunks_exact(8000).enumerate() {
                let now = Now::from_millis(500 * n as u64);
                for bytes in message.chunks(piece) {
                    let verdict = finder.push(now, 0x10, message.len(), bytes);
                    assert!(verdict.is_none_or(|verdict| verdict == Verdict::Pcm(Rate::Hz8000)));
                    decided_at = decided_at.or(verdict.map(|_| now));
                }
            }
            assert_eq!(decided_at, Some(Now::from_secs(1)));
        }
    }

    #[test]
    fn a_stream_of_single_samples_an_hour_apart_is_survived() {
        let mut finder = FormatFinder::new();
        let mut verdict = None;
        for n in 0..50_u64 {
            verdict = finder.push(Now::from_secs(3600 * (n % 7)), 0x10, 2, &[0, 0]);
        }
        assert!(verdict.is_some());
    }
}
