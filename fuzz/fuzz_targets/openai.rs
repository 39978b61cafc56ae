//! OpenAI's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    for (key, value) in [
        ("audio", OptionValue::Str(steer.one_of(&["pcm", "pcmu", "pcma"]))),
        ("api", OptionValue::Str(steer.one_of(&["auto", "ga", "beta"]))),
        ("chunk-ms", OptionValue::Int(steer.one_of(&[20, 100]))),
        ("greeting", OptionValue::Bool(steer.one_of(&[false, true]))),
    ] {
        let _ = options.set("openai", key, value);
    }
    grammar::check("openai", &options, &steer, texts);
});
