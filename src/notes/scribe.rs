//! What the thread does with what calls tell.

use core::time::Duration;
use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::SystemTime,
};

use log::{info, warn};
use serde_json::{Value, json};

use super::{
    Kept, OpenError, Order,
    call_files::{CallFiles, Counts},
    events::Events,
    files::{Files, stamp},
    recording::{self, Recording},
    transcript::{Transcript, Turn, unescaped},
};
use crate::{
    call::{
        record::{Record, Started},
        tap::{Happening, Note, Sound, Taps},
    },
    clock,
    config::Keep,
    control::{
        messages,
        metrics::{Counter, Metrics},
    },
    dialect::{Direction, Speaker},
    media::Now,
    records::CallId,
    sinks::{Item, Sinks, audio::Voice, item::spelled},
};

/// The thread's state.
pub(super) struct Scribe {
    taps: Vec<Taps>,
    /// What each tap had lost when the metrics were last told.
    told_lost: Vec<(u64, u64)>,
    live: HashMap<u64, Live>,
    /// Calls that are over, in order; what they told before is in the taps.
    ends: VecDeque<(u64, Option<Box<Record>>)>,
    events: Option<Events>,
    call_files: Option<CallFiles>,
    recordings: Option<Files>,
    /// Says to other daemons that recordings are being made there.
    _hold: Option<File>,
    sinks: Option<Sinks>,
    full_numbers: bool,
    metrics: Arc<Metrics>,
    backlog: Arc<AtomicUsize>,
    /// When the log was last told that something cannot be written.
    told: Option<Now>,
    prune_at: Now,
}

/// A live call.
struct Live {
    started: Started,
    kept: Kept,
    /// How the names of its files begin; `None`: it has an id that is not good for a name.
    stem: Option<String>,
    transcript: Transcript,
    counts: Counts,
    tape: Tape,
    voice: Voice,
    /// Turns that sinks were told.
    told_turns: u64,
    /// Those of its sinks that are told what was said, and that are sent voices.
    transcript_sinks: Vec<usize>,
    audio_sinks: Vec<usize>,
}

/// Whether a call is recorded.
enum Tape {
    /// It is not, or not any more.
    None,
    /// From its first frame on.
    Wanted,
    Running(Box<Recording>),
}

impl Scribe {
    /// Makes the folders, and puts in order what a killed daemon left.
    pub(super) fn open(
        keep: &Keep,
        full_numbers: bool,
        taps: Vec<Taps>,
        sinks: Option<Sinks>,
        metrics: Arc<Metrics>,
        backlog: Arc<AtomicUsize>,
    ) -> Result<Self, OpenError> {
        let failed = |key, path: &Path| {
            let path = path.to_owned();
            move |error| OpenError { key, path, error }
        };
        let events = keep
            .events
            .as_ref()
            .map(|events| Events::open(events).map_err(failed("[events] directory", &events.directory)));
        let call_files = keep
            .call_files
            .as_ref()
            .map(|folder| CallFiles::open(folder).map_err(failed("[call-files] directory", &folder.directory)));
        let recordings = keep.recordings.as_ref().map(|folder| {
            Files::open(folder.directory.clone(), folder.keep_days)
                .map_err(failed("[recordings] directory", &folder.directory))
        });
        let recordings = recordings.transpose()?;
        let mut hold = None;
        if let Some(recordings) = &recordings {
            hold = recording::hold(recordings.path());
            let adopted = if hold.is_some() { recording::adopt(recordings) } else { 0 };
            if adopted > 0 {
                info!(recordings = adopted; "recordings of calls that were cut off are kept as they are");
            }
        }
        Ok(Self {
            told_lost: vec![(0, 0); taps.len()],
            taps,
            live: HashMap::new(),
            ends: VecDeque::new(),
            events: events.transpose()?,
            call_files: call_files.transpose()?,
            recordings,
            _hold: hold,
            sinks,
            full_numbers,
            metrics,
            backlog,
            told: None,
            prune_at: Now::ZERO,
        })
    }

    /// Works until nobody is left to give orders.
    pub(super) fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            self.prune();
            let patience = if self.live.is_empty() { self.prune_at.saturating_sub(clock::now()) } else { LOOK_EVERY };
            let first = orders.recv_timeout(patience);
            let is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
            if let Ok(order) = first {
                self.take(order);
            }
            while self.look(orders) {}
            if is_over {
                break;
            }
        }
        // What was not told to be over ends with the daemon.
        for seq in self.live.keys().copied().collect::<Vec<_>>() {
            self.finish(seq, None);
        }
        self.flush_events();
    }

    /// Takes all that there is. Whether more is known to have come meanwhile.
    fn look(&mut self, orders: &Receiver<Order>) -> bool {
        self.pull(orders);
        // What these told before their ends is in the taps by now.
        let over = self.ends.len();
        for index in 0..self.taps.len() {
            self.drain(index, orders);
        }
        for _ in 0..over {
            if let Some((seq, record)) = self.ends.pop_front() {
                self.finish(seq, record);
            }
        }
        self.flush_events();
        !self.ends.is_empty()
    }

    fn pull(&mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.try_recv() {
            self.take(order);
        }
    }

    fn take(&mut self, order: Order) {
        self.backlog.fetch_sub(1, Relaxed);
        match order {
            Order::Started { seq, start } => self.begin(seq, start.0, start.1),
            Order::Ended { seq, record } => self.ends.push_back((seq, record)),
        }
    }

    fn begin(&mut self, seq: u64, started: Started, kept: Kept) {
        let details = json!({
            "line": started.line,
            "peer": started.peer,
            "call_sid": started.call_sid,
            "ucid": started.ucid,
            "from": started.from,
            "to": started.to,
            "did": started.did,
            "direction": match kept.direction {
                Direction::Both => "both",
                Direction::Uplink => "uplink",
            },
        });
        let at_ms = started.started_ms.unwrap_or_else(clock::epoch_ms);
        self.event(at_ms, &started.call_id, "call-started", || details);
        let of = |wants: fn(&Sinks, &[usize]) -> Vec<usize>| {
            self.sinks.as_ref().map(|sinks| wants(sinks, &kept.sinks)).unwrap_or_default()
        };
        let (transcript_sinks, audio_sinks) = (of(Sinks::with_transcripts), of(Sinks::with_audio));
        // An id of ours and nothing else is good for a name.
        let stem = CallId::parse(&started.call_id).map(|_| format!("call_{}_{}", started.call_id, stamp(at_ms)));
        let tape = if kept.record && self.recordings.is_some() && stem.is_some() { Tape::Wanted } else { Tape::None };
        let live = Live {
            started,
            kept,
            stem,
            transcript: Transcript::default(),
            counts: Counts::default(),
            tape,
            voice: Voice::default(),
            told_turns: 0,
            transcript_sinks,
            audio_sinks,
        };
        self.live.insert(seq, live);
    }

    /// Takes what one media thread told.
    fn drain(&mut self, index: usize, orders: &Receiver<Order>) {
        // More than a queue holds has come while it was looked at: the rest is for the next look.
        for _ in 0..MOST_AT_ONCE {
            let Some(note) = self.taps[index].note() else { break };
            if !self.live.contains_key(&note.seq) {
                // The start of a call is sent before its media thread has it, so it is there to be taken.
                self.pull(orders);
            }
            self.on_note(note);
        }
        for _ in 0..MOST_AT_ONCE {
            let Some(sound) = self.taps[index].sound() else { break };
            if !self.live.contains_key(&sound.seq) {
                self.pull(orders);
            }
            let (_, lost) = self.taps[index].lost();
            self.on_sound(&sound, lost);
        }
        let (notes, frames) = self.taps[index].lost();
        let told = &mut self.told_lost[index];
        self.metrics.add(Counter::NotesLost, notes - told.0);
        self.metrics.add(Counter::SoundLost, frames - told.1);
        *told = (notes, frames);
    }

    fn on_note(&mut self, note: Note) {
        let Note { seq, at_ms, what } = note;
        let Some(live) = self.live.get_mut(&seq) else { return };
        let counts = &mut live.counts;
        let mut turns = Vec::new();
        match &what {
            Happening::Digit(_) => counts.digits += 1,
            Happening::Cleared { .. } => {
                counts.clears += 1;
                live.transcript.broken_off();
            }
            // Where nothing was flushed here, the cloud was told to say no more.
            Happening::BargeIn { .. } => {
                counts.barge_ins += 1;
                live.transcript.broken_off();
            }
            // What the one before had begun to tell is not told to its end.
            Happening::Rebridged => turns = live.transcript.finish(),
            Happening::Heard(_) => counts.marks += 1,
            Happening::Fault(_) => counts.faults += 1,
            Happening::Held => counts.holds += 1,
            Happening::TransferAsked => counts.transfers += 1,
            Happening::Said { speaker, text, whole } => turns = live.transcript.said(at_ms, *speaker, text, *whole),
            Happening::Bridged
            | Happening::Mark(_)
            | Happening::SpeechStarted(_)
            | Happening::SpeechStopped(_)
            | Happening::Answered { .. }
            | Happening::Resumed
            | Happening::Transfer(_)
            | Happening::DigitsAsked { .. } => {}
        }
        live.tell_turns(self.sinks.as_ref(), &turns);
        let call_id = live.started.call_id.clone();
        let (with_text, with_digits) = (self.call_files.is_some(), self.full_numbers);
        self.event(at_ms, &call_id, event_of(&what), || details_of(&what, with_text, with_digits));
    }

    fn on_sound(&mut self, sound: &Sound, lost: u64) {
        let Some(live) = self.live.get_mut(&sound.seq) else { return };
        if !live.audio_sinks.is_empty()
            && let Some(entry) = live.voice.hear(&live.kept.subject, sound.at_ms, sound.rate, sound.caller())
            && let Some(sinks) = &self.sinks
        {
            sinks.send_audio(&live.audio_sinks, &entry);
        }
        let Some(files) = &self.recordings else { return };
        if let (Tape::Wanted, Some(stem)) = (&live.tape, &live.stem) {
            let name = format!("{stem}.wav");
            match Recording::begin(files.path(), &name, sound, lost) {
                Ok(recording) => live.tape = Tape::Running(Box::new(recording)),
                Err(error) => {
                    live.tape = Tape::None;
                    on_stopped(&self.metrics, &live.started.call_id, &files.path().join(name), &error);
                }
            }
        }
        if let Tape::Running(recording) = &mut live.tape
            && let Err(error) = recording.hear(sound, lost)
        {
            on_stopped(&self.metrics, &live.started.call_id, recording.path(), &error);
            if let Tape::Running(recording) = core::mem::replace(&mut live.tape, Tape::None) {
                // What is there may be played, if the disk takes so much as a name.
                let _ = recording.finish(files);
            }
        }
    }

    /// A call is over: whatever was open is closed and written.
    fn finish(&mut self, seq: u64, record: Option<Box<Record>>) {
        let Some(mut live) = self.live.remove(&seq) else { return };
        let turns = live.transcript.finish();
        live.counts.caller_turns = live.transcript.count(Speaker::Caller);
        live.counts.agent_turns = live.transcript.count(Speaker::Agent);
        if let (Some(entry), Some(sinks)) = (live.voice.cut(&live.kept.subject), &self.sinks) {
            sinks.send_audio(&live.audio_sinks, &entry);
        }
        let mut recording_file = None;
        if let (Tape::Running(recording), Some(files)) =
            (core::mem::replace(&mut live.tape, Tape::None), &self.recordings)
        {
            let path = recording.path().to_owned();
            match recording.finish(files) {
                Ok(()) => recording_file = path.file_name().map(|name| name.to_string_lossy().into_owned()),
                Err(error) => on_stopped(&self.metrics, &live.started.call_id, &path, &error),
            }
        }
        if let (Some(files), Some(stem)) = (&self.call_files, &live.stem) {
            let call = record.as_deref().map(|record| (record, live.counts, recording_file.as_deref()));
            let (id, started_ms) = (&live.started.call_id, live.started.started_ms);
            if let Err((failed, error)) = files.write(stem, id, started_ms, call, &live.transcript) {
                let path = files.calls.path().to_owned();
                self.metrics.add(Counter::CallFilesLost, failed);
                self.complain(&path, &error);
            }
        }
        if let Some(record) = record {
            let details = json!({
                "end_reason": record.end_reason.as_str(),
                "ended_by": record.ended_by,
                "seconds": record.seconds,
                "words": record.words,
                "trunk": record.trunk,
                "dialect": record.dialect,
            });
            self.event(record.ended_ms, &live.started.call_id, "call-ended", || details);
        }
        live.tell_turns(self.sinks.as_ref(), &turns);
    }

    fn event(&mut self, at_ms: u64, call_id: &str, event: &str, details: impl FnOnce() -> Value) {
        if let Some(events) = &mut self.events {
            events.add(at_ms, call_id, event, &details());
        }
    }

    fn flush_events(&mut self) {
        let Some(events) = &mut self.events else { return };
        if let Err((lines, error)) = events.flush(clock::epoch_ms()) {
            let path = events.path().to_owned();
            self.metrics.add(Counter::EventsLost, lines);
            self.complain(&path, &error);
        }
    }

    /// Tells the log, once a minute.
    fn complain(&mut self, path: &Path, error: &io::Error) {
        let now = clock::now();
        if self.told.is_none_or(|told| now - told >= TELL) {
            self.told = Some(now);
            let path = path.display();
            warn!(message_id = messages::KEEPING_FAILED, path:%, error:%; "what a call tells cannot be written");
        }
    }

    fn prune(&mut self) {
        let now = clock::now();
        if now < self.prune_at {
            return;
        }
        self.prune_at = now + PRUNE_EVERY;
        let call_files = self.call_files.iter().flat_map(|files| [&files.calls, &files.transcripts]);
        for files in call_files.chain(&self.recordings) {
            files.prune(SystemTime::now());
        }
    }
}

impl Live {
    fn tell_turns(&mut self, sinks: Option<&Sinks>, turns: &[Turn]) {
        let Some(sinks) = sinks.filter(|_| !self.transcript_sinks.is_empty()) else { return };
        for turn in turns {
            self.told_turns += 1;
            let item = Item::said(&self.kept.subject, self.told_turns, turn.who, &turn.text, turn.at_ms);
            sinks.tell(&self.transcript_sinks, &item);
        }
    }
}

fn on_stopped(metrics: &Metrics, call_id: &str, path: &Path, error: &io::Error) {
    metrics.add(Counter::RecordingsStopped, 1);
    let path = path.display();
    warn!(message_id = messages::RECORDING_STOPPED, call_id, path:%, error:%; "a recording was stopped");
}

/// As the event log names it.
const fn event_of(what: &Happening) -> &'static str {
    match what {
        Happening::Bridged => "bridged",
        Happening::Rebridged => "rebridged",
        Happening::Digit(_) => "digit",
        Happening::Cleared { .. } => "cleared",
        Happening::BargeIn { .. } => "barge-in",
        Happening::Mark(_) => "mark",
        Happening::Heard(_) => "heard",
        Happening::SpeechStarted(_) => "speech-started",
        Happening::SpeechStopped(_) => "speech-stopped",
        Happening::Answered { .. } => "answered",
        Happening::Said { .. } => "said",
        Happening::Fault(_) => "fault",
        Happening::Held => "held",
        Happening::Resumed => "resumed",
        Happening::TransferAsked => "transfer-asked",
        Happening::Transfer(_) => "transfer",
        Happening::DigitsAsked { .. } => "digits-asked",
    }
}

/// What else it says. Words stay out of it unless they are kept anyway, and digits, which may be a card's, unless
/// numbers are.
fn details_of(what: &Happening, with_text: bool, with_digits: bool) -> Value {
    match what {
        Happening::Bridged | Happening::Rebridged | Happening::Held | Happening::Resumed | Happening::TransferAsked => {
            json!({})
        }
        Happening::Digit(digit) => json!({ "digit": with_digits.then(|| char::from(*digit)) }),
        Happening::Cleared { unheard_ms } => json!({ "unheard_ms": unheard_ms }),
        Happening::BargeIn { flushed_ms } => json!({ "flushed_ms": flushed_ms }),
        Happening::Mark(name) | Happening::Heard(name) => json!({ "name": name.as_str() }),
        Happening::SpeechStarted(who) | Happening::SpeechStopped(who) => json!({ "who": spelled(*who) }),
        Happening::Answered { delay } => json!({ "delay_ms": delay.as_millis() as u64 }),
        Happening::Said { speaker, text, whole } => {
            let text = unescaped(text);
            let characters = text.chars().count();
            json!({ "who": spelled(*speaker), "whole": whole, "characters": characters, "text": with_text.then_some(text) })
        }
        Happening::Fault(words) => json!({ "words": unescaped(words) }),
        Happening::Transfer(transfer) => json!({ "state": transfer.as_str(), "status": transfer.status() }),
        Happening::DigitsAsked { count } => json!({ "count": count }),
    }
}

/// How often the taps are looked into while there are calls.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// More than any tap holds.
const MOST_AT_ONCE: usize = 1 << 16;
/// The log is told once in so long.
const TELL: Now = Now::from_secs(60);
/// Files that are too old are looked for so often.
const PRUNE_EVERY: Now = Now::from_secs(3600);
