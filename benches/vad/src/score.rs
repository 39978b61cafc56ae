//! How what was heard differs from what was spoken.

use std::{fmt, ops::Range};

use crate::media::{Now, Rate, vad::Change};

/// The account of one detector on one track.
pub struct Score {
    spoken: Vec<Range<u64>>,
    per_ms: f64,
    /// After the end of an utterance the detector may say speech for so long (samples).
    grace: u64,
    position: u64,
    spoken_samples: u64,
    missed: u64,
    pauses: u64,
    false_alarm: u64,
    heard: Vec<bool>,
    false_starts: u32,
    late_ms: Vec<f64>,
    off_ms: Vec<f64>,
}

impl Score {
    /// Before the first frame.
    pub fn new(spoken: &[Range<u64>], rate: Rate, hang_over: Now) -> Self {
        Self {
            spoken: spoken.to_vec(),
            per_ms: f64::from(rate.hz()) / 1000.0,
            grace: rate.samples(hang_over.as_millis() as usize + 100) as u64,
            position: 0,
            spoken_samples: 0,
            missed: 0,
            pauses: 0,
            false_alarm: 0,
            heard: vec![false; spoken.len()],
            false_starts: 0,
            late_ms: Vec::new(),
            off_ms: Vec::new(),
        }
    }

    /// What the detector said after a frame.
    pub fn frame(&mut self, samples: usize, speech: bool, change: Option<Change>, until: u64) {
        let middle = self.position + samples as u64 / 2;
        self.position += samples as u64;
        let last = self.spoken.iter().rposition(|span| span.start <= middle);
        let within = last.filter(|&n| middle < self.spoken[n].end);
        if let Some(n) = within {
            self.spoken_samples += samples as u64;
            self.missed += u64::from(!speech) * samples as u64;
            self.heard[n] |= speech;
        } else if last.is_none_or(|n| middle >= self.spoken[n].end + self.grace) {
            self.pauses += samples as u64;
            self.false_alarm += u64::from(speech) * samples as u64;
        }
        match change {
            Some(Change::Started) => match within {
                Some(n) if self.late_ms.len() <= n => {
                    self.late_ms.push((self.position - self.spoken[n].start) as f64 / self.per_ms);
                }
                Some(_) => {}
                None if last.is_some_and(|n| middle < self.spoken[n].end + self.grace) => {}
                None => self.false_starts += 1,
            },
            Some(Change::Stopped) => {
                let nearest = self.spoken.iter().map(|span| until as f64 - span.end as f64);
                if let Some(off) = nearest.min_by(|a, b| a.abs().total_cmp(&b.abs())) {
                    self.off_ms.push(off / self.per_ms);
                }
            }
            None => {}
        }
    }

    /// Utterances in which nothing was heard.
    pub fn unheard(&self) -> usize {
        self.heard.iter().filter(|&&heard| !heard).count()
    }

    /// Begins of speech where nobody spoke.
    pub const fn false_starts(&self) -> u32 {
        self.false_starts
    }

    /// What of the pauses was taken for speech (%).
    pub fn false_alarm_percent(&self) -> Option<f64> {
        percent(self.false_alarm, self.pauses)
    }

    /// What so many percent of the begins were not later than (ms).
    pub fn late_ms(&self, percent: usize) -> Option<f64> {
        rank(&self.late_ms, percent)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"));
        let ranks = |p50: Option<f64>, p95: Option<f64>| match (p50, p95) {
            (Some(p50), Some(p95)) => format!("{p50:.0} / {p95:.0}"),
            _ => "-".to_owned(),
        };
        write!(
            f,
            "{} | {} | {} of {} | {} | {} | {}",
            or_none(percent(self.missed, self.spoken_samples)),
            or_none(self.false_alarm_percent()),
            self.unheard(),
            self.heard.len(),
            self.false_starts(),
            ranks(self.late_ms(50), self.late_ms(95)),
            ranks(rank(&self.off_ms, 50), rank(&self.off_ms, 95)),
        )
    }
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

fn rank(figures: &[f64], percent: usize) -> Option<f64> {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get((figures.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}
