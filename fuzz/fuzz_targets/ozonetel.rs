//! Ozonetel's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    for (key, value) in [
        ("first-packet-16k", OptionValue::Bool(steer.up_to(1) == 1)),
        ("omit-event", OptionValue::Bool(steer.up_to(1) == 1)),
        ("seqid", OptionValue::Bool(steer.up_to(1) == 1)),
    ] {
        let _ = options.set("ozonetel", key, value);
    }
    grammar::check("ozonetel", &options, &steer, texts);
});
