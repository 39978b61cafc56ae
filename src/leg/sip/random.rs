//! Random numbers of the kernel, for the shells around the pure signalling: tags, branches and whatever else nobody may
//! guess.

use crate::leg::sip::transaction::Random;

/// A source that does not end.
#[must_use]
pub fn random() -> Random {
    Box::new(seed)
}

/// One number.
#[must_use]
pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    // The kernel's generator does not fail once the machine has booted.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
