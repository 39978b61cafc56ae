//! What a stand-in agent does: what it says, when, and what it asks to be told.
//!
//! Nothing here knows a socket. A [`Speech`] gives out samples as they fall due, [`Marks`] names points in what was
//! said and counts how they come back.

use std::{
    fmt::Write as _,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use crate::{
    dialect::{MAX_MARK, Options, Wish},
    media::{Now, Rate, resample::Resampler},
};

/// A behaviour as the command line spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behave {
    /// Every sample heard goes back at once.
    Echo,
    /// A WAV, paced to the clock.
    Say(PathBuf),
    /// A WAV, as fast as the socket takes it.
    Burst(PathBuf),
    /// Nothing.
    Silent,
}

impl FromStr for Behave {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').map_or((text, None), |(word, file)| (word, Some(file))) {
            ("echo", None) => Ok(Self::Echo),
            ("silent", None) => Ok(Self::Silent),
            ("say", Some(file)) if !file.is_empty() => Ok(Self::Say(file.into())),
            ("burst", Some(file)) if !file.is_empty() => Ok(Self::Burst(file.into())),
            ("say" | "burst", _) => Err(format!("it needs a WAV file, as in {}:hello.wav", &text[..text.len().min(5)])),
            _ => Err("echo, say:FILE, burst:FILE and silent are possible".to_owned()),
        }
    }
}

/// What is done on every call.
pub(super) struct Script {
    pub(super) part: Part,
    /// So long after the first audio was sent, a clear goes out, once.
    pub(super) clear_after: Option<Now>,
    /// So long after the start, we hang up.
    pub(super) hangup_after: Option<Now>,
    /// How far ahead of the clock a say may be; the dialect's own unless given.
    pub(super) lead: Option<Now>,
    /// What is asked of the line, each so long after the start, in that order.
    pub(super) asks: Vec<(Now, Wish)>,
    /// Whether a mark is asked for at the end of each message.
    pub(super) marks: bool,
    /// Of whichever dialect is spoken.
    pub(super) options: Options,
    /// The rate of bare samples, unless the request target names one.
    pub(super) bare_rate: Rate,
}

/// [`Behave`] with its WAV read.
pub(super) enum Part {
    Echo,
    Say(Voice),
    Burst(Voice),
    Silent,
}

/// A recording, at every rate that a call has asked for.
pub(super) struct Voice {
    rate: Rate,
    samples: Arc<[i16]>,
    at: [OnceLock<Arc<[i16]>>; Rate::ALL.len()],
}

impl Voice {
    pub(super) fn new(rate: Rate, samples: Vec<i16>) -> Self {
        Self { rate, samples: samples.into(), at: Default::default() }
    }

    /// The recording at this rate. All calls share it.
    pub(super) fn at(&self, rate: Rate) -> Arc<[i16]> {
        if rate == self.rate {
            return Arc::clone(&self.samples);
        }
        let place = Rate::ALL.iter().position(|&one| one == rate).unwrap_or_default();
        Arc::clone(self.at[place].get_or_init(|| self.convert(rate)))
    }

    fn convert(&self, rate: Rate) -> Arc<[i16]> {
        let mut resampler = Resampler::new(self.rate, rate);
        // The last sounds are still under the taps when the recording ends.
        let tail = vec![0; self.rate.samples(2)];
        let mut made = vec![0; resampler.max_output(self.samples.len() + tail.len())];
        let first = resampler.process(&self.samples, &mut made).produced;
        let last = resampler.process(&tail, &mut made[first..]).produced;
        made.truncate(first + last);
        made.into()
    }
}

/// A recording on its way out.
pub(super) struct Speech {
    samples: Arc<[i16]>,
    rate: Rate,
    at: usize,
    began: Now,
    /// How far ahead of the clock it may be; `None`: as far as it likes.
    lead: Option<Now>,
}

impl Speech {
    pub(super) const fn new(samples: Arc<[i16]>, rate: Rate, began: Now, lead: Option<Now>) -> Self {
        Self { samples, rate, at: 0, began, lead }
    }

    /// The next message's samples, `chunk` of them or what is left, if they are due.
    pub(super) fn due(&self, now: Now, chunk: usize) -> &[i16] {
        let end = self.samples.len().min(self.at.saturating_add(chunk));
        if self.due_at(end).is_some_and(|at| now < at) { &[] } else { &self.samples[self.at..end] }
    }

    /// So many of them were said.
    pub(super) fn said(&mut self, n: usize) {
        self.at = self.samples.len().min(self.at + n);
    }

    /// When the next message falls due. `None`: there is no more, or it was due from the start.
    pub(super) fn next(&self, chunk: usize) -> Option<Now> {
        let end = self.samples.len().min(self.at.saturating_add(chunk));
        if end > self.at { self.due_at(end) } else { None }
    }

    /// Nothing more is to be said.
    pub(super) fn stop(&mut self) {
        self.at = self.samples.len();
    }

    fn due_at(&self, end: usize) -> Option<Now> {
        let lead = self.lead?;
        Some(self.began.saturating_add(self.rate.duration(end).saturating_sub(lead)))
    }
}

/// The marks of one call.
pub(super) struct Marks {
    style: Style,
    /// How many were asked for.
    pub(super) asked: u64,
    /// How many came back.
    pub(super) heard: u64,
    /// Those that came back did so in the order in which they were asked for, none twice, none that is not ours.
    pub(super) in_order: bool,
    last: u64,
}

/// How a mark is named.
#[derive(Clone, Copy)]
pub(super) enum Style {
    /// `m1`, `m2`.
    Short,
    /// Like a UUID, which is what the `seqid` of an Ozonetel packet is in the wild. The number tells calls apart.
    Uuid(u32),
}

/// What a mark is called.
pub(super) type Name = heapless::String<MAX_MARK>;

impl Marks {
    pub(super) const fn new(style: Style) -> Self {
        Self { style, asked: 0, heard: 0, in_order: true, last: 0 }
    }

    /// The name of the next mark to be asked for.
    pub(super) fn next(&self) -> Name {
        self.name(self.asked + 1)
    }

    /// It was asked for.
    pub(super) const fn ask(&mut self) {
        self.asked += 1;
    }

    /// A mark came back. A clear may have swallowed others before it.
    pub(super) fn hear(&mut self, name: &str) {
        self.heard += 1;
        let number = match self.style {
            Style::Short => name.strip_prefix('m').and_then(|n| n.parse().ok()),
            Style::Uuid(_) => name.rsplit_once('-').and_then(|(_, n)| u64::from_str_radix(n, 16).ok()),
        };
        match number {
            Some(number) if number > self.last && number <= self.asked && self.name(number) == name => {
                self.last = number;
            }
            Some(_) | None => self.in_order = false,
        }
    }

    fn name(&self, number: u64) -> Name {
        let mut name = Name::new();
        // 64 bytes hold either.
        let _ = match self.style {
            Style::Short => write!(name, "m{number}"),
            Style::Uuid(call) => write!(name, "{call:08x}-0000-4000-8000-{number:012x}"),
        };
        name
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    #[test]
    fn behaviours_are_spelled_as_in_the_help() {
        assert_eq!("echo".parse(), Ok(Behave::Echo));
        assert_eq!("silent".parse(), Ok(Behave::Silent));
        assert_eq!("say:/a/b:c.wav".parse(), Ok(Behave::Say("/a/b:c.wav".into())));
        assert_eq!("burst:x.wav".parse(), Ok(Behave::Burst("x.wav".into())));
        for (text, words) in [
            ("say", "it needs a WAV file, as in say:hello.wav"),
            ("burst:", "it needs a WAV file, as in burst:hello.wav"),
            ("echo:1", "echo, say:FILE, burst:FILE and silent are possible"),
            ("sing", "echo, say:FILE, burst:FILE and silent are possible"),
        ] {
            assert_eq!(text.parse::<Behave>(), Err(words.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_paced_speech_is_never_further_ahead_than_its_lead() {
        let samples: Arc<[i16]> = vec![1; 8000].into();
        for lead in [0, 60, 200] {
            let mut speech = Speech::new(Arc::clone(&samples), Rate::Hz8000, ms(1000), Some(ms(lead)));
            let mut said = 0;
            let mut now = ms(1000);
            loop {
                while let n @ 1.. = speech.due(now, 80).len() {
                    said += n;
                    speech.said(n);
                }
                let played = Rate::Hz8000.samples((now - ms(1000)).as_millis() as usize);
                assert!(said <= played + Rate::Hz8000.samples(lead as usize));
                let Some(next) = speech.next(80) else { break };
                assert!(next > now, "what is due was said");
                now = next;
            }
            assert_eq!((said, now), (8000, ms(2000 - lead)), "not later than it has to be");
        }
    }

    #[test]
    fn a_speech_without_a_lead_is_due_at_once() {
        let mut speech = Speech::new(vec![1; 1000].into(), Rate::Hz8000, ms(5), None);
        assert_eq!(speech.next(160), None);
        assert_eq!(speech.due(ms(5), 160).len(), 160);
        speech.said(960);
        assert_eq!(speech.due(ms(5), 160).len(), 40);
        speech.stop();
        assert_eq!(speech.due(ms(9999), 160).len(), 0);
    }

    #[test]
    fn a_recording_lasts_as_long_at_every_rate_and_is_converted_once() {
        let voice = Voice::new(Rate::Hz24000, (0..24_000).map(|i| ((i % 240) * 100 - 12_000) as i16).collect());
        for rate in Rate::ALL {
            let samples = voice.at(rate);
            let second = rate.hz() as usize;
            assert!((second..=second + rate.samples(2)).contains(&samples.len()), "{} at {rate}", samples.len());
            assert!(Arc::ptr_eq(&samples, &voice.at(rate)));
        }
    }

    #[test]
    fn marks_that_come_back_in_order_are_told_from_those_that_do_not() {
        for style in [Style::Short, Style::Uuid(0xfeed_0001)] {
            let mut marks = Marks::new(style);
            let names: Vec<Name> = (0..4)
                .map(|_| {
                    let name = marks.next();
                    marks.ask();
                    name
                })
                .collect();
            marks.hear(&names[0]);
            marks.hear(&names[2]); // the one between was cleared
            assert!(marks.in_order && marks.heard == 2);
            let next = marks.next();
            for wrong in [&*names[1], &names[2], &next, "m0", "", "strange", "-", "m99999999999999999999999"] {
                let mut marks = Marks { in_order: true, style, ..marks };
                marks.hear(wrong);
                assert!(!marks.in_order, "{wrong}");
            }
            marks.hear(&names[3]);
            assert!(marks.in_order && marks.heard == 3);
        }
        assert_eq!(Marks::new(Style::Short).next(), "m1");
        assert_eq!(Marks::new(Style::Uuid(0xfeed_0001)).next(), "feed0001-0000-4000-8000-000000000001");
    }
}
