//! The line leg of a PBX that dialled us: its messages as samples, our frames as its messages. Pure.
//!
//! Under kind 0x10 Asterisk before 20.17 and 22.7 sends whatever the channel has, so the first ten frames are only
//! looked at: the trunk hears silence until the format is certain, and we answer in 8 kHz PCM.

pub use crate::leg::audiosocket::message::MAX_FRAME as MAX_MESSAGE;
use crate::{
    leg::audiosocket::{
        format::{FormatFinder, Verdict},
        kind, kind_of,
        message::{Item, Reader, Violation, WrongRate, write, write_audio, write_hangup},
    },
    media::{Now, Rate, clock::PTIME, frame::MAX_SAMPLES, g711::Law},
};

/// What the PBX told.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<'l> {
    /// The caller's voice, or silence while its format is not certain.
    Audio(Rate, &'l [i16]),
    /// A key was pressed.
    Digit(u8),
    /// The caller hung up.
    Hangup,
    /// The PBX says that it failed, with a code.
    Failed(Option<u8>),
    /// Audio at a rate that is not ours.
    WrongRate(WrongRate),
    /// Audio that is neither PCM nor G.711.
    Unreadable,
}

/// The line leg.
pub struct Line {
    reader: Reader,
    coding: Option<Coding>,
    finder: FormatFinder,
    samples: Box<[i16; BATCH]>,
    pending_silence: usize,
    /// When the last message came whose format was not certain.
    last_message: Option<Now>,
    answer_kind: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Pcm(Rate),
    G711(Law),
}

impl Line {
    /// A line whose first message was read by this reader.
    #[must_use]
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            coding: None,
            finder: FormatFinder::new(),
            samples: Box::new([0; BATCH]),
            pending_silence: 0,
            last_message: None,
            answer_kind: kind::AUDIO_8000,
        }
    }

    /// The rate of the frames that the PBX wants.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        match self.coding {
            Some(Coding::Pcm(rate)) => rate,
            Some(Coding::G711(_)) | None => Rate::Hz8000,
        }
    }

    /// The name of what the PBX speaks, as Asterisk has it; `None`: it has said nothing yet.
    #[must_use]
    pub const fn codec(&self) -> Option<&'static str> {
        Some(match self.coding {
            None => return None,
            Some(Coding::Pcm(Rate::Hz8000)) => "slin",
            Some(Coding::Pcm(Rate::Hz16000)) => "slin16",
            Some(Coding::Pcm(Rate::Hz24000)) => "slin24",
            Some(Coding::Pcm(Rate::Hz48000)) => "slin48",
            Some(Coding::G711(Law::Mu)) => "ulaw",
            Some(Coding::G711(Law::A)) => "alaw",
        })
    }

    /// Copies bytes in; says how many fitted. Poll until there is no more input, then feed the rest.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        self.reader.feed(bytes)
    }

    /// The next thing that the PBX told.
    ///
    /// # Errors
    /// [`Violation`]: this is not AudioSocket.
    pub fn poll(&mut self, now: Now) -> Result<Option<Input<'_>>, Violation> {
        loop {
            if self.pending_silence > 0 {
                let n = self.pending_silence.min(BATCH);
                self.pending_silence -= n;
                self.samples[..n].fill(0);
                let rate = self.rate();
                return Ok(Some(Input::Audio(rate, &self.samples[..n])));
            }
            let Some(item) = self.reader.peek()? else { return Ok(None) };
            let input = match item {
                Item::Hangup => Input::Hangup,
                Item::Dtmf(digit) => Input::Digit(digit),
                Item::Error(code) => Input::Failed(code),
                Item::WrongRate(rate) => Input::WrongRate(rate),
                Item::Silence => {
                    self.pending_silence = self.rate().frame();
                    self.reader.advance();
                    continue;
                }
                // A second name says nothing new; a kind that we do not know is skipped.
                Item::Uuid(_) | Item::Unknown(_) => {
                    self.reader.advance();
                    continue;
                }
                Item::Audio { kind, bytes, last, message_len } => {
                    if kind != self.answer_kind {
                        // Another kind is another format, and it says which.
                        self.answer_kind = kind;
                        self.coding = None;
                        self.finder = FormatFinder::new();
                    }
                    if self.coding.is_none() {
                        match self.finder.push(now, kind, message_len, bytes) {
                            Some(Verdict::Pcm(rate)) => self.coding = Some(Coding::Pcm(rate)),
                            Some(Verdict::G711(law)) => self.coding = Some(Coding::G711(law)),
                            Some(Verdict::Unsupported) => {
                                self.reader.advance();
                                return Ok(Some(Input::Unreadable));
                            }
                            None => {
                                // As long as time went by: how many samples the message has is not known yet.
                                let gap = self.last_message.map_or(PTIME, |then| now.saturating_sub(then));
                                // In steps of 10 ms, or the jitter of arrivals would leave odd samples in every queue behind.
                                let tens = (gap.min(LONGEST_MESSAGE).as_millis() as usize + 5) / 10;
                                self.pending_silence = if last { tens * Rate::Hz8000.samples(10) } else { 0 };
                                if last {
                                    self.last_message = Some(now);
                                }
                                self.reader.advance();
                                continue;
                            }
                        }
                    }
                    let n = decode(self.coding, bytes, &mut self.samples[..]);
                    let rate = self.rate();
                    self.reader.advance();
                    return Ok(Some(Input::Audio(rate, &self.samples[..n])));
                }
            };
            self.reader.advance();
            return Ok(Some(input));
        }
    }

    /// Writes one frame as one message, in the format that the PBX speaks.
    pub fn write_frame<'b>(&self, samples: &[i16], out: &'b mut [u8; MAX_MESSAGE]) -> &'b [u8] {
        match self.coding {
            Some(Coding::G711(law)) => {
                let mut codes = [0; MAX_SAMPLES];
                let n = law.encode_slice(samples, &mut codes);
                write(self.answer_kind, &codes[..n], out)
            }
            Some(Coding::Pcm(rate)) if self.answer_kind != kind::AUDIO_8000 => write_audio(kind_of(rate), samples, out),
            Some(Coding::Pcm(_)) | None => write_audio(self.answer_kind, samples, out),
        }
    }

    /// Writes the message that gives the caller back to the dialplan.
    pub fn write_hangup<'b>(&self, out: &'b mut [u8; MAX_MESSAGE]) -> &'b [u8] {
        write_hangup(out)
    }
}

/// A piece never cuts a sample; the odd byte of an odd message is nobody's.
fn decode(coding: Option<Coding>, bytes: &[u8], samples: &mut [i16]) -> usize {
    if let Some(Coding::G711(law)) = coding {
        return law.decode_slice(bytes, samples);
    }
    for (sample, pair) in samples.iter_mut().zip(bytes.chunks_exact(2)) {
        *sample = i16::from_le_bytes([pair[0], pair[1]]);
    }
    (bytes.len() / 2).min(samples.len())
}

/// No message is taken for longer than this while its format is not certain: a held call sends nothing for minutes.
const LONGEST_MESSAGE: Now = Now::from_millis(200);

/// The reader's buffer holds 4 KiB, so one piece of audio is at most so many samples of G.711.
const BATCH: usize = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(bytes: &[u8]) -> Line {
        let mut line = Line::new(Reader::new());
        assert_eq!(line.feed(bytes), bytes.len());
        line
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, (payload.len() >> 8) as u8, payload.len() as u8];
        message.extend(payload);
        message
    }

    #[test]
    fn slin16_is_certain_at_once_and_answered_alike() {
        let mut line = line(&frame(0x12, &[0x34, 0x12, 0xff, 0xff]));
        assert_eq!(line.poll(Now::ZERO).unwrap(), Some(Input::Audio(Rate::Hz16000, &[0x1234, -1])));
        let mut out = [0; MAX_MESSAGE];
        assert_eq!(line.write_frame(&[1, 2], &mut out), [0x12, 0, 4, 1, 0, 2, 0]);
    }

    #[test]
    fn under_0x10_the_trunk_hears_silence_until_the_format_is_certain() {
        let mut line = line(&[]);
        let loud = frame(0x10, &[0x11; 320]);
        for i in 0..20 {
            line.feed(&loud);
            let now = Now::from_millis(20 * i);
            let input = line.poll(now).unwrap().unwrap();
            let expected = if i < 9 { [0_i16; 160] } else { [0x1111; 160] };
            assert_eq!(input, Input::Audio(Rate::Hz8000, &expected), "frame {i}");
            assert_eq!(line.poll(now).unwrap(), None);
        }
    }

    #[test]
    fn g711_under_0x10_is_heard_and_answered_as_g711() {
        let mut line = line(&[]);
        let mut speech = [0_u8; 160];
        for (i, code) in speech.iter_mut().enumerate() {
            *code = Law::Mu.encode((f64::sin(i as f64 / 5.0) * 8000.0) as i16);
        }
        for i in 0..12 {
            line.feed(&frame(0x10, &speech));
            line.poll(Now::from_millis(20 * i)).unwrap().unwrap();
        }
        let mut out = [0; MAX_MESSAGE];
        let message = line.write_frame(&[0; 160], &mut out);
        assert_eq!((message.len(), message[0]), (163, 0x10));
        assert_eq!(message[3], Law::Mu.encode(0));
    }

    #[test]
    fn silence_of_an_old_client_is_a_frame_of_silence() {
        let mut line = line(&[0x02, 0, 0]);
        assert_eq!(line.poll(Now::ZERO).unwrap(), Some(Input::Audio(Rate::Hz8000, &[0; 160])));
    }

    #[test]
    fn silence_on_a_wideband_line_is_wideband() {
        let mut line = line(&frame(0x12, &[0; 640]));
        line.poll(Now::ZERO).unwrap();
        line.feed(&[0x02, 0, 0]);
        assert_eq!(line.poll(Now::ZERO).unwrap(), Some(Input::Audio(Rate::Hz16000, &[0; 320])));
        assert_eq!(line.rate(), Rate::Hz16000);
    }

    #[test]
    fn a_phone_that_sends_10_ms_at_a_time_is_as_silent_as_time_goes_by() {
        let mut line = line(&[]);
        let mut silence = 0;
        for i in 0..9 {
            line.feed(&frame(0x10, &[0; 160]));
            while let Some(Input::Audio(_, samples)) = line.poll(Now::from_millis(10 * i)).unwrap() {
                silence += samples.len();
            }
        }
        assert_eq!(silence, 160 + 8 * 80);
    }

    #[test]
    fn the_silence_of_a_phone_with_jitter_is_whole_frames() {
        let mut line = line(&[]);
        for ms in [0, 19, 41, 60, 79] {
            line.feed(&frame(0x10, &[0; 320]));
            let input = line.poll(Now::from_millis(ms)).unwrap().unwrap();
            assert_eq!(input, Input::Audio(Rate::Hz8000, &[0; 160]), "at {ms} ms");
        }
    }

    #[test]
    fn keys_and_goodbyes_are_told() {
        let mut line = line(&[0x03, 0, 1, b'#', 0xff, 0, 1, 4, 0x00, 0, 0]);
        assert_eq!(line.poll(Now::ZERO).unwrap(), Some(Input::Digit(b'#')));
        assert_eq!(line.poll(Now::ZERO).unwrap(), Some(Input::Failed(Some(4))));
        assert_eq!(line.poll(Now::ZERO).unwrap(), Some(Input::Hangup));
        assert_eq!(line.poll(Now::ZERO).unwrap(), None);
    }
}
