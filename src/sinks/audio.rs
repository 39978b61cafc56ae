//! Callers' voices on their way to a sink while they speak: cut into tenths of a second, kept in memory only, and the
//! oldest forgotten when the sink is slow.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;
use tokio::sync::Notify;

use super::item::{Subject, json};
use crate::media::Rate;

/// The voice of one caller, to be cut.
#[derive(Debug, Default)]
pub struct Voice {
    seq: u64,
    rate: Option<Rate>,
    since_ms: u64,
    pcm: Vec<u8>,
}

#[derive(Serialize)]
struct Entry<'a> {
    tenant_id: &'a str,
    interaction_id: &'a str,
    seq: u64,
    timestamp_ms: u64,
    sample_rate: u32,
    encoding: &'a str,
    audio: &'a str,
}

impl Voice {
    /// Takes what was heard at that time (ms since 1970). Gives what is to be sent now: the JSON text of an entry.
    pub fn hear(&mut self, subject: &Subject, at_ms: u64, rate: Rate, samples: &[i16]) -> Option<String> {
        // What is left at another rate goes by itself, however short.
        let before = if self.rate.is_some_and(|before| before != rate) { self.cut(subject) } else { None };
        if self.pcm.is_empty() {
            (self.since_ms, self.rate) = (at_ms, Some(rate));
        }
        self.pcm.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        if before.is_some() || self.pcm.len() < rate.samples(ENTRY_MS) * 2 { before } else { self.cut(subject) }
    }

    /// Gives what is left.
    pub fn cut(&mut self, subject: &Subject) -> Option<String> {
        let rate = self.rate.filter(|_| !self.pcm.is_empty())?;
        self.seq += 1;
        let entry = json(&Entry {
            tenant_id: &subject.tenant_id,
            interaction_id: &subject.interaction_id,
            seq: self.seq,
            timestamp_ms: self.since_ms,
            sample_rate: rate.hz(),
            encoding: "pcm16",
            audio: &base64_simd::STANDARD.encode_to_string(&self.pcm),
        });
        self.pcm.clear();
        Some(entry)
    }
}

/// What waits to be sent to one sink.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<String>,
    bytes: usize,
}

impl Queue {
    /// Never waits but for whoever takes something this moment. Says how many entries had to go.
    pub(super) fn push(&self, entry: String) -> u64 {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = 0;
        while waiting.bytes + entry.len() > MOST_BYTES
            && let Some(oldest) = waiting.entries.pop_front()
        {
            waiting.bytes -= oldest.len();
            dropped += 1;
        }
        waiting.bytes += entry.len();
        waiting.entries.push_back(entry);
        drop(waiting);
        self.came.notify_one();
        dropped
    }

    /// Waits for entries and gives so many at most.
    pub(super) async fn take(&self, most: usize) -> Vec<String> {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let n = waiting.entries.len().min(most);
                let taken: Vec<_> = waiting.entries.drain(..n).collect();
                waiting.bytes -= taken.iter().map(String::len).sum::<usize>();
                if !taken.is_empty() {
                    return taken;
                }
            }
            self.came.notified().await;
        }
    }
}

/// One entry: what recognizers of speech like to be fed with.
const ENTRY_MS: usize = 100;
/// What may wait for one sink: a minute of 16 calls at 8 kHz.
const MOST_BYTES: usize = 4 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn subject() -> Subject {
        Subject { interaction_id: "i1".to_owned(), tenant_id: "depot".to_owned(), ..Subject::default() }
    }

    #[test]
    fn five_frames_make_an_entry_and_the_rest_goes_at_the_end() {
        let (mut voice, subject) = (Voice::default(), subject());
        let mut entries = Vec::new();
        for n in 0..7_u64 {
            entries.extend(voice.hear(&subject, 1000 + n * 20, Rate::Hz8000, &[n as i16; 160]));
        }
        entries.extend(voice.cut(&subject));
        assert_eq!(voice.cut(&subject), None);
        let entries: Vec<Value> = entries.iter().map(|entry| serde_json::from_str(entry).unwrap()).collect();
        let (first, second) = (&entries[0], &entries[1]);
        assert_eq!(
            (&first["seq"], &first["timestamp_ms"], &first["sample_rate"]),
            (&1.into(), &1000.into(), &8000.into())
        );
        assert_eq!((&first["encoding"], &first["tenant_id"]), (&"pcm16".into(), &"depot".into()));
        let pcm = base64_simd::STANDARD.decode_to_vec(first["audio"].as_str().unwrap()).unwrap();
        assert_eq!((pcm.len(), &pcm[1598..]), (1600, &[4, 0][..]));
        assert_eq!((&second["seq"], &second["timestamp_ms"]), (&2.into(), &1100.into()));
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn no_entry_has_two_rates() {
        let (mut voice, subject) = (Voice::default(), subject());
        assert_eq!(voice.hear(&subject, 0, Rate::Hz8000, &[1; 160]), None);
        let entry: Value = serde_json::from_str(&voice.hear(&subject, 20, Rate::Hz16000, &[2; 320]).unwrap()).unwrap();
        assert_eq!((&entry["sample_rate"], entry["audio"].as_str().unwrap().len()), (&8000.into(), 428));
        let entry: Value = serde_json::from_str(&voice.cut(&subject).unwrap()).unwrap();
        assert_eq!((&entry["sample_rate"], &entry["timestamp_ms"]), (&16000.into(), &20.into()));
    }

    #[test]
    fn a_slow_sink_misses_the_oldest() {
        let queue = Queue::default();
        let entry = |n: usize| format!("{n}{}", "x".repeat(MOST_BYTES / 4));
        let dropped: u64 = (0..5).map(|n| queue.push(entry(n))).sum();
        assert_eq!(dropped, 2);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let taken = runtime.block_on(queue.take(9));
        assert_eq!(taken.iter().map(|entry| &entry[..1]).collect::<Vec<_>>(), ["2", "3", "4"]);
    }
}
