//! The grammar of `mod_audio_fork`, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::Options;
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((steer, texts)) = Steer::split(data) else { return };
    grammar::check("audiofork", &Options::default(), &steer, texts);
});
