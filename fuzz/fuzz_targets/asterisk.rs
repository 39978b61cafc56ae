//! Asterisk's grammar, in both roles and both spellings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    for (key, value) in [
        ("control", OptionValue::Str(steer.one_of(&["plain-text", "json"]))),
        ("encoding", OptionValue::Str(steer.one_of(&["slin", "ulaw", "alaw"]))),
        ("silence", OptionValue::Bool(steer.one_of(&[false, true]))),
        ("answer", OptionValue::Bool(steer.one_of(&[false, true]))),
    ] {
        let _ = options.set("asterisk", key, value);
    }
    grammar::check("asterisk", &options, &steer, texts);
});
