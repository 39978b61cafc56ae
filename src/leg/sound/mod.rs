//! A line that is a sound card: a microphone and a loudspeaker, with a person in between.

pub mod duplex;
