//! A WebSocket leg, in either role: frames, messages and grammar together, without a socket or a clock.
//!
//! Bytes go in through [`Leg::spare`] and [`Leg::filled`]; [`Leg::handle`] makes samples and events of them for a
//! [`Sink`]; what is to be sent gathers in [`Leg::out`]. A message that fits the wire's buffer is understood when it is
//! complete. A longer one, or one in fragments, is decoded piece by piece into the sink's *staged* samples, at the format
//! of the last audio message; they are published at its end, or rolled back when its text says otherwise.

use crate::{
    dialect::{
        Audio, Carrier, Dialect, Event, Facts, Format, Incoming, Malformed, Message, Say, Stamp,
        decode::{Decoder, most_samples},
        json::{Run, Splitter},
    },
    leg::websocket::{
        liveness::{Beat, Liveness},
        wire::{In, Kind, NO_STATUS, Op, Side, Violation, Wire},
    },
    media::{Now, Rate, frame::MAX_SAMPLES, resample::Resampler},
};

/// What takes in what a leg hears.
pub trait Sink {
    /// The rate that samples must have.
    fn rate(&self) -> Rate;
    /// Samples that could be staged now. 0 also when there is no room for the next mark: then nothing more is read.
    fn room(&self) -> usize;
    /// Takes samples that are not to be heard before they are published.
    fn stage(&mut self, samples: &[i16]);
    /// What was staged is good.
    fn publish(&mut self, now: Now);
    /// What was staged is not to be heard.
    fn rollback(&mut self);
    /// Something was said beside audio.
    fn event(&mut self, now: Now, event: Event<'_>);
}

/// Why [`Leg::handle`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It wants more bytes.
    Hungry,
    /// The sink has no room: the peer must wait. Come again when samples were played.
    Paused,
}

/// Why the peer's side is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It sent a close frame, with this code if it gave one.
    Closed(Option<u16>),
    /// It broke the protocol. The close frame that says so is in [`Leg::out`].
    Violation(Violation),
    /// It broke the grammar of its dialect, where its platform ends calls for that. The close frame that says so is in
    /// [`Leg::out`].
    Grammar(&'static str),
}

/// What a leg met, in messages unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Read.
    pub messages_in: u64,
    /// Written.
    pub messages_out: u64,
    /// Bytes of WebSocket frames read; under TLS, inside it.
    pub bytes_in: u64,
    /// Bytes of WebSocket frames written.
    pub bytes_out: u64,
    /// Samples of the peer, at its rate.
    pub samples_in: u64,
    /// Not understood and dropped.
    pub malformed: u64,
    /// Of a kind we do not know.
    pub unknown: u64,
    /// Audio that the dialect says to ignore.
    pub skipped: u64,
    /// Long messages whose end contradicted what their audio was decoded as.
    pub contradicted: u64,
    /// Control texts that did not fit the fixed space and took the heap for a moment.
    pub gathered: u64,
    /// Samples beyond 16 bits, clamped.
    pub clamped: u64,
    /// How often the peer's bytes were found to stand the other way round (times).
    pub turned: u64,
    /// Faults that the peer told of.
    pub faults: u64,
    /// What was wrong with the first malformed message.
    pub first_malformed: Option<Malformed>,
}

impl Tally {
    /// Both together: of one leg after another.
    #[must_use]
    pub const fn and(self, later: Self) -> Self {
        Self {
            messages_in: self.messages_in + later.messages_in,
            messages_out: self.messages_out + later.messages_out,
            bytes_in: self.bytes_in + later.bytes_in,
            bytes_out: self.bytes_out + later.bytes_out,
            samples_in: self.samples_in + later.samples_in,
            malformed: self.malformed + later.malformed,
            unknown: self.unknown + later.unknown,
            skipped: self.skipped + later.skipped,
            contradicted: self.contradicted + later.contradicted,
            gathered: self.gathered + later.gathered,
            clamped: self.clamped + later.clamped,
            turned: self.turned + later.turned,
            faults: self.faults + later.faults,
            first_malformed: match self.first_malformed {
                Some(first) => Some(first),
                None => later.first_malformed,
            },
        }
    }
}

/// The leg.
pub struct Leg {
    wire: Wire,
    dialect: Box<dyn Dialect>,
    ear: Ear,
    facts: Facts,
    liveness: Liveness,
    /// From the sink's rate to the dialect's.
    resampler: Resampler,
    /// One message of audio at the dialect's rate.
    converted: Box<[i16]>,
    space: Box<[u8]>,
    started: Now,
    epoch_ms: u64,
    messages_out: u64,
}

impl Leg {
    /// A leg whose WebSocket is open.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let Setup { side, dialect, facts, rate, now, epoch_ms, ping_every } = setup;
        let resampler = Resampler::new(rate, dialect.rate());
        let space = dialect.longest().max(SPACE);
        let mut wire = Wire::new(side, dialect.max_message(), entropy);
        wire.make_room_for(space);
        Self {
            wire,
            ear: Ear::new(dialect.rate(), rate, dialect.max_text()),
            converted: vec![0; dialect.chunk().max(CHUNK) + MAX_SAMPLES].into(),
            dialect,
            facts,
            liveness: Liveness::new(now, ping_every),
            resampler,
            space: vec![0; space].into(),
            started: now,
            epoch_ms,
            messages_out: 0,
        }
    }

    /// The grammar.
    #[must_use]
    pub fn dialect(&self) -> &dyn Dialect {
        &*self.dialect
    }

    /// What was met so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally { messages_out: self.messages_out, ..self.ear.tally }
    }

    /// The last ping's round trip.
    #[must_use]
    pub fn round_trip(&self) -> Option<Now> {
        self.liveness.rtt()
    }

    /// Where the peer's bytes go. May be empty while the sink is full.
    pub fn spare(&mut self) -> &mut [u8] {
        self.wire.spare()
    }

    /// So many bytes were read into [`spare`](Self::spare).
    pub fn filled(&mut self, n: usize) {
        self.wire.filled(n);
        self.ear.tally.bytes_in += n as u64;
        if n > 0 {
            self.liveness.handle_data();
        }
    }

    /// Copies bytes in; says how many fitted.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let n = self.wire.feed(bytes);
        if n > 0 {
            self.liveness.handle_data();
        }
        n
    }

    /// Makes samples and events of what was read.
    ///
    /// # Errors
    /// [`Over`] when the peer closed or broke the protocol.
    pub fn handle(&mut self, now: Now, sink: &mut dyn Sink) -> Result<Flow, Over> {
        loop {
            let Self { wire, dialect, ear, .. } = self;
            let peeked = match wire.peek() {
                Ok(peeked) => peeked,
                Err(violation) => {
                    wire.push_close(violation.code(), "");
                    return Err(Over::Violation(violation));
                }
            };
            let Some(input) = peeked else { return Ok(Flow::Hungry) };
            let done = match input {
                In::Text(text) => ear.whole(now, &mut **dialect, text, false, sink).then_some(text.len()),
                In::Binary(bytes) => ear.whole(now, &mut **dialect, bytes, true, sink).then_some(bytes.len()),
                In::Piece { kind, bytes, first, last } => {
                    let (len, binary) = (bytes.len(), kind == Kind::Binary);
                    let done = ear.piece(now, &mut **dialect, bytes, binary, first, last, sink);
                    (done > 0 || len == 0).then_some(done)
                }
                In::Ping(payload) => {
                    let len = payload.len();
                    if wire.pong().is_err() && !wire.close_sent() {
                        // The peer does not read what we send. Its pings can wait until it does. (After our goodbye
                        // there is nothing more to say, and its own stands behind this ping.)
                        return Ok(Flow::Paused);
                    }
                    Some(len)
                }
                In::Pong(payload) => {
                    self.liveness.handle_pong(now, payload);
                    Some(payload.len())
                }
                In::Close { code, .. } => {
                    wire.push_close(code.unwrap_or(NO_STATUS), "");
                    return Err(Over::Closed(code));
                }
            };
            let Some(done) = done else {
                self.liveness.suspend_until(now + SUSPENDED);
                return Ok(Flow::Paused);
            };
            self.wire.advance(done);
            if let Some(reason) = self.ear.broken {
                self.wire.push_close(BROKEN, reason);
                return Err(Over::Grammar(reason));
            }
            if !self.say_due(now) {
                // An answer that does not fit: the peer does not read what it asked for.
                return Ok(Flow::Paused);
            }
        }
    }

    /// Says what is due by itself; `false`: there is no room for it.
    pub fn say_due(&mut self, now: Now) -> bool {
        let stamp = self.stamp(now);
        loop {
            if self.wire.close_sent() {
                return true;
            }
            // No more than the wire takes: what the dialect has written, it takes for said.
            let room = self.wire.room().min(self.space.len());
            let mut message = Message::new(&mut self.space[..room]);
            match self.dialect.write_due(&self.facts, stamp, &mut message) {
                Ok(true) => {
                    if !push(&mut self.wire, &message, &mut self.messages_out) {
                        return false;
                    }
                }
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Why the peer is not what it should be by now, if so.
    #[must_use]
    pub fn overdue(&self, now: Now) -> Option<&'static str> {
        self.dialect.overdue(self.stamp(now))
    }

    /// Whether the peer is alive; a ping goes out when one is due. `false`: two pings went unanswered.
    pub fn beat(&mut self, now: Now) -> bool {
        match self.liveness.poll(now) {
            Beat::Nothing => true,
            Beat::SendPing if !self.dialect.pings() => {
                // Nobody asked, so nobody owes an answer.
                self.liveness.handle_data();
                true
            }
            Beat::SendPing => {
                let payload = self.liveness.ping_payload();
                // No room: the peer does not read, and send progress judges its life.
                let _ = self.wire.push(Op::Ping, &payload);
                true
            }
            Beat::Dead => false,
        }
    }

    /// Bytes to be sent.
    #[must_use]
    pub fn out(&self) -> &[u8] {
        self.wire.out()
    }

    /// So many bytes of [`out`](Self::out) were sent.
    pub fn written(&mut self, n: usize) {
        self.wire.written(n);
        self.ear.tally.bytes_out += n as u64;
    }

    /// Samples on our side that make one message of audio, at most [`MAX_CHUNK`].
    #[must_use]
    pub fn chunk(&self) -> usize {
        let (from, to) = (self.resampler.from().hz() as usize, self.resampler.to().hz() as usize);
        (self.dialect.chunk() * from / to).min(MAX_CHUNK)
    }

    /// Samples on our side of which a message of audio is a multiple.
    #[must_use]
    pub fn unit(&self) -> usize {
        let (from, to) = (self.resampler.from().hz() as usize, self.resampler.to().hz() as usize);
        (self.dialect.unit() * from / to).max(1)
    }

    /// Whether one more message of audio fits, however it is spelled, and the peer takes any.
    #[must_use]
    pub fn has_room(&self) -> bool {
        if !self.dialect.takes_audio() {
            return false;
        }
        let samples = self.dialect.chunk();
        let audio = match self.dialect.expected().carrier {
            Carrier::Array => samples * "-32768,".len(),
            Carrier::Base64 => samples * 8 / 3,
            Carrier::Raw => samples * 2,
        };
        self.wire.room() >= (audio + BESIDE_AUDIO).min(self.space.len())
    }

    /// The rate of the samples on our side changed.
    pub fn set_rate(&mut self, rate: Rate) {
        if (self.resampler.from(), self.resampler.to()) != (rate, self.dialect.rate()) {
            self.resampler = Resampler::new(rate, self.dialect.rate());
        }
    }

    /// Says what opens the stream.
    pub fn open(&mut self, now: Now) {
        let stamp = self.stamp(now);
        let mut step = 0;
        loop {
            let mut message = Message::new(&mut self.space);
            match self.dialect.write_opening(step, &self.facts, stamp, &mut message) {
                Ok(true) => push(&mut self.wire, &message, &mut self.messages_out),
                // Facts are short and the space is not: a message that does not fit is one that cannot be said.
                Ok(false) | Err(_) => return,
            };
            step += 1;
        }
    }

    /// Sends samples, at most [`chunk`](Self::chunk), as one message. Returns whether they fitted.
    pub fn write_audio(&mut self, now: Now, samples: &[i16]) -> bool {
        let stamp = self.stamp(now);
        if !self.has_room() || !self.say_ahead(stamp) {
            return false;
        }
        let samples = if self.resampler.from() == self.resampler.to() {
            samples
        } else {
            let made = self.resampler.process(samples, &mut self.converted).produced;
            &self.converted[..made]
        };
        let mut message = Message::new(&mut self.space);
        if self.dialect.write_audio(samples, &self.facts, stamp, &mut message).is_err() {
            return false;
        }
        // Where nobody would hear it, nothing was written.
        message.is_empty() || push(&mut self.wire, &message, &mut self.messages_out)
    }

    /// Says what has to go before audio; `false`: there is no room for both.
    fn say_ahead(&mut self, stamp: Stamp) -> bool {
        loop {
            let room = self.wire.room().min(self.space.len());
            let mut message = Message::new(&mut self.space[..room]);
            match self.dialect.write_ahead(&self.facts, stamp, &mut message) {
                Ok(true) => {
                    if !push(&mut self.wire, &message, &mut self.messages_out) || !self.has_room() {
                        return false;
                    }
                }
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Says something beside audio. `false`: the dialect has no word for it, or there is no room.
    pub fn say(&mut self, now: Now, say: Say<'_>) -> bool {
        let stamp = self.stamp(now);
        let mut message = Message::new(&mut self.space);
        match self.dialect.write(say, &self.facts, stamp, &mut message) {
            Ok(true) => message.is_empty() || push(&mut self.wire, &message, &mut self.messages_out),
            Ok(false) | Err(_) => false,
        }
    }

    /// Says goodbye at the WebSocket's level.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.wire.push_close(code, reason);
    }

    /// Whether both sides have said goodbye.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.wire.close_sent() && self.wire.close_received()
    }

    fn stamp(&self, now: Now) -> Stamp {
        let stream_ms = now.saturating_sub(self.started).as_millis() as u64;
        Stamp { stream_ms, epoch_ms: self.epoch_ms + stream_ms }
    }
}

/// What a leg is made of.
pub struct Setup {
    /// Who we are at the WebSocket's level.
    pub side: Side,
    /// The grammar, in its role.
    pub dialect: Box<dyn Dialect>,
    /// Who and what the call is.
    pub facts: Facts,
    /// The rate of the samples on our side.
    pub rate: Rate,
    /// The present.
    pub now: Now,
    /// The time of day at `now` (ms since 1970, UTC).
    pub epoch_ms: u64,
    /// How often the peer's life is tested.
    pub ping_every: Now,
}

fn push(wire: &mut Wire, message: &Message<'_>, count: &mut u64) -> bool {
    let op = if message.is_binary() { Op::Binary } else { Op::Text };
    let pushed = wire.push(op, message.bytes()).is_ok();
    *count += u64::from(pushed);
    pushed
}

/// Turns messages into samples and events.
struct Ear {
    /// The most that the text of one message may have (bytes).
    max_text: usize,
    /// The peer broke the grammar.
    broken: Option<&'static str>,
    /// From the peer's rate to the sink's.
    resampler: Resampler,
    long: Option<Long>,
    tally: Tally,
}

/// A message of which some has been heard.
struct Long {
    sort: Sort,
    splitter: Splitter,
    decoder: Decoder,
    text: Skeleton,
    /// As the resampler was before the message.
    before: Resampler,
    /// As the tally of samples was.
    samples_before: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// A binary message where they are JSON, whose first byte is still to come.
    Undecided,
    Json,
    RawAudio,
    /// Malformed, or meaningless: to be read to its end.
    Lost,
}

impl Ear {
    fn new(from: Rate, to: Rate, max_text: usize) -> Self {
        Self { max_text, broken: None, resampler: Resampler::new(from, to), long: None, tally: Tally::default() }
    }

    /// A whole message. `false`: the sink has no room for what it may hold.
    fn whole(&mut self, now: Now, dialect: &mut dyn Dialect, bytes: &[u8], binary: bool, sink: &mut dyn Sink) -> bool {
        if sink.room() < most_samples(expected(dialect, binary), bytes.len()) * widest(sink.rate()) {
            return false;
        }
        self.tally.messages_in += 1;
        let incoming = if !binary || (!dialect.binary_is_audio() && is_json(bytes)) {
            dialect.handle_text(bytes)
        } else if dialect.binary_is_audio() {
            dialect.handle_binary(bytes)
        } else {
            Err(Malformed::Binary)
        };
        match incoming {
            Ok(incoming) => self.understand(now, dialect, incoming, sink),
            Err(malformed) => self.on_malformed(malformed),
        }
        true
    }

    fn understand(&mut self, now: Now, dialect: &mut dyn Dialect, incoming: Incoming<'_>, sink: &mut dyn Sink) {
        match incoming.audio {
            Audio::None => {}
            Audio::Skip => self.tally.skipped += 1,
            Audio::Take { format, bytes } => {
                self.retune(format.rate, sink.rate());
                let before = self.resampler.clone();
                let samples_before = self.tally.samples_in;
                let mut decoder = Decoder::new(format);
                let taken = self
                    .take(&mut decoder, dialect, bytes, sink)
                    .and_then(|()| self.finish(&mut decoder, dialect, sink));
                match taken {
                    Ok(()) => {
                        sink.publish(now);
                        dialect.handle_taken(self.tally.samples_in - samples_before);
                    }
                    Err(malformed) => {
                        sink.rollback();
                        self.resampler = before;
                        self.on_malformed(malformed);
                        // Dropped with all that it says, as a long one is.
                        return;
                    }
                }
            }
        }
        match incoming.event {
            Event::Unknown => self.tally.unknown += 1,
            Event::Fault(_) => self.tally.faults += 1,
            Event::Broken(reason) => self.broken = Some(reason),
            _ => {}
        }
        if incoming.event != Event::None {
            sink.event(now, incoming.event);
        }
    }

    /// A piece of a message; says how many of its bytes were taken, 0 when the sink has no room.
    #[allow(clippy::too_many_arguments, reason = "the facts of one frame, used nowhere else")]
    fn piece(
        &mut self,
        now: Now,
        dialect: &mut dyn Dialect,
        bytes: &[u8],
        binary: bool,
        first: bool,
        last: bool,
        sink: &mut dyn Sink,
    ) -> usize {
        if first && self.long.is_none() {
            let format = expected(dialect, binary);
            self.retune(format.rate, sink.rate());
            self.long = Some(Long {
                sort: match (binary, dialect.binary_is_audio()) {
                    (false, _) => Sort::Json,
                    (true, true) => Sort::RawAudio,
                    (true, false) => Sort::Undecided,
                },
                splitter: Splitter::new(),
                decoder: Decoder::new(format),
                text: Skeleton::default(),
                before: self.resampler.clone(),
                samples_before: self.tally.samples_in,
            });
        }
        let Some(mut long) = self.long.take() else { return bytes.len() };
        // At most one sample a byte in every format, and one frame of slack for what the resampler holds.
        let fits = (sink.room() / widest(sink.rate())).saturating_sub(MAX_SAMPLES);
        let taken = if long.sort == Sort::Lost { bytes.len() } else { bytes.len().min(fits) };
        if taken == 0 && !bytes.is_empty() {
            self.long = Some(long);
            return 0;
        }
        if let Err(malformed) = self.hear(&mut long, dialect, &bytes[..taken], sink) {
            sink.rollback();
            self.resampler = long.before.clone();
            self.on_malformed(malformed);
            long.sort = Sort::Lost;
        }
        if last && taken == bytes.len() {
            self.end(now, long, dialect, sink);
        } else {
            self.long = Some(long);
        }
        taken
    }

    fn hear(
        &mut self,
        long: &mut Long,
        dialect: &mut dyn Dialect,
        bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Malformed> {
        if long.sort == Sort::Undecided
            && let Some(byte) = first_of_json(bytes)
        {
            if byte != b'{' {
                return Err(Malformed::Binary);
            }
            long.sort = Sort::Json;
        }
        match long.sort {
            Sort::Lost | Sort::Undecided => Ok(()),
            Sort::RawAudio => self.take(&mut long.decoder, dialect, bytes, sink),
            Sort::Json => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let step = long.splitter.split(rest, |key, depth| dialect.carrier(key, depth))?;
                    let (run, after) = rest.split_at(step.consumed);
                    match step.run {
                        Run::Text => long.text.push(run, self.max_text, &mut self.tally.gathered)?,
                        Run::Audio(carrier) if carrier == long.decoder.format().carrier => {
                            self.take(&mut long.decoder, dialect, run, sink)?;
                        }
                        Run::Audio(_) => return Err(Malformed::Json),
                        Run::AudioEnd => self.finish(&mut long.decoder, dialect, sink)?,
                    }
                    rest = after;
                }
                Ok(())
            }
        }
    }

    /// The end of a long message: its text decides what its audio was.
    fn end(&mut self, now: Now, mut long: Long, dialect: &mut dyn Dialect, sink: &mut dyn Sink) {
        self.tally.messages_in += 1;
        let incoming = match long.sort {
            Sort::Lost => return,
            Sort::Undecided => Err(Malformed::Binary),
            Sort::RawAudio => self.finish(&mut long.decoder, dialect, sink).and_then(|()| dialect.handle_binary(&[])),
            Sort::Json => long.splitter.finish().and_then(|()| dialect.handle_text(long.text.bytes())),
        };
        let mut incoming = match incoming {
            Ok(incoming) => incoming,
            Err(malformed) => {
                sink.rollback();
                self.resampler = long.before;
                self.on_malformed(malformed);
                return;
            }
        };
        // An audio member that was not split off is still in the text, and is taken from there.
        if let Audio::Take { format, bytes: [] } = incoming.audio {
            if format == long.decoder.format() {
                sink.publish(now);
                dialect.handle_taken(self.tally.samples_in - long.samples_before);
            } else {
                sink.rollback();
                self.resampler = long.before;
                self.tally.contradicted += 1;
            }
            incoming.audio = Audio::None;
        } else {
            sink.rollback();
            self.resampler = long.before;
        }
        self.understand(now, dialect, incoming, sink);
    }

    fn take(
        &mut self,
        decoder: &mut Decoder,
        dialect: &mut dyn Dialect,
        mut bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Malformed> {
        let mut samples = [0; BATCH];
        while !bytes.is_empty() {
            let (consumed, produced) = decoder.decode(bytes, &mut samples)?;
            self.show(&mut samples[..produced], decoder, dialect);
            self.pass_on(&samples[..produced], sink);
            bytes = &bytes[consumed..];
        }
        Ok(())
    }

    fn finish(
        &mut self,
        decoder: &mut Decoder,
        dialect: &mut dyn Dialect,
        sink: &mut dyn Sink,
    ) -> Result<(), Malformed> {
        let mut samples = [0; BATCH];
        let produced = decoder.finish(&mut samples)?;
        self.show(&mut samples[..produced], decoder, dialect);
        self.pass_on(&samples[..produced], sink);
        self.tally.clamped += u64::from(decoder.clamped());
        Ok(())
    }

    /// Lets the dialect hear what was decoded, and obeys where it finds the bytes the wrong way round.
    fn show(&mut self, samples: &mut [i16], decoder: &mut Decoder, dialect: &mut dyn Dialect) {
        if dialect.observe(samples) {
            samples.iter_mut().for_each(|sample| *sample = sample.swap_bytes());
            decoder.swap_byte_order();
            self.tally.turned += 1;
        }
    }

    fn pass_on(&mut self, mut samples: &[i16], sink: &mut dyn Sink) {
        self.tally.samples_in += samples.len() as u64;
        if self.resampler.from() == self.resampler.to() {
            sink.stage(samples);
            return;
        }
        let mut converted = [0; 2 * MAX_SAMPLES];
        loop {
            let progress = self.resampler.process(samples, &mut converted);
            sink.stage(&converted[..progress.produced]);
            samples = &samples[progress.consumed..];
            if samples.is_empty() && progress.produced < converted.len() {
                return;
            }
        }
    }

    fn retune(&mut self, from: Rate, to: Rate) {
        if (self.resampler.from(), self.resampler.to()) != (from, to) {
            self.resampler = Resampler::new(from, to);
        }
    }

    fn on_malformed(&mut self, malformed: Malformed) {
        self.tally.malformed += 1;
        self.tally.first_malformed.get_or_insert(malformed);
    }
}

/// The text of a long message without its audio.
#[derive(Default)]
struct Skeleton {
    near: heapless::Vec<u8, NEAR>,
    /// A control text that is longer, gone again when the message ends.
    far: Vec<u8>,
}

impl Skeleton {
    fn push(&mut self, bytes: &[u8], most: usize, gathered: &mut u64) -> Result<(), Malformed> {
        if self.far.is_empty() {
            if self.near.extend_from_slice(bytes).is_ok() {
                return Ok(());
            }
            *gathered += 1;
            self.far.reserve_exact(most.min(MAX_AT_ONCE));
            self.far.extend_from_slice(&self.near);
        }
        if self.far.len() + bytes.len() > most {
            return Err(Malformed::TooLong);
        }
        self.far.extend_from_slice(bytes);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        if self.far.is_empty() { &self.near } else { &self.far }
    }
}

/// How audio is most likely coded in a message of this kind: text cannot hold bytes as they are, and a binary message
/// that is audio is nothing else.
fn expected(dialect: &dyn Dialect, binary: bool) -> Format {
    let mut format = dialect.expected();
    if binary && dialect.binary_is_audio() {
        format.carrier = Carrier::Raw;
    } else if format.carrier == Carrier::Raw {
        format.carrier = Carrier::Base64;
    }
    format
}

fn is_json(bytes: &[u8]) -> bool {
    first_of_json(bytes) == Some(b'{')
}

/// The first byte that is not JSON's white space (RFC 8259 2).
fn first_of_json(bytes: &[u8]) -> Option<u8> {
    bytes.iter().copied().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

/// How many samples of the sink one sample of the peer can become.
fn widest(rate: Rate) -> usize {
    (rate.hz() / Rate::Hz8000.hz()) as usize
}

/// Masks must not be foreseen (RFC 6455 10.3).
pub(super) fn entropy(block: &mut [u8]) {
    // The kernel's generator does not fail once the machine has booted; a block of zeros would still be a valid mask.
    let _ = getrandom::fill(block);
}

/// One message of ours: the largest is 100 ms at 24 kHz in base64.
const SPACE: usize = 8 * 1024;
/// What a message of audio has beside it: keys, ids and counters.
const BESIDE_AUDIO: usize = 1024;
/// The largest message of audio on our side: 300 ms at 16 kHz, 100 ms at 48 kHz.
pub const MAX_CHUNK: usize = 5 * MAX_SAMPLES;
/// The largest message of audio of a dialect whose rate may rise when its `start` comes: 4,800 bytes at 24 kHz is
/// Exotel's; a frame at 48 kHz is smaller.
const CHUNK: usize = 2 * MAX_SAMPLES + MAX_SAMPLES;
/// Samples decoded at a time.
const BATCH: usize = 512;
/// A long message's text without its audio, as media messages have it.
const NEAR: usize = 1024;
/// What is set aside at once for a control text that is longer (bytes).
const MAX_AT_ONCE: usize = 64 * 1024;
/// RFC 6455 7.4.1: something kept us from doing what was asked. RTAA's ingest closes so.
const BROKEN: u16 = 1011;
/// How long the pong deadline rests after we stopped reading.
const SUSPENDED: Now = Now::from_secs(20);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dialect::{self, Options, Role, open};

    #[derive(Default)]
    struct Ears {
        rate: Option<Rate>,
        staged: Vec<i16>,
        heard: Vec<i16>,
        events: usize,
    }

    impl Sink for Ears {
        fn rate(&self) -> Rate {
            self.rate.unwrap_or(Rate::Hz8000)
        }
        fn room(&self) -> usize {
            1 << 20
        }
        fn stage(&mut self, samples: &[i16]) {
            self.staged.extend(samples);
        }
        fn publish(&mut self, _: Now) {
            self.heard.append(&mut self.staged);
        }
        fn rollback(&mut self) {
            self.staged.clear();
        }
        fn event(&mut self, _: Now, _: Event<'_>) {
            self.events += 1;
        }
    }

    /// What is heard of these frames of a server, and how many messages of them were malformed.
    fn hear(dialect: &str, frames: &[&[u8]]) -> (Ears, u64) {
        let mut leg = Leg::new(Setup {
            side: Side::Client,
            dialect: open(dialect, Role::Vendor, None, Rate::Hz8000, &Options::default()).unwrap(),
            facts: Facts::default(),
            rate: Rate::Hz8000,
            now: Now::ZERO,
            epoch_ms: 0,
            ping_every: Now::from_secs(20),
        });
        let mut ears = Ears::default();
        for frame in frames {
            assert_eq!(leg.feed(frame), frame.len());
            assert_eq!(leg.handle(Now::ZERO, &mut ears), Ok(Flow::Hungry));
        }
        (ears, leg.tally().malformed)
    }

    #[test]
    fn pcm_that_begins_with_a_space_in_a_fragment_of_its_own_is_not_heard_as_noise() {
        let (ears, malformed) = hear("binary", &[&[0x02, 1, b' '], &[0x00, 2, 0x01, b'\n'], &[0x80, 1, 0x02]]);
        assert_eq!((ears.heard, malformed), (vec![0x0120, 0x020a], 0));
    }

    #[test]
    fn an_empty_binary_message_is_malformed_in_fragments_too_where_binary_is_json() {
        for frames in [&[&[0x82, 0][..]][..], &[&[0x02, 0], &[0x80, 0]], &[&[0x02, 1, b' '], &[0x80, 0]]] {
            assert_eq!(hear("exotel", frames).1, 1, "{frames:x?}");
        }
    }

    #[test]
    fn a_message_whose_samples_are_none_is_dropped_with_its_mark_long_or_short() {
        let text = br#"{"event":"media","seqid":"m1","data":{"samples":[1,x]}}"#;
        let whole = [&[0x81, text.len() as u8][..], text].concat();
        let (head, tail) = text.split_at(20);
        let first = [&[0x01, head.len() as u8][..], head].concat();
        let last = [&[0x80, tail.len() as u8][..], tail].concat();
        for frames in [&[&whole[..]][..], &[&first, &last]] {
            let (ears, malformed) = hear("ozonetel", frames);
            assert_eq!((ears.heard, ears.events, malformed), (vec![], 0, 1));
        }
    }

    /// A vendor dials, an agent is dialled.
    fn leg(dialect: &str, role: Role, rate: Option<Rate>, options: &Options) -> Leg {
        let text = |text: &str| text.try_into().unwrap();
        Leg::new(Setup {
            side: if role == Role::Vendor { Side::Client } else { Side::Server },
            dialect: open(dialect, role, rate, Rate::Hz8000, options).unwrap(),
            facts: Facts { call_id: text("abcdefgh2345"), account: text("harbour"), ..Facts::default() },
            rate: Rate::Hz16000,
            now: Now::ZERO,
            epoch_ms: 0,
            ping_every: Now::from_secs(20),
        })
    }

    /// Carries what one leg has to send to another, in reads of this many bytes.
    fn carry(from: &mut Leg, to: &mut Leg, ears: &mut Ears, len: usize) {
        loop {
            let sent = from.out().to_vec();
            if sent.is_empty() {
                return;
            }
            from.written(sent.len());
            for mut piece in sent.chunks(len) {
                while !piece.is_empty() {
                    piece = &piece[to.feed(piece)..];
                    assert_eq!(to.handle(Now::ZERO, ears), Ok(Flow::Hungry));
                }
            }
        }
    }

    fn tone(len: usize) -> Vec<i16> {
        let step = core::f64::consts::TAU * 1_000.0 / 16_000.0;
        (0..len).map(|n| (16_000.0 * (step * n as f64).sin()) as i16).collect()
    }

    #[test]
    fn l16_the_other_way_round_is_heard_right_from_half_a_second_on_in_messages_short_and_long() {
        let mut options = Options::default();
        options.set("telnyx", "encoding", dialect::OptionValue::Str("l16")).unwrap();
        let mut swapped = options.clone();
        swapped.set("telnyx", "l16-byte-order", dialect::OptionValue::Str("be")).unwrap();
        let tone = tone(32_000);
        for message_ms in [20, 2_000] {
            let mut vendor = leg("telnyx", Role::Vendor, None, &options);
            let mut ears = Ears { rate: Some(Rate::Hz16000), ..Ears::default() };
            let mut writer = open("telnyx", Role::Agent, None, Rate::Hz8000, &swapped).unwrap();
            for samples in tone.chunks(16 * message_ms) {
                let mut space = vec![0; 200_000];
                let mut message = Message::new(&mut space);
                writer.write_audio(samples, &Facts::default(), Stamp::default(), &mut message).unwrap();
                let mut frame = vec![0x81, 127];
                frame.extend((message.len() as u64).to_be_bytes());
                if message.len() < 65_536 {
                    frame = vec![0x81, 126];
                    frame.extend((message.len() as u16).to_be_bytes());
                }
                frame.extend(message.bytes());
                for mut piece in frame.chunks(1_000) {
                    while !piece.is_empty() {
                        piece = &piece[vendor.feed(piece)..];
                        assert_eq!(vendor.handle(Now::ZERO, &mut ears), Ok(Flow::Hungry));
                    }
                }
            }
            let tally = vendor.tally();
            assert_eq!((tally.turned, tally.contradicted, tally.malformed), (1, 0, 0), "{message_ms} ms");
            assert_eq!(ears.heard.len(), tone.len());
            let late = 8_000 + 16 * 20;
            assert_eq!(ears.heard[late..], tone[late..], "{message_ms} ms");
            assert_ne!(ears.heard[..1_000], tone[..1_000]);
        }
    }

    #[test]
    fn rtaas_largest_messages_are_heard_in_both_shapes_and_answered() {
        for (dialect, name) in [("rtaa", "rtaa"), ("exostreamkit", "exostreamkit")] {
            for rate in Rate::ALL {
                let mut vendor = leg(dialect, Role::Vendor, Some(rate), &Options::default());
                // As the server's side opens whoever said `interaction_id`.
                let mut agent = leg("rtaa", Role::Agent, None, &Options::default());
                let (mut ears, mut nobody) = (Ears { rate: Some(Rate::Hz16000), ..Ears::default() }, Ears::default());
                vendor.open(Now::ZERO);
                let mut sent = 0;
                for _ in 0..20 {
                    let chunk = vec![1_000; vendor.chunk()];
                    assert!(vendor.write_audio(Now::ZERO, &chunk), "{dialect} {rate}");
                    sent += chunk.len();
                    carry(&mut vendor, &mut agent, &mut ears, 700);
                    carry(&mut agent, &mut vendor, &mut nobody, 700);
                }
                assert_eq!(agent.dialect().name(), name);
                let tally = agent.tally();
                assert_eq!((tally.malformed, tally.contradicted, tally.messages_in), (0, 0, 21), "{dialect} {rate}");
                // What a resampler keeps back.
                assert!(ears.heard.len() + 200 >= sent && ears.heard.len() <= sent, "{} {sent}", ears.heard.len());
                assert_eq!(vendor.tally().messages_in, 3, "started and two acks");
                assert_eq!(vendor.overdue(Now::from_secs(60)), None);
            }
        }
    }

    #[test]
    fn what_an_rtaa_may_not_say_ends_its_leg_with_1011_and_the_reason() {
        let mut agent = leg("rtaa", Role::Agent, None, &Options::default());
        let mut ears = Ears::default();
        // A client's frame, masked with zeros.
        assert_eq!(agent.feed(&[0x82, 0x82, 0, 0, 0, 0, 1, 0]), 8);
        assert_eq!(agent.handle(Now::ZERO, &mut ears), Err(Over::Grammar("audio before `start`")));
        assert_eq!(agent.out(), b"\x88\x16\x03\xf3audio before `start`");
    }
}
