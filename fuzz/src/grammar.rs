//! What holds for every dialect, in both roles.
//!
//! The texts of an input stand in lines, so that one message can prepare the next. Each is understood as a whole and
//! piece by piece, and what was learned from it is said back: the other role has to hear what this one meant.

use trunkline::{
    dialect::{
        self, Audio, Coding, Dialect, Event, Malformed, Message, Options, Role, Say, Stamp, StopReason,
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
            let Ok(heard) = hear(&mut *whole, text) else { continue };
            // A long message may say less: it has one place for audio, and its rate is guessed before it is known.
            alike = alike && hear_pieces(&mut *pieces, &mut steer, text, &heard);
            // A text that breaks JSON's own rules for strings may name a mark that cannot be told back.
            if let Said::Mark(mark) = &heard.said
                && serde_json::from_slice::<serde_json::Value>(text).is_ok()
            {
                mark_comes_back(name, role, options, mark);
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

fn hear(dialect: &mut dyn Dialect, text: &[u8]) -> Result<Heard, Malformed> {
    let incoming = dialect.handle_text(text)?;
    let (samples, rate) = match incoming.audio {
        Audio::None | Audio::Skip => (None, None),
        Audio::Take { format, bytes } => {
            let (inside, all) = (bytes.as_ptr_range(), text.as_ptr_range());
            assert!(all.start <= inside.start && inside.end <= all.end, "its audio stands in the message");
            (Some(decode(Decoder::new(format), bytes, most_samples(format, bytes.len()))), Some(format.rate))
        }
    };
    let said = Said::of(incoming.event);
    if let Some(rate) = rate {
        assert_eq!(dialect.expected().rate, rate, "the next is expected to be as the last");
    }
    if let Some(facts) = dialect.facts() {
        for text in [&facts.ucid, &facts.stream_sid, &facts.from, &facts.to] {
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
    let expected = dialect.expected();
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
                    assert_eq!(carrier, expected.carrier);
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

/// A mark that was asked for is told back as it was asked, and an agent hears it so.
fn mark_comes_back(name: &str, role: Role, options: &Options, mark: &str) {
    if role == Role::Agent {
        return;
    }
    let text = write(|out| open(name, Role::Vendor, options).write(Say::Heard(mark), &facts(), STAMP, out));
    let mut agent = open(name, Role::Agent, options);
    let heard = agent.handle_text(&text).unwrap_or_else(|error| panic!("{error} in {}", show(&text)));
    assert_eq!(heard.event, Event::Heard(mark), "{}", show(&text));
}

/// Whatever was heard before, what is said is JSON, and what was meant is heard.
fn speak(name: &str, role: Role, options: &Options, dialect: &mut dyn Dialect, steer: &mut Steer) {
    let facts = dialect.facts().cloned().unwrap_or_else(facts);
    let mut peer = open(name, if role == Role::Vendor { Role::Agent } else { Role::Vendor }, options);
    for step in 0.. {
        let mut space = [0; SPACE];
        let mut out = Message::new(&mut space);
        if dialect.write_opening(step, &facts, STAMP, &mut out) != Ok(true) {
            break;
        }
        let text = out.bytes();
        is_json(text);
        assert!(peer.handle_text(text).is_ok(), "{}", show(text));
    }
    if role == Role::Vendor {
        let told = peer.facts().unwrap_or_else(|| panic!("an opening has the facts"));
        assert_eq!((&told.from, &told.to), (&facts.from, &facts.to));
    }

    let samples: Vec<i16> = (0..dialect.chunk()).map(|i| (i as i16).wrapping_mul(7_919)).collect();
    let text = write(|out| dialect.write_audio(&samples, &facts, STAMP, out));
    // Where nobody would hear it, there is nothing.
    let heard = if text.is_empty() { Ok(Heard::NOTHING) } else { hear(&mut *peer, &text) };
    let heard = heard.unwrap_or_else(|error| panic!("{error} in {}", show(&text)));
    if matches!(dialect.expected().coding, Coding::Decimal | Coding::Pcm16Le)
        && let Some(heard) = heard.samples
    {
        assert_eq!(heard, Ok(samples.clone()), "{}", show(&text));
    }

    for say in [
        Say::Clear,
        Say::Mark("7\u{e9}\"\\"),
        Say::Heard("\\u00e9"),
        Say::Dtmf(b'#'),
        Say::HangUp,
        Say::Stop(StopReason::Ended),
    ] {
        let text = write(|out| dialect.write(say, &facts, STAMP, out));
        if !text.is_empty() {
            assert!(peer.handle_text(&text).is_ok(), "{}", show(&text));
        }
    }

    // Little room is said to be too little.
    let mut space = vec![0; steer.up_to(200)];
    let mut out = Message::new(&mut space);
    let _ = dialect.write_audio(&samples, &facts, STAMP, &mut out);
}

fn write<T>(write: impl FnOnce(&mut Message<'_>) -> Result<T, dialect::Full>) -> Vec<u8> {
    let mut space = [0; SPACE];
    let mut out = Message::new(&mut space);
    assert!(write(&mut out).is_ok(), "a message of ours fits 8 KiB");
    let text = out.bytes();
    if !text.is_empty() {
        is_json(text);
    }
    text.to_vec()
}

fn is_json(text: &[u8]) {
    let read = serde_json::from_slice::<serde_json::Value>(text);
    assert!(read.is_ok_and(|value| value.is_object()), "{}", show(text));
}

fn show(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

const STAMP: Stamp = Stamp { stream_ms: 1_500, epoch_ms: 1_767_225_600_123 };
/// What a leg lends for one message.
const SPACE: usize = 8 * 1024;
