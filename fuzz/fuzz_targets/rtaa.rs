//! RTAA's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    for (key, value) in [
        ("chunk-ms", OptionValue::Int(steer.one_of(&[20, 200]))),
        ("ack-interval", OptionValue::Int(steer.one_of(&[1, 2, 10]))),
    ] {
        let _ = options.set("rtaa", key, value);
    }
    grammar::check("rtaa", &options, &steer, texts);
});
