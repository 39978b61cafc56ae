//! The calls at Telnyx, each a small state machine, in a table that cannot grow without end. Pure.
//!
//! ```text
//!              initiated            answered                socket
//!   (nothing) -----------> Ringing -----------> Streaming ---------> Connected
//!       |  answered            | answer or         | streaming_start     |
//!       +---------> Answered --+ (or reject)       | 10 s: "no stream"   |
//!              (overtook initiated)                v                     v
//!                                            hangup, from anywhere --> Over, then forgotten
//! ```
//!
//! Events come in any order and more than once. What was asked for once is not asked for again, and a call that is over
//! stays over for a while, so that an `initiated` that comes last does not have it answered.

use core::time::Duration;
use std::collections::{HashMap, HashSet, VecDeque};

use crate::{
    media::Now,
    telnyx::{
        Step,
        event::{Event, Kind},
    },
};

/// The table.
#[derive(Debug)]
pub struct Calls {
    calls: HashMap<String, Call>,
    actions: VecDeque<Action>,
    seen: Seen,
    /// Whether we answer calls; else somebody else does.
    answers: bool,
    /// Whether we end calls.
    hangs_up: bool,
}

#[derive(Debug)]
struct Call {
    state: State,
    /// Our own id, from the socket on.
    call_id: Option<String>,
    /// When it is forgotten although no hangup came.
    forget_at: Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Told of before it was told that it rings.
    Answered,
    /// It rings.
    Ringing,
    /// Its stream was asked for. `None`: it was told already that none came.
    Streaming { socket_by: Option<Now> },
    /// The socket is there. Whether it was told that the stream failed.
    Connected { failed: bool },
    /// It is not to be heard of any more.
    Over,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the log of a step.
    Tell {
        /// Which.
        step: Step,
        /// The call's id at Telnyx, here and below.
        call: String,
    },
    /// Answer the call.
    Answer {
        /// Which.
        call: String,
    },
    /// Tell the caller that the number is busy.
    Reject {
        /// Which.
        call: String,
    },
    /// Ask for the call's stream.
    StartStreaming {
        /// Which.
        call: String,
    },
    /// End the call.
    Hangup {
        /// Which.
        call: String,
    },
    /// Tell the log that the call is over.
    TellEnded {
        /// Which.
        call: String,
        /// Our own id, if it had one.
        call_id: Option<String>,
        /// Telnyx's word for why.
        cause: String,
        /// Who ended it.
        source: String,
    },
    /// Tell the log that no stream came, once for each call.
    TellNoStream {
        /// Which.
        call: String,
        /// In Telnyx's words, or ours.
        why: String,
    },
    /// Tell the log that there is no room for this call.
    TellFull {
        /// Which.
        call: String,
    },
}

impl Calls {
    /// An empty table. `answers`: calls that ring are answered; `hangs_up`: calls are ended.
    #[must_use]
    pub fn new(answers: bool, hangs_up: bool) -> Self {
        let (calls, actions, seen) = (HashMap::new(), VecDeque::new(), Seen::default());
        Self { calls, actions, seen, answers, hangs_up }
    }

    /// Takes an event; one that was taken already changes nothing. `has_seat` says whether one more call may come, and is
    /// asked only where it matters.
    pub fn handle_event(&mut self, event: &Event, now: Now, has_seat: impl FnOnce() -> bool) {
        if !self.seen.is_new(&event.id) {
            return;
        }
        let state = self.calls.get(&event.call).map(|call| call.state);
        match &event.kind {
            Kind::Initiated { incoming } => self.on_initiated(&event.call, *incoming, state, now, has_seat),
            Kind::Answered => match state {
                None => _ = self.enter(&event.call, State::Answered, now),
                Some(State::Ringing) => self.start_streaming(&event.call, now),
                Some(State::Answered | State::Streaming { .. } | State::Connected { .. } | State::Over) => {}
            },
            Kind::Hangup { cause, source } => {
                let is_ours = matches!(state, Some(State::Ringing | State::Streaming { .. } | State::Connected { .. }));
                let call_id = self.calls.get(&event.call).and_then(|call| call.call_id.clone());
                // Also a call that is not known: its `initiated` may come yet.
                self.enter(&event.call, State::Over, now);
                if is_ours {
                    let (call, cause, source) = (event.call.clone(), cause.clone(), source.clone());
                    self.actions.push_back(Action::TellEnded { call, call_id, cause, source });
                }
            }
            Kind::StreamingFailed { reason } => {
                let why = if reason.is_empty() { "streaming.failed" } else { reason };
                self.on_no_stream(&event.call, why);
            }
            // The socket and its end say the same, and say it sooner.
            Kind::StreamingStarted | Kind::StreamingStopped => {}
        }
    }

    /// A socket has come and named this call; `call_id` is ours.
    pub fn handle_socket(&mut self, call: &str, call_id: &str, now: Now) {
        // A stream that somebody else asked for has its steps told too, and nothing else is done about it.
        let is_known = self.calls.get(call).is_some_and(|known| known.state != State::Over);
        if is_known && let Some(entry) = self.enter(call, State::Connected { failed: false }, now) {
            entry.call_id = Some(call_id.to_owned());
        }
        self.tell(Step::SocketConnected, call);
    }

    /// `streaming_start` came to nothing. `is_certain`: no stream will come all the same.
    pub fn handle_no_streaming(&mut self, call: &str, is_certain: bool) {
        let Some(Call { state: State::Streaming { socket_by }, .. }) = self.calls.get_mut(call) else { return };
        if is_certain {
            *socket_by = None;
            // We answered it, so nobody else would ever speak to the caller.
            if self.answers && self.hangs_up {
                self.actions.push_back(Action::Hangup { call: call.to_owned() });
            }
        }
    }

    /// The agent has ended the call. Whether there is something to do.
    pub fn handle_hangup(&mut self, call: &str) -> bool {
        let is_over = self.calls.get(call).is_some_and(|call| call.state == State::Over);
        let wanted = self.hangs_up && !is_over;
        if wanted {
            self.actions.push_back(Action::Hangup { call: call.to_owned() });
        }
        wanted
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let is_due = |call: &Call| matches!(call.state, State::Streaming { socket_by: Some(at) } if at <= now);
        let due: Vec<_> = self.calls.iter().filter(|(_, call)| is_due(call)).map(|(id, _)| id.clone()).collect();
        for call in due {
            self.on_no_stream(&call, "its socket did not come within 10 s");
        }
        self.calls.retain(|_, call| call.forget_at > now);
    }

    /// When [`Calls::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        let next = |call: &Call| match call.state {
            State::Streaming { socket_by: Some(at) } => at.min(call.forget_at),
            State::Answered
            | State::Ringing
            | State::Streaming { socket_by: None }
            | State::Connected { .. }
            | State::Over => call.forget_at,
        };
        self.calls.values().map(next).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Our own id of a call.
    #[must_use]
    pub fn call_id(&self, call: &str) -> Option<&str> {
        self.calls.get(call)?.call_id.as_deref()
    }

    /// Whether a stream of this call was asked for.
    #[must_use]
    pub fn expects(&self, call: &str) -> bool {
        let state = self.calls.get(call).map(|call| call.state);
        matches!(state, Some(State::Streaming { .. } | State::Connected { .. }))
    }

    fn on_initiated(
        &mut self,
        call: &str,
        incoming: bool,
        state: Option<State>,
        now: Now,
        has_seat: impl FnOnce() -> bool,
    ) {
        match state {
            // A call that somebody places through Telnyx is not ours.
            None | Some(State::Answered) if !incoming => _ = self.calls.remove(call),
            None => {
                if self.enter(call, State::Ringing, now).is_none() {
                    self.actions.push_back(Action::TellFull { call: call.to_owned() });
                    return;
                }
                self.tell(Step::Initiated, call);
                if self.answers {
                    let call = call.to_owned();
                    let answer = if has_seat() { Action::Answer { call } } else { Action::Reject { call } };
                    self.actions.push_back(answer);
                }
            }
            Some(State::Answered) => {
                self.tell(Step::Initiated, call);
                self.start_streaming(call, now);
            }
            Some(State::Ringing | State::Streaming { .. } | State::Connected { .. } | State::Over) => {}
        }
    }

    fn start_streaming(&mut self, call: &str, now: Now) {
        self.tell(Step::Answered, call);
        self.enter(call, State::Streaming { socket_by: Some(now + SOCKET) }, now);
        self.tell(Step::StreamingAsked, call);
        self.actions.push_back(Action::StartStreaming { call: call.to_owned() });
    }

    fn on_no_stream(&mut self, call: &str, why: &str) {
        let Some(known) = self.calls.get_mut(call) else { return };
        match &mut known.state {
            State::Streaming { socket_by: socket_by @ Some(_) } => *socket_by = None,
            State::Connected { failed: failed @ false } => *failed = true,
            State::Answered | State::Ringing | State::Over => return,
            State::Streaming { socket_by: None } | State::Connected { failed: true } => return,
        }
        self.actions.push_back(Action::TellNoStream { call: call.to_owned(), why: why.to_owned() });
    }

    fn tell(&mut self, step: Step, call: &str) {
        self.actions.push_back(Action::Tell { step, call: call.to_owned() });
    }

    /// Puts a call into this state. `None`: it is not in the table, and there is no room for it.
    fn enter(&mut self, call: &str, state: State, now: Now) -> Option<&mut Call> {
        let forget_at = now + if state == State::Over { KEEP_OVER } else { KEEP };
        if !self.calls.contains_key(call) && self.calls.len() >= MOST_CALLS {
            // One that is over has less to say than one that may be live.
            let over = self.calls.iter().filter(|(_, known)| known.state == State::Over);
            let oldest = over.min_by_key(|(_, known)| known.forget_at).map(|(id, _)| id.clone())?;
            self.calls.remove(&oldest);
        }
        let entry = self.calls.entry(call.to_owned()).or_insert(Call { state, call_id: None, forget_at });
        (entry.state, entry.forget_at) = (state, forget_at);
        Some(entry)
    }
}

/// The ids of the last events, so that one that is sent again is known.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<String>,
    in_order: VecDeque<String>,
}

impl Seen {
    fn is_new(&mut self, id: &str) -> bool {
        if self.ids.contains(id) {
            return false;
        }
        if self.in_order.len() >= MOST_SEEN
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(id.to_owned());
        self.in_order.push_back(id.to_owned());
        true
    }
}

/// How long a socket may take after its stream was asked for.
const SOCKET: Duration = Duration::from_secs(10);
/// How long a call is known without a word. Telnyx ends calls after 4 hours unless told otherwise ("Answer call",
/// `time_limit_secs`); a hangup may never come.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How long a call that is over is known. Telnyx sends what it could not deliver again within a minute or two.
const KEEP_OVER: Duration = Duration::from_secs(300);
/// Twice the most that `max-calls` can be, for those that ring and those that are over.
const MOST_CALLS: usize = 4096;
/// Six events a call.
const MOST_SEEN: usize = 6 * MOST_CALLS;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CALL: &str = "v3:XEPI2_Nk8h6e00-7oqhC96vnzrpZHp_2gcqbOG5gVrtr13QjnLouzg";
    const T0: Now = Now::from_secs(100);

    /// The body of a webhook in Telnyx's shape (API reference, "Callbacks"), with an id of its own.
    fn webhook(id: &str, name: &str, more: &str) -> Event {
        let body = format!(
            r#"{{"data":{{"record_type":"event","event_type":"{name}","id":"{id}","occurred_at":"2024-03-15T07:41:09.931675Z","payload":{{"call_control_id":"{CALL}","call_leg_id":"63e33fb6-e29f-11ee-815b-02420a0d0870","call_session_id":"63dcc852-e29f-11ee-ab82-02420a0d0870","client_state":"","connection_id":"2386325531927775048","from":"+15418556816","to":"+12568349765"{more}}}}},"meta":{{"attempt":1,"delivered_to":"https://example.com/webhooks"}}}}"#
        );
        Event::parse(body.as_bytes()).unwrap().unwrap()
    }

    fn initiated(id: &str) -> Event {
        webhook(id, "call.initiated", r#","direction":"incoming","state":"parked""#)
    }

    fn answered(id: &str) -> Event {
        webhook(id, "call.answered", "")
    }

    fn hangup(id: &str) -> Event {
        webhook(id, "call.hangup", r#","hangup_cause":"normal_clearing","hangup_source":"caller""#)
    }

    fn failed(id: &str) -> Event {
        webhook(id, "streaming.failed", r#","failure_reason":"connection_failed""#)
    }

    fn has_seat() -> bool {
        true
    }

    /// What is to be done, in a few letters each.
    fn done(calls: &mut Calls) -> Vec<String> {
        core::iter::from_fn(|| calls.poll_action())
            .map(|action| match action {
                Action::Tell { step, .. } => format!("{step:?}"),
                Action::Answer { .. } => "answer".to_owned(),
                Action::Reject { .. } => "reject".to_owned(),
                Action::StartStreaming { .. } => "streaming_start".to_owned(),
                Action::Hangup { .. } => "hangup".to_owned(),
                Action::TellEnded { call_id, cause, source, .. } => {
                    format!("ended {} {cause} {source}", call_id.unwrap_or_default())
                }
                Action::TellNoStream { why, .. } => format!("no stream: {why}"),
                Action::TellFull { .. } => "full".to_owned(),
            })
            .collect()
    }

    fn after(calls: &mut Calls, events: &[Event]) -> Vec<String> {
        for event in events {
            calls.handle_event(event, T0, has_seat);
        }
        done(calls)
    }

    #[test]
    fn a_call_is_answered_then_streamed_then_connected_then_forgotten() {
        let mut calls = Calls::new(true, true);
        assert_eq!(after(&mut calls, &[initiated("1")]), ["Initiated", "answer"]);
        assert!(!calls.expects(CALL));
        assert_eq!(after(&mut calls, &[answered("2")]), ["Answered", "StreamingAsked", "streaming_start"]);
        assert!(calls.expects(CALL));
        assert_eq!(after(&mut calls, &[webhook("3", "streaming.started", "")]), [""; 0]);
        calls.handle_socket(CALL, "abcdefghijkl", T0);
        assert_eq!(calls.call_id(CALL), Some("abcdefghijkl"));
        assert_eq!(done(&mut calls), ["SocketConnected"]);
        calls.handle_timeout(T0 + SOCKET);
        assert_eq!(done(&mut calls), [""; 0]);
        assert_eq!(after(&mut calls, &[hangup("4")]), ["ended abcdefghijkl normal_clearing caller"]);
        assert!(!calls.expects(CALL));
        calls.handle_timeout(T0 + KEEP_OVER);
        assert!(calls.calls.is_empty() && calls.poll_timeout().is_none());
    }

    #[test]
    fn what_telnyx_sends_twice_is_done_once() {
        let mut calls = Calls::new(true, true);
        // The same event again, and one that says the same under another id.
        assert_eq!(after(&mut calls, &[initiated("1"), initiated("1"), initiated("9")]), ["Initiated", "answer"]);
        let answers = [answered("2"), answered("2"), answered("8")];
        assert_eq!(after(&mut calls, &answers), ["Answered", "StreamingAsked", "streaming_start"]);
        assert_eq!(after(&mut calls, &[hangup("3"), hangup("3"), hangup("7")]), ["ended  normal_clearing caller"]);
    }

    #[test]
    fn events_that_overtook_each_other_end_alike() {
        // Somebody else answers, and `answered` comes first.
        let mut calls = Calls::new(false, true);
        assert_eq!(after(&mut calls, &[answered("2")]), [""; 0]);
        let steps = ["Initiated", "Answered", "StreamingAsked", "streaming_start"];
        assert_eq!(after(&mut calls, &[initiated("1")]), steps);
        // A caller who hung up at once is not answered.
        let mut calls = Calls::new(true, true);
        assert_eq!(after(&mut calls, &[hangup("2"), initiated("1"), answered("3")]), [""; 0]);
    }

    #[test]
    fn a_call_that_somebody_places_is_left_alone() {
        let outgoing = |id| webhook(id, "call.initiated", r#","direction":"outgoing","state":"bridging""#);
        let mut calls = Calls::new(true, true);
        assert_eq!(after(&mut calls, &[outgoing("1"), answered("2"), failed("3"), hangup("4")]), [""; 0]);
        let mut calls = Calls::new(false, true);
        assert_eq!(after(&mut calls, &[answered("2"), outgoing("1")]), [""; 0]);
        assert!(calls.calls.is_empty());
    }

    #[test]
    fn without_a_seat_the_caller_hears_that_it_is_busy() {
        let mut calls = Calls::new(true, true);
        calls.handle_event(&initiated("1"), T0, || false);
        assert_eq!(done(&mut calls), ["Initiated", "reject"]);
        let mut calls = Calls::new(false, true);
        calls.handle_event(&initiated("1"), T0, || unreachable!("nothing is answered"));
        assert_eq!(done(&mut calls), ["Initiated"]);
    }

    #[test]
    fn a_socket_that_does_not_come_is_told_once() {
        let mut calls = Calls::new(true, true);
        after(&mut calls, &[initiated("1"), answered("2")]);
        assert_eq!(calls.poll_timeout(), Some(T0 + SOCKET));
        calls.handle_timeout(T0 + SOCKET - Now::from_millis(1));
        assert_eq!(done(&mut calls), [""; 0]);
        calls.handle_timeout(T0 + SOCKET);
        assert_eq!(done(&mut calls), ["no stream: its socket did not come within 10 s"]);
        calls.handle_timeout(T0 + 2 * SOCKET);
        assert_eq!(after(&mut calls, &[failed("3")]), [""; 0]);
        // Late, but here.
        calls.handle_socket(CALL, "abcdefghijkl", T0 + 3 * SOCKET);
        assert_eq!(done(&mut calls), ["SocketConnected"]);
    }

    #[test]
    fn a_stream_that_failed_is_told_once_before_and_after_the_socket() {
        let mut calls = Calls::new(true, true);
        after(&mut calls, &[initiated("1"), answered("2")]);
        assert_eq!(after(&mut calls, &[failed("3"), failed("4")]), ["no stream: connection_failed"]);
        calls.handle_timeout(T0 + SOCKET);
        assert_eq!(done(&mut calls), [""; 0]);
        calls.handle_socket(CALL, "abcdefghijkl", T0);
        done(&mut calls);
        assert_eq!(after(&mut calls, &[failed("5"), failed("6")]), ["no stream: connection_failed"]);
    }

    #[test]
    fn a_caller_to_whom_nobody_would_speak_is_hung_up_on_only_where_we_answered() {
        for (answers, hangs_up, wanted) in [(true, true, 1), (true, false, 0), (false, true, 0)] {
            let mut calls = Calls::new(answers, hangs_up);
            after(&mut calls, &[initiated("1"), answered("2")]);
            calls.handle_no_streaming(CALL, true);
            assert_eq!(done(&mut calls).len(), wanted, "{answers} {hangs_up}");
        }
        // It may have been heard: the socket says.
        let mut calls = Calls::new(true, true);
        after(&mut calls, &[initiated("1"), answered("2")]);
        calls.handle_no_streaming(CALL, false);
        assert_eq!(done(&mut calls), [""; 0]);
        assert_eq!(calls.poll_timeout(), Some(T0 + SOCKET));
    }

    #[test]
    fn a_call_that_is_over_is_not_hung_up_on() {
        let mut calls = Calls::new(true, true);
        after(&mut calls, &[initiated("1"), answered("2")]);
        assert!(calls.handle_hangup(CALL));
        assert_eq!(done(&mut calls), ["hangup"]);
        after(&mut calls, &[hangup("3")]);
        assert!(!calls.handle_hangup(CALL));
        // Nothing is known of it; Telnyx may know it.
        assert!(calls.handle_hangup("v3:other"));
        assert!(!Calls::new(true, false).handle_hangup(CALL));
    }

    #[test]
    fn a_stream_of_somebody_elses_has_its_step_told_and_is_not_kept() {
        let mut calls = Calls::new(true, true);
        calls.handle_socket(CALL, "abcdefghijkl", T0);
        assert_eq!(done(&mut calls), ["SocketConnected"]);
        assert!(calls.calls.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_live() {
        let mut calls = Calls::new(true, true);
        let event = |call: usize, name: &str| {
            let more = r#","direction":"incoming""#;
            Event { call: format!("v3:{call}"), ..webhook(&format!("{name}{call}"), name, more) }
        };
        for call in 0..MOST_CALLS {
            calls.handle_event(&event(call, "call.initiated"), T0, has_seat);
        }
        done(&mut calls);
        calls.handle_event(&event(MOST_CALLS, "call.initiated"), T0, has_seat);
        assert_eq!(done(&mut calls), ["full"]);
        calls.handle_event(&event(7, "call.hangup"), T0, has_seat);
        done(&mut calls);
        calls.handle_event(&event(MOST_CALLS + 1, "call.initiated"), T0, has_seat);
        assert_eq!(done(&mut calls), ["Initiated", "answer"]);
        assert_eq!(calls.calls.len(), MOST_CALLS);
        calls.handle_timeout(T0 + KEEP);
        assert!(calls.calls.is_empty());
        for id in 0..2 * MOST_SEEN {
            assert!(calls.seen.is_new(&id.to_string()));
        }
        assert_eq!((calls.seen.ids.len(), calls.seen.in_order.len()), (MOST_SEEN, MOST_SEEN));
    }
}
