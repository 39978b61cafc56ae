//! Two files a call, written when it is over: its record with what was counted, and what was said.

use std::io;

use serde::Serialize;

use super::{
    files::{Files, rfc3339},
    transcript::{Transcript, Turn},
};
use crate::{call::record::Record, config, sinks::item::spelled};

/// The two folders.
pub(super) struct CallFiles {
    pub(super) calls: Files,
    pub(super) transcripts: Files,
}

/// What was counted of a call's notes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) caller_turns: usize,
    pub(super) agent_turns: usize,
    pub(super) digits: u64,
    pub(super) clears: u64,
    pub(super) barge_ins: u64,
    pub(super) marks: u64,
    pub(super) faults: u64,
    pub(super) holds: u64,
    pub(super) transfers: u64,
}

#[derive(Serialize)]
struct CallFile<'a> {
    #[serde(flatten)]
    record: &'a Record,
    counts: Counts,
    transcript_file: Option<&'a str>,
    recording_file: Option<&'a str>,
}

#[derive(Serialize)]
struct TranscriptFile<'a> {
    call_id: &'a str,
    started: Option<String>,
    conversation: Vec<Said<'a>>,
    is_cut: bool,
}

#[derive(Serialize)]
struct Said<'a> {
    who: &'a str,
    text: &'a str,
    when: String,
    offset_ms: Option<u64>,
}

impl<'a> Said<'a> {
    fn of(turn: &'a Turn, started_ms: Option<u64>) -> Self {
        Self {
            who: spelled(turn.who),
            text: &turn.text,
            when: rfc3339(turn.at_ms),
            offset_ms: started_ms.map(|started| turn.at_ms.saturating_sub(started)),
        }
    }
}

impl CallFiles {
    pub(super) fn open(config: &config::Folder) -> io::Result<Self> {
        let files = |name| Files::open(config.directory.join(name), config.keep_days);
        Ok(Self { calls: files("calls")?, transcripts: files("transcripts")? })
    }

    /// Writes what was said, if anything was, and then the call. `stem` begins the names of both. The transcript stands
    /// even if the record does not, and the other way round.
    pub(super) fn write(
        &self,
        stem: &str,
        call_id: &str,
        started_ms: Option<u64>,
        call: Option<(&Record, Counts, Option<&str>)>,
        transcript: &Transcript,
    ) -> Result<(), (u64, io::Error)> {
        let turns = transcript.turns();
        let name = (!turns.is_empty()).then(|| format!("{stem}_transcript.json"));
        let said = name.as_ref().map_or(Ok(()), |name| {
            let conversation = turns.iter().map(|turn| Said::of(turn, started_ms)).collect();
            let started = started_ms.map(rfc3339);
            let file = TranscriptFile { call_id, started, conversation, is_cut: transcript.is_cut() };
            self.transcripts.write(name, &pretty(&file))
        });
        let written = call.map_or(Ok(()), |(record, counts, recording_file)| {
            let file = CallFile { record, counts, transcript_file: name.as_deref(), recording_file };
            self.calls.write(&format!("{stem}.json"), &pretty(&file))
        });
        let failed = u64::from(said.is_err()) + u64::from(written.is_err());
        said.and(written).map_err(|error| (failed, error))
    }
}

fn pretty(of: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(of).expect("numbers, texts and names of fields are what JSON has");
    text.push(b'\n');
    text
}
