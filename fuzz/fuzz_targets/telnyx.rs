//! Telnyx's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    // `rtp-header` is left out: what we send has none, and of a long message it is not dropped.
    for (key, value) in [
        ("encoding", OptionValue::Str(steer.one_of(&["pcmu", "pcma", "l16"]))),
        ("l16-byte-order", OptionValue::Str(steer.one_of(&["auto", "le", "be"]))),
        ("direction", OptionValue::Str(steer.one_of(&["both", "uplink"]))),
    ] {
        let _ = options.set("telnyx", key, value);
    }
    grammar::check("telnyx", &options, &steer, texts);
});
