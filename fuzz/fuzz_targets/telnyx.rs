//! Telnyx's grammar, in both roles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{OptionValue, Options};
use trunkline_fuzz::{Steer, grammar};

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, texts)) = Steer::split(data) else { return };
    let mut options = Options::default();
    let encoding = steer.one_of(&["pcmu", "pcma", "l16"]);
    // What stands where a header would is lost of what we send, too; it is compared where it is linear.
    let rtp_header = encoding != "l16" && steer.one_of(&[false, true]);
    for (key, value) in [
        ("encoding", OptionValue::Str(encoding)),
        ("rtp-header", OptionValue::Bool(rtp_header)),
        ("l16-byte-order", OptionValue::Str(steer.one_of(&["auto", "le", "be"]))),
        ("direction", OptionValue::Str(steer.one_of(&["both", "uplink"]))),
    ] {
        let _ = options.set("telnyx", key, value);
    }
    grammar::check("telnyx", &options, &steer, texts);
});
