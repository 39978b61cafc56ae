//! When somebody speaks: the voice activity detector of one direction of a call.
//!
//! Whether there is voice in 16 ms of sound is earshot's judgement, a neural network of 40 kB that runs at 16 kHz;
//! when that makes speech is ours. It is the network that tells voice from noise and tones, so there is no level to
//! set; but loud noise that stays as it is it takes for voice, so speech has to rise from what was there before. Its answer
//! comes late by half of its window, and positions are corrected for that.
//!
//! ```text
//!  samples of any rate and number -> 16 kHz -> [ 256 ] -> voice? -> [ 1 0 1 1 1 1 ] -> speech begins: 4 of 6
//!                                                                     the last 100 ms   ends: 500 ms without
//! ```

use earshot::Detector;

use crate::media::{Now, frame::Rate, resample::Resampler};

/// How long the voice has to be away before the speech is over, where nothing else is configured: pauses between words
/// are shorter.
pub const HANG_OVER: Now = Now::from_millis(500);

/// Listens for speech. It is about 10 kB, all of it inside.
pub struct Vad {
    rate: Rate,
    detector: Detector,
    to_detector: Resampler,
    /// The beginning of the detector's next frame.
    held: [i16; FRAME],
    len: usize,
    tones: Tones,
    floor: Floor,
    gate: Gate,
}

/// What became of the speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Somebody began to speak: [`Vad::spoken_from`] tells where.
    Started,
    /// The hang-over is over: [`Vad::spoken_until`] tells where the speech had ended.
    Stopped,
}

impl Vad {
    /// A detector for samples of this rate that has heard nothing. Speech ends when there was no voice for `hang_over`,
    /// which is [`HANG_OVER`] unless configured, and 100 ms at least.
    #[must_use]
    pub const fn new(rate: Rate, hang_over: Now) -> Self {
        Self {
            rate,
            detector: Detector::const_default(),
            to_detector: Resampler::new(rate, DETECTOR),
            held: [0; FRAME],
            len: 0,
            tones: Tones::new(),
            floor: Floor::new(),
            gate: Gate::new(rate, FRAME_MS, hang_over),
        }
    }

    /// Listens to any number of samples and answers what changed. Two changes are 100 ms apart at least; of several in
    /// one longer push the last is told.
    pub fn push(&mut self, samples: &[i16]) -> Option<Change> {
        let mut change = None;
        let mut rest = samples;
        loop {
            let progress = self.to_detector.process(rest, &mut self.held[self.len..]);
            rest = &rest[progress.consumed..];
            self.len += progress.produced;
            if self.len < FRAME {
                // With room left everything was consumed.
                return change;
            }
            self.len = 0;
            let toned = self.tones.push(&self.held);
            let rises = self.floor.push(&self.held);
            let voiced = self.detector.predict_i16(&self.held) >= VOICED && !toned && rises;
            change = self.gate.push(voiced).or(change);
        }
    }

    /// Whether somebody speaks; during the hang-over somebody does.
    #[must_use]
    pub const fn is_speech(&self) -> bool {
        self.gate.speech
    }

    /// Where the speech that goes on, or else the last one, began (samples since [`new`](Self::new), at its rate).
    #[must_use]
    pub const fn spoken_from(&self) -> u64 {
        self.gate.from.saturating_sub(self.rate.samples(LAG_MS) as u64)
    }

    /// Where it was last heard, hang-over not included (samples since [`new`](Self::new), at its rate).
    #[must_use]
    pub const fn spoken_until(&self) -> u64 {
        self.gate.until.saturating_sub(self.rate.samples(LAG_MS) as u64)
    }
}

/// Turns judgements about single frames into the begin and end of speech. Apart from [`Vad`] so that other detectors
/// can be measured with it.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Samples in a frame.
    frame: u64,
    /// Frames that make [`ONSET_WINDOW`].
    window: u32,
    /// How many of them have to be voiced.
    onset: u32,
    /// Samples without voice that end the speech.
    hang_over: u64,
    /// The judgements of the window, the newest in the lowest bit.
    recent: u32,
    /// Samples judged.
    position: u64,
    speech: bool,
    /// Where the first voiced frame of the speech begins.
    from: u64,
    /// Where its last voiced frame ends.
    until: u64,
}

impl Gate {
    /// For frames of `frame_ms` at this rate.
    #[must_use]
    pub const fn new(rate: Rate, frame_ms: usize, hang_over: Now) -> Self {
        let hang_over_ms = hang_over.as_millis() as u64;
        let least_ms = ONSET_WINDOW_MS as u64;
        Self {
            frame: rate.samples(frame_ms) as u64,
            window: (ONSET_WINDOW_MS / frame_ms) as u32,
            onset: ONSET_MS.div_ceil(frame_ms) as u32,
            hang_over: if hang_over_ms < least_ms { least_ms } else { hang_over_ms } * rate.samples(1) as u64,
            recent: 0,
            position: 0,
            speech: false,
            from: 0,
            until: 0,
        }
    }

    /// Whether somebody speaks, the hang-over included.
    #[must_use]
    pub const fn is_speech(&self) -> bool {
        self.speech
    }

    /// Where the first voiced frame of the speech began (samples judged).
    #[must_use]
    pub const fn from(&self) -> u64 {
        self.from
    }

    /// Where the last voiced frame of the speech ended (samples judged).
    #[must_use]
    pub const fn until(&self) -> u64 {
        self.until
    }

    /// Takes the judgement about the next frame.
    pub const fn push(&mut self, voiced: bool) -> Option<Change> {
        self.recent = (self.recent << 1 | voiced as u32) & ((1 << self.window) - 1);
        self.position += self.frame;
        if self.speech {
            if voiced {
                self.until = self.position;
            } else if self.position - self.until >= self.hang_over {
                self.speech = false;
                return Some(Change::Stopped);
            }
        } else if self.recent.count_ones() >= self.onset {
            self.speech = true;
            let frames_ago = (u32::BITS - self.recent.leading_zeros()) as u64;
            self.from = self.position - frames_ago * self.frame;
            self.until = self.position;
            return Some(Change::Started);
        }
        None
    }
}

/// Knows dial tones and keys, which the network takes for vowels.
///
/// One or two tones of any phase follow x(n) + x(n-4) = a (x(n-1) + x(n-3)) + b x(n-2), where a and b stand for their
/// frequencies. A tone is a frame that the a and b of the frame before explain: a voice follows no such rule for long, and
/// never the same one.
struct Tones {
    /// The a and b that fit the last frame best.
    fit: [f64; 2],
    /// Frames that were a tone, one after another.
    run: u32,
    /// Frames since the last of [`STEADY`] such, up to [`RINGING`].
    since: u32,
}

impl Tones {
    const fn new() -> Self {
        Self { fit: [0.0; 2], run: 0, since: RINGING }
    }

    /// Whether what the network says of this frame is about a tone: it remembers one for a while.
    fn push(&mut self, samples: &[i16; FRAME]) -> bool {
        // Tones and voices of a telephone are under 4 kHz: every second sample does.
        let at = |n: usize| i64::from(samples[2 * n]);
        let (mut tt, mut uu, mut vv, mut uv, mut tu, mut tv) = (0, 0, 0, 0, 0, 0);
        for n in 4..FRAME / 2 {
            let (t, u, v) = (at(n) + at(n - 4), at(n - 1) + at(n - 3), at(n - 2));
            // At most 2^16 squared, 124 times: exact.
            tt += t * t;
            uu += u * u;
            vv += v * v;
            uv += u * v;
            tu += t * u;
            tv += t * v;
        }
        let [tt, uu, vv, uv, tu, tv] = [tt, uu, vv, uv, tu, tv].map(|sum: i64| sum as f64);
        let [a, b] = self.fit;
        let rest = tt - 2.0 * (a * tu + b * tv) + a * a * uu + 2.0 * a * b * uv + b * b * vv;
        let is_tone = tt > TONE_LEAST && rest < tt * TONE_REST;

        let determinant = uu * vv - uv * uv;
        self.fit = if determinant > uu * vv * 1e-9 {
            [(tu * vv - tv * uv) / determinant, (tv * uu - tu * uv) / determinant]
        } else {
            // A single tone leaves one of the two free; silence both.
            [0.0, if vv > 0.0 { tv / vv } else { 0.0 }]
        };
        self.run = if is_tone { self.run + 1 } else { 0 };
        self.since = if self.run >= STEADY { 0 } else { (self.since + 1).min(RINGING) };
        self.since < RINGING
    }
}

/// Knows noise that stays as it is.
///
/// What is heard has to be twice as strong over 100 ms as in the quietest 100 ms of the last 2 s. Nobody speaks for that long
/// without a gap between two words. What is under 300 Hz does not count: hum, and the rumble of which pink noise has more in
/// one tenth of a second than in another.
struct Floor {
    /// What passes under 300 Hz, eight times as large.
    low: i32,
    /// The energies of the last frames, oldest at `next`.
    energies: [u64; FLOOR_FRAMES],
    next: usize,
    /// Frames before the first 100 ms are whole.
    missing: usize,
    /// Their least sums, one for each [`FLOOR_BLOCK`] frames, the one that is being found first.
    least: [u64; FLOOR_BLOCKS],
    /// Frames that the first of them knows.
    known: usize,
}

impl Floor {
    const fn new() -> Self {
        let least = [u64::MAX; FLOOR_BLOCKS];
        Self { low: 0, energies: [0; FLOOR_FRAMES], next: 0, missing: FLOOR_FRAMES - 1, least, known: 0 }
    }

    /// Whether this frame and those before it stand out.
    fn push(&mut self, samples: &[i16; FRAME]) -> bool {
        let above = |&sample: &i16| {
            let above = i32::from(sample) - (self.low >> 3);
            self.low += above;
            i64::from(above).pow(2) as u64
        };
        self.energies[self.next] = samples.iter().map(above).sum();
        self.next = (self.next + 1) % FLOOR_FRAMES;
        if self.missing > 0 {
            self.missing -= 1;
            return false;
        }
        let sum = self.energies.iter().sum::<u64>();
        if self.known == FLOOR_BLOCK {
            self.least.rotate_right(1);
            (self.least[0], self.known) = (u64::MAX, 0);
        }
        self.known += 1;
        self.least[0] = self.least[0].min(sum);
        let least = self.least.iter().copied().fold(u64::MAX, u64::min);
        sum >= least.saturating_mul(RISE)
    }
}

/// The rate at which the network was trained.
const DETECTOR: Rate = Rate::Hz16000;

/// What the network takes at a time (samples).
const FRAME: usize = 256;

/// The same as time.
const FRAME_MS: usize = 16;

/// The network's score from which on a frame is voiced. At its authors' 0.5 a tenth of the pauses is taken for speech in
/// white noise at 5 dB or with voices in the background at 20 dB; at 0.7 quiet speech is lost (benches/RESULTS.md).
const VOICED: f32 = 0.63;

/// Frames that tell a tone from a clear vowel; a key sounds for 65 ms at least.
const STEADY: u32 = 2;

/// Frames after a tone in which the network still hears it: those that its window and its memory reach over.
const RINGING: u32 = 6;

/// The part of a tone's power that its neighbours do not explain is under this (-23 dB). Twice as much would reject clear vowels,
/// and half as much would let pass a tone in the noise of G.711. (Two tones in it, as of a key, pass as voice.)
const TONE_REST: f64 = 0.005;

/// What [`Tones`] sums up of a tone at -40 dBov at least, and quieter tones nobody sends; the silence of A-law, which is
/// not zero, would be one.
const TONE_LEAST: f64 = 5e7;

/// Frames of 100 ms.
const FLOOR_FRAMES: usize = 100 / FRAME_MS;

/// A quarter of a second, and how many make up [`Floor`]'s 2 s.
const FLOOR_BLOCK: usize = 16;
const FLOOR_BLOCKS: usize = 8;

/// 3 dB: speech that is as loud as the noise around it.
const RISE: u64 = 2;

/// So much voice within [`ONSET_WINDOW_MS`] is speech; clicks and key presses are shorter.
const ONSET_MS: usize = 60;

/// Where the voice that begins a speech is sought.
const ONSET_WINDOW_MS: usize = 100;

/// How much later than a voice begins or ends its frame is judged so.
const LAG_MS: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    /// Something like a person saying "aoeaoe": pulses of a gliding pitch through three gliding resonances, in syllables.
    fn voice(rate: Rate, ms: usize) -> Vec<i16> {
        let hz = f64::from(rate.hz());
        let mut memory = [[0.0_f64; 2]; 3];
        let mut phase = 0.0;
        let mut spoken = Vec::new();
        for n in 0..rate.samples(ms) {
            let t = n as f64 / hz;
            phase += (120.0 + 25.0 * (t * 9.0).sin()) / hz;
            let pulse = if phase >= 1.0 { 1.0 } else { 0.0 };
            phase %= 1.0;
            let syllable = 0.55 - 0.45 * (t * core::f64::consts::TAU * 4.0).cos();
            let glide = (t * 11.0).sin();
            let formants = [(600.0 + 200.0 * glide, 80.0), (1300.0 + 500.0 * glide, 100.0), (2600.0, 150.0)];
            let mut sample = pulse;
            for (state, (formant, width)) in memory.iter_mut().zip(formants) {
                let r = (-core::f64::consts::PI * width / hz).exp();
                let next =
                    sample + 2.0 * r * (core::f64::consts::TAU * formant / hz).cos() * state[0] - r * r * state[1];
                *state = [next, state[0]];
                sample = next * (1.0 - r);
            }
            spoken.push(sample * syllable);
        }
        let peak = spoken.iter().fold(0.0_f64, |peak, sample| peak.max(sample.abs()));
        spoken.into_iter().map(|sample| (sample * 12_000.0 / peak) as i16).collect()
    }

    fn silence(rate: Rate, ms: usize) -> Vec<i16> {
        vec![0; rate.samples(ms)]
    }

    fn tone(rate: Rate, ms: usize, hz: &[f64]) -> Vec<i16> {
        let step = core::f64::consts::TAU / f64::from(rate.hz());
        let sample = |n: usize| hz.iter().map(|hz| (n as f64 * hz * step).sin() * 8000.0).sum::<f64>() as i16;
        (0..rate.samples(ms)).map(sample).collect()
    }

    /// What changed, and after how many samples it was told.
    fn changes(vad: &mut Vad, samples: &[i16], piece: usize) -> Vec<(Change, u64, usize)> {
        let mut told = Vec::new();
        for (n, samples) in samples.chunks(piece).enumerate() {
            if let Some(change) = vad.push(samples) {
                let at = if change == Change::Started { vad.spoken_from() } else { vad.spoken_until() };
                told.push((change, at, n * piece + samples.len()));
            }
        }
        told
    }

    #[test]
    fn speech_begins_and_ends_where_it_was_spoken_at_every_rate() {
        for rate in Rate::ALL {
            let heard = [silence(rate, 600), voice(rate, 1500), silence(rate, 1500)].concat();
            let mut vad = Vad::new(rate, HANG_OVER);
            let told = changes(&mut vad, &heard, rate.frame());
            let [(Change::Started, from, begun), (Change::Stopped, until, over)] = told[..] else {
                panic!("{rate}: {told:?}")
            };
            let ms = |samples: u64| samples / rate.samples(1) as u64;
            assert!((540..760).contains(&ms(from)), "{rate}: spoken from {} ms", ms(from));
            assert!((660..860).contains(&ms(begun as u64)), "{rate}: told at {} ms", ms(begun as u64));
            assert!((1980..2180).contains(&ms(until)), "{rate}: spoken until {} ms", ms(until));
            let waited = ms(over as u64 - until);
            assert!((500..=560).contains(&waited), "{rate}: {waited} ms after the last voice");
            assert!(!vad.is_speech());
        }
    }

    #[test]
    fn silence_tones_keys_and_noise_are_no_speech() {
        let rate = Rate::Hz8000;
        let keys: Vec<i16> =
            (0..10).flat_map(|_| [tone(rate, 100, &[697.0, 1209.0]), silence(rate, 100)].concat()).collect();
        let mut dice = 1_u32;
        let mut noise = || {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (dice >> 22) as i16 - 512
        };
        let noise = (0..rate.samples(3000)).map(|_| noise()).collect();
        let busy: Vec<i16> = (0..6).flat_map(|_| [tone(rate, 480, &[425.0]), silence(rate, 480)].concat()).collect();
        for heard in
            [silence(rate, 3000), tone(rate, 3000, &[425.0]), tone(rate, 3000, &[350.0, 440.0]), busy, keys, noise]
        {
            let mut vad = Vad::new(rate, HANG_OVER);
            assert_eq!(changes(&mut vad, &heard, rate.frame()), []);
        }
    }

    #[test]
    fn loud_noise_that_stays_as_it_is_is_no_speech_and_speech_as_loud_as_it_is() {
        for rate in [Rate::Hz8000, Rate::Hz16000] {
            let mut dice = 1_u32;
            let mut noise = |loudness: i32| {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((dice >> 16) as i32 - 32_768) * loudness / 32_768
            };
            // At -20 dBov. The network alone takes it for one long vowel.
            let loud: Vec<i16> = (0..rate.samples(10_000)).map(|_| noise(5676) as i16).collect();
            let mut vad = Vad::new(rate, HANG_OVER);
            assert_eq!(changes(&mut vad, &loud, rate.frame()), [], "{rate}");
            let both: Vec<i16> =
                voice(rate, 1500).iter().map(|&sample| (i32::from(sample) + noise(3000)) as i16).collect();
            let heard = changes(&mut vad, &both, rate.frame());
            assert!(matches!(heard.first(), Some((Change::Started, ..))), "{rate}: {heard:?}");
        }
    }

    #[test]
    fn the_same_is_heard_however_the_samples_are_cut() {
        let rate = Rate::Hz24000;
        let heard = [silence(rate, 200), voice(rate, 900), silence(rate, 700), voice(rate, 400)].concat();
        let positions = |piece| {
            let mut vad = Vad::new(rate, HANG_OVER);
            let told = changes(&mut vad, &heard, piece);
            (
                told.into_iter().map(|(change, at, _)| (change, at)).collect::<Vec<_>>(),
                vad.is_speech(),
                vad.spoken_until(),
            )
        };
        let expected = positions(rate.frame());
        assert_eq!(expected.0.len(), 3);
        assert!(expected.1);
        for piece in [1, 7, 80, 1601, 2 * rate.frame()] {
            assert_eq!(positions(piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_pause_within_the_hang_over_does_not_end_the_speech() {
        let rate = Rate::Hz16000;
        let heard = [voice(rate, 1000), silence(rate, 300), voice(rate, 1000), silence(rate, 1500)].concat();
        for (hang_over, expected) in [(HANG_OVER, 2), (Now::from_millis(200), 4)] {
            assert_eq!(changes(&mut Vad::new(rate, hang_over), &heard, 320).len(), expected);
        }
    }

    #[test]
    fn the_gate_opens_at_60_of_100_ms_and_closes_after_the_hang_over() {
        let mut gate = Gate::new(Rate::Hz8000, 20, Now::from_millis(100));
        let judged = |gate: &mut Gate, judgements: &[u8]| -> Vec<Option<Change>> {
            judgements.iter().map(|&voiced| gate.push(voiced == 1)).collect()
        };
        assert!(judged(&mut gate, &[1, 1, 0, 0, 0, 1, 1, 0]).iter().all(Option::is_none));
        assert!(!gate.is_speech());
        assert_eq!(judged(&mut gate, &[0, 1]), [None, Some(Change::Started)]);
        assert_eq!((gate.from, gate.until()), (5 * 160, 10 * 160));
        let ending = judged(&mut gate, &[0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(ending.iter().position(Option::is_some), Some(7));
        assert_eq!((ending[7], gate.until(), gate.is_speech()), (Some(Change::Stopped), 13 * 160, false));
    }

    #[test]
    fn a_hang_over_of_nothing_is_100_ms() {
        let mut gate = Gate::new(Rate::Hz8000, 20, Now::ZERO);
        let judgements = [true, true, true, false, false, false, false, false];
        let changes = judgements.map(|voiced| gate.push(voiced));
        assert_eq!((changes[2], changes[7]), (Some(Change::Started), Some(Change::Stopped)));
    }

    #[test]
    fn it_is_small_enough_to_have_one_a_call() {
        assert!(size_of::<Vad>() <= 12 * 1024, "{} bytes", size_of::<Vad>());
    }

    #[cfg(feature = "count-allocs")]
    #[test]
    fn listening_allocates_nothing() {
        let heard = [voice(Rate::Hz8000, 500), silence(Rate::Hz8000, 700)].concat();
        let mut vad = Vad::new(Rate::Hz8000, HANG_OVER);
        let counted = allocation_counter::measure(|| {
            for frame in heard.chunks(160) {
                vad.push(frame);
            }
        });
        assert_eq!(counted.count_total, 0);
    }
}
