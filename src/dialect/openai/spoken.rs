//! What the agent has said, item by item, and how much of it was heard.
//!
//! The server sends minutes in seconds and believes that all of it was heard until it is told otherwise. What was heard
//! is what came less what was flushed, counted from the end.
//!
//! ```text
//!   came     |---- item_1 ----|---- item_2 ----|
//!   flushed              |-------------------- |
//!   heard    |-----------|                        item_1 ends here, item_2 at 0
//! ```

use heapless::Deque;

use crate::{
    dialect::{Text, json::Value},
    media::Rate,
};

/// The items of the last responses.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    items: Deque<Item, MOST>,
    /// How many of them, the oldest, were interrupted: what comes after them is not what a clear flushed.
    interrupted: usize,
    /// The last of those was still being said, so that more of it may be on its way, which nobody will hear.
    unfinished: bool,
}

/// One item of the conversation.
#[derive(Debug)]
struct Item {
    id: Text,
    content_index: u64,
    samples: u64,
}

/// An item that was not heard to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Truncate {
    pub(super) item_id: Text,
    pub(super) content_index: u64,
    pub(super) audio_end_ms: u64,
}

impl Spoken {
    /// The next samples belong to this item. One without an id cannot be truncated, but takes its share.
    pub(super) fn on_item(&mut self, id: Option<Value<'_>>, content_index: u64) {
        let is_last = |item: &Item| {
            id.map_or(item.id.is_empty(), |id| id.is(item.id.as_bytes())) && item.content_index == content_index
        };
        if self.items.len() > self.interrupted && self.items.back().is_some_and(is_last) {
            return;
        }
        if self.items.is_full() {
            // Heard long ago, unless there are more items than anybody says in one breath.
            self.items.pop_front();
            self.interrupted = self.interrupted.saturating_sub(1);
        }
        let mut item = Item { id: Text::new(), content_index, samples: 0 };
        if let Some(id) = id {
            id.text(&mut item.id);
        }
        // There is room now.
        let _ = self.items.push_back(item);
    }

    /// So many samples came.
    pub(super) fn on_samples(&mut self, samples: u64) {
        if let Some(item) = self.items.back_mut() {
            item.samples += samples;
        }
    }

    /// The caller interrupts; `is_speaking`: while a response is not complete.
    pub(super) fn interrupt(&mut self, is_speaking: bool) {
        if self.items.len() > self.interrupted {
            self.interrupted = self.items.len();
            self.unfinished = is_speaking;
        }
    }

    /// So much was flushed. Each item that was not heard to its end goes to `truncate`, the latest first.
    pub(super) fn cleared(
        &mut self,
        unheard_ms: u64,
        rate: Rate,
        is_speaking: bool,
        mut truncate: impl FnMut(Truncate),
    ) {
        if self.interrupted == 0 {
            self.interrupt(is_speaking);
        }
        let interrupted = core::mem::take(&mut self.interrupted);
        let mut unfinished = core::mem::take(&mut self.unfinished);
        let mut left = unheard_ms;
        for item in self.items.iter().take(interrupted).rev() {
            let produced_ms = item.samples * 1000 / u64::from(rate.hz());
            let unheard = left.min(produced_ms);
            left -= unheard;
            if (unheard > 0 || unfinished) && !item.id.is_empty() {
                truncate(Truncate {
                    item_id: item.id.clone(),
                    content_index: item.content_index,
                    audio_end_ms: produced_ms - unheard,
                });
            }
            unfinished = false;
        }
        for _ in 0..interrupted {
            self.items.pop_front();
        }
    }
}

/// More items than one response has, and than are heard at a time.
pub(super) const MOST: usize = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;

    /// Items of so many ms each, at 8 kHz.
    fn spoken(items: &[(&str, u64)]) -> Spoken {
        let mut spoken = Spoken::default();
        for (id, ms) in items {
            spoken.on_item(Some(Value::Str(id.as_bytes())), 0);
            spoken.on_samples(ms * 8 / 2);
            spoken.on_item(Some(Value::Str(id.as_bytes())), 0);
            spoken.on_samples(ms * 8 / 2);
        }
        spoken
    }

    fn cleared(spoken: &mut Spoken, unheard_ms: u64, is_speaking: bool) -> Vec<(String, u64)> {
        let mut cut = Vec::new();
        spoken.cleared(unheard_ms, Rate::Hz8000, is_speaking, |truncate| {
            cut.push((truncate.item_id.as_str().to_owned(), truncate.audio_end_ms));
        });
        cut
    }

    #[test]
    fn an_item_ends_where_it_was_heard_to_and_later_ones_at_nothing() {
        let items = [("item_1", 2_000), ("item_2", 600)];
        for (unheard, expected) in [
            (0, vec![]),
            (100, vec![("item_2", 500)]),
            (600, vec![("item_2", 0)]),
            (1_000, vec![("item_2", 0), ("item_1", 1_600)]),
            // More than came: another word was flushed with it.
            (9_999, vec![("item_2", 0), ("item_1", 0)]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(id, ms)| (id.to_owned(), ms)).collect();
            assert_eq!(cleared(&mut spoken(&items), unheard, false), expected, "{unheard}");
        }
    }

    #[test]
    fn an_item_that_is_still_being_said_ends_where_it_is_though_all_that_came_was_heard() {
        assert_eq!(cleared(&mut spoken(&[("a", 500), ("b", 40)]), 0, true), [("b".to_owned(), 40)]);
    }

    #[test]
    fn what_comes_between_an_interruption_and_its_clear_is_not_what_was_flushed() {
        let mut spoken = spoken(&[("a", 500)]);
        spoken.interrupt(true);
        spoken.on_item(Some(Value::Str(b"b")), 0);
        spoken.on_samples(8_000);
        assert_eq!(cleared(&mut spoken, 200, false), [("a".to_owned(), 300)]);
        assert_eq!(cleared(&mut spoken, 200, false), [("b".to_owned(), 800)]);
        assert_eq!(cleared(&mut spoken, 200, true), []);
    }

    #[test]
    fn an_item_without_an_id_takes_its_share_and_is_not_cut() {
        let mut spoken = spoken(&[("a", 500)]);
        spoken.on_item(None, 0);
        spoken.on_samples(800);
        assert_eq!(cleared(&mut spoken, 150, false), [("a".to_owned(), 450)]);
    }

    #[test]
    fn of_many_items_the_last_ones_are_known() {
        let mut spoken = Spoken::default();
        for n in 0..100 {
            let id = format!("item_{n}");
            spoken.on_item(Some(Value::Str(id.as_bytes())), 0);
            spoken.on_samples(800);
        }
        let cut = cleared(&mut spoken, 250, false);
        assert_eq!(cut, [("item_99".to_owned(), 0), ("item_98".to_owned(), 0), ("item_97".to_owned(), 50)]);
    }
}
