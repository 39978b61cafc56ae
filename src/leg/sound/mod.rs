//! A line that is a sound card: a handset, a door station, a kiosk.
//!
//! ```text
//!  callbacks (ALSA's threads)      station (one thread a line)                      media thread
//!  microphone -> [ heard   ] ----> Engine: card's rate -> line's, echo, tones ----> [ pieces ] -> Bridge
//!  speaker    <- [ to_play ] <---- Engine: line's rate -> card's              <---- [ frames ] <- Bridge
//! ```
//!
//! The card's clock is not ours. What leaves for the call is paced by ours, what leaves for the speaker by the card's: the
//! engine bends the rates by as much as they differ ([`crate::media::drift`]). A card that is unplugged leaves its call
//! where it is, and the station opens it again when it is back. When a call starts and ends is [`start`]'s business.

#[cfg(feature = "sound")]
pub mod alsa;
pub mod card;
pub mod duplex;
#[cfg(feature = "aec")]
pub mod echo;
pub mod engine;
pub mod name;
pub mod start;
pub mod station;
pub mod tones;

/// One of the two ways of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The microphone.
    Input,
    /// The speaker.
    Output,
}

impl Way {
    /// The key of the config that names its device.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }

    /// What people call it.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Input => "microphone",
            Self::Output => "speaker",
        }
    }
}
