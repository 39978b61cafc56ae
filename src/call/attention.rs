//! Who is speaking: the caller by a detector, the agent by what leaves for the line. Turns come of it, and barge-in.

use crate::{
    call::{echo_guard::EchoGuard, turns::Turns},
    media::{
        Now, Rate,
        clock::PTIME,
        level::level_dbov,
        talk::Talk,
        vad::{Change, HANG_OVER, Vad},
    },
};

/// What is done when the caller speaks while the agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BargeIn {
    /// Nothing: the cloud hears it too, and flushes what it wants flushed.
    #[default]
    Cloud,
    /// The agent's speech is flushed at once, and the agent is told where its dialect has a word for it.
    Flush,
    /// The agent is told where its dialect has a word for it.
    Notify,
}

impl BargeIn {
    /// Every one, as the config spells them.
    pub const ALL: [(&'static str, Self); 3] =
        [("cloud", Self::Cloud), ("flush", Self::Flush), ("notify", Self::Notify)];
}

/// What one piece of the caller's sound told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Somebody began to speak. `sure`: it is no echo of the agent.
    Started { sure: bool },
    /// What may have been an echo is the caller, or the caller's voice is in it now.
    Sure,
    /// So long ago, at the agent's answer that has been heard already, if it has.
    Stopped { answered_after: Option<Now> },
}

/// Listens to one call.
pub(super) struct Attention {
    rate: Rate,
    detector: Detector,
    /// Samples that the detector has heard.
    heard: u64,
    turns: Turns,
}

enum Detector {
    Level(Talk),
    /// Where deeds follow.
    Network(Box<Network>),
}

/// A detector that is not to be deceived by our own agent.
struct Network {
    vad: Vad,
    guard: EchoGuard,
    /// When the speech that goes on was last louder than an echo could be; `None`: it may be one.
    sure_at: Option<Now>,
}

impl Network {
    const fn new(rate: Rate) -> Self {
        Self { vad: Vad::new(rate, HANG_OVER), guard: EchoGuard::new(rate), sure_at: None }
    }

    /// What changed, and whether the caller is known to speak from now on.
    fn push(&mut self, now: Now, samples: &[i16]) -> (Option<Change>, bool) {
        let change = self.vad.push(samples);
        self.guard.on_caller(now, samples);
        if !self.vad.is_speech() {
            self.sure_at = None;
        } else if self.guard.is_caller() {
            return (change, self.sure_at.replace(now).is_none());
        } else if self.sure_at.is_some_and(|at| now.saturating_sub(at) >= HANG_OVER) {
            // An echo may go on where the caller has stopped.
            self.sure_at = None;
        }
        (change, false)
    }
}

impl Attention {
    pub(super) fn new(rate: Rate, barge_in: BargeIn) -> Self {
        let detector = match barge_in {
            BargeIn::Cloud => Detector::Level(Talk::new(rate, HANG_OVER)),
            BargeIn::Flush | BargeIn::Notify => Detector::Network(Box::new(Network::new(rate))),
        };
        Self { rate, detector, heard: 0, turns: Turns::default() }
    }

    /// The caller's sound has another rate from now on.
    pub(super) fn set_rate(&mut self, rate: Rate) {
        if rate == self.rate {
            return;
        }
        match &mut self.detector {
            Detector::Level(talk) => *talk = Talk::new(rate, HANG_OVER),
            Detector::Network(network) => {
                network.vad = Vad::new(rate, HANG_OVER);
                network.guard.set_rate(rate);
                network.sure_at = None;
            }
        }
        (self.rate, self.heard) = (rate, 0);
    }

    pub(super) const fn turns(&self) -> &Turns {
        &self.turns
    }

    /// These samples of the caller have just come.
    pub(super) fn on_caller(&mut self, now: Now, samples: &[i16]) -> Option<Heard> {
        self.heard += samples.len() as u64;
        let ((change, sure), speaks, from, until) = match &mut self.detector {
            Detector::Level(talk) => {
                ((talk.push(samples), false), talk.is_speech(), talk.spoken_from(), talk.spoken_until())
            }
            Detector::Network(network) => {
                let told = network.push(now, samples);
                let vad = &network.vad;
                (told, vad.is_speech(), vad.spoken_from(), vad.spoken_until())
            }
        };
        let at =
            |position: u64| now.saturating_sub(self.rate.duration((self.heard - position.min(self.heard)) as usize));
        match change {
            Some(Change::Started) => {
                self.turns.on_caller_started(at(from));
                Some(Heard::Started { sure })
            }
            Some(Change::Stopped) => Some(Heard::Stopped { answered_after: self.turns.on_caller_stopped(at(until)) }),
            None => {
                if speaks {
                    self.turns.on_caller_heard(at(until));
                }
                sure.then_some(Heard::Sure)
            }
        }
    }

    /// What the agent said and was not heard will not be.
    pub(super) fn on_agent_flushed(&mut self, now: Now) {
        self.turns.on_agent_flushed(now);
        if let Detector::Network(network) = &mut self.detector {
            network.guard.on_agent_flushed(now);
        }
    }

    /// These samples of the agent's, at this rate, are heard from `at` on: what comes back of them is not the caller.
    pub(super) fn on_played(&mut self, at: Now, rate: Rate, samples: &[i16]) {
        if let Detector::Network(network) = &mut self.detector {
            for (frame, at) in samples.chunks(rate.frame()).zip((0..).map(|n| at + PTIME * n)) {
                network.guard.on_agent(at, level_dbov(frame));
            }
        }
    }

    /// So much of the agent's speech is heard from `at` on. Gives the response delay where it is an answer.
    pub(super) fn on_agent(&mut self, at: Now, samples: usize, rate: Rate) -> Option<Now> {
        self.turns.on_agent_heard(at, at + rate.duration(samples))
    }
}
