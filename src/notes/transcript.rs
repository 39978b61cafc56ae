//! What was said in a call, turn by turn, out of the pieces in which clouds tell it.
//!
//! A cloud tells a turn in pieces, as a whole, or in pieces and then as a whole, which counts. The two speakers' turns
//! overlap: the caller's words are often known only when the agent speaks already. So each has a turn of his own open,
//! which the other's next piece ends, but not the other's whole.

use crate::dialect::Speaker;

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) who: Speaker,
    /// The words.
    pub(super) text: String,
    /// When the first of it was told (ms since 1970).
    pub(super) at_ms: u64,
}

/// A turn that may go on.
#[derive(Clone, Debug)]
struct Open {
    /// Its pieces, with the escapes of JSON: one may be cut in two.
    escaped: String,
    at_ms: u64,
    /// Nobody heard the rest of it: the next piece is another turn's.
    is_broken_off: bool,
}

/// The turns of one call.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    turns: Vec<Turn>,
    caller: Option<Open>,
    agent: Option<Open>,
    bytes: usize,
    is_cut: bool,
}

impl Transcript {
    /// Somebody said something: `escaped` is as it stands between the quotes of a JSON string. Gives the turns that are
    /// complete by it.
    pub(super) fn said(&mut self, at_ms: u64, who: Speaker, escaped: &str, whole: bool) -> Vec<Turn> {
        let before = self.turns.len();
        if self.bytes + escaped.len() > MOST_BYTES {
            self.is_cut = true;
            return Vec::new();
        }
        self.bytes += escaped.len();
        if whole {
            let text = unescaped(escaped);
            let open = self.open(who).take();
            let at_ms = open.as_ref().map_or(at_ms, |open| open.at_ms);
            match open {
                // What was broken off, and the whole of what came after it.
                Some(open) if open.is_broken_off && !text.starts_with(&unescaped(&open.escaped)) => {
                    self.close(who, open);
                }
                _ => {}
            }
            self.push(Turn { who, text, at_ms });
        } else {
            let other = if who == Speaker::Caller { Speaker::Agent } else { Speaker::Caller };
            self.end(other);
            if self.open(who).as_ref().is_some_and(|open| open.is_broken_off) {
                self.end(who);
            }
            let open = self.open(who);
            let open = open.get_or_insert_with(|| Open { escaped: String::new(), at_ms, is_broken_off: false });
            open.escaped.push_str(escaped);
        }
        self.turns[before..].to_vec()
    }

    /// What the agent says was flushed: it is not going on with this.
    pub(super) const fn broken_off(&mut self) {
        if let Some(open) = &mut self.agent {
            open.is_broken_off = true;
        }
    }

    /// The call is over. Gives the turns that are complete by it.
    pub(super) fn finish(&mut self) -> Vec<Turn> {
        let before = self.turns.len();
        // In the order in which they began.
        let (first, second) = match (&self.caller, &self.agent) {
            (Some(caller), Some(agent)) if caller.at_ms > agent.at_ms => (Speaker::Agent, Speaker::Caller),
            _ => (Speaker::Caller, Speaker::Agent),
        };
        self.end(first);
        self.end(second);
        self.turns[before..].to_vec()
    }

    /// All of it, by the time at which each turn began.
    pub(super) fn turns(&self) -> Vec<&Turn> {
        let mut turns: Vec<_> = self.turns.iter().collect();
        turns.sort_by_key(|turn| turn.at_ms);
        turns
    }

    /// Turns of one of the two.
    pub(super) fn count(&self, who: Speaker) -> usize {
        self.turns.iter().filter(|turn| turn.who == who).count()
    }

    /// Whether there was more than is kept.
    pub(super) const fn is_cut(&self) -> bool {
        self.is_cut
    }

    const fn open(&mut self, who: Speaker) -> &mut Option<Open> {
        match who {
            Speaker::Caller => &mut self.caller,
            Speaker::Agent => &mut self.agent,
        }
    }

    fn end(&mut self, who: Speaker) {
        if let Some(open) = self.open(who).take() {
            self.close(who, open);
        }
    }

    fn close(&mut self, who: Speaker, open: Open) {
        self.push(Turn { who, text: unescaped(&open.escaped), at_ms: open.at_ms });
    }

    fn push(&mut self, turn: Turn) {
        if !turn.text.trim().is_empty() {
            self.turns.push(turn);
        }
    }
}

/// The text that stands so between the quotes of a JSON string; one that could not stand there is taken as it is.
pub(super) fn unescaped(escaped: &str) -> String {
    serde_json::from_str(&format!("\"{escaped}\"")).unwrap_or_else(|_| escaped.to_owned())
}

/// What is kept of one call: ten hours of talk.
const MOST_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use Speaker::{Agent, Caller};

    fn shown(turns: &[Turn]) -> Vec<(Speaker, &str, u64)> {
        turns.iter().map(|turn| (turn.who, turn.text.as_str(), turn.at_ms)).collect()
    }

    #[test]
    fn pieces_are_one_turn_until_the_other_speaks() {
        let mut transcript = Transcript::default();
        assert!(transcript.said(1, Agent, "Good ", false).is_empty());
        assert!(transcript.said(2, Agent, "day", false).is_empty());
        assert_eq!(shown(&transcript.said(3, Caller, "Hi", false)), [(Agent, "Good day", 1)]);
        assert_eq!(shown(&transcript.finish()), [(Caller, "Hi", 3)]);
        assert_eq!((transcript.count(Agent), transcript.count(Caller)), (1, 1));
        assert!(transcript.finish().is_empty());
    }

    #[test]
    fn the_whole_counts_and_not_its_pieces() {
        let mut transcript = Transcript::default();
        transcript.said(5, Agent, "Godo ", false);
        assert_eq!(shown(&transcript.said(7, Agent, "Good day", true)), [(Agent, "Good day", 5)]);
        assert!(transcript.finish().is_empty());
    }

    #[test]
    fn the_callers_words_that_come_late_do_not_cut_the_agents_in_two() {
        let mut transcript = Transcript::default();
        transcript.said(10, Agent, "Yes, ", false);
        assert_eq!(shown(&transcript.said(11, Caller, "Is it open?", true)), [(Caller, "Is it open?", 11)]);
        transcript.said(12, Agent, "it is", false);
        assert_eq!(shown(&transcript.said(13, Agent, "Yes, it is.", true)), [(Agent, "Yes, it is.", 10)]);
        let order: Vec<_> = transcript.turns().iter().map(|turn| turn.who).collect();
        assert_eq!(order, [Agent, Caller]);
    }

    #[test]
    fn what_was_broken_off_is_a_turn_unless_its_whole_comes_after_all() {
        let mut transcript = Transcript::default();
        transcript.said(1, Agent, "I can tell", false);
        transcript.broken_off();
        assert_eq!(shown(&transcript.said(5, Agent, "Sorry", false)), [(Agent, "I can tell", 1)]);
        transcript.broken_off();
        assert_eq!(shown(&transcript.said(6, Agent, "Sorry?", true)), [(Agent, "Sorry?", 5)]);
        transcript.said(7, Agent, "One", false);
        transcript.broken_off();
        assert_eq!(shown(&transcript.said(9, Agent, "Two", true)).len(), 2);
    }

    #[test]
    fn escapes_are_undone_also_where_a_piece_ended_in_one() {
        let mut transcript = Transcript::default();
        transcript.said(1, Caller, r"Gr\u00fc\u00df Gott \ud83d", false);
        transcript.said(2, Caller, r#"\ude00 \"x\"\n"#, false);
        assert_eq!(shown(&transcript.finish()), [(Caller, "Grüß Gott 😀 \"x\"\n", 1)]);
        assert_eq!(unescaped(r"broken \u12"), r"broken \u12");
        assert_eq!(unescaped("a \" quote"), "a \" quote");
    }

    #[test]
    fn silence_is_no_turn_and_there_is_an_end_to_what_is_kept() {
        let mut transcript = Transcript::default();
        assert!(transcript.said(1, Caller, " ", true).is_empty());
        assert!(!transcript.is_cut());
        assert_eq!(transcript.said(1, Caller, &"x".repeat(MOST_BYTES - 1), true).len(), 1);
        assert!(transcript.said(1, Caller, "x", true).is_empty());
        assert!(transcript.is_cut());
    }
}
