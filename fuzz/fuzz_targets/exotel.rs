//! Exotel's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    for (key, value) in [
        ("key-style", OptionValue::Str(steer.one_of(&["snake", "camel"]))),
        ("numbers", OptionValue::Str(steer.one_of(&["strings", "numbers"]))),
        ("agent-style", OptionValue::Str(steer.one_of(&["superset", "minimal"]))),
    ] {
        let _ = options.set("exotel", key, value);
    }
    grammar::check("exotel", &options, &steer, texts);
});
