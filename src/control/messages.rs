//! The sentences that remote ops look for: each has an id in the journal (`MESSAGE_ID`), and an entry in the catalog,
//! `systemd/trunkline.catalog`, which says what happened and what to do (`journalctl -x`).
//!
//! An id stays with its event for ever, however the sentence changes: scripts look for it.

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $sentence:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $id;)*

        /// Name here, id and sentence of each.
        pub const TABLE: &[(&str, &str, &str)] = &[$((stringify!($name), $id, $sentence)),*];
    };
}

messages! {
    /// The process has read its config.
    STARTED = "3ec1013924bb49b7906693f71431cb95", "trunkline starts";
    /// The config is wrong; the message lists every problem.
    CONFIG_WRONG = "603bfc8c96104a2a89f173b36ca69527", "the config has to be mended before the daemon can start";
    /// Something else keeps it from starting.
    CANNOT_START = "65537b533c9d4110bdf12ee9b5882556", "the daemon cannot start";
    /// The config was read again while calls went on.
    RELOADED = "4f5a0e8938814ffc9d2f6fae1562ed45", "the config is read again";
    /// It was, and is wrong or cannot be used: the one before stays.
    RELOAD_REFUSED = "7acd6c7a513c4381ab5a1b5b99b35fb8", "the config was read again and is refused";
    /// Every line listens.
    READY = "e4bff8855298464e8f9205bcd29647b5", "ready for calls";
    /// A call has come in.
    CALL_STARTED = "b8f722cc4b0e457b828019519e3dabc1", "call started";
    /// A trunk took the call.
    TRUNK_ANSWERED = "270e2e3037d5471498abd0a00ed7f6da", "trunk answered";
    /// A trunk did not; the next of the route is tried.
    TRUNK_REFUSED = "1def1e6f20d44b8bbb6e838f1b92e54b", "trunk did not take the call";
    /// A call is over: its record in brief.
    CALL_ENDED = "b5450a14d67944139587dc83c18ea134", "call ended";
    /// There was no seat for calls.
    CALLS_REFUSED = "a578e144532d4e56905295967aa13321", "calls are refused";
    /// Somebody who is not in `allow` connected to a line.
    OUTSIDER = "59ebc601d90448c3b9e1535cec699c43", "a connection from outside `allow` was closed";
    /// A registrar knows a SIP line.
    REGISTERED = "f9d942a8aae84fd38993eb07a4c195c5", "the line is registered";
    /// None does.
    NOT_REGISTERED = "393faef3352e4221af27f9c172dfd409", "the line is not registered";
    /// A sound line can hear and be heard.
    CARD_THERE = "7d1f3a90c5b84e2b9a6408e2f1c37b5d", "the sound card is there";
    /// It cannot: the card is unplugged, or somebody else has it.
    CARD_OUT = "c84be05f27d1492f8e63a9d70b15f3a2", "the sound card is out";
    /// Somebody at a `websocket` line was not let in, or did not say which call it is.
    VENDOR_REFUSED = "5d0e7c3b1f9a4e62a8b4c1d7f2e60953", "a connection did not become a call";
    /// A `websocket` line dials a vendor, and does not reach it.
    VENDOR_LOST = "a1c84f6e02d34b7f9e5d6b3a7c18f240", "the vendor is not connected";
    /// A `websocket` line's new certificate is no good.
    CERTIFICATE_KEPT = "e97b25d4c0634f18b2a6517e8d3fc49a", "a new certificate cannot be used";
    /// The agent sends what its dialect does not have.
    MALFORMED = "b62c6ae7ea484e648b761fc4ff23020c", "messages of the trunk were dropped";
    /// No new calls; the live ones may go on for a while.
    DRAINING = "2b5d531372d54b368a22369b2afcca60", "live calls may go on for a while";
    /// The process ends as it should.
    STOPPED = "37495417eb384ba5b1dc58b32bb1e64c", "trunkline ends";
    /// Records wait in memory.
    RECORDS_FAILING = "4f14d800b7544a9eab4bf9c8f1ced266", "records cannot be written";
    /// Records that waited are on disk.
    RECORDS_WRITTEN = "3a1eef8426824007bb7be69d4d813e54", "records are written again";
    /// Records found no room in memory, or no thread to write them.
    RECORDS_LOST = "16fb6655acf745d994954eebf7218021", "records are lost";
    /// A sink is away, slow or refuses us; what is meant for it waits.
    SINK_FAILING = "27307e86f621467abeb0c162444e4c14", "a sink does not take what is meant for it";
    /// It took something again.
    SINK_TAKES = "9ab89bc98939462a9f47db35dca6c36a", "a sink takes again what is meant for it";
    /// A sink answered that it will never take an item.
    SINK_REFUSED = "88a75b64d86e4afe96bcc6705b73dd2e", "a sink refuses for ever what is meant for it";
    /// There was no room for what is meant for a sink.
    SINK_LOST = "44d9027acbdd41be8f1eaff934df145c", "what was meant for a sink is lost";
    /// The event log or a file of a call cannot be written.
    KEEPING_FAILED = "53f945ae96f54099bf21bd5aff8b9bae", "what a call tells cannot be written";
    /// A recording ended before its call.
    RECORDING_STOPPED = "1ef96fb13ee24405bdaa4b768aa27b05", "a recording was stopped";
    /// More was logged than could be written.
    LINES_DROPPED = "aed35ddd10e8442394a791ab50616110", "log lines were dropped";
    /// A media thread is gone, and the process with it.
    MEDIA_ENDED = "07fb224494664e33ad7b3601a98bf07d", "a media thread ended";
    /// A thread's loop does not turn; the watchdog will end the process.
    THREAD_SILENT = "c0d3f0a5b18f4d0e9c6a7b52e1f49d83", "a thread does not answer";
    /// A bug of ours.
    PANIC = "4ed7d6463e7442968fc62fc1c4a5b097", "a thread panicked";
    /// Somebody calls a number of the account at Telnyx.
    TELNYX_INITIATED = "ffebe1516d74b4a2af6e17650d84adca", "a call rings at Telnyx";
    /// It was answered there.
    TELNYX_ANSWERED = "88d942cb18db6ffc3096720de1c68238", "the call at Telnyx is answered";
    /// `streaming_start` goes out.
    TELNYX_STREAMING = "eadfdbfd292173bda89b324d527723b1", "Telnyx is asked to stream the call";
    /// A line's socket is here and has named a call at Telnyx.
    TELNYX_CONNECTED = "aecb089d178d9fc6e6381713cf22085b", "Telnyx's socket is connected";
    /// The caller's voice has come.
    TELNYX_FIRST_HEARD = "a56ff083461b7611fd8402dd345bc47c", "first frame from Telnyx";
    /// The caller's voice went to the agent.
    TELNYX_FIRST_TO_AGENT = "1fb6c1655bd0101edf98ba11d4c2ef01", "first frame to the agent";
    /// The agent has spoken.
    TELNYX_FIRST_FROM_AGENT = "e0a12ccf22cf22ada575c3a3c7b6349a", "first frame from the agent";
    /// The agent's voice went to Telnyx.
    TELNYX_FIRST_PLAYED = "e87a8e76e957f44ac8c74edf3e3cbce3", "first frame to Telnyx";
    /// It is over there.
    TELNYX_ENDED = "f4f2fb161f79d0d808f1656a411c5a33", "the call at Telnyx is over";
    /// Telnyx does not do what it was told.
    TELNYX_REFUSED = "7290be1a0fd1eb2a22f6930bdc6e713b", "Telnyx refused";
    /// Telnyx's REST interface cannot be talked to.
    TELNYX_UNREACHABLE = "9101ef1b5f2eee60ea647c2f9717fd9e", "Telnyx could not be told";
    /// A call was answered, and its audio does not come.
    TELNYX_NO_STREAM = "98326df75b347231314cc04dce20f1c7", "no stream came from Telnyx";
    /// Something that claims to be Telnyx's is not.
    TELNYX_WEBHOOK_REFUSED = "d86a331aa4c49ba4133d62aa2d41ecce", "a webhook was refused";
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::HashSet, fs, path::Path};

    use super::*;

    const CATALOG: &str = include_str!("../../systemd/trunkline.catalog");

    #[test]
    fn ids_are_of_128_bits_and_no_two_alike() {
        let ids: HashSet<_> = TABLE.iter().map(|(_, id, _)| id).collect();
        assert_eq!(ids.len(), TABLE.len());
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))));
    }

    #[test]
    fn every_message_is_sent_somewhere() {
        fn read(folder: &Path, sources: &mut String) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    read(&path, sources);
                } else if path.extension().is_some_and(|kind| kind == "rs") {
                    *sources += &fs::read_to_string(path).unwrap();
                }
            }
        }
        let mut sources = String::new();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
        let words: HashSet<_> = sources.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c))).collect();
        for (name, ..) in TABLE {
            assert!(words.contains(format!("messages::{name}").as_str()), "{name} is sent nowhere");
        }
    }

    #[test]
    fn the_catalog_explains_every_message_and_no_other() {
        let explained: Vec<_> = CATALOG.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        let ids: Vec<_> = TABLE.iter().map(|(_, id, _)| *id).collect();
        assert_eq!(explained, ids, "in the order of the table");
    }

    #[test]
    fn every_entry_of_the_catalog_has_a_head_and_a_text() {
        for entry in CATALOG.split("\n-- ").skip(1) {
            let (head, text) = entry.split_once("\n\n").unwrap_or((entry, ""));
            for key in ["\nSubject: ", "\nDefined-By: Trunkline", "\nSupport: "] {
                assert!(head.contains(key), "{key:?} is missing: {head}");
            }
            assert!(text.trim().len() > 80, "says too little: {entry}");
        }
    }
}
