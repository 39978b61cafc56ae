//! Telnyx's webhooks, one after the other between zero bytes: whatever they say, no call is answered or streamed twice.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use trunkline::{
    media::Now,
    telnyx::{
        calls::{Action, Calls},
        event::Event,
        signature,
    },
};

fuzz_target!(|data: &[u8]| {
    let mut calls = Calls::new(true, true);
    let (mut answered, mut streamed) = (HashSet::new(), HashSet::new());
    // A second goes by for each event, so that none comes when its call was long forgotten.
    let mut now = Now::from_secs(1);
    for body in data.split(|byte| *byte == 0) {
        // Nobody signs by this key; what matters is that it is told, and how it ends.
        assert!(signature::check(&[1; 32], body.get(..88), body.get(88..98), body, 1_763_700_000).is_err());
        if let Ok(Some(event)) = Event::parse(body) {
            assert!(!event.call.is_empty() && event.call.bytes().all(|byte| byte.is_ascii_graphic()));
            now += Now::from_secs(1);
            calls.handle_event(&event, now, || true);
        }
        calls.handle_timeout(now);
        while let Some(action) = calls.poll_action() {
            match action {
                Action::Answer { call } => assert!(answered.insert(call)),
                Action::StartStreaming { call } => assert!(streamed.insert(call)),
                Action::Reject { .. } => panic!("there is a seat"),
                Action::Hangup { .. } => panic!("no agent ended it"),
                Action::Tell { .. }
                | Action::TellEnded { .. }
                | Action::TellNoStream { .. }
                | Action::TellFull { .. } => {}
            }
        }
    }
});
