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
//!   target = the most that packets were late lately + one frame, 20 to 120 ms
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
}

/// One stream's buffer. What it needs of the heap it takes when it is opened.
#[derive(Debug)]
pub struct Jitter {
    codec: Codec,
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
    /// An empty buffer: [`KEPT_MS`] of payloads and about 100 ms of samples, taken from the heap now.
    #[must_use]
    pub fn open(codec: Codec) -> Self {
        let rate = codec.rate();
        Self {
            codec,
            decoder: Decoder::new(codec),
            concealer: Concealer::open(rate),
            bytes: core::iter::repeat_n(0, codec.bytes(KEPT_MS)).collect(),
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
        let ms = |ticks: i64| (ticks.max(0) * 1000 / i64::from(self.codec.clock())) as u32;
        Tally { lost: self.sequence.lost(), target_ms: ms(self.target()), delay_ms: ms(self.delay.last), ..self.tally }
    }

    /// The position of a packet, from its timestamp; `None` for one that belongs to what was before a jump.
    fn place(&mut self, now: Now, timestamp: u32, newer: bool) -> Option<i64> {
        let second = i64::from(self.codec.clock());
        let ours = self.ticks(now);
        let mut position = match self.anchor {
            Some((then, position)) => position + i64::from(timestamp.wrapping_sub(then).cast_signed()),
            None => self.end(),
        };
        let is_far = |position: i64, fastest: i64| (ours - position - fastest).abs() > second;
        if let Some(fastest) = self.lateness.fastest()
            && is_far(position, fastest)
        {
            // No network does that: the sender's timestamps jumped, or it was away. It goes on where it left off.
            if !newer {
                return None;
            }
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
            Got::Quiet if heard > 0 || audible > 0 => Got::Concealed,
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
        let turn = from + self.lateness.fastest().unwrap_or(0) + self.target();
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
        self.pause = self.pause.saturating_sub(1);

        let in_samples = |ticks: i64| ticks * per_tick as i64;
        let buffered = self.end() - self.cursor + (self.pending_len / per_tick) as i64;
        let late = in_samples(least.min(buffered) - self.target());
        let early = in_samples(self.target() - least);
        let ms = |ms: usize| rate.samples(ms) as i64;
        if late <= ms(LATE_IN_QUIET_MS) && early <= 0 {
            return frame;
        }
        let quiet = self.was_low && self.quiet.is_low(level_dbov(&self.pending[..frame]));
        if !quiet && (self.pause > 0 || (late <= ms(LATE_IN_SPEECH_MS) && early <= ms(EARLY_IN_SPEECH_MS))) {
            return frame;
        }
        let lag = if late > 0 {
            self.look_ahead();
            overlap::shorten(rate, &self.pending[..self.pending_len], late as usize, out)
        } else {
            overlap::lengthen(rate, &self.pending[..frame], usize::MAX, out)
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
        let ms = |ms: i64| i64::from(self.codec.clock()) / 1000 * ms;
        (self.lateness.most() + ms(20)).clamp(ms(MIN_TARGET_MS), ms(MAX_TARGET_MS))
    }

    /// The position behind the newest sample.
    fn end(&self) -> i64 {
        self.packets.last().map_or(self.cursor, |last| last.end().max(self.cursor))
    }

    fn offset(&self, position: i64) -> usize {
        let per_tick = self.codec.bytes_per_tick();
        position.rem_euclid((self.bytes.len() / per_tick) as i64) as usize * per_tick
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
pub const KEPT_MS: usize = 512;

/// Packets that are kept at most: `KEPT_MS` of 10 ms each, and some that are shorter.
const MAX_PACKETS: usize = 64;

/// A frame is made of what is there when its first sample is due, so its last one must be a frame early.
const MIN_TARGET_MS: i64 = 20;

/// Beyond this a conversation suffers more from the delay than from what is made up.
const MAX_TARGET_MS: i64 = 120;

/// Delay that one gap in speech may add.
const GAIN_MS: i64 = 40;

/// How far the delay may be off before something is done. In quiet frames it does not matter what is taken out; in speech a
/// whole period (up to 12.5 ms) goes, and must not have to come back.
const LATE_IN_QUIET_MS: usize = 5;
const LATE_IN_SPEECH_MS: usize = 14;
const EARLY_IN_SPEECH_MS: usize = 2;

/// Off by more than this, every second frame is changed instead of every fifth: about 25 % faster.
const HURRY_MS: usize = 20;

/// Polls over which the least delay is sought, once and again.
const POLLS: u32 = 8;
