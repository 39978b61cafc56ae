//! A line that is a sound card: a microphone and a loudspeaker, with a person in between.
//!
//! What the loudspeaker plays comes back by the microphone, and an agent that hears itself talks to itself. Either
//! [`duplex`] closes the microphone meanwhile, or `echo` takes the agent's voice out of what is heard.

pub mod duplex;
#[cfg(feature = "aec")]
pub mod echo;
