//! What was said in a call, turn by turn, out of the pieces in which clouds tell it.
//!
//! A cloud tells a turn in pieces, as a whole, or in pieces and then as a whole, which counts. The two speakers' turns
//! overlap: the caller's words are often known only when the agent speaks already. So each has a turn of his own open,
//! until its whole comes. Where none ever does, it is as many turns as the other's pieces have made of it.

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
    /// When the first of it was told (ms since 1970).
    at_ms: u64,
    /// Its pieces, with the escapes of JSON: one may be cut in two. Those that the other's lie between are apart, each
    /// with its time.
    pieces: Vec<(u64, String)>,
    /// The other spoke since the last of them.
    is_between: bool,
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
            let mut since_ms = at_ms;
            match self.open(who).take() {
                // What was broken off, and the whole of what came after it.
                Some(open) if open.is_broken_off && !text.starts_with(&open.text()) => self.close(who, open),
                Some(open) => since_ms = open.at_ms,
                None => {}
            }
            self.push(Turn { who, text, at_ms: since_ms });
        } else {
            let other = if who == Speaker::Caller { Speaker::Agent } else { Speaker::Caller };
            if let Some(open) = self.open(other) {
                open.is_between = true;
            }
            if self.open(who).as_ref().is_some_and(|open| open.is_broken_off) {
                self.end(who);
            }
            let fresh = || Open { at_ms, pieces: Vec::new(), is_between: false, is_broken_off: false };
            self.open(who).get_or_insert_with(fresh).add(at_ms, escaped);
        }
        self.turns[before..].to_vec()
    }

    /// What the agent says was flushed: it is not going on with this.
    pub(super) const fn broken_off(&mut self) {
        if let Some(open) = &mut self.agent {
            open.is_broken_off = true;
        }
    }

    /// The call is over, or whoever told of it is gone. Gives the turns that are complete by it.
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
        for (at_ms, escaped) in open.pieces {
            self.push(Turn { who, text: unescaped(&escaped), at_ms });
        }
    }

    fn push(&mut self, turn: Turn) {
        if !turn.text.trim().is_empty() {
            self.turns.push(turn);
        }
    }
}

impl Open {
    fn add(&mut self, at_ms: u64, escaped: &str) {
        match self.pieces.last_mut().filter(|_| !self.is_between) {
            Some((_, piece)) => piece.push_str(escaped),
            None => self.pieces.push((at_ms, escaped.to_owned())),
        }
        self.is_between = false;
    }

    fn text(&self) -> String {
        let pieces: Vec<_> = self.pieces.iter().map(|(_, piece)| piece.as_str()).collect();
        unescaped(&pieces.concat())
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
    fn pieces_without_a_whole_are_one_turn_until_the_other_speaks() {
        let mut transcript = Transcript::default();
        for (at_ms, who, piece) in
            [(1, Agent, "Good "), (2, Agent, "day"), (3, Caller, "Hi"), (4, Agent, "How "), (5, Agent, "are you?")]
        {
            assert!(transcript.said(at_ms, who, piece, false).is_empty());
        }
        transcript.finish();
        let turns: Vec<_> = transcript.turns().into_iter().cloned().collect();
        assert_eq!(shown(&turns), [(Agent, "Good day", 1), (Caller, "Hi", 3), (Agent, "How are you?", 4)]);
        assert_eq!((transcript.count(Agent), transcript.count(Caller)), (2, 1));
        assert!(transcript.finish().is_empty());
    }

    #[test]
    fn pieces_of_both_that_alternate_are_no_turns_beside_their_wholes() {
        let mut transcript = Transcript::default();
        for (at_ms, who, piece) in [(1, Agent, "Yes, "), (2, Caller, "Is it "), (3, Agent, "it "), (4, Caller, "open?")]
        {
            assert!(transcript.said(at_ms, who, piece, false).is_empty());
        }
        assert_eq!(shown(&transcript.said(5, Caller, "Is it open?", true)), [(Caller, "Is it open?", 2)]);
        assert_eq!(shown(&transcript.said(6, Agent, "Yes, it is.", true)), [(Agent, "Yes, it is.", 1)]);
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
        assert_eq!(shown(&transcript.said(9, Agent, "Two", true)), [(Agent, "One", 7), (Agent, "Two", 9)]);
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
