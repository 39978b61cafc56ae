//! Plivo's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    for (key, value) in [
        ("encoding", OptionValue::Str(steer.one_of(&["mulaw", "l16"]))),
        ("l16-byte-order", OptionValue::Str(steer.one_of(&["le", "be"]))),
    ] {
        let _ = options.set("plivo", key, value);
    }
    grammar::check("plivo", &options, &steer, texts);
});
