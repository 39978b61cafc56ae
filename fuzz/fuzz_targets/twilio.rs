//! Twilio's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    for (key, value) in [
        ("chunk-ms", OptionValue::Int(if steer.one_of(&[false, true]) { 100 } else { 20 })),
        ("direction", OptionValue::Str(steer.one_of(&["both", "uplink"]))),
    ] {
        let _ = options.set("twilio", key, value);
    }
    grammar::check("twilio", &options, &steer, texts);
});
