//! Digits: as events in RTP (RFC 4733), both ways, and as bodies of SIP INFO.
//!
//! A press is told when its first packet comes, not when it ends: so it is told in time however long the key is held
//! and whichever of its packets are lost. All packets of one press have one timestamp, which is how the others are known.

use heapless::Deque;

use crate::media::Now;

/// Bytes of an event.
pub const EVENT: usize = 4;

/// A press is over when nothing was heard of it for so long: its end was lost.
pub const TIMEOUT: Now = Now::from_millis(100);

/// Digits that wait to be sent, at most.
pub const QUEUE: usize = 32;

/// Listens for digits.
#[derive(Debug, Default)]
pub struct Receiver {
    press: Option<Press>,
}

#[derive(Clone, Copy, Debug)]
struct Press {
    code: u8,
    timestamp: u32,
    ended: bool,
    last: Now,
}

impl Receiver {
    /// Nothing was pressed so far.
    #[must_use]
    pub const fn new() -> Self {
        Self { press: None }
    }

    /// An event came. Gives the digit if it is a new press.
    pub fn handle(&mut self, now: Now, marker: bool, timestamp: u32, payload: &[u8]) -> Option<u8> {
        let &[code, flags, ..] = payload.get(..EVENT)? else { return None };
        // Flash, fax tones and the like are no digits. RFC 4733 3.2
        let digit = *DIGITS.get(usize::from(code))?;
        let ended = flags & END != 0;
        if let Some(press) = &mut self.press {
            let newer = timestamp.wrapping_sub(press.timestamp) as i32;
            if newer < 0 {
                return None; // of a press before, or a replay
            }
            // A press of more than 65,535 ticks is told in segments, each with a timestamp of its own and no marker
            // (RFC 4733 2.5.1.3); and there are senders that move the timestamp with every packet.
            let is_near = now.saturating_sub(press.last) < TIMEOUT && !marker && press.code == code;
            let goes_on = is_near && (!press.ended || ended);
            if newer == 0 || goes_on {
                press.timestamp = timestamp;
                press.ended |= ended;
                press.last = now;
                return None;
            }
        }
        self.press = Some(Press { code, timestamp, ended, last: now });
        Some(digit)
    }

    /// Whether a key is down, as far as was heard.
    #[must_use]
    pub fn is_pressed(&self, now: Now) -> bool {
        self.press.is_some_and(|press| press.is_on(now))
    }

    /// When the last event came.
    #[must_use]
    pub fn last(&self) -> Option<Now> {
        self.press.map(|press| press.last)
    }
}

impl Press {
    fn is_on(&self, now: Now) -> bool {
        !self.ended && now.saturating_sub(self.last) < TIMEOUT
    }
}

/// Sends digits, a packet each tick of 20 ms.
///
/// ```text
///   tick        0    1    2    3    4    5    6    7    8
///   packet      20   40   60   80  100E 100E 100E  -    next
///               |------- tone --------|--- pause -------|
/// ```
/// Each digit lasts 100 ms and is followed by 60 ms of pause, in which the end is repeated twice (RFC 4733 2.5.1.4).
#[derive(Debug)]
pub struct Sender {
    queue: Deque<u8, QUEUE>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Sending {
        code: u8,
        /// Of all its packets.
        timestamp: u32,
        sent: u8,
        /// As the last packet said.
        duration: u16,
    },
    /// The pause goes on for so many ticks.
    Pause(u8),
}

/// What a tick is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Audio: no digit is being sent.
    Audio,
    /// Silence: the pause before the next digit.
    Silence,
    /// An event.
    Event {
        /// It is the first packet of a digit.
        marker: bool,
        /// When the digit began.
        timestamp: u32,
        /// What the packet carries.
        payload: [u8; EVENT],
    },
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl Sender {
    /// Nothing is to be sent.
    #[must_use]
    pub const fn new() -> Self {
        Self { queue: Deque::new(), state: State::Idle }
    }

    /// Queues a digit, one of `0-9*#A-D`. `false`: it is none, or too many wait.
    #[must_use]
    pub fn push(&mut self, digit: u8) -> bool {
        let code = DIGITS.iter().position(|&known| known == digit.to_ascii_uppercase());
        code.is_some_and(|code| self.queue.push_back(code as u8).is_ok())
    }

    /// Whether a digit is being sent or waits.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty() || matches!(self.state, State::Sending { .. })
    }

    /// What this tick is for. `timestamp` is that of its first sample, and it has so many samples.
    pub fn poll(&mut self, timestamp: u32, samples: u32) -> Tick {
        match self.state {
            State::Pause(left) if left > 0 => {
                self.state = State::Pause(left - 1);
                if self.queue.is_empty() { Tick::Audio } else { Tick::Silence }
            }
            State::Idle | State::Pause(_) => match self.queue.pop_front() {
                Some(code) => self.event(code, timestamp, 0, 0, timestamp.wrapping_add(samples)),
                None => {
                    self.state = State::Idle;
                    Tick::Audio
                }
            },
            State::Sending { code, timestamp: began, sent, duration } => {
                self.event(code, began, sent, duration, timestamp.wrapping_add(samples))
            }
        }
    }

    /// Nothing may be sent for now. What was begun is over for the peer when it hears no more of it; the rest waits.
    pub fn interrupt(&mut self) {
        if matches!(self.state, State::Sending { .. }) {
            self.state = State::Idle;
        }
    }

    fn event(&mut self, code: u8, began: u32, sent: u8, before: u16, until: u32) -> Tick {
        let end = sent >= TONE_TICKS - 1;
        // By the clock, so that ticks which were missed count; the repeated end tells the same as the first.
        let duration =
            if sent >= TONE_TICKS { before } else { u16::try_from(until.wrapping_sub(began)).unwrap_or(u16::MAX) };
        self.state = if sent + 1 == TONE_TICKS + END_REPEATS {
            State::Pause(PAUSE_TICKS - END_REPEATS)
        } else {
            State::Sending { code, timestamp: began, sent: sent + 1, duration }
        };
        let [high, low] = duration.to_be_bytes();
        let payload = [code, VOLUME | if end { END } else { 0 }, high, low];
        Tick::Event { marker: sent == 0, timestamp: began, payload }
    }
}

/// The digit in the body of an INFO: `application/dtmf-relay` (`Signal=5`, as Cisco's gateways and Asterisk send it)
/// or `application/dtmf` (the digit alone). A number from 10 to 15 is `*`, `#` and `A` to `D`.
#[must_use]
pub fn info_digit(content_type: &str, body: &[u8]) -> Option<u8> {
    let kind = content_type.split(';').next()?.trim();
    let body = core::str::from_utf8(body.get(..body.len().min(MOST_INFO))?).ok()?;
    let signal = if kind.eq_ignore_ascii_case("application/dtmf-relay") {
        body.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case("signal").then(|| value.trim())
        })?
    } else if kind.eq_ignore_ascii_case("application/dtmf") {
        body.trim()
    } else {
        return None;
    };
    match *signal.as_bytes() {
        [digit] => DIGITS.iter().copied().find(|&known| known == digit.to_ascii_uppercase()),
        [b'1', unit @ b'0'..=b'5'] => DIGITS.get(10 + usize::from(unit - b'0')).copied(),
        _ => None,
    }
}

/// By the code of their event. RFC 4733 3.2, table 3
const DIGITS: &[u8; 16] = b"0123456789*#ABCD";

/// The event is over. Beside it stand a reserved bit and the volume.
const END: u8 = 0x80;

/// -10 dBm0, as telephones have it.
const VOLUME: u8 = 10;

/// 100 ms. Below 40 ms some receivers hear nothing, and 80 ms is Asterisk's least.
const TONE_TICKS: u8 = 5;
/// The end is told three times.
const END_REPEATS: u8 = 2;
/// 60 ms.
const PAUSE_TICKS: u8 = 3;

/// More than any INFO with a digit has (bytes).
const MOST_INFO: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::leg::rtp::{dice::Dice, mutate};

    const MS: fn(u64) -> Now = Now::from_millis;

    /// The events of a 5 as Asterisk sends it: duration from 160 in steps of 160, and three ends.
    fn a_five() -> Vec<(bool, [u8; 4])> {
        let mut packets: Vec<_> =
            (1..=5_u16).map(|n| (n == 1, [5, 10, (160 * n).to_be_bytes()[0], (160 * n).to_be_bytes()[1]])).collect();
        packets.extend([(false, [5, 0x8a, 0x03, 0xc0]); 3]);
        packets
    }

    fn hear(receiver: &mut Receiver, start: u64, timestamp: u32, packets: &[(bool, [u8; 4])]) -> Vec<u8> {
        let at = |n: usize| MS(start + 20 * n as u64);
        packets
            .iter()
            .enumerate()
            .filter_map(|(n, (marker, payload))| receiver.handle(at(n), *marker, timestamp, payload))
            .collect()
    }

    #[test]
    fn a_press_is_one_digit_whichever_of_its_packets_come() {
        let packets = a_five();
        for lost in 0..1_u32 << packets.len() {
            let kept: Vec<_> =
                packets.iter().enumerate().filter(|(n, _)| lost >> n & 1 == 0).map(|(_, &packet)| packet).collect();
            let mut receiver = Receiver::new();
            let expected: &[u8] = if kept.is_empty() { b"" } else { b"5" };
            assert_eq!(hear(&mut receiver, 0, 48_000, &kept), expected, "{lost:08b}");
            assert_eq!(hear(&mut receiver, 300, 50_400, &packets), b"5", "the next is another");
        }
    }

    #[test]
    fn a_key_is_down_until_its_end_or_until_nothing_is_heard_of_it() {
        let packets = a_five();
        let mut receiver = Receiver::new();
        assert!(!receiver.is_pressed(MS(0)));
        hear(&mut receiver, 0, 1, &packets[..5]);
        assert!(receiver.is_pressed(MS(179)));
        assert!(!receiver.is_pressed(MS(180)), "its ends were lost");
        assert_eq!(receiver.handle(MS(200), false, 1, &packets[4].1), None);
        assert!(receiver.is_pressed(MS(200)), "and it was not over");
        assert_eq!(receiver.handle(MS(220), false, 1, &packets[5].1), None);
        assert!(!receiver.is_pressed(MS(220)));
        assert_eq!(receiver.handle(MS(221), false, 1, &packets[4].1), None);
        assert!(!receiver.is_pressed(MS(221)), "a late packet does not press it again");
    }

    #[test]
    fn a_long_press_in_segments_is_one_digit() {
        let mut receiver = Receiver::new();
        let mut digits = vec![];
        // 20 s; a new segment every 65,535 ticks.
        for n in 1..=1_000_u32 {
            let ticks = 160 * n;
            let (segment, duration) = (ticks / 65_535, ticks % 65_535);
            let [high, low] = (duration as u16).to_be_bytes();
            let payload = [11, 10, high, low];
            let timestamp = 7_u32.wrapping_add(segment * 65_535);
            digits.extend(receiver.handle(MS(20 * u64::from(n)), n == 1, timestamp, &payload));
        }
        assert_eq!(digits, b"#");
    }

    #[test]
    fn a_sender_that_moves_the_timestamp_with_every_packet_presses_once() {
        let mut receiver = Receiver::new();
        let mut digits = vec![];
        for (n, (marker, payload)) in a_five().into_iter().enumerate() {
            digits.extend(receiver.handle(MS(20 * n as u64), marker, 160 * n as u32, &payload));
        }
        assert_eq!(digits, b"5");
    }

    #[test]
    fn the_same_digit_twice_is_two_digits_even_if_the_ends_are_lost() {
        let packets = a_five();
        let mut receiver = Receiver::new();
        assert_eq!(hear(&mut receiver, 0, 0, &packets[..4]), b"5");
        assert_eq!(hear(&mut receiver, 90, 1_280, &packets), b"5", "its marker says so");
        assert_eq!(hear(&mut receiver, 260, 0, &packets), b"", "what was said before is not said again");
    }

    #[test]
    fn what_is_no_digit_is_none() {
        let mut receiver = Receiver::new();
        assert_eq!(receiver.handle(MS(0), true, 1, &[16, 10, 0, 160]), None); // flash
        assert_eq!(receiver.handle(MS(0), true, 1, &[5, 10, 0]), None);
        assert_eq!(receiver.handle(MS(0), true, 1, &[]), None);
        assert_eq!(receiver.handle(MS(0), true, 1, &[15, 10, 0, 160, 0xff]), Some(b'D'));
    }

    #[test]
    fn mutated_events_are_digits_or_nothing() {
        let mut dice = Dice::new(23);
        let mut receiver = Receiver::new();
        for n in 0..20_000_u64 {
            let mut bytes = vec![5, 10, 0, 160];
            mutate(&mut dice, &mut bytes);
            let digit = receiver.handle(MS(n), dice.below(2) == 0, dice.roll() as u32, &bytes);
            assert!(digit.is_none_or(|digit| DIGITS.contains(&digit)));
        }
    }

    /// What so many ticks are for.
    fn ticks(sender: &mut Sender, n: u32) -> Vec<Tick> {
        (0..n).map(|tick| sender.poll(1_000 + 160 * tick, 160)).collect()
    }

    #[test]
    fn two_digits_are_sent_with_a_pause_between_and_audio_goes_on_after() {
        let mut sender = Sender::new();
        assert_eq!(ticks(&mut sender, 1), [Tick::Audio]);
        assert!(sender.push(b'*') && sender.push(b'd') && !sender.push(b'x'));
        let event = |marker, timestamp, code, duration: u16, end: bool| {
            let [high, low] = duration.to_be_bytes();
            Tick::Event { marker, timestamp, payload: [code, if end { 0x8a } else { 0x0a }, high, low] }
        };
        assert_eq!(
            ticks(&mut sender, 17),
            [
                event(true, 1_000, 10, 160, false),
                event(false, 1_000, 10, 320, false),
                event(false, 1_000, 10, 480, false),
                event(false, 1_000, 10, 640, false),
                event(false, 1_000, 10, 800, true),
                event(false, 1_000, 10, 800, true),
                event(false, 1_000, 10, 800, true),
                Tick::Silence,
                event(true, 2_280, 15, 160, false),
                event(false, 2_280, 15, 320, false),
                event(false, 2_280, 15, 480, false),
                event(false, 2_280, 15, 640, false),
                event(false, 2_280, 15, 800, true),
                event(false, 2_280, 15, 800, true),
                event(false, 2_280, 15, 800, true),
                Tick::Audio,
                Tick::Audio,
            ]
        );
        assert!(!sender.is_busy());
    }

    #[test]
    fn ticks_that_were_missed_count_and_an_interruption_ends_a_digit() {
        let mut sender = Sender::new();
        assert!(sender.push(b'1') && sender.push(b'2'));
        sender.poll(0, 160);
        let Tick::Event { payload, .. } = sender.poll(800, 160) else { panic!("the digit goes on") };
        assert_eq!(payload, [1, 10, 0x03, 0xc0]);
        sender.interrupt();
        let Tick::Event { marker: true, payload: [2, ..], .. } = sender.poll(9_600, 160) else { panic!("the next") };
    }

    #[test]
    fn no_more_digits_wait_than_there_is_room() {
        let mut sender = Sender::new();
        assert!((0..QUEUE).all(|_| sender.push(b'1')));
        assert!(!sender.push(b'1'));
    }

    #[test]
    fn what_is_sent_is_heard() {
        let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
        let digits = b"0123456789*#ABCD11";
        assert!(digits.iter().all(|&digit| sender.push(digit)));
        let mut heard = vec![];
        for n in 0..200_u32 {
            if let Tick::Event { marker, timestamp, payload } = sender.poll(160 * n, 160) {
                heard.extend(receiver.handle(MS(20 * u64::from(n)), marker, timestamp, &payload));
            }
        }
        assert_eq!(heard, digits);
    }

    #[test]
    fn a_digit_in_an_info_is_found_in_both_kinds_of_body() {
        let relay = "application/dtmf-relay";
        for (kind, body, digit) in [
            (relay, "Signal=5\r\nDuration=160", Some(b'5')),
            (relay, "Signal= *\r\nDuration= 250\r\n", Some(b'*')), // as Cisco spaces it
            (relay, "Duration=160\nsignal=b\n", Some(b'B')),
            (relay, "Signal=11\r\nDuration=160\r\n", Some(b'#')),
            (relay, "Signal=16\r\n", None), // flash
            (relay, "Signal=\r\n", None),
            (relay, "5", None),
            ("Application/DTMF; charset=utf-8", "5", Some(b'5')),
            ("application/dtmf", "\r\n10\r\n", Some(b'*')),
            ("application/dtmf", "55", None),
            ("application/sdp", "5", None),
        ] {
            assert_eq!(info_digit(kind, body.as_bytes()), digit, "{kind} {body:?}");
        }
        assert_eq!(info_digit(relay, b"Signal=\xff"), None);
        assert_eq!(info_digit("", b""), None);
    }
}
