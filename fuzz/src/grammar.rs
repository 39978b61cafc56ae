//! What holds for every dialect, in both roles.
//!
//! The texts of an input stand in lines, so that one message can prepare the next. Each is understood as a whole and
//! piece by piece, and what was learned from it is said back: the other role has to hear what this one meant. Where
//! audio is binary, so is a line that is no object.

use trunkline::{
    dialect::{
        self, Audio, Carrier, Coding, Dialect, Event, Facts, Format, Malformed, Message, Options, Role, Say, Stamp,
        StopReason, Transfer, Wish,
        decode::{Decoder, most_samples},
        json::{Run, Splitter},
    },
    media::Rate,
};

use crate::{Said, Steer, facts};

/// Both roles of the dialect, on the lines of `texts`.
pub fn check(name: &str, options: &Options, steer: &Steer, texts: &[u8]) {
    for role in [Role::Vendor, Role::Agent] {
        let mut steer = steer.clone();
        let mut whole = open(name, role, options);
        let mut pieces = open(name, role, options);
        let mut alike = true;
        for text in texts.split(|&byte| byte == b'\n') {
            // Asterisk's other spelling begins with a verb in capitals.
            let is_verb = name == "asterisk" && text.first().is_some_and(u8::is_ascii_uppercase);
            let is_binary = whole.binary_is_audio() && !text.starts_with(b"{") && !is_verb;
            let Ok(heard) = hear(&mut *whole, text, is_binary) else { continue };
            // A long message may say less: it has one place for audio, and its rate is guessed before it is known.
            alike = alike
                && if is_binary {
                    hear_binary_pieces(&mut *pieces, &mut steer, text, &heard)
                } else {
                    hear_pieces(&mut *pieces, &mut steer, text, &heard)
                };
            // A text that breaks JSON's own rules for strings may name a mark that cannot be told back.
            if let Said::Mark(mark) = &heard.said
                && role == Role::Vendor
                && serde_json::from_slice::<serde_json::Value>(text).is_ok()
            {
                mark_comes_back(&mut *whole, options, mark);
            }
        }
        speak(name, role, options, &mut *whole, &mut steer);
    }
}

fn open(name: &str, role: Role, options: &Options) -> Box<dyn Dialect> {
    dialect::open(name, role, None, Rate::Hz8000, options).unwrap_or_else(|| panic!("{name} is a dialect"))
}

#[derive(Debug, PartialEq, Eq)]
struct Heard {
    /// `None`: no audio, or audio to be ignored.
    samples: Option<Result<Vec<i16>, Malformed>>,
    rate: Option<Rate>,
    said: Said,
}

impl Heard {
    const NOTHING: Self = Self { samples: None, rate: None, said: Said::Plain("none") };
}

fn hear(dialect: &mut dyn Dialect, text: &[u8], is_binary: bool) -> Result<Heard, Malformed> {
    let incoming = if is_binary { dialect.handle_binary(text)? } else { dialect.handle_text(text)? };
    let (samples, rate) = match incoming.audio {
        Audio::None | Audio::Skip => (None, None),
        Audio::Take { format, bytes } => {
            let (inside, all) = (bytes.as_ptr_range(), text.as_ptr_range());
            assert!(all.start <= inside.start && inside.end <= all.end, "its audio stands in the message");
            (Some(decode(Decoder::new(format), bytes, most_samples(format, bytes.len()))), Some(format.rate))
        }
    };
    let said = Said::of(incoming.event);
    if let Some(Ok(samples)) = &samples {
        dialect.handle_taken(samples.len() as u64);
    }
    if let Some(rate) = rate {
        assert_eq!(dialect.expected().rate, rate, "the next is expected to be as the last");
    }
    if let Some(facts) = dialect.facts() {
        for text in [&facts.ucid, &facts.stream_sid, &facts.call_sid, &facts.account, &facts.from, &facts.to] {
            assert!(!text.chars().any(char::is_control));
        }
    }
    Ok(Heard { samples, rate, said })
}

fn decode(mut decoder: Decoder, bytes: &[u8], most: usize) -> Result<Vec<i16>, Malformed> {
    let mut samples = vec![0; most];
    let (consumed, mut made) = decoder.decode(bytes, &mut samples)?;
    assert_eq!(consumed, bytes.len());
    made += decoder.finish(&mut samples[made..])?;
    samples.truncate(made);
    Ok(samples)
}

/// The same text as a leg reads one that its buffer is too small for. `false`: it was understood in another way, so
/// that the two have gone apart.
fn hear_pieces(dialect: &mut dyn Dialect, steer: &mut Steer, mut text: &[u8], whole: &Heard) -> bool {
    // Somebody's words that stand where audio would are lost, and their end has them again.
    if whole.said == Said::Plain("transcript") {
        return false;
    }
    let mut expected = dialect.expected();
    let (mut splitter, mut decoder) = (Splitter::new(), Decoder::new(expected));
    let (mut skeleton, mut samples, mut space) = (vec![], vec![], [0; 64]);
    while !text.is_empty() {
        let mut piece = steer.piece(&mut text);
        while !piece.is_empty() {
            let Ok(step) = splitter.split(piece, |key, depth| dialect.carrier(key, depth)) else { return false };
            let (mut run, rest) = piece.split_at(step.consumed);
            match step.run {
                Run::Text => skeleton.extend_from_slice(run),
                Run::Audio(carrier) => {
                    if carrier != expected.carrier {
                        assert!(expected.carrier == Carrier::Raw && samples.is_empty(), "one carrier for all texts");
                        expected.carrier = carrier;
                        decoder = Decoder::new(expected);
                    }
                    while !run.is_empty() {
                        let Ok((consumed, made)) = decoder.decode(run, &mut space) else { return false };
                        samples.extend_from_slice(&space[..made]);
                        run = &run[consumed..];
                    }
                }
                Run::AudioEnd => match decoder.finish(&mut space) {
                    Ok(made) => samples.extend_from_slice(&space[..made]),
                    Err(_) => return false,
                },
            }
            piece = rest;
        }
    }
    if splitter.finish().is_err() {
        return false;
    }
    let Ok(incoming) = dialect.handle_text(&skeleton) else { return false };
    assert_eq!(Said::of(incoming.event), whole.said);
    match incoming.audio {
        Audio::Take { format, bytes: [] } if format == expected => {
            dialect.handle_taken(samples.len() as u64);
            assert_eq!(whole.samples, Some(Ok(samples)));
            true
        }
        Audio::Take { .. } => false,
        Audio::None | Audio::Skip => {
            assert_eq!(whole.samples, None);
            true
        }
    }
}

/// The same of a message that is audio and nothing else.
fn hear_binary_pieces(dialect: &mut dyn Dialect, steer: &mut Steer, mut bytes: &[u8], whole: &Heard) -> bool {
    let expected = Format { carrier: Carrier::Raw, ..dialect.expected() };
    let (mut decoder, mut samples, mut space) = (Decoder::new(expected), vec![], [0; 64]);
    while !bytes.is_empty() {
        let mut piece = steer.piece(&mut bytes);
        while !piece.is_empty() {
            let Ok((consumed, made)) = decoder.decode(piece, &mut space) else { return false };
            samples.extend_from_slice(&space[..made]);
            piece = &piece[consumed..];
        }
    }
    let Ok(incoming) = dialect.handle_binary(&[]) else { return false };
    assert_eq!(Said::of(incoming.event), whole.said);
    match incoming.audio {
        Audio::Take { format, .. } => {
            assert_eq!(format, expected, "nothing in the message can say otherwise");
            dialect.handle_taken(samples.len() as u64);
            assert_eq!(whole.samples, Some(Ok(samples)));
        }
        Audio::None | Audio::Skip => assert_eq!(whole.samples, None),
    }
    true
}

/// A mark that was asked for is told back as it was asked, and an agent hears it so.
fn mark_comes_back(vendor: &mut dyn Dialect, options: &Options, mark: &str) {
    let name = vendor.name();
    let sent = write(vendor, |vendor, out| vendor.write(Say::Heard(mark), &facts(), STAMP, out));
    let sent = sent.unwrap_or_else(|| panic!("{name} has marks"));
    let mut agent = open(name, Role::Agent, options);
    if name == "audiofork" {
        // Its first text is metadata, whatever it says.
        let _ = agent.handle_text(b"{}");
    }
    let heard = agent.handle_text(&sent.bytes).unwrap_or_else(|error| panic!("{error} in {}", sent.show()));
    if name == "vonage" {
        // It gives back any object, of which our agents read the name, where it has one.
        assert!(matches!(heard.event, Event::Heard(_) | Event::Unknown), "{}", sent.show());
    } else if name == "asterisk" {
        // It also tells of the end of a buffer, of marks without a name, and of the one that shows its release.
        assert!(matches!(heard.event, Event::Heard(_) | Event::None | Event::Unknown), "{}", sent.show());
    } else {
        assert_eq!(heard.event, Event::Heard(mark), "{}", sent.show());
    }
}

/// Whatever was heard before, what is said is JSON or audio, and what was meant is heard.
fn speak(name: &str, role: Role, options: &Options, dialect: &mut dyn Dialect, steer: &mut Steer) {
    let facts = dialect.facts().cloned().unwrap_or_else(facts);
    let mut peer = open(name, if role == Role::Vendor { Role::Agent } else { Role::Vendor }, options);
    for step in 0.. {
        let Some(sent) = write(dialect, |side, out| side.write_opening(step, &facts, STAMP, out)) else { break };
        sent.must_be_heard(&mut *peer);
    }
    for step in 0.. {
        let Some(sent) = write(&mut *peer, |side, out| side.write_opening(step, &facts, STAMP, out)) else { break };
        sent.must_be_heard(dialect);
    }
    settle(dialect, &mut *peer, &facts);
    if role == Role::Vendor && name != "openai" {
        let told = peer.facts().unwrap_or_else(|| panic!("an opening has the facts"));
        if !matches!(name, "rtaa" | "exostreamkit" | "asterisk") {
            assert_eq!((&told.from, &told.to), (&facts.from, &facts.to));
        }
    }

    let samples: Vec<i16> = (0..dialect.chunk()).map(|i| (i as i16).wrapping_mul(7_919)).collect();
    while let Some(sent) = write(dialect, |side, out| side.write_ahead(&facts, STAMP, out)) {
        sent.must_be_heard(&mut *peer);
    }
    let sent = write(dialect, |side, out| side.write_audio(&samples, &facts, STAMP, out).map(|()| true));
    let heard = sent.as_ref().map_or(Heard::NOTHING, |sent| sent.must_be_heard(&mut *peer));
    // Of OpenAI's two ways each has a coding of its own; elsewhere the peer may not have been told this one's.
    let linear = [Coding::Decimal, Coding::Pcm16Le];
    if name != "openai"
        && linear.contains(&dialect.expected().coding)
        && linear.contains(&peer.expected().coding)
        && let Some(heard) = heard.samples
    {
        assert_eq!(heard, Ok(samples.clone()), "{}", sent.map(|sent| sent.show()).unwrap_or_default());
    }
    settle(dialect, &mut *peer, &facts);

    for say in [
        Say::BargeIn,
        Say::Clear,
        Say::Cleared { unheard_ms: 120 },
        Say::Mark("7\u{e9}\"\\"),
        Say::Heard("\\u00e9"),
        Say::Dtmf(b'#'),
        Say::HangUp,
        Say::Wish(&Wish::Digits("12#".try_into().unwrap_or_default())),
        Say::Held(true),
        Say::Transfer(Transfer::Failed { status: 486 }),
        Say::Stop(StopReason::Ended),
    ] {
        if let Some(sent) = write(dialect, |side, out| side.write(say, &facts, STAMP, out)) {
            sent.must_be_heard(&mut *peer);
        }
        settle(dialect, &mut *peer, &facts);
    }
    let _ = dialect.overdue(STAMP);

    // Little room is said to be too little.
    let mut space = vec![0; steer.up_to(200)];
    let mut out = Message::new(&mut space);
    let _ = dialect.write_audio(&samples, &facts, STAMP, &mut out);
}

/// What is due on either side, until nothing is.
fn settle(dialect: &mut dyn Dialect, peer: &mut dyn Dialect, facts: &Facts) {
    for turn in 0.. {
        assert!(turn < 200, "two sides that never stop answering");
        if let Some(sent) = write(dialect, |side, out| side.write_due(facts, STAMP, out)) {
            sent.must_be_heard(peer);
        } else if let Some(sent) = write(peer, |side, out| side.write_due(facts, STAMP, out)) {
            sent.must_be_heard(dialect);
        } else {
            return;
        }
    }
}

/// A message on its way.
struct Sent {
    bytes: Vec<u8>,
    is_binary: bool,
}

impl Sent {
    fn must_be_heard(&self, dialect: &mut dyn Dialect) -> Heard {
        // Where nobody would hear it, there is nothing.
        if self.bytes.is_empty() && !self.is_binary {
            return Heard::NOTHING;
        }
        let is_binary = self.is_binary && dialect.binary_is_audio();
        let heard = hear(dialect, &self.bytes, is_binary);
        heard.unwrap_or_else(|error| panic!("{error} in {}", self.show()))
    }

    fn show(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// One message of this side, no longer than it promised. `None`: it has nothing to say.
fn write(
    dialect: &mut dyn Dialect,
    write: impl FnOnce(&mut dyn Dialect, &mut Message<'_>) -> Result<bool, dialect::Full>,
) -> Option<Sent> {
    let mut space = vec![0; dialect.longest()];
    let mut out = Message::new(&mut space);
    let said = write(dialect, &mut out);
    assert!(said.is_ok(), "{}: longer than it promised", dialect.name());
    let sent = Sent { bytes: out.bytes().to_vec(), is_binary: out.is_binary() };
    // Asterisk's other spelling is no JSON.
    let is_plain = dialect.name() == "asterisk" && !sent.bytes.starts_with(b"{");
    if !sent.is_binary && !sent.bytes.is_empty() && !is_plain {
        is_json(&sent.bytes);
    }
    (said == Ok(true)).then_some(sent)
}

fn is_json(text: &[u8]) {
    let read = serde_json::from_slice::<serde_json::Value>(text);
    assert!(read.is_ok_and(|value| value.is_object()), "{}", String::from_utf8_lossy(text));
}

const STAMP: Stamp = Stamp { stream_ms: 1_500, epoch_ms: 1_767_225_600_123 };
