//! Counters of the process, in the text format that Prometheus reads.
//!
//! A media thread adds to them once a second and at the end of a call; a scrape only reads.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    call::{EndReason, outcome::Figures},
    media::{
        Now,
        histogram::{self, Histogram},
    },
};

/// What is counted. Each has a row in [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each one's meaning is its row in TABLE")]
pub enum Counter {
    UplinkFrames,
    UplinkSamples,
    UplinkSent,
    UplinkDropped,
    Digits,
    DownlinkFrames,
    DownlinkHeard,
    Underruns,
    Late,
    Missed,
    Flushed,
    Repaid,
    TrunkMessagesIn,
    TrunkMessagesOut,
    TrunkMalformed,
    TrunkUnknown,
    TrunkSkipped,
    TrunkContradicted,
    TrunkGathered,
    TrunkClamped,
    Clears,
    Marks,
    MediaAllocations,
    LineBytesIn,
    LineBytesOut,
    TrunkBytesIn,
    TrunkBytesOut,
    CallsRefused,
    ReportsLost,
    RecordsWritten,
    RecordsLost,
    NotesLost,
    SoundLost,
    EventsLost,
    CallFilesLost,
    RecordingsStopped,
    SinkItemsSent,
    SinkFailures,
    SinkItemsRefused,
    SinkItemsLost,
    SinkAudioSent,
    SinkAudioDropped,
    RtpPackets,
    RtpSent,
    RtpLost,
    RtpLate,
    RtpDuplicates,
    RtpConcealed,
    RtpForeign,
    RtpBad,
    SipDatagramsIn,
    SipMessagesOut,
    SipUnsent,
    SipFlooded,
    SipStrangers,
    SipConnectionsRefused,
    SipRefusedTooFast,
    SipRefusedUnacked,
    SipRefusedRinging,
    SoundXruns,
    SoundStarved,
    SoundDropped,
    SoundJumps,
    SoundCardLosses,
}

/// Name and meaning of each counter, in the order of [`Counter`].
pub const TABLE: [(&str, &str); 64] = [
    ("trunkline_uplink_frames_total", "Frames that lines sent"),
    ("trunkline_uplink_samples_total", "Samples that lines sent"),
    ("trunkline_uplink_sent_samples_total", "Samples handed to trunks, at the line's rate"),
    ("trunkline_uplink_dropped_samples_total", "Samples skipped because a trunk was slow"),
    ("trunkline_digits_total", "Digits that callers pressed"),
    ("trunkline_downlink_frames_total", "Frames sent to lines, silence included"),
    ("trunkline_downlink_heard_samples_total", "Samples of agents sent to lines"),
    ("trunkline_downlink_underruns_total", "Times that an agent's speech ran dry in mid-utterance"),
    ("trunkline_downlink_late_frames_total", "Frames that left more than 5 ms after they were due"),
    ("trunkline_downlink_missed_frames_total", "Frames whose time passed before they were made"),
    ("trunkline_downlink_flushed_samples_total", "Samples of agents thrown away by clear, barge-in or hang-up"),
    ("trunkline_downlink_repaid_samples_total", "Samples removed to give delay back"),
    ("trunkline_trunk_messages_in_total", "Messages read from trunks"),
    ("trunkline_trunk_messages_out_total", "Messages written to trunks"),
    ("trunkline_trunk_malformed_messages_total", "Messages of trunks that were not understood and dropped"),
    ("trunkline_trunk_unknown_messages_total", "Messages of trunks with an event that is not known"),
    ("trunkline_trunk_skipped_messages_total", "Audio messages of trunks that their dialect says to ignore"),
    ("trunkline_trunk_contradicted_messages_total", "Long messages whose end contradicted their format"),
    ("trunkline_trunk_gathered_texts_total", "Control texts too long for the fixed space"),
    ("trunkline_trunk_clamped_samples_total", "Samples of trunks beyond 16 bits"),
    ("trunkline_clears_total", "Clears obeyed"),
    ("trunkline_marks_heard_total", "Marks told as heard"),
    ("trunkline_media_allocations_total", "Heap allocations of media threads in live calls (feature count-allocs)"),
    ("trunkline_line_in_bytes_total", "Bytes read from lines"),
    ("trunkline_line_out_bytes_total", "Bytes written to lines"),
    ("trunkline_trunk_in_bytes_total", "Bytes of WebSocket frames read from trunks"),
    ("trunkline_trunk_out_bytes_total", "Bytes of WebSocket frames written to trunks"),
    ("trunkline_calls_refused_total", "Calls refused: no seat, overload, or the daemon is going down"),
    ("trunkline_reports_lost_total", "Reports of media threads that found their queue full"),
    ("trunkline_records_written_total", "Records of calls that are safe on the disk"),
    ("trunkline_records_lost_total", "Records of calls that found no room in memory while the disk took none"),
    ("trunkline_notes_lost_total", "Things that calls told and nobody took in time, for a disk that was slow"),
    ("trunkline_sound_lost_frames_total", "Frames of calls' sound that nobody took in time, for a disk that was slow"),
    ("trunkline_events_lost_total", "Lines of the event log that the disk did not take"),
    ("trunkline_call_files_lost_total", "Files of calls and of what was said that the disk did not take"),
    ("trunkline_recordings_stopped_total", "Recordings that ended before their calls"),
    ("trunkline_sink_items_sent_total", "Items that sinks took"),
    ("trunkline_sink_failures_total", "Attempts at which a sink took nothing; they are repeated"),
    ("trunkline_sink_items_refused_total", "Items that a sink will never take; they were put aside"),
    ("trunkline_sink_items_lost_total", "Items for sinks that found no room in memory or on disk"),
    ("trunkline_sink_audio_sent_total", "Entries of live audio that sinks took"),
    ("trunkline_sink_audio_dropped_total", "Entries of live audio that a slow or dead sink did not take"),
    ("trunkline_rtp_packets_total", "RTP packets that lines sent and that belong to their calls"),
    ("trunkline_rtp_sent_packets_total", "RTP packets sent to lines"),
    ("trunkline_rtp_lost_packets_total", "RTP packets of lines that did not come, or came after others"),
    ("trunkline_rtp_late_packets_total", "RTP packets of lines that came after their turn"),
    ("trunkline_rtp_duplicate_packets_total", "RTP packets of lines that came again"),
    ("trunkline_rtp_concealed_samples_total", "Samples made up for packets that did not come in time"),
    ("trunkline_rtp_foreign_packets_total", "Packets on a call's ports from a source that is not the call's"),
    ("trunkline_rtp_bad_packets_total", "Packets on a call's ports that cannot be read, or of a codec not agreed on"),
    (
        "trunkline_sip_datagrams_in_total",
        "Datagrams that SIP lines took from known sources, those that are no SIP included",
    ),
    ("trunkline_sip_messages_out_total", "SIP messages sent, repeats included"),
    ("trunkline_sip_unsent_datagrams_total", "Datagrams of SIP lines that the kernel did not take"),
    ("trunkline_sip_flooded_datagrams_total", "Datagrams thrown away because a SIP line was behind"),
    ("trunkline_sip_strangers_total", "Datagrams and connections to SIP lines from outside `allow`, never answered"),
    ("trunkline_sip_connections_refused_total", "Connections to SIP lines that were one too many"),
    ("trunkline_sip_calls_too_fast_total", "SIP calls refused because of invites-per-second"),
    ("trunkline_sip_calls_unacked_total", "SIP calls refused because of max-unacked"),
    ("trunkline_sip_calls_ringing_total", "SIP calls refused because too many rang"),
    ("trunkline_sound_xruns_total", "Times that a sound card had no room or no sound in time"),
    ("trunkline_sound_starved_samples_total", "Samples that a speaker wanted and got silence for"),
    ("trunkline_sound_dropped_samples_total", "Samples of a microphone that nobody took in time"),
    ("trunkline_sound_jumps_total", "Times that a sound card stood still or ran away, beyond what its clock explains"),
    ("trunkline_sound_card_losses_total", "Times that a sound card was out: unplugged, held by others, or silent"),
];

/// The counters and gauges of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: Counters,
    ended: [AtomicU64; EndReason::ALL.len()],
    live: AtomicU64,
    pool_bytes: AtomicU64,
    records_waiting: AtomicU64,
    sink_items_waiting: AtomicU64,
    sinks_failing: AtomicU64,
    unregistered: AtomicU64,
    histograms: [SharedHistogram; HISTOGRAMS.len()],
}

#[derive(Debug)]
struct Counters([AtomicU64; TABLE.len()]);

// The standard library has it for arrays of up to 32 only.
impl Default for Counters {
    fn default() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// What is told as a histogram. Each has a row in [`HISTOGRAMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each one's meaning is its row in HISTOGRAMS")]
pub enum Delay {
    Uplink,
    Playout,
    Setup,
    Response,
    RtpJitter,
    RtpRoundTrip,
}

/// Name and meaning of each histogram, in the order of [`Delay`].
pub const HISTOGRAMS: [(&str, &str); 6] = [
    ("trunkline_uplink_delay_seconds", "From a line's frame read to its message handed to the trunk's socket"),
    ("trunkline_playout_lateness_seconds", "How long after it was due a frame left for its line"),
    ("trunkline_setup_seconds", "From a call's arrival to its trunk's answer"),
    ("trunkline_response_delay_seconds", "From the caller's last word to the agent's first, for each turn"),
    (
        "trunkline_rtp_jitter_seconds",
        "Interarrival jitter of a line's RTP, at each report that it was sent (every 5 s)",
    ),
    ("trunkline_rtp_round_trip_seconds", "To the line's end of RTP and back, at each of its reports that tells"),
];

#[derive(Debug, Default)]
struct SharedHistogram {
    counts: [AtomicU64; histogram::BUCKETS],
    sum_us: AtomicU64,
}

impl SharedHistogram {
    fn add_growth(&self, before: &Histogram, after: &Histogram) {
        for (shared, (before, after)) in self.counts.iter().zip(before.counts.iter().zip(&after.counts)) {
            let grown = after.wrapping_sub(*before);
            if grown > 0 {
                shared.fetch_add(grown.into(), Relaxed);
            }
        }
        self.sum_us.fetch_add(after.sum_us.saturating_sub(before.sum_us), Relaxed);
    }

    fn write(&self, name: &str, help: &str, text: &mut String) -> std::fmt::Result {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        let mut so_far = 0;
        for (index, count) in self.counts.iter().enumerate() {
            so_far += count.load(Relaxed);
            match histogram::upper_us(index) {
                Some(us) => writeln!(text, "{name}_bucket{{le=\"{}\"}} {so_far}", us as f64 / 1e6)?,
                None => writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {so_far}")?,
            }
        }
        writeln!(text, "{name}_sum {}\n{name}_count {so_far}", self.sum_us.load(Relaxed) as f64 / 1e6)
    }
}

impl Metrics {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, n: u64) {
        if n > 0 {
            self.counters.0[counter as usize].fetch_add(n, Relaxed);
        }
    }

    /// What a counter stands at.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters.0[counter as usize].load(Relaxed)
    }

    /// Adds what a call's figures grew by.
    pub fn add_growth(&self, before: &Figures, after: &Figures) {
        for ((counter, before), (_, after)) in rows(before).into_iter().zip(rows(after)) {
            self.add(counter, after.saturating_sub(before));
        }
        self.histograms[Delay::Uplink as usize].add_growth(&before.delays.uplink, &after.delays.uplink);
        self.histograms[Delay::Playout as usize].add_growth(&before.delays.playout, &after.delays.playout);
        self.histograms[Delay::Response as usize].add_growth(&before.delays.response, &after.delays.response);
        if let Some(rtp) = after.rtp {
            let before = before.rtp.unwrap_or_default();
            if rtp.reports > before.reports {
                self.add_one(Delay::RtpJitter, rtp.jitter);
            }
            if let Some(round_trip) = rtp.round_trip.filter(|_| rtp.round_trips > before.round_trips) {
                self.add_one(Delay::RtpRoundTrip, round_trip);
            }
        }
    }

    /// A trunk answered so long after its call had come.
    pub fn add_setup(&self, took: Now) {
        self.add_one(Delay::Setup, took);
    }

    fn add_one(&self, delay: Delay, took: Now) {
        let mut histogram = Histogram::default();
        histogram.record(took);
        self.histograms[delay as usize].add_growth(&Histogram::default(), &histogram);
    }

    /// A call began.
    pub fn call_began(&self) {
        self.live.fetch_add(1, Relaxed);
    }

    /// A call ended.
    pub fn call_ended(&self, reason: EndReason) {
        self.live.fetch_sub(1, Relaxed);
        self.call_never_began(reason);
    }

    /// Counts an end; of a call, or of a connection that never became one.
    pub fn call_never_began(&self, reason: EndReason) {
        let index = EndReason::ALL.iter().position(|&known| known == reason).unwrap_or(0);
        self.ended[index].fetch_add(1, Relaxed);
    }

    /// Live calls.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live.load(Relaxed)
    }

    /// The most of the pool that was ever in use grew by so much (bytes).
    pub fn add_pool(&self, bytes: u64) {
        self.pool_bytes.fetch_add(bytes, Relaxed);
    }

    /// A record is there that is not safe on the disk yet.
    pub fn record_waits(&self) {
        self.records_waiting.fetch_add(1, Relaxed);
    }

    /// So many records are safe on the disk.
    pub fn records_written(&self, n: u64) {
        self.records_waiting.fetch_sub(n, Relaxed);
        self.add(Counter::RecordsWritten, n);
    }

    /// Records that are not safe on the disk yet.
    #[must_use]
    pub fn records_waiting(&self) -> u64 {
        self.records_waiting.load(Relaxed)
    }

    /// Of the items for one sink so many wait, and before it were so many.
    pub fn sink_items_wait(&self, before: u64, now: u64) {
        // It wraps around and back: the sum over all sinks is never below nothing.
        self.sink_items_waiting.fetch_add(now.wrapping_sub(before), Relaxed);
    }

    /// Items that wait for sinks.
    #[must_use]
    pub fn sink_items_waiting(&self) -> u64 {
        self.sink_items_waiting.load(Relaxed)
    }

    /// A sink does not take what it is given, or does so again: its items, or its audio, each for itself.
    pub fn sink_fails(&self, is_failing: bool) {
        if is_failing {
            self.sinks_failing.fetch_add(1, Relaxed);
        } else {
            self.sinks_failing.fetch_sub(1, Relaxed);
        }
    }

    /// How many do not.
    #[must_use]
    pub fn sinks_failing(&self) -> u64 {
        self.sinks_failing.load(Relaxed)
    }

    /// So many SIP lines are not registered and should be.
    pub fn set_unregistered(&self, lines: u64) {
        self.unregistered.store(lines, Relaxed);
    }

    /// The most of the pool that was ever in use (bytes).
    #[must_use]
    pub fn pool_bytes(&self) -> u64 {
        self.pool_bytes.load(Relaxed)
    }

    /// Everything, as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(8192);
        let mut row = |name: &str, sort: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {sort}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        for ((name, help), value) in TABLE.iter().zip(&self.counters.0) {
            row(name, "counter", help, &mut core::iter::once((String::new(), value.load(Relaxed))));
        }
        let mut ended = EndReason::ALL
            .iter()
            .zip(&self.ended)
            .map(|(reason, count)| (format!("{{end_reason=\"{reason}\"}}"), count.load(Relaxed)));
        row("trunkline_calls_ended_total", "counter", "Calls that ended, by reason", &mut ended);
        let gauge = |value: &AtomicU64| core::iter::once((String::new(), value.load(Relaxed)));
        row("trunkline_calls", "gauge", "Live calls", &mut gauge(&self.live));
        let help = "The most of the sample pool that was ever in use";
        row("trunkline_pool_high_water_bytes", "gauge", help, &mut gauge(&self.pool_bytes));
        let help = "Records of calls that are not safe on the disk yet";
        row("trunkline_records_waiting", "gauge", help, &mut gauge(&self.records_waiting));
        let help = "Items that wait for sinks, on disk or on their way there";
        row("trunkline_sink_items_waiting", "gauge", help, &mut gauge(&self.sink_items_waiting));
        let help = "Sinks that do not take what they are given; one that takes neither items nor audio counts twice";
        row("trunkline_sinks_failing", "gauge", help, &mut gauge(&self.sinks_failing));
        let help = "SIP lines that should be registered with a PBX and are not";
        row("trunkline_sip_unregistered_lines", "gauge", help, &mut gauge(&self.unregistered));
        for ((name, help), histogram) in HISTOGRAMS.iter().zip(&self.histograms) {
            // Writing to a String does not fail.
            let _ = histogram.write(name, help, &mut text);
        }
        text
    }
}

fn rows(figures: &Figures) -> [(Counter, u64); 34] {
    let Figures { uplink, downlink, trunk, clears, marks, line, times: _, delays: _, rtp, wishes: _ } = figures;
    let rtp = rtp.unwrap_or_default();
    [
        (Counter::UplinkFrames, uplink.frames),
        (Counter::UplinkSamples, uplink.samples),
        (Counter::UplinkSent, uplink.sent),
        (Counter::UplinkDropped, uplink.dropped),
        (Counter::Digits, uplink.digits),
        (Counter::DownlinkFrames, downlink.frames),
        (Counter::DownlinkHeard, downlink.heard),
        (Counter::Underruns, downlink.underruns),
        (Counter::Late, downlink.late),
        (Counter::Missed, downlink.missed),
        (Counter::Flushed, downlink.flushed),
        (Counter::Repaid, downlink.repaid),
        (Counter::TrunkMessagesIn, trunk.messages_in),
        (Counter::TrunkMessagesOut, trunk.messages_out),
        (Counter::TrunkMalformed, trunk.malformed),
        (Counter::TrunkUnknown, trunk.unknown),
        (Counter::TrunkSkipped, trunk.skipped),
        (Counter::TrunkContradicted, trunk.contradicted),
        (Counter::TrunkGathered, trunk.gathered),
        (Counter::TrunkClamped, trunk.clamped),
        (Counter::LineBytesIn, line.bytes_in),
        (Counter::LineBytesOut, line.bytes_out),
        (Counter::TrunkBytesIn, trunk.bytes_in),
        (Counter::TrunkBytesOut, trunk.bytes_out),
        (Counter::Clears, *clears),
        (Counter::Marks, *marks),
        (Counter::RtpPackets, rtp.packets),
        (Counter::RtpSent, rtp.sent),
        (Counter::RtpLost, rtp.lost),
        (Counter::RtpLate, rtp.late),
        (Counter::RtpDuplicates, rtp.duplicates),
        (Counter::RtpConcealed, rtp.concealed),
        (Counter::RtpForeign, rtp.foreign),
        (Counter::RtpBad, rtp.bad),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leg::rtp::session;

    #[test]
    fn growth_is_added_and_shown_once() {
        let metrics = Metrics::default();
        let before = Figures::default();
        let mut after = before;
        after.downlink.repaid = 480;
        after.marks = 3;
        metrics.add_growth(&before, &after);
        metrics.add_growth(&after, &after);
        let text = metrics.text();
        assert!(text.contains("\ntrunkline_downlink_repaid_samples_total 480\n"), "{text}");
        assert!(text.contains("\ntrunkline_marks_heard_total 3\n"));
    }

    #[test]
    fn what_rtp_lost_and_found_again_is_counted_once_and_its_end_takes_nothing_back() {
        let metrics = Metrics::default();
        let mut told = Figures::default();
        let tally = |lost, reports| session::Tally {
            packets: 50 * reports,
            lost,
            reports,
            jitter: Now::from_millis(3),
            round_trip: Some(Now::from_millis(40)),
            round_trips: reports / 2,
            ..session::Tally::default()
        };
        for rtp in [None, Some(tally(5, 1)), Some(tally(3, 2)), Some(tally(5, 2)), Some(tally(6, 3)), None] {
            let figures = Figures { rtp, ..Figures::default() };
            metrics.add_growth(&told, &figures);
            told = figures.counted_after(&told);
        }
        assert_eq!((metrics.get(Counter::RtpPackets), metrics.get(Counter::RtpLost)), (150, 6));
        let text = metrics.text();
        assert!(
            text.contains("\ntrunkline_rtp_jitter_seconds_sum 0.009\ntrunkline_rtp_jitter_seconds_count 3\n"),
            "{text}"
        );
        assert!(text.contains("\ntrunkline_rtp_round_trip_seconds_count 1\n"), "{text}");
    }

    #[test]
    fn a_histogram_is_told_as_prometheus_wants_it() {
        let metrics = Metrics::default();
        let mut after = Figures::default();
        after.delays.playout.record(Now::from_micros(100));
        after.delays.playout.record(Now::from_secs(100));
        metrics.add_growth(&Figures::default(), &after);
        metrics.add_growth(&after, &after);
        metrics.add_setup(Now::from_millis(80));
        let text = metrics.text();
        let name = "trunkline_playout_lateness_seconds";
        assert!(text.contains(&format!("{name}_bucket{{le=\"0.000064\"}} 0\n")), "{text}");
        assert!(text.contains(&format!("{name}_bucket{{le=\"0.000128\"}} 1\n")));
        assert!(text.contains(&format!("{name}_bucket{{le=\"+Inf\"}} 2\n{name}_sum 100.0001\n{name}_count 2\n")));
        assert!(text.contains("trunkline_setup_seconds_count 1\n"));
    }

    #[test]
    fn every_end_reason_has_a_row() {
        let metrics = Metrics::default();
        metrics.call_began();
        metrics.call_ended(EndReason::Bug);
        let text = metrics.text();
        assert!(text.contains("trunkline_calls_ended_total{end_reason=\"bug\"} 1"));
        assert_eq!(text.matches("end_reason=").count(), EndReason::ALL.len());
        assert_eq!(metrics.live(), 0);
    }

    #[test]
    fn the_table_has_the_order_of_the_counters() {
        assert_eq!(Counter::SoundCardLosses as usize, TABLE.len() - 1);
        assert_eq!(TABLE[Counter::SipRefusedRinging as usize].0, "trunkline_sip_calls_ringing_total");
        assert_eq!(TABLE[Counter::RtpPackets as usize].0, "trunkline_rtp_packets_total");
        assert_eq!(TABLE[Counter::Repaid as usize].0, "trunkline_downlink_repaid_samples_total");
    }
}
