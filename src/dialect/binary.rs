//! `binary`: a WebSocket that carries PCM16 and nothing else.
//!
//! Every binary message is signed 16-bit little-endian mono at the configured rate, of any length. There is no word
//! for anything: no start, no clear, no mark. A call begins with the socket and ends with it. Only what an agent may ask of
//! the line ([`wish`]) is understood where it comes as a text; an agent is told nothing, because many take every message
//! for samples.

use crate::{
    dialect::{
        Audio, Carrier, Coding, Dialect, Event, Facts, Format, Full, Incoming, Malformed, MarksOnClear, Message, Role,
        Say, Stamp,
        wish::{self, Words},
    },
    media::Rate,
};

/// Both sides of the grammar, whose audio is the same.
#[derive(Debug)]
pub struct Binary {
    role: Role,
    rate: Rate,
}

impl Binary {
    /// Bare PCM16 at this rate, both ways.
    #[must_use]
    pub const fn new(role: Role, rate: Rate) -> Self {
        Self { role, rate }
    }
}

impl Dialect for Binary {
    fn name(&self) -> &'static str {
        "binary"
    }

    fn rate(&self) -> Rate {
        self.rate
    }

    fn chunk(&self) -> usize {
        self.rate.frame()
    }

    fn unit(&self) -> usize {
        1
    }

    fn lead_ms(&self) -> u64 {
        60
    }

    fn expected(&self) -> Format {
        Format { carrier: Carrier::Raw, coding: Coding::Pcm16Le, rate: self.rate }
    }

    fn carrier(&self, _key: &[u8], _depth: usize) -> Option<Carrier> {
        None
    }

    fn binary_is_audio(&self) -> bool {
        true
    }

    fn marks_ride_on_audio(&self) -> bool {
        false
    }

    fn marks_on_clear(&self) -> MarksOnClear {
        MarksOnClear::Forget
    }

    fn facts(&self) -> Option<&Facts> {
        None
    }

    fn write_opening(&mut self, _: usize, _: &Facts, _: Stamp, _: &mut Message<'_>) -> Result<bool, Full> {
        Ok(false)
    }

    fn write_audio(&mut self, samples: &[i16], _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        out.set_binary();
        out.raw_pcm16le(samples)
    }

    fn write(&mut self, say: Say<'_>, _: &Facts, _: Stamp, out: &mut Message<'_>) -> Result<bool, Full> {
        match self.role {
            Role::Vendor => Ok(false),
            Role::Agent => Words::of("", "").write(self.role, say, out),
        }
    }

    /// Any other text has no meaning here, whatever it is: it is counted and forgotten.
    fn handle_text<'m>(&mut self, text: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        let event = match self.role {
            Role::Vendor => wish::read(self.role, text),
            Role::Agent => Event::Unknown,
        };
        Ok(Incoming { audio: Audio::None, event })
    }

    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        Ok(Incoming { audio: Audio::Take { format: self.expected(), bytes: payload }, event: Event::None })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        StopReason, Wish,
        ozonetel::tests::{STAMP, facts, noise, opening, said, samples},
    };

    #[test]
    fn samples_arrive_as_they_were_sent_at_every_length() {
        for len in [0, 1, 2, 159, 160, 4_800] {
            let sent = noise(len);
            let mut space = [0; 9_600];
            let mut out = Message::new(&mut space);
            let mut dialect = Binary::new(Role::Vendor, Rate::Hz16000);
            dialect.write_audio(&sent, &facts(), STAMP, &mut out).unwrap();
            assert!(out.is_binary());
            assert_eq!(out.len(), len * 2);
            let incoming = dialect.handle_binary(out.bytes()).unwrap();
            assert_eq!(incoming.event, Event::None);
            assert_eq!(samples(incoming.audio).unwrap(), sent);
        }
    }

    #[test]
    fn the_least_significant_byte_comes_first_and_an_odd_one_is_dropped() {
        let mut dialect = Binary::new(Role::Vendor, Rate::Hz8000);
        // The first byte is a brace: this is still audio, never JSON.
        let incoming = dialect.handle_binary(b"{\x01\xff\xff\x00\x80\x07").unwrap();
        assert_eq!(samples(incoming.audio).unwrap(), [0x017b, -1, i16::MIN]);
        assert!(dialect.binary_is_audio());
    }

    #[test]
    fn text_is_counted_and_means_nothing() {
        let mut dialect = Binary::new(Role::Vendor, Rate::Hz8000);
        for text in [&b"{\"event\":\"clear\"}"[..], b"hello", b"", b"\xff\xfe"] {
            let incoming = dialect.handle_text(text).unwrap();
            assert_eq!(incoming, Incoming { audio: Audio::None, event: Event::Unknown });
        }
        assert_eq!(dialect.carrier(b"payload", 2), None);
    }

    #[test]
    fn a_wish_comes_as_a_text_and_only_an_agent_has_one() {
        let text = br#"{"event":"transfer","target":"sip:300@pbx.example.com"}"#;
        let mut vendor = Binary::new(Role::Vendor, Rate::Hz8000);
        let Event::Wish(asked) = vendor.handle_text(text).unwrap().event else { panic!("no wish") };
        assert_eq!(asked.wish(), Wish::transfer("sip:300@pbx.example.com"));
        let mut agent = Binary::new(Role::Agent, Rate::Hz8000);
        assert_eq!(agent.handle_text(text).unwrap().event, Event::Unknown);
        let wish = Wish::transfer("sip:300@pbx.example.com").unwrap();
        assert_eq!(said(&mut agent, Say::Wish(&wish)).unwrap().as_bytes(), text);
        assert_eq!(said(&mut vendor, Say::Held(true)), None, "it would be taken for samples");
    }

    #[test]
    fn nothing_else_can_be_said() {
        let mut dialect = Binary::new(Role::Vendor, Rate::Hz24000);
        assert_eq!(opening(&mut dialect, 0), None);
        for say in
            [Say::Clear, Say::Mark("m"), Say::Heard("m"), Say::Dtmf(b'1'), Say::HangUp, Say::Stop(StopReason::Ended)]
        {
            assert_eq!(said(&mut dialect, say), None, "{say:?}");
        }
        assert_eq!(dialect.chunk(), 480);
    }
}
