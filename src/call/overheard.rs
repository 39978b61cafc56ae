//! Both sides of a call as they were heard at its line, in step: for recordings and for whoever listens live.
//!
//! What the caller says comes when it comes; the agent's voice is known when it is sent. Each side waits here in a small
//! queue, and every tick takes one frame of both. A side that has nothing is silent.

use crate::media::{Rate, frame::MAX_SAMPLES};

/// The two queues.
pub(super) struct Overheard {
    rate: Rate,
    caller: Queue,
    agent: Queue,
}

impl Overheard {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, caller: Queue::new(rate), agent: Queue::new(rate) }
    }

    /// The rate of what waits.
    pub(super) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Both sides have another rate from now on; what waits at the old one is forgotten.
    pub(super) fn set_rate(&mut self, rate: Rate) {
        if rate != self.rate {
            *self = Self::new(rate);
        }
    }

    /// The caller said this.
    pub(super) fn on_caller(&mut self, samples: &[i16]) {
        self.caller.push(samples);
    }

    /// The caller hears this next, after what was sent before.
    pub(super) fn on_agent(&mut self, samples: &[i16]) {
        self.agent.push(samples);
    }

    /// What the caller has not heard yet it will not hear.
    pub(super) fn flush_agent(&mut self) {
        self.agent.len = 0;
    }

    /// Takes one frame of both sides.
    pub(super) fn frame(&mut self, caller: &mut [i16], agent: &mut [i16]) {
        // A caller whose clock runs ahead of ours does not drift away from the agent.
        let most = self.rate.samples(MOST_BEHIND_MS);
        if self.caller.len > most {
            self.caller.skip(self.caller.len - most / 2);
        }
        self.caller.pop(caller);
        self.agent.pop(agent);
    }
}

/// The latest samples of one side.
struct Queue {
    samples: Box<[i16]>,
    start: usize,
    len: usize,
}

impl Queue {
    fn new(rate: Rate) -> Self {
        Self { samples: vec![0; rate.samples(QUEUE_MS)].into(), start: 0, len: 0 }
    }

    fn push(&mut self, samples: &[i16]) {
        for &sample in samples {
            if self.len == self.samples.len() {
                self.skip(1);
            }
            let at = (self.start + self.len) % self.samples.len();
            self.samples[at] = sample;
            self.len += 1;
        }
    }

    fn skip(&mut self, count: usize) {
        self.start = (self.start + count) % self.samples.len();
        self.len -= count;
    }

    /// Fills `out`, with silence where there is no more.
    fn pop(&mut self, out: &mut [i16]) {
        let n = self.len.min(out.len());
        for (slot, i) in out[..n].iter_mut().zip(self.start..) {
            *slot = self.samples[i % self.samples.len()];
        }
        self.skip(n);
        out[n..].fill(0);
    }
}

/// What each side may have waiting: more than any dialect's lead (ms).
const QUEUE_MS: usize = 1000;
/// What of the caller may wait for its tick: three messages of 100 ms, as some vendors send them (ms).
const MOST_BEHIND_MS: usize = 300;

/// Room for one frame of both sides, whatever the rate.
pub(super) type Frames = [[i16; MAX_SAMPLES]; 2];

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(heard: &mut Overheard) -> (Vec<i16>, Vec<i16>) {
        let (mut caller, mut agent) = (vec![9; 160], vec![9; 160]);
        heard.frame(&mut caller, &mut agent);
        (caller, agent)
    }

    #[test]
    fn both_sides_keep_step_and_who_says_nothing_is_silent() {
        let mut heard = Overheard::new(Rate::Hz8000);
        heard.on_caller(&[1; 160]);
        assert_eq!(frame(&mut heard), (vec![1; 160], vec![0; 160]));
        heard.on_agent(&[2; 240]);
        assert_eq!(frame(&mut heard), (vec![0; 160], vec![2; 160]));
        let (_, rest) = frame(&mut heard);
        assert_eq!((&rest[..80], &rest[80..]), (&[2; 80][..], &[0; 80][..]));
    }

    #[test]
    fn what_is_flushed_was_not_heard() {
        let mut heard = Overheard::new(Rate::Hz8000);
        heard.on_agent(&[2; 3200]);
        frame(&mut heard);
        heard.flush_agent();
        assert_eq!(frame(&mut heard).1, [0; 160]);
    }

    #[test]
    fn a_caller_that_runs_ahead_is_brought_back_to_the_present() {
        let mut heard = Overheard::new(Rate::Hz8000);
        for i in 0..20 {
            heard.on_caller(&[i; 160]);
        }
        // 150 ms stay, of which the last is the present.
        assert_eq!(frame(&mut heard).0[159], 13);
    }
}
