//! Callers' voices to Redis while they speak: what it does not take now is forgotten.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use log::{info, warn};
use tokio::time::sleep;

use super::{Fault, Trouble, audio::Queue, backoff::Backoff, lane::dice, redis::Redis};
use crate::control::{
    messages,
    metrics::{Counter, Metrics},
};

/// Voices on their way to one sink.
pub(super) struct Voices {
    pub(super) name: String,
    pub(super) redis: Redis,
    pub(super) queue: Arc<Queue>,
    pub(super) trouble: Arc<Trouble>,
}

impl Voices {
    /// Sends what comes into the queue, until the thread ends.
    pub(super) async fn send(self, metrics: Arc<Metrics>) {
        let Self { name: sink, mut redis, queue, trouble } = self;
        let mut backoff = Backoff::default();
        loop {
            let entries = queue.take(MOST_AT_ONCE).await;
            let words = match redis.deliver_all(TOPIC, &entries).await {
                Ok(()) => {
                    metrics.add(Counter::SinkAudioSent, entries.len() as u64);
                    backoff.on_taken();
                    if trouble.audio.swap(false, Relaxed) {
                        metrics.sink_fails(false);
                        info!(
                            message_id = messages::SINK_TAKES, sink, what = "audio";
                            "a sink takes again what is meant for it"
                        );
                    }
                    continue;
                }
                Err(Fault::Later { words, .. } | Fault::Never(words)) => words,
            };
            metrics.add(Counter::SinkAudioDropped, entries.len() as u64);
            if !trouble.audio.swap(true, Relaxed) {
                metrics.sink_fails(true);
                warn!(
                    message_id = messages::SINK_FAILING, sink, what = "audio", error = words;
                    "a sink does not take what is meant for it"
                );
            }
            // No longer than a few seconds: live audio is worth nothing later.
            sleep(backoff.on_failed(dice(), None).min(LONGEST)).await;
        }
    }
}

/// The stream that the RTAA ingest writes (exkrishan/rtaafin).
const TOPIC: &str = "audio_stream";
const MOST_AT_ONCE: usize = 64;
const LONGEST: core::time::Duration = core::time::Duration::from_secs(5);
