//! The jitter buffer of an RTP stream: packets in as they come, one frame out on every tick.
//!
//! Payloads are kept as they came, each at the place that its timestamp gives it, because some codecs must be decoded in
//! order. What is due on a tick is decoded; what is not there is made up ([`conceal`](super::conceal)). While nothing at all
//! is there the stream stands still, so a packet that comes late is played late rather than thrown away, and the delay that it
//! brought is given back by the pitch period.
//!
//! ```text
//!                             cursor                       newest end
//!    heard, or given up         v                              v
//!   ------------------ pending -+- packet - packet - (gap) - packet
//!        out <-- stretch <-- conceal <-- decode
//!
//!   delay = how much later than its fastest possible arrival a sample is given out
//!   target = the most that packets were late lately + a frame and a little, within bounds
//! ```

extern crate alloc;

use alloc::boxed::Box;

use crate::media::{
    clock::Now,
    codec::{Codec, Decoder},
    conceal::Concealer,
    frame::Rate,
    lateness::Lateness,
    level::{Quiet, level_dbov},
    overlap,
    sequence::{Arrival, Sequence},
};

/// What a frame is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// What the caller said.
    Heard,
    /// Some of it was lost, or is late, and was made up.
    Concealed,
    /// Silence: the stream has not begun, rests, or was gone for too long to be made up.
    Quiet,
}

/// Between what the time is kept for which packets are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// So long at least, however smooth the network is. Less than a frame is never waited.
    pub least_ms: u32,
    /// No longer, however rough it is.
    pub most_ms: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { least_ms: LEAST_TARGET_MS, most_ms: MOST_TARGET_MS }
    }
}

/// What a stream met since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Audio packets taken, whatever became of them.
    pub packets: u64,
    /// Packets that never came, as far as is known by now.
    pub lost: u64,
    /// Packets that came after their turn.
    pub late: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets that were overtaken.
    pub reordered: u64,
    /// Packets whose payload cannot be of this codec.
    pub refused: u64,
    /// Single packets with a sequence number from elsewhere.
    pub strays: u64,
    /// Times that the stream went on from another sequence number or timestamp.
    pub jumps: u64,
    /// Samples made up.
    pub concealed: u64,
    /// Samples taken out to give delay back.
    pub repaid: u64,
    /// Samples put in to be able to wait longer.
    pub stretched: u64,
    /// Samples thrown away because more came at once than is kept.
    pub dropped: u64,
    /// How long is waited for packets now.
    pub target_ms: u32,
    /// How much later than the fastest packet would allow samples are given out now.
    pub delay_ms: u32,
    /// The most that this was.
    pub most_delay_ms: u32,
}

/// One stream's buffer. What it needs of the heap it takes when it is opened.
#[derive(Debug)]
pub struct Jitter {
    codec: Codec,
    bounds: Bounds,
    decoder: Decoder,
    concealer: Concealer,
    /// Payloads: a tick's bytes lie at its position, modulo the length.
    bytes: Box<[u8]>,
    /// What of `bytes` is there, in order of position, without overlaps.
    packets: heapless::Vec<Packet, MAX_PACKETS>,
    /// Decoded and not yet given out.
    pending: Box<[i16]>,
    pending_len: usize,
    /// The next tick to be decoded.
    cursor: i64,
    flow: Flow,
    /// Nothing is expected: telephone events or comfort noise were the last to come.
    resting: bool,
    sequence: Sequence,
    /// A timestamp and its position.
    anchor: Option<(u32, i64)>,
    /// The last packet that was decoded.
    decoded: Option<u16>,
    lateness: Lateness,
    delay: Delay,
    quiet: Quiet,
    was_low: bool,
    /// Frames until speech may be stretched again.
    pause: u32,
    tally: Tally,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    position: i64,
    ticks: u16,
    sequence: u16,
    marker: bool,
}

impl Packet {
    fn end(self) -> i64 {
        self.position + i64::from(self.ticks)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// The first packet is awaited, or its turn.
    Starting,
    /// The tick at the cursor is decoded when it is due.
    Playing,
    /// It was not there, and so many samples were made up since.
    Waiting { samples: usize },
}

impl Jitter {
    /// An empty buffer: [`KEPT_MS`] of payloads, or less of large ones, and about 100 ms of samples, taken from the heap now.
    #[must_use]
    pub fn open(codec: Codec, bounds: Bounds) -> Self {
        let rate = codec.rate();
        Self {
            codec,
            bounds,
            decoder: Decoder::new(codec),
            concealer: Concealer::open(rate),
            bytes: core::iter::repeat_n(0, codec.bytes(KEPT_MS).min(MOST_BYTES)).collect(),
            packets: heapless::Vec::new(),
            pending: core::iter::repeat_n(0, overlap::wanted(rate) + codec.samples_per_tick()).collect(),
            pending_len: 0,
            cursor: 0,
            flow: Flow::Starting,
            resting: false,
            sequence: Sequence::default(),
            anchor: None,
            decoded: None,
            lateness: Lateness::new(),
            delay: Delay::new(),
            quiet: Quiet::new(),
            was_low: false,
            pause: 0,
            tally: Tally::default(),
        }
    }

    /// The encoding of its payloads.
    #[must_use]
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// The rate of its frames.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.codec.rate()
    }

    /// Takes a packet of audio.
    pub fn insert(&mut self, now: Now, sequence: u16, timestamp: u32, marker: bool, payload: &[u8]) {
        self.tally.packets += 1;
        let arrival = self.sequence.on_packet(sequence);
        match arrival {
            Arrival::Newer => {}
            Arrival::Older => self.tally.reordered += 1,
            Arrival::Repeated => return self.tally.duplicates += 1,
            Arrival::Stray => return self.tally.strays += 1,
            Arrival::Jumped => {
                self.anchor = None;
                self.decoded = None;
                self.tally.jumps += 1;
            }
        }
        let per_tick = self.codec.bytes_per_tick();
        let ticks = payload.len() / per_tick;
        if payload.is_empty() || !payload.len().is_multiple_of(per_tick) || payload.len() > self.bytes.len() / 2 {
            self.tally.refused += 1;
            return;
        }
        let Some(position) = self.place(now, timestamp, arrival != Arrival::Older) else {
            self.tally.late += 1;
            return;
        };
        let packet = Packet { position, ticks: ticks as u16, sequence, marker };
        self.lateness.on_packet(now, self.ticks(now) - position);
        self.resting &= arrival == Arrival::Older;
        // The cursor means nothing before the first packet has had its turn.
        if self.flow != Flow::Starting && packet.end() <= self.cursor {
            self.tally.late += 1;
            return;
        }
        self.keep(packet, payload);
    }

    /// Takes the sequence number of a packet without audio: a telephone event, or comfort noise (RFC 3389). It is not
    /// lost, and where it was there is silence: the noise that it describes is for people, and nobody on this way is one.
    pub fn skip(&mut self, sequence: u16) {
        match self.sequence.on_packet(sequence) {
            Arrival::Newer | Arrival::Jumped => self.resting = true,
            Arrival::Older | Arrival::Repeated | Arrival::Stray => {}
        }
    }

    /// Fills `out`, a frame of this buffer's rate, with what is due now. To be called every 20 ms.
    pub fn poll_frame(&mut self, now: Now, out: &mut [i16]) -> Got {
        let frame = out.len().min(self.rate().frame());
        let (out, beyond) = out.split_at_mut(frame);
        beyond.fill(0);
        let got = self.fill(now, frame);
        let used = if got == Got::Heard { self.stretch(now, out) } else { frame };
        if used == frame {
            out.copy_from_slice(&self.pending[..frame]);
        }
        self.pending.copy_within(used..self.pending_len, 0);
        self.pending_len -= used;

        let level = level_dbov(out);
        self.was_low = self.quiet.is_low(level);
        self.quiet.push(level);
        got
    }

    /// Another stream begins: a new source, another agreement, or the line is back from hold. What is still buffered is
    /// forgotten; the counters go on.
    pub fn restart(&mut self) {
        self.decoder = Decoder::new(self.codec);
        self.cursor = self.end();
        self.packets.clear();
        self.flow = Flow::Starting;
        self.resting = true;
        self.sequence.restart();
        self.anchor = None;
        self.decoded = None;
        self.lateness = Lateness::new();
    }

    /// What the stream met.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            lost: self.sequence.lost(),
            target_ms: self.millis(self.target()),
            delay_ms: self.millis(self.delay.last),
            ..self.tally
        }
    }

    /// The position of a packet, from its timestamp; `None` for one that belongs to what was before a jump.
    fn place(&mut self, now: Now, timestamp: u32, newer: bool) -> Option<i64> {
        let second = i64::from(self.codec.clock());
        let ours = self.ticks(now);
        let mut position = match self.anchor {
            Some((then, position)) => position + i64::from(timestamp.wrapping_sub(then).cast_signed()),
            None => self.end(),
        };
        // No network makes a second of difference, and no sender goes back: its timestamps jumped, or it was away.
        let is_far = |position: i64, fastest: Option<i64>| {
            fastest.is_some_and(|fastest| (ours - position - fastest).abs() > second)
        };
        let fastest = self.lateness.fastest();
        let goes_back = newer && self.anchor.is_some_and(|(_, newest)| position < newest);
        if goes_back || is_far(position, fastest) {
            if !newer {
                return None;
            }
            // It goes on where it left off.
            self.tally.jumps += u64::from(self.anchor.is_some());
            position = self.end();
            if self.packets.is_empty() || is_far(position, fastest) {
                self.lateness = Lateness::new();
            }
        }
        if newer {
            self.anchor = Some((timestamp, position));
        }
        Some(position)
    }

    /// Stores a packet in its place, if that is free.
    fn keep(&mut self, packet: Packet, payload: &[u8]) {
        let at = self.packets.iter().rposition(|other| other.position < packet.position).map_or(0, |before| before + 1);
        let overlaps = at > 0 && self.packets[at - 1].end() > packet.position
            || self.packets.get(at).is_some_and(|next| next.position < packet.end());
        if overlaps {
            // Another sequence number for the same moments.
            self.tally.duplicates += 1;
            return;
        }
        let kept = (self.bytes.len() / self.codec.bytes_per_tick()) as i64;
        if self.packets.last().is_some_and(|last| last.end() - packet.position > kept) {
            self.tally.late += 1;
            return;
        }
        let mut at = at;
        while let Some(&first) = self.packets.first()
            && (self.packets.is_full() || packet.end() - first.position > kept)
        {
            if at == 0 {
                self.tally.late += 1;
                return;
            }
            let from = if self.flow == Flow::Starting { first.position } else { first.position.max(self.cursor) };
            self.tally.dropped += (first.end() - from) as u64 * self.codec.samples_per_tick() as u64;
            self.cursor = first.end();
            self.packets.remove(0);
            at -= 1;
            if self.flow == Flow::Playing {
                self.flow = Flow::Waiting { samples: 0 };
            }
        }
        let (start, per_tick) = (self.offset(packet.position), self.codec.bytes_per_tick());
        debug_assert_eq!(payload.len(), usize::from(packet.ticks) * per_tick);
        let first = payload.len().min(self.bytes.len() - start);
        self.bytes[start..start + first].copy_from_slice(&payload[..first]);
        self.bytes[..payload.len() - first].copy_from_slice(&payload[first..]);
        let stored = self.packets.insert(at, packet);
        debug_assert!(stored.is_ok(), "there is room for one more");
    }

    /// Makes sure that a frame is pending and says of what it is.
    fn fill(&mut self, now: Now, frame: usize) -> Got {
        let mut got = Got::Heard;
        let (mut heard, mut audible) = (self.pending_len, 0);
        while self.pending_len < frame {
            let missing = match self.due(now) {
                Due::Now(packet) => {
                    heard += self.decode(packet, frame);
                    continue;
                }
                Due::In(samples) => samples.min(frame - self.pending_len),
                Due::Never => frame - self.pending_len,
            };
            let rests = self.rests();
            let samples = &mut self.pending[self.pending_len..self.pending_len + missing];
            if rests {
                self.concealer.rest(samples);
            } else {
                audible += self.concealer.lost(samples);
            }
            self.pending_len += missing;
            if let Flow::Waiting { samples } = &mut self.flow {
                *samples = samples.saturating_add(missing);
            }
            got = Got::Quiet;
        }
        self.tally.concealed += audible as u64;
        match got {
            Got::Quiet if audible > 0 => Got::Concealed,
            Got::Quiet if heard > 0 => Got::Heard,
            got => got,
        }
    }

    /// When the stream goes on, and with which packet.
    fn due(&mut self, now: Now) -> Due {
        let first = self.packets.first().copied();
        if self.flow == Flow::Playing {
            match first {
                Some(packet) if packet.position <= self.cursor => return Due::Now(packet),
                Some(_) | None => self.flow = Flow::Waiting { samples: 0 },
            }
        }
        let Some(packet) = first else { return Due::Never };
        let per_tick = self.codec.samples_per_tick();
        let from = if self.flow == Flow::Starting { packet.position } else { packet.position.max(self.cursor) };
        // What would not be put right does not have to be waited for.
        let enough = self.target() - i64::from(self.codec.clock()) / 1000 * EARLY_MS as i64;
        let turn = from + self.lateness.fastest().unwrap_or(0) + enough;
        let mut wait = turn - self.ticks(now) - (self.pending_len / per_tick) as i64;
        if let Flow::Waiting { samples } = self.flow
            && !self.rests()
        {
            // More delay may be gained in the midst of speech, but not much at once.
            let gap = from - self.cursor + i64::from(self.codec.clock()) * GAIN_MS / 1000;
            wait = wait.min(gap - (samples / per_tick) as i64);
        }
        if wait > 0 {
            return Due::In(wait as usize * per_tick);
        }
        self.cursor = from;
        self.flow = Flow::Playing;
        self.delay.restart();
        Due::Now(packet)
    }

    /// Decodes from the cursor on until `wanted` samples are pending or the packet is at its end. Says how many.
    fn decode(&mut self, packet: Packet, wanted: usize) -> usize {
        let (per_tick, bytes_per_tick) = (self.codec.samples_per_tick(), self.codec.bytes_per_tick());
        let left = (packet.end() - self.cursor).max(0) as usize;
        let ticks = left.min((wanted - self.pending_len).div_ceil(per_tick));
        let start = self.offset(self.cursor);
        let len = (ticks * bytes_per_tick).min(self.bytes.len() - start);
        let pending = &mut self.pending[self.pending_len..];
        let n = self.decoder.decode(&self.bytes[start..start + len], pending);
        self.concealer.heard(&mut pending[..n]);
        self.pending_len += n;
        self.cursor += (len / bytes_per_tick) as i64;
        if self.cursor >= packet.end() {
            self.packets.remove(0);
            self.decoded = Some(packet.sequence);
        }
        n
    }

    /// Whether what is missing now was never said.
    fn rests(&self) -> bool {
        match (self.packets.first(), self.decoded) {
            (Some(next), Some(before)) => next.marker || self.sequence.is_whole(before, next.sequence),
            (Some(_), None) => true,
            (None, _) => self.resting,
        }
    }

    /// Fills `out` from what is pending, faster or slower by a pitch period when the delay is not what it should be. Says
    /// how many samples were used: as many as `out` has when nothing was changed, and then `out` is not filled.
    fn stretch(&mut self, now: Now, out: &mut [i16]) -> usize {
        let (rate, frame, per_tick) = (self.rate(), out.len(), self.codec.samples_per_tick());
        let Some(fastest) = self.lateness.fastest() else { return frame };
        let delay = self.ticks(now) - fastest - (self.cursor - (self.pending_len / per_tick) as i64);
        let least = self.delay.on_poll(delay);
        self.tally.most_delay_ms = self.tally.most_delay_ms.max(self.millis(least));
        self.pause = self.pause.saturating_sub(1);

        let in_samples = |ticks: i64| ticks * per_tick as i64;
        let buffered = self.end() - self.cursor + (self.pending_len / per_tick) as i64;
        let late = in_samples(least.min(buffered) - self.target());
        let early = in_samples(self.target() - least);
        let ms = |ms: usize| rate.samples(ms) as i64;
        if late <= ms(LATE_IN_QUIET_MS) && early <= ms(EARLY_MS) {
            return frame;
        }
        let quiet = self.was_low && self.quiet.is_low(level_dbov(&self.pending[..frame]));
        if !quiet && (self.pause > 0 || (late <= ms(LATE_IN_SPEECH_MS) && early <= ms(EARLY_MS))) {
            return frame;
        }
        let lag = if late > 0 {
            self.look_ahead();
            overlap::shorten(rate, &self.pending[..self.pending_len], late as usize, out)
        } else {
            let limit = if quiet { early.max(ms(LATE_IN_QUIET_MS)) as usize } else { usize::MAX };
            overlap::lengthen(rate, &self.pending[..frame], limit, out)
        };
        if lag == 0 {
            return frame;
        }
        self.pause = if late.max(early) > ms(HURRY_MS) { 2 } else { 5 };
        let lag_ticks = (lag / per_tick) as i64;
        if late > 0 {
            self.tally.repaid += lag as u64;
            self.delay.shift(-lag_ticks);
            frame + lag
        } else {
            self.tally.stretched += lag as u64;
            self.delay.shift(lag_ticks);
            frame - lag
        }
    }

    /// Decodes what is wanted to shorten a frame, as far as it is there.
    fn look_ahead(&mut self) {
        let wanted = overlap::wanted(self.rate());
        while self.pending_len < wanted
            && let Some(&packet) = self.packets.first()
            && packet.position <= self.cursor
        {
            self.decode(packet, wanted);
        }
    }

    /// The delay that is aimed at.
    fn target(&self) -> i64 {
        let ms = |ms: u32| i64::from(self.codec.clock()) / 1000 * i64::from(ms);
        let Bounds { least_ms, most_ms } = self.bounds;
        let wanted = self.lateness.most() + ms(LEAST_TARGET_MS + EARLY_MS as u32);
        wanted.min(ms(most_ms)).max(ms(least_ms.max(LEAST_TARGET_MS)))
    }

    /// The position behind the newest sample.
    fn end(&self) -> i64 {
        self.packets.last().map_or(self.cursor, |last| last.end().max(self.cursor))
    }

    fn offset(&self, position: i64) -> usize {
        let per_tick = self.codec.bytes_per_tick();
        position.rem_euclid((self.bytes.len() / per_tick) as i64) as usize * per_tick
    }

    fn millis(&self, ticks: i64) -> u32 {
        (ticks.max(0) * 1000 / i64::from(self.codec.clock())) as u32
    }

    fn ticks(&self, now: Now) -> i64 {
        let clock = u64::from(self.codec.clock());
        (now.as_secs() * clock + u64::from(now.subsec_nanos()) * clock / 1_000_000_000).cast_signed()
    }
}

/// When the next packet has its turn.
enum Due {
    Now(Packet),
    /// So many samples from now.
    In(usize),
    /// None is there.
    Never,
}

/// The delay of the last polls, in ticks. A poll that comes late sees too much of it, none sees too little: the least of some
/// is the truth.
#[derive(Clone, Debug)]
struct Delay {
    last: i64,
    least: i64,
    least_before: i64,
    polls: u32,
}

impl Delay {
    const fn new() -> Self {
        Self { last: 0, least: i64::MAX, least_before: i64::MAX, polls: 0 }
    }

    fn restart(&mut self) {
        *self = Self { last: self.last, ..Self::new() };
    }

    fn on_poll(&mut self, delay: i64) -> i64 {
        if self.polls == POLLS {
            (self.least_before, self.least, self.polls) = (self.least, i64::MAX, 0);
        }
        self.polls += 1;
        self.last = delay;
        self.least = self.least.min(delay);
        self.least.min(self.least_before)
    }

    const fn shift(&mut self, ticks: i64) {
        self.last += ticks;
        self.least = self.least.saturating_add(ticks);
        self.least_before = self.least_before.saturating_add(ticks);
    }
}

/// Audio that is kept at most: a spike of 300 ms on top of the largest target, and some. More at once is thrown away, the
/// oldest first.
pub const KEPT_MS: usize = 500;

/// The most that payloads of `KEPT_MS` may take (bytes): of L16 at 16 kHz it is 375 ms. So a call of the largest codec that a
/// line may have takes less than 20 kB.
const MOST_BYTES: usize = 12_000;

/// Packets that are kept at most: `KEPT_MS` of 10 ms each, and some that are shorter.
const MAX_PACKETS: usize = 64;

/// A frame is made of what is there when its first sample is due, so its last one must be a frame early.
const LEAST_TARGET_MS: u32 = 20;

/// Beyond this a conversation suffers more from the delay than from what is made up.
const MOST_TARGET_MS: u32 = 120;

/// Delay that one gap in speech may add.
const GAIN_MS: i64 = 40;

/// How far the delay may be off before something is done. In quiet frames it does not matter what is taken out; in speech a
/// whole period (up to 12.5 ms) goes, and must not have to come back.
const LATE_IN_QUIET_MS: usize = 5;
const LATE_IN_SPEECH_MS: usize = 14;
const EARLY_MS: usize = 2;

/// Off by more than this, every second frame is changed instead of every fifth: about 25 % faster.
const HURRY_MS: usize = 20;

/// Polls over which the least delay is sought, once and again.
const POLLS: u32 = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::media::codec::Encoder;

    /// xorshift64.
    struct Dice(u64);

    impl Dice {
        fn throw(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, n: u64) -> u64 {
            (self.throw() >> 11) % n
        }

        fn chance(&mut self, percent: f64) -> bool {
            (self.below(1_000_000) as f64) < percent * 10_000.0
        }
    }

    const LOOP_SECONDS: usize = 10;

    fn tone(rate: Rate, pitch: f64) -> Vec<i16> {
        let step = pitch * std::f64::consts::TAU / f64::from(rate.hz());
        (0..rate.samples(1000) * LOOP_SECONDS).map(|i| ((i as f64 * step).sin() * 12_000.0) as i16).collect()
    }

    /// A voice of gliding pitch in syllables, with breath, and a pause in every three seconds.
    fn speech(rate: Rate) -> Vec<i16> {
        let (mut dice, mut phase, hz) = (Dice(7), 0.0_f64, f64::from(rate.hz()));
        (0..rate.samples(1000) * LOOP_SECONDS)
            .map(|i| {
                let at = i as f64 / hz;
                let pitch = 140.0 + 40.0 * (at * 2.1).sin() + 15.0 * (at * 7.3).sin();
                phase += pitch / hz;
                let voice: f64 = (1..=12_i32)
                    .map(|n| {
                        let harmonic = f64::from(n);
                        let formant =
                            1.0 / (1.0 + ((harmonic * pitch - 600.0 - 200.0 * (at * 3.0).sin()) / 300.0).powi(2));
                        (phase * harmonic * std::f64::consts::TAU).sin() * (formant + 0.3 / harmonic)
                    })
                    .sum();
                let syllable = (at * 4.0 * std::f64::consts::PI).sin().powi(2);
                let speaks = if at % 3.0 > 2.4 { 0.0 } else { 1.0 };
                let breath = dice.below(400) as f64 - 200.0;
                (voice * syllable * speaks * 3000.0 + breath * (0.1 + syllable * speaks)) as i16
            })
            .collect()
    }

    fn largest_step<'a>(samples: impl IntoIterator<Item = &'a i16>) -> i32 {
        let mut before = None;
        let mut largest = 0;
        for &sample in samples {
            let sample = i32::from(sample);
            largest = largest.max((sample - before.unwrap_or(sample)).abs());
            before = Some(sample);
        }
        largest
    }

    /// What the network does to a packet: how long it takes (us), as often as it arrives.
    type Network<'n> = &'n mut dyn FnMut(&mut Dice, Now) -> Vec<u64>;

    /// A sender, a network and a buffer, in virtual time.
    struct Site {
        codec: Codec,
        jitter: Jitter,
        /// Ten seconds of payload that begin again.
        payload: Vec<u8>,
        /// What a decoder makes of it.
        said: Vec<i16>,
        loudest_step: i32,
        /// Packet times, in turns (ms).
        ptimes: &'static [u64],
        drift_ppm: i64,
        sequence: u16,
        timestamp: u32,
        sent: u64,
        sent_ticks: u64,
        on_the_way: BTreeMap<(Now, u64), (u16, u32, Vec<u8>)>,
        dice: Dice,
        now: Now,
        frames: u64,
        last: i16,
        /// The largest step that was heard.
        step: i32,
    }

    impl Site {
        fn new(codec: Codec, signal: &[i16]) -> Self {
            // Once around before it counts, so that the end of ten seconds goes over into their beginning.
            let mut payload = vec![0; codec.bytes(1000 * LOOP_SECONDS)];
            let (mut encoder, mut decoder) = (Encoder::new(codec), Decoder::new(codec));
            let mut said = vec![0; signal.len()];
            let mut loudest_step = 0;
            for _ in 0..2 {
                encoder.encode(signal, &mut payload);
                let last = said[said.len() - 1];
                decoder.decode(&payload, &mut said);
                loudest_step = largest_step(std::iter::once(&last).chain(&said));
            }
            Self {
                codec,
                jitter: Jitter::open(codec, Bounds::default()),
                payload,
                said,
                loudest_step,
                ptimes: &[20],
                drift_ppm: 0,
                // Both wrap soon.
                sequence: 65_500,
                timestamp: u32::MAX - 40_000,
                sent: 0,
                sent_ticks: 0,
                on_the_way: BTreeMap::new(),
                dice: Dice(0x5eed),
                now: Now::from_millis(3),
                frames: 0,
                last: 0,
                step: 0,
            }
        }

        /// When the tick at this place in the stream was said, by our clock.
        fn said_at(&self, ticks: i64) -> i64 {
            let us = ticks * 1_000_000 / i64::from(self.codec.clock());
            us - us * self.drift_ppm / 1_000_000
        }

        /// How long ago what is heard now was said (ms); a packet's first sample is sent when it was said.
        fn delay(&self) -> i64 {
            let pending = (self.jitter.pending_len / self.codec.samples_per_tick()) as i64;
            (self.now.as_micros() as i64 - self.said_at(self.jitter.cursor - pending)) / 1000 - 20
        }

        fn send(&mut self, network: Network<'_>) {
            let ms = self.ptimes[self.sent as usize % self.ptimes.len()];
            let bytes = self.codec.bytes(ms as usize);
            let start = self.sent_ticks as usize * self.codec.bytes_per_tick() % self.payload.len();
            let (until, around) = (start + bytes, (start + bytes).saturating_sub(self.payload.len()));
            let mut payload = self.payload[start..until - around].to_vec();
            payload.extend_from_slice(&self.payload[..around]);
            let at = Now::from_micros(self.said_at(self.sent_ticks as i64) as u64);
            for (copy, takes) in network(&mut self.dice, at).into_iter().enumerate() {
                let key = (at + Now::from_micros(takes), self.sent * 4 + copy as u64);
                self.on_the_way.insert(key, (self.sequence, self.timestamp, payload.clone()));
            }
            self.sent += 1;
            self.sent_ticks += u64::from(self.codec.clock()) / 1000 * ms;
            self.sequence = self.sequence.wrapping_add(1);
            self.timestamp = self.timestamp.wrapping_add(self.codec.clock() / 1000 * ms as u32);
        }

        /// Sends what is said by now, delivers what has come, and plays one frame.
        fn frame(&mut self, network: Network<'_>) -> (Got, Vec<i16>) {
            while self.said_at(self.sent_ticks as i64) <= self.now.as_micros() as i64 {
                self.send(network);
            }
            while let Some(entry) = self.on_the_way.first_entry()
                && entry.key().0 <= self.now
            {
                let ((at, _), (sequence, timestamp, payload)) = entry.remove_entry();
                self.jitter.insert(at, sequence, timestamp, false, &payload);
            }
            let mut out = vec![0x5555; self.codec.rate().frame()];
            let got = self.jitter.poll_frame(self.now, &mut out);
            self.step = self.step.max(largest_step(std::iter::once(&self.last).chain(&out)));
            self.last = out[out.len() - 1];
            self.now += Now::from_millis(20);
            self.frames += 1;
            (got, out)
        }

        fn seconds(&mut self, seconds: u64, network: Network<'_>) {
            for _ in 0..seconds * 50 {
                self.frame(network);
            }
        }

        #[track_caller]
        fn check_clicks(&self) {
            assert!(self.step <= 3 * self.loudest_step, "a step of {}, {} of its own", self.step, self.loudest_step);
        }
    }

    fn calm(_: &mut Dice, _: Now) -> Vec<u64> {
        vec![10_000]
    }

    const CODECS: [Codec; 5] =
        [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::L16(Rate::Hz8000), Codec::L16(Rate::Hz16000)];

    /// Runs this weather for half a minute over tone and speech in several codecs, and then calm for five seconds.
    #[track_caller]
    fn weather(name: &str, late_percent: f64, most_delay: i64, network: Network<'_>) -> Vec<Site> {
        let mut sites = Vec::new();
        for codec in CODECS {
            for (what, signal) in [
                ("a tone", tone(codec.rate(), 440.0)),
                ("a deep tone", tone(codec.rate(), 87.0)),
                ("speech", speech(codec.rate())),
            ] {
                let mut site = Site::new(codec, &signal);
                site.seconds(2, &mut calm);
                let start = site.delay();
                site.seconds(2, network);
                let before = site.jitter.tally();
                let mut most = 0;
                for _ in 0..1500 {
                    // (While nothing is heard the stream stands still, and that is no delay yet.)
                    if site.frame(network).0 == Got::Heard {
                        most = most.max(site.delay());
                    }
                }
                assert!(most <= start + most_delay, "{most} ms, {start} at the start");
                let tally = site.jitter.tally();
                site.seconds(5, &mut calm);
                let end = site.delay();
                println!(
                    "{name} {codec:?} {what}: delay {start} most {most} end {end}, step {} of {}: {tally:?}",
                    site.step, site.loudest_step
                );
                let late = (tally.late - before.late + tally.dropped / codec.rate().frame() as u64) as f64;
                assert!(late * 100.0 <= late_percent * (tally.packets - before.packets) as f64, "{late} late");
                assert!((end - start).abs() <= 20, "{start} ms before, {end} after");
                assert_eq!(site.frames, 39 * 50);
                site.check_clicks();
                sites.push(site);
            }
        }
        sites
    }

    #[test]
    fn a_clean_stream_is_heard_as_it_was_said() {
        for codec in CODECS {
            for ptimes in [&[20][..], &[10], &[30], &[60], &[10, 60, 20, 40, 30]] {
                let signal = speech(codec.rate());
                let mut site = Site::new(codec, &signal);
                site.ptimes = ptimes;
                let heard: Vec<i16> = (0..150).flat_map(|_| site.frame(&mut calm).1).collect();
                let tally = site.jitter.tally();
                println!("{codec:?} {ptimes:?} {} ms {tally:?}", site.delay());
                assert_eq!((tally.lost, tally.late, tally.concealed, tally.dropped, tally.stretched), (0, 0, 0, 0, 0));
                assert_eq!(tally.repaid, 0);
                assert!((10..=40).contains(&site.delay()));
                if codec != Codec::G722 {
                    // (The decoder of G.722 begins in another state.) The first of it is faded in.
                    let start = heard.len() - (site.jitter.cursor as usize - site.jitter.pending_len);
                    let (heard, said) = (&heard[start..], &site.said[..heard.len() - start]);
                    assert_eq!(heard[codec.rate().samples(10)..], said[codec.rate().samples(10)..]);
                }
            }
        }
    }

    #[test]
    fn random_loss_is_made_up_without_a_click_and_costs_little_delay() {
        for percent in [1.0, 5.0, 10.0, 20.0] {
            for site in weather(&format!("loss {percent}"), 0.0, 40, &mut |dice: &mut Dice, _| {
                if dice.chance(percent) { vec![] } else { vec![10_000] }
            }) {
                assert!(site.jitter.tally().concealed > 0);
            }
        }
    }

    #[test]
    fn loss_in_bursts_is_made_up_without_a_click() {
        for percent in [5.0, 20.0] {
            // Gilbert: a burst is three packets long on average.
            let mut bad = false;
            weather(&format!("bursts {percent}"), 0.0, 40, &mut |dice: &mut Dice, _| {
                bad = if bad { dice.chance(66.7) } else { dice.chance(percent / 3.0 / (1.0 - percent / 100.0)) };
                if bad { vec![] } else { vec![10_000] }
            });
        }
    }

    #[test]
    fn packets_that_were_overtaken_within_60_ms_are_recovered() {
        for site in weather("reorder", 1.0, 100, &mut |dice: &mut Dice, _| {
            vec![10_000 + if dice.chance(5.0) { 21_000 + dice.below(39_000) } else { 0 }]
        }) {
            let tally = site.jitter.tally();
            assert!(tally.reordered > 50 && tally.lost == 0);
        }
    }

    #[test]
    fn duplicates_are_counted_and_not_heard() {
        for site in weather("duplicates", 0.0, 0, &mut |dice: &mut Dice, _| {
            if dice.chance(5.0) { vec![10_000, 10_000 + dice.below(200_000)] } else { vec![10_000] }
        }) {
            let tally = site.jitter.tally();
            assert!(tally.duplicates > 50);
            assert_eq!((tally.lost, tally.concealed, tally.late), (0, 0, 0));
            assert!(tally.packets - tally.duplicates >= site.sent - 2);
        }
    }

    #[test]
    fn jitter_of_a_hundred_milliseconds_is_waited_for() {
        weather("jitter", 1.0, 140, &mut |dice: &mut Dice, _| vec![10_000 + dice.below(100_000)]);
    }

    #[test]
    fn what_a_spike_of_300_ms_held_up_is_heard_and_its_delay_is_given_back() {
        for site in weather("spikes", 1.0, 300, &mut |_: &mut Dice, at| {
            let into = at.as_millis() as u64 % 5000;
            vec![if into < 300 { 310_000 - into * 1000 } else { 10_000 }]
        }) {
            let tally = site.jitter.tally();
            assert_eq!((tally.late, tally.dropped, tally.lost), (0, 0, 0));
        }
    }

    #[test]
    fn it_is_waited_for_no_shorter_and_no_longer_than_the_bounds_say() {
        let mut rough = |dice: &mut Dice, _| vec![10_000 + dice.below(100_000)];
        let waits = |least_ms, most_ms, network: Network<'_>| {
            let mut site = Site::new(Codec::Pcmu, &speech(Rate::Hz8000));
            site.jitter = Jitter::open(Codec::Pcmu, Bounds { least_ms, most_ms });
            site.seconds(10, network);
            let Tally { target_ms, most_delay_ms, late, .. } = site.jitter.tally();
            (target_ms, site.delay(), most_delay_ms, late)
        };
        let (target, delay, most, late) = waits(60, 120, &mut calm);
        assert!(target == 60 && (38..=62).contains(&delay) && (56..=82).contains(&most) && late == 0, "{delay} {most}");
        let (target, delay, _, late) = waits(20, 40, &mut rough);
        let (wide, patient, _, seldom) = waits(20, 120, &mut rough);
        assert_eq!((target, wide), (40, 120));
        assert!(delay + 20 < patient && late > seldom, "{delay} and {patient} ms, {late} and {seldom} late");
        assert_eq!(waits(80, 80, &mut rough).0, 80);
    }

    #[track_caller]
    fn drift(ppm: i64) {
        let codec = Codec::Pcmu;
        let mut site = Site::new(codec, &speech(codec.rate()));
        site.drift_ppm = ppm;
        site.seconds(5, &mut calm);
        let start = site.delay();
        let (mut least, mut most) = (start, start);
        for _ in 0..3600 * 50 {
            site.frame(&mut calm);
            (least, most) = (least.min(site.delay()), most.max(site.delay()));
        }
        let tally = site.jitter.tally();
        println!("{ppm} ppm: {start} ms, {least} to {most}: {tally:?}");
        assert!(least >= start - 20 && most <= start + 20, "{least} to {most} of {start} ms");
        assert_eq!((tally.late, tally.dropped), (0, 0));
        assert_eq!(tally.concealed, 0);
        site.check_clicks();
    }

    #[test]
    fn an_hour_of_a_sender_whose_clock_is_200_ppm_fast_moves_nothing() {
        drift(200);
    }

    #[test]
    fn an_hour_of_a_sender_whose_clock_is_200_ppm_slow_moves_nothing() {
        drift(-200);
    }

    /// A loud packet of 20 ms in PCMU.
    const LOUD: [u8; 160] = [0x20; 160];

    fn poll(jitter: &mut Jitter, ms: u64) -> (Got, [i16; 160]) {
        let mut out = [0x5555; 160];
        (jitter.poll_frame(Now::from_millis(ms), &mut out), out)
    }

    /// Twenty packets, each 20 ms before its turn; the next to be polled is at 420 ms.
    fn running() -> Jitter {
        let mut jitter = Jitter::open(Codec::Pcmu, Bounds::default());
        for i in 0..20_u16 {
            let ms = 20 * u64::from(i);
            jitter.insert(Now::from_millis(ms), i, 160 * u32::from(i), i == 0, &LOUD);
            let (got, _) = poll(&mut jitter, ms + 20);
            assert_eq!(got, Got::Heard, "{i}");
        }
        jitter
    }

    #[test]
    fn before_the_first_packet_there_is_silence_in_whole_frames() {
        let mut jitter = Jitter::open(Codec::Pcmu, Bounds::default());
        for i in 0..5 {
            assert_eq!(poll(&mut jitter, 20 * i), (Got::Quiet, [0; 160]));
        }
        assert_eq!(jitter.tally(), Tally { target_ms: 22, ..Tally::default() });
    }

    #[test]
    fn a_sender_that_stops_fades_into_silence() {
        let mut jitter = running();
        let gots: Vec<Got> = (0..8).map(|i| poll(&mut jitter, 420 + 20 * i).0).collect();
        assert_eq!(gots[..4], [Got::Concealed; 4]);
        assert_eq!(gots[5..], [Got::Quiet; 3]);
        assert_eq!(poll(&mut jitter, 600).1, [0; 160]);
        assert!((600..=720).contains(&jitter.tally().concealed));
    }

    #[test]
    fn a_timestamp_gap_without_a_missing_number_is_silence_and_keeps_the_delay() {
        let mut jitter = running();
        let before = jitter.tally().delay_ms;
        for i in 0..100 {
            poll(&mut jitter, 420 + 20 * i);
        }
        // Two seconds of timestamps later, on time.
        for i in 0..20_u16 {
            let ms = 2400 + 20 * u64::from(i);
            jitter.insert(Now::from_millis(ms), 20 + i, 8 * ms as u32, i == 0, &LOUD);
            assert_eq!(poll(&mut jitter, ms + 20).0, Got::Heard);
        }
        let tally = jitter.tally();
        assert_eq!((tally.lost, tally.late, tally.jumps, tally.delay_ms), (0, 0, 0, before));
    }

    #[test]
    fn a_digit_is_silence_and_no_loss() {
        let mut jitter = running();
        for i in 0..10_u16 {
            jitter.skip(20 + i); // RFC 4733: one event, ten packets of one timestamp
            poll(&mut jitter, 420 + 20 * u64::from(i));
        }
        let tally = jitter.tally();
        assert_eq!((tally.lost, tally.concealed), (0, 0));
        jitter.insert(Now::from_millis(600), 30, 8 * 600, false, &LOUD);
        assert_eq!(poll(&mut jitter, 620).0, Got::Heard);
        assert_eq!((jitter.tally().delay_ms, jitter.tally().lost), (20, 0));
    }

    #[test]
    fn a_jump_of_sequence_and_timestamp_is_a_new_beginning_and_no_freeze() {
        for (sequence, timestamp) in [(9000_u16, 77_u32), (20, 4_000_000_000), (64_000, 3200), (20, 0)] {
            let mut jitter = running();
            let mut heard = 0;
            for i in 0..10_u16 {
                let ms = 400 + 20 * u64::from(i);
                let timestamp = timestamp.wrapping_add(160 * u32::from(i));
                jitter.insert(Now::from_millis(ms), sequence.wrapping_add(i), timestamp, false, &LOUD);
                heard += u32::from(poll(&mut jitter, ms + 20).0 == Got::Heard);
            }
            let tally = jitter.tally();
            assert!(heard >= 8, "{sequence} {timestamp}: {heard} {tally:?}");
            assert!(tally.delay_ms <= 60 && tally.strays <= 1, "{tally:?}");
        }
    }

    #[test]
    fn a_stray_packet_takes_nothing_along() {
        let mut jitter = running();
        jitter.insert(Now::from_millis(401), 40_000, 1, false, &LOUD);
        jitter.insert(Now::from_millis(402), 20, 3200, false, &LOUD);
        assert_eq!(poll(&mut jitter, 420).0, Got::Heard);
        assert_eq!((jitter.tally().strays, jitter.tally().jumps), (1, 0));
    }

    #[test]
    fn a_restart_forgets_the_old_stream_and_keeps_its_figures() {
        let mut jitter = running();
        jitter.insert(Now::from_millis(400), 20, 3200, false, &LOUD);
        jitter.restart();
        let mut gots = Vec::new();
        for i in 0..5_u16 {
            let ms = 420 + 20 * u64::from(i);
            gots.push(poll(&mut jitter, ms).0);
            jitter.insert(Now::from_millis(ms), 7 + i, 99 + 160 * u32::from(i), false, &LOUD);
        }
        assert_eq!(gots[2..], [Got::Heard; 3]);
        let tally = jitter.tally();
        assert_eq!((tally.packets, tally.lost, tally.late, tally.strays), (26, 0, 0, 0));
    }

    #[test]
    fn more_at_once_than_is_kept_loses_the_oldest() {
        let mut jitter = running();
        for i in 20..60_u16 {
            jitter.insert(Now::from_millis(900), i, 160 * u32::from(i), false, &LOUD);
        }
        let tally = jitter.tally();
        assert_eq!(tally.dropped, 40 * 160 - 8 * 500);
        assert_eq!(poll(&mut jitter, 920).0, Got::Heard);
    }

    #[test]
    fn a_payload_that_cannot_be_is_refused() {
        let mut jitter = Jitter::open(Codec::L16(Rate::Hz16000), Bounds::default());
        jitter.insert(Now::ZERO, 1, 0, false, &[]);
        jitter.insert(Now::ZERO, 2, 0, false, &[1; 639]);
        jitter.insert(Now::ZERO, 3, 0, false, &[1; 65_000]);
        assert_eq!((jitter.tally().refused, jitter.tally().lost), (3, 0));
    }

    #[test]
    fn any_numbers_and_bytes_do_no_harm() {
        let payload: Vec<u8> = (0..10_000_u32).map(|i| (i * 31) as u8).collect();
        for codec in CODECS {
            let mut dice = Dice(0xf00d);
            let mut jitter = Jitter::open(codec, Bounds::default());
            let (mut now, mut out) = (Now::ZERO, vec![0; codec.rate().frame()]);
            let (mut sequence, mut timestamp) = (0_u16, 0_u32);
            for _ in 0..20_000 {
                match dice.below(40) {
                    0 => jitter.restart(),
                    1 => jitter.skip(dice.throw() as u16),
                    2 => (sequence, timestamp) = (dice.throw() as u16, dice.throw() as u32),
                    3 => timestamp = timestamp.wrapping_add(dice.below(100_000) as u32),
                    4 => timestamp = timestamp.wrapping_sub(dice.below(100_000) as u32),
                    5 => now += Now::from_millis(dice.below(3000)),
                    6..20 => {
                        jitter.poll_frame(now, &mut out);
                        now += Now::from_millis(20);
                    }
                    _ => {
                        let len = if dice.chance(80.0) { codec.bytes(20) } else { dice.below(10_000) as usize };
                        sequence = sequence.wrapping_add(dice.below(3) as u16);
                        timestamp = timestamp.wrapping_add(dice.below(400) as u32);
                        jitter.insert(now, sequence, timestamp, dice.chance(10.0), &payload[..len]);
                    }
                }
                let kept: usize = jitter.packets.iter().map(|packet| usize::from(packet.ticks)).sum();
                assert!(kept * codec.bytes_per_tick() <= jitter.bytes.len());
                assert!(jitter.packets.windows(2).all(|pair| pair[0].end() <= pair[1].position));
            }
            // And it works afterwards.
            jitter.restart();
            let mut heard = 0;
            for i in 0..50_u16 {
                jitter.insert(now, i, u32::from(i) * codec.clock() / 50, false, &payload[..codec.bytes(20)]);
                now += Now::from_millis(20);
                heard += u32::from(jitter.poll_frame(now, &mut out) == Got::Heard);
            }
            assert!(heard >= 48, "{codec:?}: {heard}");
        }
    }

    #[cfg(feature = "count-allocs")]
    #[test]
    fn packets_and_frames_take_nothing_of_the_heap() {
        for codec in CODECS {
            let mut site = Site::new(codec, &speech(codec.rate()));
            let payload = site.payload.split_off(0);
            let (bytes, mut out) = (codec.bytes(20), vec![0; codec.rate().frame()]);
            let allocated = allocation_counter::measure(|| {
                // Every third packet late, every seventh lost, and one stop.
                for i in (0..500_u32).filter(|i| i % 7 != 0) {
                    let now = Now::from_millis(20 * u64::from(i) + if i % 3 == 0 { 45 } else { 0 });
                    let at = i as usize * bytes % (payload.len() - bytes);
                    let timestamp = i * codec.clock() / 50;
                    site.jitter.insert(now, i as u16, timestamp, false, &payload[at..at + bytes]);
                    site.jitter.poll_frame(Now::from_millis(20 * u64::from(i) + 10), &mut out);
                    if i == 300 {
                        site.jitter.restart();
                    }
                }
            });
            assert_eq!(allocated.count_total, 0, "{codec:?}");
            assert!(site.jitter.tally().concealed > 0);
        }
    }

    #[test]
    fn a_call_in_g711_takes_less_than_eight_kilobytes() {
        let jitter = Jitter::open(Codec::Pcmu, Bounds::default());
        let held = jitter.bytes.len() + 2 * jitter.pending.len() + 4 * Rate::Hz8000.samples(49);
        println!("{} and {held}", size_of::<Jitter>());
        assert!(size_of::<Jitter>() + held <= 8192, "{} and {held}", size_of::<Jitter>());
    }
}
