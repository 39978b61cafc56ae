//! What every dialect owes, tried on every dialect that there is, in both roles against itself.
//!
//! A dialect says what it can by what [`Dialect::write`] answers. What each is known to be able to is in [`EXPECTED`], so
//! that one that forgets a word, or learns one, is noticed.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use super::{
    Audio, Coding, Dialect, Direction, Event, Facts, Format, Full, Incoming, Malformed, Message, NAMES, Options, Role,
    Say, Stamp, StopReason, Transfer, Wish,
    decode::Decoder,
    detect::{Detected, detect},
    json::{Run, Splitter},
    open,
    ozonetel::tests::{STAMP, facts, noise, samples},
    rates,
    wish::MAX_TARGET,
};
use crate::media::{Rate, g711::Law};

/// What a dialect can say.
struct Expected {
    name: &'static str,
    /// What a vendor's opening tells an agent, by the names of [`Facts`].
    told: &'static [&'static str],
    direction: Direction,
    mark: Can,
    clear: Can,
    /// A vendor's answer to a clear.
    cleared: Can,
    dtmf: Can,
    hang_up: Can,
    stop: Can,
    /// What an agent may ask of the line, and how it is told of hold and of a transfer that failed.
    wish: Can,
    held: Can,
    transfer: Can,
    /// A vendor's opening names its rate.
    tells_rate: bool,
}

/// How far a word goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Can {
    /// There is no such word.
    Not,
    /// It is said, and the other side makes nothing of it.
    Said,
    /// It is said, and the other side does as it says.
    Done,
}

use Can::{Done, Not, Said};

/// By the documents that each dialect's file names. One that is not in [`NAMES`] yet waits here.
const EXPECTED: &[Expected] = &[
    Expected {
        told: &[],
        mark: Not,
        clear: Not,
        dtmf: Not,
        stop: Not,
        held: Not,
        transfer: Not,
        tells_rate: false,
        ..row("binary")
    },
    Expected { told: &["ucid", "from", "to"], dtmf: Not, hang_up: Done, ..row("ozonetel") },
    Expected { told: &["stream_sid", "call_sid", "account", "from", "to"], ..row("exotel") },
    Expected { told: &["stream_sid", "call_sid", "account", "from", "to", "custom"], ..row("twilio") },
    Expected {
        told: &["stream_sid", "call_sid", "account", "from", "to", "custom"],
        cleared: Said,
        stop: Not,
        ..row("plivo")
    },
    Expected { told: &["call_sid", "from", "to", "custom"], cleared: Said, stop: Not, ..row("vonage") },
    Expected { told: &["stream_sid", "call_sid", "from", "to"], ..row("telnyx") },
    Expected { told: &[], direction: Direction::Uplink, mark: Not, clear: Not, dtmf: Not, stop: Not, ..row("rtaa") },
    Expected {
        told: &[],
        direction: Direction::Uplink,
        mark: Not,
        clear: Not,
        dtmf: Not,
        stop: Done,
        ..row("exostreamkit")
    },
    Expected { told: &[], mark: Not, cleared: Said, dtmf: Said, stop: Not, held: Not, ..row("openai") },
    Expected {
        told: &["stream_sid", "call_sid"],
        hang_up: Done,
        stop: Not,
        wish: Not,
        held: Not,
        transfer: Not,
        ..row("asterisk")
    },
    Expected { told: &["call_sid", "account", "from", "to", "custom"], hang_up: Done, stop: Not, ..row("audiofork") },
];

/// What most can.
const fn row(name: &'static str) -> Expected {
    Expected {
        name,
        told: &[],
        direction: Direction::Both,
        mark: Done,
        clear: Done,
        cleared: Not,
        dtmf: Done,
        hang_up: Not,
        stop: Done,
        wish: Done,
        held: Done,
        transfer: Done,
        tells_rate: true,
    }
}

/// A message on its way.
#[derive(Clone, Debug)]
struct Sent {
    bytes: Vec<u8>,
    binary: bool,
}

/// What a side made of a message, and what its words were.
struct Heard {
    audio: Option<Vec<i16>>,
    event: String,
    rate: Option<Rate>,
}

/// Both sides of a call.
struct Call {
    expected: &'static Expected,
    vendor: Box<dyn Dialect>,
    agent: Box<dyn Dialect>,
    facts: Facts,
    /// Everything that was said, as damage starts from it.
    said: Vec<Sent>,
}

impl Call {
    fn new(name: &str, rate: Option<Rate>) -> Self {
        let expected = EXPECTED.iter().find(|expected| expected.name == name);
        let side = |role| open(name, role, rate, Rate::Hz8000, &Options::default()).unwrap();
        let mut facts = facts();
        assert!(facts.custom.add("lane", "sales"));
        Self {
            expected: expected.unwrap_or_else(|| panic!("{name} is not in the table of what dialects can")),
            vendor: side(Role::Vendor),
            agent: side(Role::Agent),
            facts,
            said: Vec::new(),
        }
    }

    /// A call that has begun.
    fn begun(name: &str, rate: Option<Rate>) -> Self {
        let mut call = Self::new(name, rate);
        for role in [Role::Vendor, Role::Agent] {
            let mut step = 0;
            while let Some(sent) = call.write(role, |side, facts, out| side.write_opening(step, facts, STAMP, out)) {
                call.hear(other(role), &sent);
                step += 1;
            }
        }
        call.settle();
        call
    }

    fn side(&mut self, role: Role) -> &mut dyn Dialect {
        match role {
            Role::Vendor => &mut *self.vendor,
            Role::Agent => &mut *self.agent,
        }
    }

    /// What a side writes, within the length that it promises. `None`: it has no word for it.
    fn write(
        &mut self,
        role: Role,
        write: impl FnOnce(&mut dyn Dialect, &Facts, &mut Message<'_>) -> Result<bool, Full>,
    ) -> Option<Sent> {
        let facts = if role == Role::Vendor { self.facts.clone() } else { Facts::default() };
        let name = self.expected.name;
        let side = self.side(role);
        let mut space = vec![0; side.longest()];
        let mut out = Message::new(&mut space);
        let said = write(side, &facts, &mut out).unwrap_or_else(|_| panic!("{name}: longer than it promised"));
        let sent = Sent { bytes: out.bytes().to_vec(), binary: out.is_binary() };
        assert!(sent.binary || str::from_utf8(&sent.bytes).is_ok(), "{name}: {sent:?}");
        if said {
            self.said.push(sent.clone());
        }
        said.then_some(sent)
    }

    fn say(&mut self, role: Role, say: Say<'_>) -> Option<Sent> {
        self.write(role, |side, facts, out| side.write(say, facts, STAMP, out))
    }

    fn audio(&mut self, role: Role, samples: &[i16]) -> Sent {
        self.write(role, |side, facts, out| side.write_audio(samples, facts, STAMP, out).map(|()| true)).unwrap()
    }

    /// What a side makes of a message, and everything that it and the other answer by themselves.
    fn hear(&mut self, role: Role, sent: &Sent) -> Heard {
        let name = self.expected.name;
        let heard = hear(self.side(role), sent).unwrap_or_else(|error| panic!("{name}: {error} in {sent:?}"));
        self.settle();
        heard
    }

    /// Passes on what is due on either side until nothing is.
    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 100, "{}: two sides that never stop answering", self.expected.name);
            let mut quiet = true;
            for role in [Role::Vendor, Role::Agent] {
                while let Some(sent) = self.write(role, |side, facts, out| side.write_due(facts, STAMP, out)) {
                    quiet = false;
                    // With nothing to be played before it, a mark is heard at once.
                    if let Event::Mark(name) = incoming(self.side(other(role)), &sent).unwrap().event {
                        let name = name.to_owned();
                        let told = self.say(other(role), Say::Heard(&name)).unwrap();
                        hear(self.side(role), &told).unwrap();
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// What the audio of a side may have lost on its way.
    fn assert_same(&mut self, from: Role, sent: &[i16], heard: &[i16]) {
        let name = self.expected.name;
        let law = match self.side(other(from)).expected().coding {
            Coding::Mulaw => Some(Law::Mu),
            Coding::Alaw => Some(Law::A),
            Coding::Decimal | Coding::Pcm16Le | Coding::Pcm16Be => None,
        };
        let lossy = |sample: i16| law.map_or(sample, |law| law.decode(law.encode(sample)));
        let sent: Vec<i16> = sent.iter().map(|&sample| lossy(sample)).collect();
        assert!(sent == heard, "{name}: {from:?}, {} samples of {}", heard.len(), sent.len());
    }
}

fn other(role: Role) -> Role {
    match role {
        Role::Vendor => Role::Agent,
        Role::Agent => Role::Vendor,
    }
}

fn incoming<'m>(side: &mut dyn Dialect, sent: &'m Sent) -> Result<Incoming<'m>, Malformed> {
    // As a leg sorts them.
    if sent.binary && side.binary_is_audio() { side.handle_binary(&sent.bytes) } else { side.handle_text(&sent.bytes) }
}

fn hear(side: &mut dyn Dialect, sent: &Sent) -> Result<Heard, Malformed> {
    if sent.bytes.is_empty() && !sent.binary {
        return Ok(Heard { audio: None, event: event(Event::None), rate: None });
    }
    let incoming = incoming(side, sent)?;
    let rate = match incoming.audio {
        Audio::Take { format, .. } => Some(format.rate),
        Audio::None | Audio::Skip => None,
    };
    Ok(Heard { audio: samples(incoming.audio), event: event(incoming.event), rate })
}

fn event(event: Event<'_>) -> String {
    format!("{event:?}")
}

/// What a leg whose buffer is too small hears, this many bytes at a time.
fn in_pieces(side: &mut dyn Dialect, sent: &Sent, len: usize) -> Vec<i16> {
    let format = side.expected();
    let mut decoder = Decoder::new(format);
    let mut heard = Vec::new();
    let take = |decoder: &mut Decoder, mut bytes: &[u8], heard: &mut Vec<i16>| {
        let mut space = [0; 64];
        while !bytes.is_empty() {
            let (consumed, produced) = decoder.decode(bytes, &mut space).unwrap();
            heard.extend_from_slice(&space[..produced]);
            bytes = &bytes[consumed..];
        }
    };
    if sent.binary && side.binary_is_audio() {
        for piece in sent.bytes.chunks(len) {
            take(&mut decoder, piece, &mut heard);
        }
        assert_staged(side.handle_binary(&[]).unwrap(), format);
        return heard;
    }
    let mut splitter = Splitter::new();
    let mut skeleton = Vec::new();
    for mut piece in sent.bytes.chunks(len) {
        while !piece.is_empty() {
            let step = splitter.split(piece, |key, depth| side.carrier(key, depth)).unwrap();
            let (run, rest) = piece.split_at(step.consumed);
            piece = rest;
            match step.run {
                Run::Text => skeleton.extend_from_slice(run),
                Run::Audio(_) => take(&mut decoder, run, &mut heard),
                Run::AudioEnd => {
                    let mut space = [0; 64];
                    let produced = decoder.finish(&mut space).unwrap();
                    heard.extend_from_slice(&space[..produced]);
                }
            }
        }
    }
    splitter.finish().unwrap();
    assert!(skeleton.len() < 1024, "the text beside the audio is short");
    assert_staged(side.handle_text(&skeleton).unwrap(), format);
    heard
}

/// The end of a long message has to agree with what was taken for its format.
#[track_caller]
fn assert_staged(incoming: Incoming<'_>, expected: Format) {
    assert!(matches!(incoming.audio, Audio::Take { format, bytes: b"" } if format == expected), "{incoming:?}");
}

/// Tries something on every dialect, at each of its rates.
fn each(mut try_on: impl FnMut(&'static str, Rate)) {
    for name in NAMES {
        for &rate in rates(name) {
            try_on(name, rate);
        }
    }
}

/// Who is heard.
fn speakers(call: &Call) -> &'static [Role] {
    match call.expected.direction {
        Direction::Both => &[Role::Vendor, Role::Agent],
        Direction::Uplink => &[Role::Vendor],
    }
}

#[test]
fn every_dialect_is_in_the_table_and_has_its_name() {
    for (i, name) in NAMES.iter().enumerate() {
        let call = Call::new(name, None);
        assert_eq!((call.vendor.name(), call.agent.name()), (*name, *name));
        assert_eq!(call.vendor.direction(), call.expected.direction, "{name}");
        assert_eq!(call.agent.direction(), call.expected.direction, "{name}");
        assert!(!NAMES[..i].contains(name), "{name} twice");
        assert!(rates(name).contains(&call.vendor.rate()), "{name}");
    }
}

#[test]
fn a_start_tells_what_the_dialect_has_words_for() {
    for name in NAMES {
        let call = Call::begun(name, None);
        for told in call.expected.told {
            let (ours, theirs) = (&call.facts, call.agent.facts().unwrap_or_else(|| panic!("{name} told nothing")));
            let same = match *told {
                "ucid" => ours.ucid == theirs.ucid,
                "stream_sid" => ours.stream_sid == theirs.stream_sid,
                "call_sid" => ours.call_sid == theirs.call_sid,
                "account" => ours.account == theirs.account,
                "from" => ours.from == theirs.from,
                "to" => ours.to == theirs.to,
                "custom" => ours.custom == theirs.custom,
                other => panic!("no such fact: {other}"),
            };
            assert!(same, "{name} does not tell {told}: {theirs:?}");
        }
        assert_eq!(call.vendor.rate(), call.agent.rate(), "{name}");
    }
}

#[test]
fn an_agent_takes_its_rate_from_the_start() {
    each(|name, rate| {
        let mut call = Call::new(name, Some(rate));
        if name == "openai" {
            return; // its rate is an option's, and has its own tests
        }
        if call.expected.tells_rate {
            call.agent = open(name, Role::Agent, None, Rate::Hz8000, &Options::default()).unwrap();
        }
        let mut step = 0;
        while let Some(sent) = call.write(Role::Vendor, |side, facts, out| side.write_opening(step, facts, STAMP, out))
        {
            call.hear(Role::Agent, &sent);
            step += 1;
        }
        call.settle();
        assert_eq!(call.vendor.rate(), rate, "{name}");
        let sent = call.audio(Role::Vendor, &[0; 160]);
        assert_eq!(call.hear(Role::Agent, &sent).rate, Some(rate), "{name}");
    });
}

#[test]
fn samples_arrive_as_they_were_sent_both_ways() {
    each(|name, rate| {
        let mut call = Call::begun(name, Some(rate));
        for &role in speakers(&call) {
            let sent = noise(rate.samples(400));
            let chunk = call.side(role).chunk();
            let mut heard = Vec::new();
            for chunk in sent.chunks(chunk) {
                let message = call.audio(role, chunk);
                let said = call.hear(other(role), &message);
                heard.extend(said.audio.unwrap_or_else(|| panic!("{name}: {role:?} was not heard: {message:?}")));
            }
            call.assert_same(role, &sent, &heard);
        }
        if call.expected.direction == Direction::Uplink {
            let message = call.audio(Role::Agent, &[1; 160]);
            assert!(message.bytes.is_empty(), "{name}: nobody hears it");
        }
    });
}

#[test]
fn a_message_in_fragments_says_what_it_says_whole() {
    each(|name, rate| {
        let mut call = Call::begun(name, Some(rate));
        for &role in speakers(&call) {
            let chunk = call.side(role).chunk();
            let sent = noise(chunk);
            // The first tells the other side which format to expect.
            let first = call.audio(role, &sent);
            call.hear(other(role), &first);
            for len in [1, 7, 4_096] {
                let message = call.audio(role, &sent);
                let heard = in_pieces(call.side(other(role)), &message, len);
                call.settle();
                call.assert_same(role, &sent, &heard);
            }
        }
    });
}

#[test]
fn the_largest_message_is_heard_to_its_end() {
    for name in NAMES {
        let mut call = Call::begun(name, None);
        for &role in speakers(&call) {
            let first = call.audio(role, &[0; 160]);
            call.hear(other(role), &first);
            // As much as the other side lets pass, whatever its spelling: no more than seven bytes a sample.
            let most = call.side(other(role)).max_message().min(1 << 20) as usize;
            let sent = noise((most - 2_048) / 7);
            let (facts, mut space) = (call.facts.clone(), vec![0; most]);
            let mut out = Message::new(&mut space);
            call.side(role).write_audio(&sent, &facts, STAMP, &mut out).unwrap();
            let message = Sent { bytes: out.bytes().to_vec(), binary: out.is_binary() };
            let heard = in_pieces(call.side(other(role)), &message, 8_192);
            call.assert_same(role, &sent, &heard);
        }
    }
}

#[test]
fn a_chunk_is_whole_units_and_fits_what_was_promised_at_its_loudest() {
    each(|name, rate| {
        let mut call = Call::begun(name, Some(rate));
        // The longest ids that there are.
        for fact in
            [&mut call.facts.ucid, &mut call.facts.stream_sid, &mut call.facts.call_sid, &mut call.facts.account]
        {
            fact.clear();
            while fact.push('9').is_ok() {}
        }
        let facts = call.facts.clone();
        for role in [Role::Vendor, Role::Agent] {
            let side = call.side(role);
            assert!(side.chunk() > 0 && side.chunk().is_multiple_of(side.unit()), "{name} {role:?} at {rate}");
            let loudest = vec![i16::MIN; side.chunk()];
            let mut space = vec![0; side.longest()];
            for _ in 0..3 {
                let mut out = Message::new(&mut space);
                assert_eq!(side.write_audio(&loudest, &facts, STAMP, &mut out), Ok(()), "{name} {role:?} at {rate}");
            }
        }
    });
}

#[test]
fn marks_make_the_round() {
    for name in NAMES {
        let mut call = Call::begun(name, None);
        let rides = call.agent.marks_ride_on_audio();
        let chunk = vec![100; call.agent.chunk()];
        if !rides && call.expected.direction == Direction::Both {
            let audio = call.audio(Role::Agent, &chunk);
            call.hear(Role::Vendor, &audio);
        }
        // As long as a mark's name may be, and as odd.
        for mark in ["greeting", "say \\\"hi\\\" \\u00e9", &"m".repeat(super::MAX_MARK)] {
            let asked = call.say(Role::Agent, Say::Mark(mark));
            assert_eq!(asked.is_some(), call.expected.mark != Not, "{name} has marks");
            let Some(mut asked) = asked else { break };
            if rides {
                assert!(asked.bytes.is_empty(), "{name}");
                asked = call.audio(Role::Agent, &chunk);
            }
            let Event::Mark(asked) = incoming(&mut *call.vendor, &asked).unwrap().event else { panic!("{name}") };
            let asked = asked.to_owned();
            assert!(asked.len() <= super::MAX_MARK);
            let told = call.say(Role::Vendor, Say::Heard(&asked)).unwrap();
            assert_eq!(call.hear(Role::Agent, &told).event, event(Event::Heard(mark)), "{name}");
        }
    }
}

#[test]
fn a_clear_is_obeyed_and_answered() {
    for name in NAMES {
        let mut call = Call::begun(name, None);
        if call.expected.direction == Direction::Both {
            let chunk = vec![100; call.agent.chunk()];
            for _ in 0..10 {
                let audio = call.audio(Role::Agent, &chunk);
                call.hear(Role::Vendor, &audio);
            }
        }
        let clear = call.say(Role::Agent, Say::Clear);
        assert_eq!(clear.is_some(), call.expected.clear != Not, "{name} has clears");
        let Some(clear) = clear else { continue };
        assert_eq!(call.hear(Role::Vendor, &clear).event, event(Event::Clear), "{name}");
        let cleared = call.say(Role::Vendor, Say::Cleared { unheard_ms: 60 });
        assert_eq!(cleared.is_some(), call.expected.cleared != Not, "{name} answers clears");
        if let Some(cleared) = cleared {
            assert_eq!(call.hear(Role::Agent, &cleared).event, event(Event::None), "{name}");
        }
    }
}

#[test]
fn keys_arrive_as_they_were_pressed() {
    for name in NAMES {
        let mut call = Call::begun(name, None);
        for digit in *b"0123456789*#ABCD" {
            let pressed = call.say(Role::Vendor, Say::Dtmf(digit));
            assert_eq!(pressed.is_some(), call.expected.dtmf != Not, "{name} has keys");
            let Some(pressed) = pressed else { break };
            let heard = call.hear(Role::Agent, &pressed).event;
            if call.expected.dtmf == Done {
                assert_eq!(heard, event(Event::Dtmf(digit)), "{name}");
            }
        }
    }
}

#[test]
fn each_side_ends_the_call_in_its_own_way() {
    for name in NAMES {
        for reason in [StopReason::CallerHungUp, StopReason::Ended] {
            let mut call = Call::begun(name, None);
            let stop = call.say(Role::Vendor, Say::Stop(reason));
            assert_eq!(stop.is_some(), call.expected.stop != Not, "{name} says when it stops");
            if let Some(stop) = stop {
                assert_eq!(call.hear(Role::Agent, &stop).event, event(Event::Stop), "{name}");
            }
        }
        let mut call = Call::begun(name, None);
        let hang_up = call.say(Role::Agent, Say::HangUp);
        assert_eq!(hang_up.is_some(), call.expected.hang_up != Not, "{name} asks to hang up");
        if let Some(hang_up) = hang_up {
            assert_eq!(call.hear(Role::Vendor, &hang_up).event, event(Event::HangUp), "{name}");
        }
    }
}

#[test]
fn a_wish_is_understood_and_its_agent_told_what_comes_of_it() {
    let target = format!("sip:{}@pbx.example.com", "3".repeat(MAX_TARGET - 20));
    for name in NAMES {
        let mut call = Call::begun(name, None);
        for wish in [Wish::transfer(&target), Wish::digits("0123456789*#ABCDw")] {
            let wish = wish.unwrap();
            let asked = call.say(Role::Agent, Say::Wish(&wish));
            assert_eq!(asked.is_some(), call.expected.wish != Not, "{name} asks {wish:?}");
            let Some(asked) = asked else { continue };
            let Event::Wish(heard) = incoming(&mut *call.vendor, &asked).unwrap().event else { panic!("{name}") };
            assert_eq!(heard.wish(), Some(wish), "{name}");
        }
        for held in [true, false] {
            let told = call.say(Role::Vendor, Say::Held(held));
            assert_eq!(told.is_some(), call.expected.held != Not, "{name} tells of hold");
            let Some(told) = told else { continue };
            assert_eq!(call.hear(Role::Agent, &told).event, event(Event::Held(held)), "{name}");
        }
        let failed = Transfer::Failed { status: 486 };
        let told = call.say(Role::Vendor, Say::Transfer(failed));
        assert_eq!(told.is_some(), call.expected.transfer != Not, "{name} tells of a transfer");
        if let Some(told) = told {
            assert_eq!(call.hear(Role::Agent, &told).event, event(Event::Transfer(failed)), "{name}");
        }
    }
}

#[test]
fn nobody_says_what_is_the_others_to_say() {
    for name in NAMES {
        let mut call = Call::begun(name, None);
        for say in [
            Say::Heard("m"),
            Say::Dtmf(b'1'),
            Say::Stop(StopReason::Ended),
            Say::Cleared { unheard_ms: 1 },
            Say::Held(true),
            Say::Transfer(Transfer::Trying),
        ] {
            assert!(call.say(Role::Agent, say).is_none(), "{name} {say:?}");
        }
        let wish = Wish::transfer("300").unwrap();
        for say in [Say::Clear, Say::Mark("m"), Say::HangUp, Say::Wish(&wish)] {
            assert!(call.say(Role::Vendor, say).is_none(), "{name} {say:?}");
        }
    }
}

#[test]
fn who_goes_on_after_a_close_is_known_of_every_dialect() {
    let that = |says: fn(&(dyn Dialect + 'static)) -> bool, role| {
        let name = |name: &&&str| says(&*open(name, role, None, Rate::Hz8000, &Options::default()).unwrap());
        NAMES.iter().filter(name).copied().collect::<Vec<_>>()
    };
    let hand_back = ["ozonetel", "exotel", "telnyx", "twilio", "plivo", "vonage", "audiofork"];
    assert_eq!(that(Dialect::close_hands_back, Role::Agent), hand_back);
    assert_eq!(that(Dialect::may_reconnect, Role::Vendor), ["rtaa"]);
    assert!(that(Dialect::may_reconnect, Role::Agent).is_empty());
}

#[test]
fn an_event_of_next_year_is_counted_and_hurts_nobody() {
    let text =
        r#"{"event":"no-such-event","type":"no-such-event","action":"no-such-event","media":{"payload":"AAAA"}}"#;
    let sent = Sent { bytes: text.as_bytes().to_vec(), binary: false };
    for name in NAMES {
        for role in [Role::Vendor, Role::Agent] {
            let mut call = Call::begun(name, None);
            let heard = call.hear(role, &sent);
            assert_eq!(heard.audio, None, "{name} {role:?}");
            assert_eq!(heard.event, event(Event::Unknown), "{name} {role:?}");
        }
    }
}

#[test]
fn what_a_vendor_opens_with_tells_its_dialect() {
    for name in NAMES {
        let call = Call::begun(name, None);
        let texts = call.said.iter().filter(|sent| !sent.binary && !sent.bytes.is_empty());
        for detected in texts.map(|sent| detect(&sent.bytes)).filter(|&detected| detected != Detected::Wait).take(1) {
            // One that grew out of another begins as that one does.
            let first = if *name == "exostreamkit" { "rtaa" } else { name };
            assert_eq!(detected, Detected::Dialect(first));
        }
    }
}

#[test]
fn damaged_messages_hurt_nobody() {
    let mut state = 0x9e37_79b9_u32;
    let mut below = |end: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize % end
    };
    for name in NAMES {
        let mut call = Call::begun(name, None);
        for role in [Role::Vendor, Role::Agent] {
            call.audio(role, &noise(20));
            for say in [
                Say::Clear,
                Say::Mark("m\\\"1"),
                Say::Heard("m1"),
                Say::Dtmf(b'1'),
                Say::HangUp,
                Say::Wish(&Wish::transfer("sip:300@pbx").unwrap()),
                Say::Wish(&Wish::digits("12#").unwrap()),
                Say::Held(true),
                Say::Transfer(Transfer::Failed { status: 603 }),
                Say::Stop(StopReason::Ended),
            ] {
                call.say(role, say);
            }
        }
        let seeds: Vec<Sent> = call.said.iter().filter(|sent| !sent.bytes.is_empty()).cloned().collect();
        let mut understood = 0;
        for _ in 0..3_000 {
            let mut sent = seeds[below(seeds.len())].clone();
            for _ in 0..=below(3) {
                let at = below(sent.bytes.len());
                match below(4) {
                    0 => sent.bytes[at] = below(256) as u8,
                    1 => sent.bytes[at] = b"\"\\{}[],:0n"[below(10)],
                    2 if sent.bytes.len() > 1 => drop(sent.bytes.remove(at)),
                    _ => sent.bytes.extend_from_within(at..),
                }
            }
            for role in [Role::Vendor, Role::Agent] {
                understood += usize::from(incoming(call.side(role), &sent).is_ok());
                let mut space = vec![0; 65_536];
                let (facts, side) = (call.facts.clone(), call.side(role));
                for _ in 0..20 {
                    let due = side.write_due(&facts, Stamp::default(), &mut Message::new(&mut space));
                    if due != Ok(true) {
                        break;
                    }
                }
                let _ = side.write_audio(&[1; 160], &facts, STAMP, &mut Message::new(&mut space));
            }
        }
        assert!(understood > 300, "{name}: {understood}");
    }
}
