//! How well one source is received: what a report tells its sender. RFC 3550 6.4.1, A.3 and A.8.
//!
//! Counted are packets as they arrive, before the jitter buffer. A packet that comes too late to be played arrived.

use crate::{leg::rtp::rtcp::Block, media::Now};

/// Reception of one source after another.
#[derive(Debug)]
pub struct Reception {
    source: Option<Source>,
    /// Of earlier sources of this call.
    lost_before: i64,
    received_before: u64,
}

#[derive(Debug)]
struct Source {
    ssrc: u32,
    clock_hz: u32,
    /// The first sequence number, and the highest: extended by how often they wrapped.
    first: u32,
    highest: u32,
    received: u32,
    /// As they were when the last report was made.
    expected_prior: u32,
    received_prior: u32,
    /// When the last packet arrived, by its own clock and from its own beginning.
    transit: Option<u32>,
    /// 16 times the jitter, in ticks of the clock.
    jitter: u32,
    /// The last sender report: the middle of its NTP time, and when it came.
    report: Option<(u32, Now)>,
}

impl Default for Reception {
    fn default() -> Self {
        Self::new()
    }
}

impl Reception {
    /// Nobody was received so far.
    #[must_use]
    pub const fn new() -> Self {
        Self { source: None, lost_before: 0, received_before: 0 }
    }

    /// A source begins with this packet, which is to be told by [`Self::on_packet`], too.
    pub fn begin(&mut self, ssrc: u32, clock_hz: u32, sequence: u16) {
        (self.lost_before, self.received_before) = (self.lost(), self.received());
        self.source = Some(Source {
            ssrc,
            clock_hz,
            first: u32::from(sequence),
            highest: u32::from(sequence),
            received: 0,
            expected_prior: 0,
            received_prior: 0,
            transit: None,
            jitter: 0,
            report: None,
        });
    }

    /// The source keeps its name and its count, and its clock has another rate from now on.
    pub fn set_clock(&mut self, clock_hz: u32) {
        if let Some(source) = &mut self.source
            && source.clock_hz != clock_hz
        {
            source.clock_hz = clock_hz;
            source.transit = None;
            source.jitter = 0;
        }
    }

    /// A packet of the source came.
    pub fn on_packet(&mut self, sequence: u16) {
        if let Some(source) = &mut self.source {
            let ahead = sequence.wrapping_sub(source.highest as u16);
            if ahead < 0x8000 {
                source.highest = source.highest.wrapping_add(u32::from(ahead));
            } else if source.received == 1 && source.highest == source.first {
                // The first two came in the wrong order.
                source.first = source.first.wrapping_sub(u32::from(ahead.wrapping_neg()));
            }
            source.received = source.received.wrapping_add(1);
        }
    }

    /// A packet of audio came. Events tell nothing about jitter: all packets of one have one timestamp.
    pub fn on_audio(&mut self, now: Now, timestamp: u32) {
        if let Some(source) = &mut self.source {
            let arrival = (now.as_nanos() * u128::from(source.clock_hz) / 1_000_000_000) as u32;
            let transit = arrival.wrapping_sub(timestamp);
            if let Some(before) = source.transit {
                let change = (transit.wrapping_sub(before) as i32).unsigned_abs();
                // A second is no jitter: the sender's clock was set to another beginning.
                if change < source.clock_hz {
                    source.jitter = source.jitter + change - ((source.jitter + 8) >> 4);
                }
            }
            source.transit = Some(transit);
        }
    }

    /// The source sent a report with this NTP time.
    pub fn on_sender_report(&mut self, now: Now, ssrc: u32, ntp: u64) {
        if let Some(source) = &mut self.source
            && source.ssrc == ssrc
        {
            source.report = Some(((ntp >> 16) as u32, now));
        }
    }

    /// What to tell the source, if there is one. The fraction lost counts from the last time this was asked.
    pub fn report(&mut self, now: Now) -> Option<Block> {
        let source = self.source.as_mut()?;
        let expected = source.expected();
        let expected_since = expected.wrapping_sub(source.expected_prior);
        let received_since = source.received.wrapping_sub(source.received_prior);
        (source.expected_prior, source.received_prior) = (expected, source.received);
        // Duplicates can make it negative, which is told as none. RFC 3550 A.3
        let lost_since = expected_since.saturating_sub(received_since);
        let fraction = (u64::from(lost_since) << 8).checked_div(u64::from(expected_since)).unwrap_or(0);
        let (lsr, dlsr) = source.report.map_or((0, 0), |(lsr, came)| {
            let waited = now.saturating_sub(came);
            (lsr, u32::try_from((waited.as_nanos() << 16) / 1_000_000_000).unwrap_or(u32::MAX))
        });
        Some(Block {
            ssrc: source.ssrc,
            fraction: u8::try_from(fraction).unwrap_or(u8::MAX),
            lost: source.lost().clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest: source.highest,
            jitter: source.jitter >> 4,
            lsr,
            dlsr,
        })
    }

    /// Packets that came, of all sources of this call.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received_before + self.source.as_ref().map_or(0, |source| u64::from(source.received))
    }

    /// Packets that did not come, less those that came twice, of all sources of this call.
    #[must_use]
    pub fn lost(&self) -> i64 {
        self.lost_before + self.source.as_ref().map_or(0, Source::lost)
    }

    /// Interarrival jitter now.
    #[must_use]
    pub fn jitter(&self) -> Now {
        self.source.as_ref().map_or(Now::ZERO, |source| {
            Now::from_nanos(u64::from(source.jitter >> 4) * 1_000_000_000 / u64::from(source.clock_hz.max(1)))
        })
    }
}

impl Source {
    const fn expected(&self) -> u32 {
        self.highest.wrapping_sub(self.first).wrapping_add(1)
    }

    fn lost(&self) -> i64 {
        // Nothing was expected before the first packet came.
        if self.received == 0 { 0 } else { i64::from(self.expected()) - i64::from(self.received) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn begun(first: u16) -> Reception {
        let mut reception = Reception::new();
        reception.begin(7, 8_000, first);
        reception.on_packet(first);
        reception
    }

    #[test]
    fn packets_that_never_came_are_a_fraction_since_the_last_report_and_a_sum() {
        let mut reception = begun(65_530);
        for sequence in (1..100).filter(|n| n % 4 != 0).map(|n| 65_530_u16.wrapping_add(n)) {
            reception.on_packet(sequence);
        }
        let block = reception.report(Now::from_secs(5)).unwrap();
        // The sequence number went round once.
        assert_eq!((block.fraction, block.lost), (61, 24)); // 24 / 100 of 256
        assert_eq!(block.highest, 65_530 + 99);
        assert_eq!((block.lsr, block.dlsr), (0, 0));

        for n in 100..200 {
            reception.on_packet(65_530_u16.wrapping_add(n));
        }
        let block = reception.report(Now::from_secs(10)).unwrap();
        assert_eq!((block.fraction, block.lost, block.highest), (0, 24, 65_530 + 199));
        assert_eq!((reception.received(), reception.lost()), (176, 24));
    }

    #[test]
    fn duplicates_make_the_sum_negative_and_the_fraction_nothing() {
        let mut reception = begun(1);
        for _ in 0..9 {
            reception.on_packet(1);
        }
        let block = reception.report(Now::ZERO).unwrap();
        assert_eq!((block.fraction, block.lost), (0, -9));
    }

    #[test]
    fn the_first_two_packets_may_come_in_the_wrong_order() {
        let mut reception = begun(5);
        reception.on_packet(4);
        reception.on_packet(6);
        assert_eq!(reception.lost(), 0);
    }

    #[test]
    fn a_source_that_follows_another_begins_anew_and_the_sums_go_on() {
        let mut reception = begun(1);
        reception.on_packet(4);
        reception.begin(8, 8_000, 40_000);
        reception.on_packet(40_000);
        let block = reception.report(Now::ZERO).unwrap();
        assert_eq!((block.ssrc, block.lost, block.highest), (8, 0, 40_000));
        assert_eq!((reception.received(), reception.lost()), (3, 2));
    }

    #[test]
    fn jitter_is_the_smoothed_change_of_transit_and_a_new_beginning_is_none() {
        let mut reception = begun(1);
        // Every second packet 8 ms late: |D| is 64 ticks each time, and that is where the estimate ends.
        for n in 0..400_u32 {
            let late = if n % 2 == 0 { 0 } else { 8 };
            reception.on_audio(Now::from_millis(u64::from(20 * n + late)), 160 * n);
        }
        assert!((58..=64).contains(&reception.report(Now::ZERO).unwrap().jitter), "{reception:?}");
        assert_eq!(reception.jitter().as_millis(), 7);

        reception.on_audio(Now::from_secs(8), 4_000_000_000);
        assert_eq!(reception.jitter().as_millis(), 7);
        let mut calm = begun(1);
        for n in 0..100_u32 {
            calm.on_audio(Now::from_millis(u64::from(20 * n)), u32::MAX.wrapping_add(160 * n));
        }
        assert_eq!(calm.jitter(), Now::ZERO);
    }

    #[test]
    fn the_last_sender_report_is_named_with_the_time_since() {
        let mut reception = begun(1);
        reception.on_sender_report(Now::from_secs(3), 7, 0x0000_0011_8000_0000);
        reception.on_sender_report(Now::from_secs(4), 9, 0x0000_0099_0000_0000); // of somebody else
        let block = reception.report(Now::from_millis(4_500)).unwrap();
        assert_eq!((block.lsr, block.dlsr), (0x0011_8000, 0x0001_8000));
    }
}
