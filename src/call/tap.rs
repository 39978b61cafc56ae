//! What live calls tell of themselves: to the event log, call files, recordings and sinks.
//!
//! A media thread has one [`Tap`], which never waits: two fixed lock-free queues, one of notes and one of sound, and what
//! does not fit is counted and forgotten. Whoever listens looks into the other ends, [`Taps`], while there are calls.
//!
//! ```text
//!   media thread:  bridge --notes--> Tap ==two queues==> Taps --> events, call files, recordings, sinks
//!                         --sound-->
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    dialect::{MAX_MARK, Speaker, Transfer},
    media::{Now, Rate, frame::MAX_SAMPLES},
};

/// The name of a mark as its agent spelled it.
pub type MarkName = heapless::String<MAX_MARK>;

/// One thing that happened in a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The call's number in this process.
    pub seq: u64,
    /// When (ms since 1970, UTC).
    pub at_ms: u64,
    /// What.
    pub what: Happening,
}

/// What can happen in a call beside its start and its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A trunk took the call.
    Bridged,
    /// Another connection to the trunk took the place of the one before.
    Rebridged,
    /// The caller pressed a key.
    Digit(u8),
    /// The cloud flushed what its agent had said; so much of it was not heard (ms).
    Cleared {
        /// What was flushed (ms of audio).
        unheard_ms: u64,
    },
    /// The caller spoke while the agent did, as our own detector tells.
    BargeIn {
        /// What was flushed for it (ms of audio); `None`: nothing, it was only told.
        flushed_ms: Option<u64>,
    },
    /// The agent asked to be told when this point is heard.
    Mark(MarkName),
    /// It was heard, and the agent was told.
    Heard(MarkName),
    /// Somebody began to speak, as our own detector tells.
    SpeechStarted(Speaker),
    /// Somebody stopped.
    SpeechStopped(Speaker),
    /// The agent answered: so long after the caller had stopped speaking its first sample left for the line.
    Answered {
        /// The response delay.
        delay: Now,
    },
    /// What somebody said, in words.
    Said {
        /// Who.
        speaker: Speaker,
        /// The words, as they stand between the quotes of a JSON string, escapes included.
        text: String,
        /// The whole of it, in place of all pieces before; otherwise the next piece.
        whole: bool,
    },
    /// The cloud told of a fault, in its own words (escapes included).
    Fault(String),
    /// The line put the caller on hold.
    Held,
    /// The caller is back.
    Resumed,
    /// The agent asked for the caller to be passed on.
    TransferAsked,
    /// How that goes.
    Transfer(Transfer),
    /// The agent asked for keys to be pressed.
    DigitsAsked {
        /// How many.
        count: usize,
    },
}

/// 20 ms of a call, both sides as they were heard at the line: silence where there was nothing.
#[derive(Clone, Debug)]
pub struct Sound {
    /// The call's number in this process.
    pub seq: u64,
    /// When its first sample was heard (ms since 1970, UTC).
    pub at_ms: u64,
    /// The rate of both sides; it may change within a call.
    pub rate: Rate,
    caller: [i16; MAX_SAMPLES],
    agent: [i16; MAX_SAMPLES],
}

impl Sound {
    /// One frame of both sides; `None`: silence.
    #[must_use]
    pub fn new(seq: u64, at_ms: u64, rate: Rate, caller: &[i16], agent: &[i16]) -> Self {
        let fill = |samples: &[i16]| {
            let mut all = [0; MAX_SAMPLES];
            let n = samples.len().min(rate.frame());
            all[..n].copy_from_slice(&samples[..n]);
            all
        };
        Self { seq, at_ms, rate, caller: fill(caller), agent: fill(agent) }
    }

    /// The caller's voice.
    #[must_use]
    pub fn caller(&self) -> &[i16] {
        &self.caller[..self.rate.frame()]
    }

    /// The agent's voice.
    #[must_use]
    pub fn agent(&self) -> &[i16] {
        &self.agent[..self.rate.frame()]
    }
}

/// The media thread's end.
pub struct Tap {
    notes: rtrb::Producer<Note>,
    sound: rtrb::Producer<Sound>,
    lost: Arc<Lost>,
}

/// The listener's end.
pub struct Taps {
    notes: rtrb::Consumer<Note>,
    sound: rtrb::Consumer<Sound>,
    lost: Arc<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    notes: AtomicU64,
    frames: AtomicU64,
}

/// Both ends. `frames` of sound may wait: 3.9 kB each.
#[must_use]
pub fn tap(notes: usize, frames: usize) -> (Tap, Taps) {
    let lost = Arc::new(Lost::default());
    let (note_in, note_out) = rtrb::RingBuffer::new(notes);
    let (sound_in, sound_out) = rtrb::RingBuffer::new(frames);
    (Tap { notes: note_in, sound: sound_in, lost: Arc::clone(&lost) }, Taps { notes: note_out, sound: sound_out, lost })
}

impl Tap {
    /// Tells of something.
    pub fn note(&mut self, note: Note) {
        if self.notes.push(note).is_err() {
            self.lost.notes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes on what was heard.
    pub fn sound(&mut self, sound: Sound) {
        if self.sound.push(sound).is_err() {
            self.lost.frames.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Taps {
    /// The next note.
    pub fn note(&mut self) -> Option<Note> {
        self.notes.pop().ok()
    }

    /// The next frame of sound.
    pub fn sound(&mut self) -> Option<Sound> {
        self.sound.pop().ok()
    }

    /// Notes and frames that did not fit, so far.
    #[must_use]
    pub fn lost(&self) -> (u64, u64) {
        (self.lost.notes.load(Ordering::Relaxed), self.lost.frames.load(Ordering::Relaxed))
    }

    /// Whether the media thread is gone and all it told was taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.notes.is_abandoned() && self.notes.is_empty() && self.sound.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_what_fits_comes_in_order() {
        let (mut tap, mut taps) = tap(2, 1);
        for digit in *b"123" {
            tap.note(Note { seq: 7, at_ms: 0, what: Happening::Digit(digit) });
        }
        tap.sound(Sound::new(7, 0, Rate::Hz8000, &[1; 160], &[]));
        tap.sound(Sound::new(7, 20, Rate::Hz8000, &[2; 160], &[]));
        assert_eq!(taps.lost(), (1, 1));
        assert_eq!(taps.note().map(|note| note.what), Some(Happening::Digit(b'1')));
        let sound = taps.sound();
        assert_eq!(sound.as_ref().map(Sound::caller), Some(&[1; 160][..]));
        assert_eq!(sound.as_ref().map(Sound::agent), Some(&[0; 160][..]));
        assert!(!taps.is_over());
        drop(tap);
        assert_eq!(taps.note().map(|note| note.what), Some(Happening::Digit(b'2')));
        assert!(taps.is_over());
    }
}
