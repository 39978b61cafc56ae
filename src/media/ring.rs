//! The queue of samples of one direction.
//!
//! A chain of blocks from the [`Pool`]. Samples are pushed at its tail and popped at its head; a *staged* tail behind the
//! published samples can be published or rolled back, which is how a message is decoded before its end is known. Positions
//! count samples since the start of the call, so a mark is a number.
//!
//! ```text
//!          popped                        pushed
//!   head ----v----------------------------v................. tail
//!            |  published: len() samples  |  staged samples
//! ```

use crate::media::pool::{Account, BLOCK, BlockId, END, Full, Pool};

/// The queue.
#[derive(Debug)]
pub struct Ring {
    head: BlockId,
    head_at: usize,
    tail: BlockId,
    tail_at: usize,
    published_tail: BlockId,
    published_tail_at: usize,
    len: usize,
    staged: usize,
    limit: usize,
    popped: u64,
}

impl Ring {
    /// An empty ring of at most `limit` samples, staged ones included.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            head: END,
            head_at: 0,
            tail: END,
            tail_at: BLOCK,
            published_tail: END,
            published_tail_at: BLOCK,
            len: 0,
            staged: 0,
            limit,
            popped: 0,
        }
    }

    /// Changes the most that it may hold.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Samples that can be popped.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to pop.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Samples staged and not yet published.
    #[must_use]
    pub const fn staged(&self) -> usize {
        self.staged
    }

    /// The position of the next sample to be popped: how many left the ring so far, by whatever door.
    #[must_use]
    pub const fn popped(&self) -> u64 {
        self.popped
    }

    /// The position behind the last published sample.
    #[must_use]
    pub const fn pushed(&self) -> u64 {
        self.popped + self.len as u64
    }

    /// Samples that could be staged now.
    #[must_use]
    pub fn room(&self, pool: &Pool, account: &Account) -> usize {
        let here = if self.tail == END { 0 } else { BLOCK - self.tail_at };
        (here + pool.allowance(account) * BLOCK).min(self.limit.saturating_sub(self.len + self.staged))
    }

    /// Stages as many samples as there is room for and says how many.
    pub fn stage(&mut self, pool: &mut Pool, account: &mut Account, mut samples: &[i16]) -> usize {
        let wanted = samples.len().min(self.limit.saturating_sub(self.len + self.staged));
        samples = &samples[..wanted];
        while !samples.is_empty() {
            if self.tail == END || self.tail_at == BLOCK {
                let Ok(block) = pool.take(account) else { break };
                if self.tail == END {
                    self.head = block;
                    self.head_at = 0;
                } else {
                    pool.join(self.tail, block);
                }
                if self.published_tail == END {
                    self.published_tail = block;
                    self.published_tail_at = 0;
                }
                self.tail = block;
                self.tail_at = 0;
            }
            let n = samples.len().min(BLOCK - self.tail_at);
            pool.samples_mut(self.tail)[self.tail_at..][..n].copy_from_slice(&samples[..n]);
            self.tail_at += n;
            self.staged += n;
            samples = &samples[n..];
        }
        wanted - samples.len()
    }

    /// Makes the staged samples part of the queue and says how many they were.
    pub fn publish(&mut self) -> usize {
        let published = self.staged;
        self.len += published;
        self.staged = 0;
        self.published_tail = self.tail;
        self.published_tail_at = self.tail_at;
        published
    }

    /// Forgets the staged samples.
    pub fn rollback(&mut self, pool: &mut Pool, account: &mut Account) {
        if self.staged == 0 {
            return;
        }
        let mut block = pool.next(self.published_tail);
        while block != END {
            let next = pool.next(block);
            pool.give_back(account, block);
            block = next;
        }
        pool.join(self.published_tail, END);
        self.tail = self.published_tail;
        self.tail_at = self.published_tail_at;
        self.staged = 0;
    }

    /// Pushes all of the samples or none.
    ///
    /// # Errors
    /// [`Full`] when there is no room for all of them.
    pub fn push(&mut self, pool: &mut Pool, account: &mut Account, samples: &[i16]) -> Result<(), Full> {
        if self.room(pool, account) < samples.len() {
            return Err(Full);
        }
        self.stage(pool, account, samples);
        self.publish();
        Ok(())
    }

    /// Copies the next samples without taking them; says how many there were, at most `out.len()`.
    pub fn peek(&self, pool: &Pool, out: &mut [i16]) -> usize {
        let wanted = out.len().min(self.len);
        let (mut block, mut at, mut done) = (self.head, self.head_at, 0);
        while done < wanted {
            if at == BLOCK {
                block = pool.next(block);
                at = 0;
            }
            let n = (wanted - done).min(BLOCK - at);
            out[done..done + n].copy_from_slice(&pool.samples(block)[at..at + n]);
            at += n;
            done += n;
        }
        wanted
    }

    /// Takes the next samples; says how many there were, at most `out.len()`.
    pub fn pop(&mut self, pool: &mut Pool, account: &mut Account, out: &mut [i16]) -> usize {
        let n = self.peek(pool, out);
        self.skip(pool, account, n)
    }

    /// Takes up to `count` samples without looking at them; says how many there were.
    pub fn skip(&mut self, pool: &mut Pool, account: &mut Account, count: usize) -> usize {
        let wanted = count.min(self.len);
        let mut left = wanted;
        while left > 0 {
            if self.head_at == BLOCK {
                let next = pool.next(self.head);
                pool.give_back(account, self.head);
                self.head = next;
                self.head_at = 0;
            }
            let n = left.min(BLOCK - self.head_at);
            self.head_at += n;
            left -= n;
        }
        self.len -= wanted;
        self.popped += wanted as u64;
        if self.len == 0 && self.staged == 0 && self.head != END {
            // Start over in the block we hold: a live stream stays in a few cache lines and touches no second block.
            while self.head != self.tail {
                let next = pool.next(self.head);
                pool.give_back(account, self.head);
                self.head = next;
            }
            self.published_tail = self.head;
            (self.head_at, self.tail_at, self.published_tail_at) = (0, 0, 0);
        }
        wanted
    }

    /// Takes everything that is published; says how many samples there were.
    pub fn clear(&mut self, pool: &mut Pool, account: &mut Account) -> usize {
        self.skip(pool, account, self.len)
    }

    /// Gives every block back. The ring is empty afterwards; positions go on.
    pub fn release(&mut self, pool: &mut Pool, account: &mut Account) {
        self.rollback(pool, account);
        self.clear(pool, account);
        if self.head != END {
            pool.give_back(account, self.head);
            (self.head, self.tail, self.published_tail) = (END, END, END);
            (self.head_at, self.tail_at, self.published_tail_at) = (0, BLOCK, BLOCK);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::pool::tests::pool;

    fn ramp(from: u64, n: usize) -> Vec<i16> {
        (from..from + n as u64).map(|i| (i % 30_011) as i16).collect()
    }

    #[test]
    fn samples_come_out_as_they_went_in_whatever_the_sizes() {
        let mut pool = pool(8);
        let mut account = pool.open(0, 8).unwrap();
        let mut ring = Ring::new(usize::MAX);
        let (mut pushed, mut popped) = (0_u64, 0_u64);
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = (seed >> 33) as usize % 700;
            if seed & 1 == 0 {
                pushed += ring.stage(&mut pool, &mut account, &ramp(pushed, n)) as u64;
                ring.publish();
            } else {
                let mut out = vec![0; n];
                let got = ring.pop(&mut pool, &mut account, &mut out);
                assert_eq!(out[..got], ramp(popped, got));
                popped += got as u64;
            }
            assert_eq!(ring.len() as u64, pushed - popped);
            assert_eq!((ring.popped(), ring.pushed()), (popped, pushed));
        }
        assert!(pushed > 1_000_000);
    }

    #[test]
    fn a_rolled_back_message_leaves_no_sample_and_no_block() {
        let mut pool = pool(8);
        let mut account = pool.open(0, 8).unwrap();
        let mut ring = Ring::new(usize::MAX);
        ring.push(&mut pool, &mut account, &ramp(0, 5000)).unwrap();
        let held = account.held();
        assert_eq!(ring.stage(&mut pool, &mut account, &ramp(0, 20_000)), 20_000);
        assert_eq!(ring.len(), 5000);
        ring.rollback(&mut pool, &mut account);
        assert_eq!(account.held(), held);
        ring.push(&mut pool, &mut account, &ramp(5000, 5000)).unwrap();
        let mut out = vec![0; 10_000];
        assert_eq!(ring.pop(&mut pool, &mut account, &mut out), 10_000);
        assert_eq!(out, ramp(0, 10_000));
    }

    #[test]
    fn a_rollback_into_an_empty_ring_leaves_it_usable() {
        let mut pool = pool(4);
        let mut account = pool.open(0, 4).unwrap();
        let mut ring = Ring::new(usize::MAX);
        ring.stage(&mut pool, &mut account, &ramp(0, 6000));
        ring.rollback(&mut pool, &mut account);
        assert_eq!((ring.len(), ring.staged()), (0, 0));
        ring.push(&mut pool, &mut account, &ramp(3, 4097)).unwrap();
        let mut out = [0; 4097];
        assert_eq!(ring.pop(&mut pool, &mut account, &mut out), 4097);
        assert_eq!(out.to_vec(), ramp(3, 4097));
    }

    #[test]
    fn popping_while_samples_are_staged_keeps_both() {
        let mut pool = pool(8);
        let mut account = pool.open(0, 8).unwrap();
        let mut ring = Ring::new(usize::MAX);
        ring.push(&mut pool, &mut account, &ramp(0, 4096)).unwrap();
        ring.stage(&mut pool, &mut account, &ramp(4096, 9000));
        let mut out = vec![0; 4096];
        assert_eq!(ring.pop(&mut pool, &mut account, &mut out), 4096);
        assert_eq!(ring.pop(&mut pool, &mut account, &mut out), 0, "staged samples are not there yet");
        ring.publish();
        let mut rest = vec![0; 9000];
        assert_eq!(ring.pop(&mut pool, &mut account, &mut rest), 9000);
        assert_eq!(rest, ramp(4096, 9000));
    }

    #[test]
    fn an_empty_published_part_can_be_rolled_back_behind_popped_samples() {
        let mut pool = pool(8);
        let mut account = pool.open(0, 8).unwrap();
        let mut ring = Ring::new(usize::MAX);
        ring.push(&mut pool, &mut account, &ramp(0, 4096)).unwrap();
        ring.stage(&mut pool, &mut account, &ramp(0, 5000));
        ring.skip(&mut pool, &mut account, 4096);
        ring.rollback(&mut pool, &mut account);
        ring.push(&mut pool, &mut account, &ramp(9, 100)).unwrap();
        let mut out = [0; 100];
        assert_eq!(ring.pop(&mut pool, &mut account, &mut out), 100);
        assert_eq!(out.to_vec(), ramp(9, 100));
    }

    #[test]
    fn a_ring_never_holds_more_than_its_limit() {
        let mut pool = pool(8);
        let mut account = pool.open(0, 8).unwrap();
        let mut ring = Ring::new(1000);
        assert_eq!(ring.stage(&mut pool, &mut account, &[1; 1500]), 1000);
        ring.publish();
        assert_eq!(ring.push(&mut pool, &mut account, &[1]), Err(Full));
        ring.release(&mut pool, &mut account);
        assert_eq!(account.held(), 0);
    }

    #[test]
    fn a_live_stream_stays_in_one_block() {
        let mut pool = pool(8);
        let mut account = pool.open(0, 8).unwrap();
        let mut ring = Ring::new(usize::MAX);
        for i in 0..1000 {
            ring.push(&mut pool, &mut account, &ramp(i, 160)).unwrap();
            ring.skip(&mut pool, &mut account, 160);
        }
        assert_eq!(pool.high_water(), 1);
    }
}
