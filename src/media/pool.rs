//! The blocks that all rings of a media thread share.
//!
//! One slab of samples, cut into blocks of [`BLOCK`] samples, with a last-in-first-out free list: a block that was
//! used is used again before one that never was, so resident memory is the high-water mark and no more. Every call has
//! an [`Account`]: what it may always have, and what it may have at most. Nobody can take what was promised to another.

/// Samples in one block: 8 KiB, two pages; half a second at 8 kHz.
pub const BLOCK: usize = 4096;

/// "No block" in a link.
const NONE: u32 = u32::MAX;

/// The end of a chain, or of the free list.
pub(crate) const END: BlockId = BlockId(NONE);

/// A block's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockId(u32);

/// What the pool knows of one block.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    next: u32,
    owner: u32,
}

impl Link {
    /// The link of a block that is nobody's.
    pub const FREE: Self = Self { next: NONE, owner: NONE };
}

/// There is no block to be had: the pool's rest is promised to others, or the account is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One call's right to blocks.
#[derive(Debug)]
pub struct Account {
    id: u32,
    held: u32,
    reserve: u32,
    limit: u32,
    /// What of the reserve was kept for a call that had not come yet.
    seat: u32,
}

impl Account {
    /// Blocks held now.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held as usize
    }
}

/// The blocks of one media thread.
///
/// The storage is lent for good (the shell leaks it once per thread): a pool lives as long as its thread.
pub struct Pool {
    samples: &'static mut [i16],
    links: &'static mut [Link],
    free_head: u32,
    /// Blocks on the free list.
    free: u32,
    /// Blocks never used so far; they are handed out only when the free list is empty.
    fresh: u32,
    /// Free blocks that are promised: to open accounts, and to the seats that nobody has taken.
    promised: u32,
    /// Seats that nobody has taken.
    seats: u32,
    /// Blocks that are kept for each of them.
    seat: u32,
    next_account: u32,
    high_water: u32,
}

impl Pool {
    /// A pool over this storage: as many blocks as both slices have room for. For each of `seats` calls it keeps `seat`
    /// blocks that no other call can take, as far as there are so many.
    #[must_use]
    pub fn new(samples: &'static mut [i16], links: &'static mut [Link], seats: usize, seat: usize) -> Self {
        let blocks = (samples.len() / BLOCK).min(links.len());
        let fresh = u32::try_from(blocks).unwrap_or(NONE - 1);
        let seat = u32::try_from(seat).unwrap_or(u32::MAX);
        let seats = u32::try_from(seats).unwrap_or(u32::MAX).min(fresh.checked_div(seat).unwrap_or(0));
        Self {
            samples,
            links,
            free_head: NONE,
            free: 0,
            fresh,
            promised: seats * seat,
            seats,
            seat,
            next_account: 0,
            high_water: 0,
        }
    }

    /// Blocks in all.
    #[must_use]
    pub fn blocks(&self) -> usize {
        (self.samples.len() / BLOCK).min(self.links.len())
    }

    /// Blocks that nobody holds.
    #[must_use]
    pub const fn available(&self) -> usize {
        (self.free + self.fresh) as usize
    }

    /// The most blocks that were ever held at once.
    #[must_use]
    pub const fn high_water(&self) -> usize {
        self.high_water as usize
    }

    /// Opens an account that may always have `reserve` blocks and at most `limit`.
    ///
    /// # Errors
    /// [`Full`] when the reserve cannot be promised: then the call is refused, not starved later.
    pub fn open(&mut self, reserve: usize, limit: usize) -> Result<Account, Full> {
        let seat = if self.seats > 0 { self.seat } else { 0 };
        let reserve = u32::try_from(reserve).map_err(|_| Full)?.max(seat);
        self.promise(reserve - seat)?;
        self.seats -= u32::from(seat > 0);
        let id = self.next_account;
        self.next_account = self.next_account.wrapping_add(1) % NONE;
        let limit = u32::try_from(limit).unwrap_or(NONE).max(reserve);
        Ok(Account { id, held: 0, reserve, limit, seat })
    }

    /// Gives an account more: its reserve as far as that can still be promised, its limit in any case.
    pub fn grow(&mut self, account: &mut Account, reserve: usize, limit: usize) {
        account.limit = account.limit.max(u32::try_from(limit).unwrap_or(NONE));
        let reserve = u32::try_from(reserve).unwrap_or(NONE);
        // What it holds already needs no promise.
        let more = reserve.saturating_sub(account.reserve.max(account.held));
        if reserve > account.reserve && self.promise(more).is_ok() {
            account.reserve = reserve;
        }
    }

    fn promise(&mut self, more: u32) -> Result<(), Full> {
        if self.promised.saturating_add(more) > self.free + self.fresh {
            return Err(Full);
        }
        self.promised += more;
        Ok(())
    }

    /// Closes an account and takes back whatever it still holds, even if its rings were left in disorder by a panic.
    pub fn close(&mut self, account: &mut Account) {
        if account.held > 0 {
            for block in 0..self.links.len() {
                if self.links[block].owner == account.id {
                    self.give_back(account, BlockId(block as u32));
                }
            }
        }
        self.promised -= account.reserve - account.seat;
        self.seats += u32::from(account.seat > 0);
        (account.reserve, account.limit, account.seat) = (0, 0, 0);
    }

    /// Blocks that this account could take now.
    #[must_use]
    pub fn allowance(&self, account: &Account) -> usize {
        let own = account.reserve.saturating_sub(account.held);
        let common = (self.free + self.fresh).saturating_sub(self.promised);
        (own + common).min(account.limit.saturating_sub(account.held)) as usize
    }

    pub(crate) fn take(&mut self, account: &mut Account) -> Result<BlockId, Full> {
        if self.allowance(account) == 0 {
            return Err(Full);
        }
        let block = if self.free_head == NONE {
            self.fresh -= 1;
            self.blocks() as u32 - 1 - self.fresh
        } else {
            let block = self.free_head;
            self.free_head = self.links[block as usize].next;
            self.free -= 1;
            block
        };
        if account.held < account.reserve {
            self.promised -= 1;
        }
        account.held += 1;
        self.links[block as usize] = Link { next: NONE, owner: account.id };
        self.high_water = self.high_water.max(self.blocks() as u32 - self.free - self.fresh);
        Ok(BlockId(block))
    }

    pub(crate) fn give_back(&mut self, account: &mut Account, block: BlockId) {
        account.held -= 1;
        if account.held < account.reserve {
            self.promised += 1;
        }
        self.links[block.0 as usize] = Link { next: self.free_head, owner: NONE };
        self.free_head = block.0;
        self.free += 1;
    }

    pub(crate) fn next(&self, block: BlockId) -> BlockId {
        BlockId(self.links[block.0 as usize].next)
    }

    pub(crate) fn join(&mut self, block: BlockId, next: BlockId) {
        self.links[block.0 as usize].next = next.0;
    }

    pub(crate) fn samples(&self, block: BlockId) -> &[i16] {
        &self.samples[block.0 as usize * BLOCK..][..BLOCK]
    }

    pub(crate) fn samples_mut(&mut self, block: BlockId) -> &mut [i16] {
        &mut self.samples[block.0 as usize * BLOCK..][..BLOCK]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A pool of this many blocks.
    pub(crate) fn pool(blocks: usize) -> Pool {
        Pool::new(Box::leak(vec![0; blocks * BLOCK].into()), Box::leak(vec![Link::FREE; blocks].into()), 0, 0)
    }

    #[test]
    fn a_block_that_was_used_is_used_again_first() {
        let mut pool = pool(4);
        let mut account = pool.open(0, 4).unwrap();
        let first = pool.take(&mut account).unwrap();
        pool.give_back(&mut account, first);
        assert_eq!(pool.take(&mut account).unwrap(), first);
        assert_eq!(pool.high_water(), 1);
    }

    #[test]
    fn what_is_promised_to_one_call_no_other_can_take() {
        let mut pool = pool(5);
        let mut greedy = pool.open(1, 100).unwrap();
        let mut modest = pool.open(2, 2).unwrap();
        let taken = (0..100).take_while(|_| pool.take(&mut greedy).is_ok()).count();
        assert_eq!(taken, 3, "1 of its own and the 2 that are common");
        assert!(pool.take(&mut modest).is_ok() && pool.take(&mut modest).is_ok());
        assert_eq!(pool.take(&mut modest), Err(Full));
    }

    #[test]
    fn a_call_whose_reserve_cannot_be_promised_is_refused() {
        let mut pool = pool(3);
        let mut first = pool.open(2, 2).unwrap();
        assert_eq!(pool.open(2, 2).err(), Some(Full));
        pool.close(&mut first);
        assert!(pool.open(2, 2).is_ok());
    }

    #[test]
    fn long_bursts_of_two_calls_do_not_keep_a_third_one_out() {
        let samples = Box::leak(vec![0; 12 * BLOCK].into());
        let mut pool = Pool::new(samples, Box::leak(vec![Link::FREE; 12].into()), 3, 2);
        let mut greedy = [pool.open(2, 100).unwrap(), pool.open(2, 100).unwrap()];
        for account in &mut greedy {
            while pool.take(account).is_ok() {}
        }
        assert_eq!(pool.available(), 2);
        let mut third = pool.open(2, 100).unwrap();
        assert!(pool.take(&mut third).is_ok() && pool.take(&mut third).is_ok());
        assert_eq!(pool.take(&mut third), Err(Full));
        for account in greedy.iter_mut().chain([&mut third]) {
            pool.close(account);
        }
        assert_eq!((pool.available(), pool.promised), (12, 6), "three seats are kept again");
    }

    #[test]
    fn an_account_can_grow_as_far_as_there_is_something_to_promise() {
        let mut pool = pool(5);
        let mut account = pool.open(2, 2).unwrap();
        let mut other = pool.open(1, 1).unwrap();
        pool.grow(&mut account, 4, 4);
        assert_eq!(pool.open(1, 1).err(), Some(Full));
        pool.grow(&mut other, 2, 2);
        assert_eq!(pool.allowance(&other), 1, "nothing is left to promise");
        pool.close(&mut account);
        pool.close(&mut other);
        assert_eq!(pool.promised, 0);
    }

    #[test]
    fn closing_an_account_takes_back_blocks_that_its_rings_forgot() {
        let mut pool = pool(4);
        let mut account = pool.open(1, 4).unwrap();
        for _ in 0..3 {
            pool.take(&mut account).unwrap();
        }
        pool.close(&mut account);
        assert_eq!(pool.available(), 4);
        assert!(pool.open(4, 4).is_ok(), "nothing stays promised");
    }
}
