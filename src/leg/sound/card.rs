//! A sound card that is open: its two streams, and the rings between their callbacks and us.
//!
//! ALSA calls back on threads of its own, for a period at a time. The callbacks touch a ring and counters, no more: no
//! lock, no log, no heap. What ails a stream is left in [`Counts`] for whoever looks.
//!
//! ```text
//!   microphone -> callback -> [ heard: 500 ms, mono, at the card's rate ] -> engine
//!   speaker    <- callback <- [ to_play: the same                       ] <- engine
//! ```

use core::fmt;
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::leg::sound::name::Name;

/// Which card is wanted, and how.
#[derive(Clone, Debug)]
pub struct CardSetup {
    /// ALSA's name of the microphone.
    pub input: String,
    /// And of the speaker.
    pub output: String,
    /// The rate that the card is to run at (Hz); `None`: the best of those that it has.
    pub rate: Option<u32>,
    /// How much sound a callback is to bring or take.
    pub period: Duration,
}

impl CardSetup {
    /// Whether both ways lead to a card itself; else there may be a sound server in between.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        [&self.input, &self.output].iter().all(|name| Name::parse(name).card().is_some())
    }
}

/// A card whose streams run. Dropped, they stop.
pub struct Card {
    /// What the microphone heard.
    pub heard: rtrb::Consumer<i16>,
    /// What the speaker is to play.
    pub to_play: rtrb::Producer<i16>,
    /// How the microphone runs.
    pub input: Format,
    /// How the speaker runs.
    pub output: Format,
    /// What happens in the callbacks.
    pub counts: Arc<Counts>,
    /// Its streams, which stop when they are dropped.
    pub streams: Box<dyn Any + Send>,
}

/// How a stream runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Samples a second in each channel.
    pub hz: u32,
    /// Channels.
    pub channels: u16,
    /// The kind of its samples, as Rust has it.
    pub sample: &'static str,
    /// Samples of a channel in one callback, as the device has it; some give other numbers than they say.
    pub period: u32,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hz, channels, sample, period } = self;
        let ms = f64::from(*period) * 1000.0 / f64::from(*hz);
        write!(f, "{hz} Hz, {channels} x {sample}, {period} samples ({ms:.1} ms) at a time")
    }
}

/// What the callbacks count.
#[derive(Debug, Default)]
pub struct Counts {
    /// Callbacks of the microphone.
    pub heard: AtomicU64,
    /// Callbacks of the speaker.
    pub played: AtomicU64,
    /// When the last of them was (us since the process began).
    pub played_at_us: AtomicU64,
    /// Times that the card had no room or no sound in time.
    pub xruns: AtomicU64,
    /// Samples of the microphone that found no room in the ring.
    pub overrun: AtomicU64,
    /// Samples that the speaker wanted and we had not.
    pub starved: AtomicU64,
    /// How old a sample of the microphone was when its callback came (us).
    pub input_us: AtomicU32,
    /// How long a sample waits in the card before it is played (us).
    pub output_us: AtomicU32,
    /// What ended a stream: an [`End`] and one more.
    ended: AtomicU32,
    /// Heap allocations in callbacks (feature `count-allocs`).
    pub allocations: AtomicU64,
}

/// What ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The card is not there any more, or what was between us and it.
    Gone,
    /// Anything else that ALSA says.
    Failed,
}

impl Counts {
    /// Why a stream is over, if one is.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        match self.ended.load(Relaxed) {
            0 => None,
            1 => Some(End::Gone),
            _ => Some(End::Failed),
        }
    }

    /// A stream is over.
    pub fn end(&self, end: End) {
        self.ended.store(end as u32 + 1, Relaxed);
    }
}

/// Why a card is not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, with the device's name and the next step.
    pub words: String,
    /// The config or the installation has to change; else the card may come by itself.
    pub is_lasting: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Fault {}

/// Opens both ways of a card and starts them.
///
/// # Errors
/// [`Fault`] names the device and what to do.
#[cfg(feature = "sound")]
pub fn open(setup: &CardSetup) -> Result<Card, Fault> {
    super::alsa::open(setup)
}

/// Opens nothing.
///
/// # Errors
/// Always: there is no way to a card in this build.
#[cfg(not(feature = "sound"))]
pub fn open(setup: &CardSetup) -> Result<Card, Fault> {
    let words = format!("input = \"{}\": this trunkline was built without sound cards", setup.input);
    Err(Fault { words, is_lasting: true })
}
