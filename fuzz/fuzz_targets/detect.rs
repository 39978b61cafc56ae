//! Which dialect it is: white space and repetition change nothing, and what is not an object is nothing of ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::dialect::{
    NAMES,
    detect::{Detected, detect},
    json::Members,
};

fuzz_target!(|text: &[u8]| {
    let detected = detect(text);
    assert_eq!(detected, detect(text));
    assert_eq!(detected, detect(&[text, b" \r\n\t"].concat()), "white space behind it");
    if !text.starts_with(b"\xef\xbb\xbf") {
        assert_eq!(detected, detect(&[b"\n ", text].concat()), "white space before it");
        assert_eq!(detected, detect(&[b"\xef\xbb\xbf", text].concat()), "a byte order mark before it");
    }
    match detected {
        // Asterisk's other spelling is no JSON.
        Detected::Dialect("asterisk") => {}
        Detected::Dialect(name) => assert!(NAMES.contains(&name) && is_object(text)),
        Detected::Wait => assert!(is_object(text)),
        Detected::Unknown => {}
    }
});

fn is_object(text: &[u8]) -> bool {
    let Ok(mut members) = Members::object(text) else { return false };
    loop {
        match members.next() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}
