//! The marks that wait in the downlink, by sample position.
//!
//! They are written as words into a [`Ring`] of their own, so they come from the same bounded pool as the samples and
//! cannot grow past it: position (4 words), length of the name in bytes (1), the name (2 bytes a word).

use crate::media::{
    pool::{Account, Pool},
    ring::Ring,
};

/// The longest name of a mark, in bytes.
pub const MAX_NAME: usize = 64;

/// Words of the largest entry.
const MAX_ENTRY: usize = 5 + MAX_NAME / 2;

/// The queue of marks.
#[derive(Debug)]
pub struct Marks {
    ring: Ring,
    count: usize,
    next: Option<u64>,
}

impl Default for Marks {
    fn default() -> Self {
        Self { ring: Ring::new(usize::MAX), count: 0, next: None }
    }
}

impl Marks {
    /// How many wait.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether there is room for one more, whatever its name.
    #[must_use]
    pub fn has_room(&self, pool: &Pool, account: &Account) -> bool {
        self.ring.room(pool, account) >= MAX_ENTRY
    }

    /// Adds a mark at this position (never before the last one's). Names beyond [`MAX_NAME`] bytes are cut.
    ///
    /// Returns whether there was room.
    pub fn push(&mut self, pool: &mut Pool, account: &mut Account, position: u64, name: &str) -> bool {
        if !self.has_room(pool, account) {
            return false;
        }
        let name = cut(name, MAX_NAME).as_bytes();
        let mut entry = [0_i16; MAX_ENTRY];
        for (i, word) in entry[..4].iter_mut().enumerate() {
            *word = (position >> (16 * i)) as i16;
        }
        entry[4] = name.len() as i16;
        for (word, pair) in entry[5..].iter_mut().zip(name.chunks(2)) {
            *word = i16::from_le_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        }
        let words = 5 + name.len().div_ceil(2);
        if self.ring.push(pool, account, &entry[..words]).is_err() {
            return false;
        }
        self.count += 1;
        self.next.get_or_insert(position);
        true
    }

    /// The position of the first mark.
    #[must_use]
    pub const fn next(&self) -> Option<u64> {
        self.next
    }

    /// Takes the first mark and gives its name.
    pub fn pop(&mut self, pool: &mut Pool, account: &mut Account) -> Option<heapless::String<MAX_NAME>> {
        self.next?;
        let mut head = [0_i16; 5];
        self.ring.pop(pool, account, &mut head);
        let bytes = (head[4] as usize).min(MAX_NAME);
        let mut words = [0_i16; MAX_NAME / 2];
        self.ring.pop(pool, account, &mut words[..bytes.div_ceil(2)]);
        let mut name = heapless::Vec::<u8, MAX_NAME>::new();
        for word in &words[..bytes.div_ceil(2)] {
            // An odd name's padding byte does not fit behind a full one; it is cut off below in any case.
            let _ = name.extend_from_slice(&word.to_le_bytes());
        }
        name.truncate(bytes);
        self.count -= 1;
        let mut position = [0_i16; 4];
        self.next = (self.ring.peek(pool, &mut position) == 4)
            .then(|| (0..4).fold(0, |sum, i| sum | u64::from(position[i] as u16) << (16 * i)));
        Some(heapless::String::from_utf8(name).unwrap_or_default())
    }

    /// Forgets them all.
    pub fn clear(&mut self, pool: &mut Pool, account: &mut Account) {
        self.ring.clear(pool, account);
        self.count = 0;
        self.next = None;
    }

    /// Forgets them all and gives the blocks back.
    pub fn release(&mut self, pool: &mut Pool, account: &mut Account) {
        self.clear(pool, account);
        self.ring.release(pool, account);
    }
}

/// The longest prefix of at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::pool::tests::pool;

    #[test]
    fn marks_come_back_in_order_with_names_and_positions() {
        let mut pool = pool(16);
        let mut account = pool.open(0, 16).unwrap();
        let mut marks = Marks::default();
        let name = |i: u64| format!("{:x<width$}", i, width = (i % 64) as usize + 1);
        for i in 0..1500 {
            assert!(marks.push(&mut pool, &mut account, i << 30, &name(i)));
        }
        for i in 0..1500 {
            assert_eq!(marks.next(), Some(i << 30));
            assert_eq!(marks.pop(&mut pool, &mut account).unwrap(), name(i).as_str());
        }
        assert_eq!((marks.next(), marks.count()), (None, 0));
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let mut pool = pool(2);
        let mut account = pool.open(0, 2).unwrap();
        let mut marks = Marks::default();
        assert!(marks.push(&mut pool, &mut account, 0, &"é".repeat(40)));
        assert!(marks.push(&mut pool, &mut account, 0, ""));
        assert!(marks.push(&mut pool, &mut account, 0, &format!("x{}", "é".repeat(40))));
        assert_eq!(marks.pop(&mut pool, &mut account).unwrap(), "é".repeat(32).as_str());
        assert_eq!(marks.pop(&mut pool, &mut account).unwrap(), "");
        assert_eq!(marks.pop(&mut pool, &mut account).unwrap().len(), 63);
    }

    #[test]
    fn a_flood_of_marks_stops_at_the_accounts_limit() {
        let mut pool = pool(16);
        let mut account = pool.open(0, 2).unwrap();
        let mut marks = Marks::default();
        let stored = (0..100_000).take_while(|_| marks.push(&mut pool, &mut account, 0, "m")).count();
        assert!((1000..2000).contains(&stored), "{stored}");
        marks.release(&mut pool, &mut account);
        assert_eq!(account.held(), 0);
    }
}
