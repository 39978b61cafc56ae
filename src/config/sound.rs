//! What a `[line.NAME]` of the kind `sound` says, checked. Whether its cards are there shows when they are opened.

use core::time::Duration;

use crate::{
    config::{
        file::{Section, Value, no_such},
        resolve::Resolver,
    },
    leg::sound::{
        name::Name,
        start::Mode,
        tones::{Source, Sources, Tone},
    },
    media::Rate,
};

/// A line that is a sound card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoundLine {
    /// ALSA's name of the microphone.
    pub input: String,
    /// And of the speaker.
    pub output: String,
    /// The rate of the line.
    pub rate: Rate,
    /// The rate that the card is to run at (Hz); `None`: the best that it has.
    pub card_rate: Option<u32>,
    /// How much sound the card is to give and take at a time.
    pub period: Duration,
    /// What starts a call.
    pub start: Mode,
    /// What is done about the speaker beside the microphone.
    pub echo: Echo,
    /// What the person in the room hears beside the agent.
    pub tones: Sources,
}

/// What is done about the speaker beside the microphone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Echo {
    /// Nothing: a handset, a headset, or a card that does it.
    #[default]
    Nothing,
    /// While the agent speaks the microphone is silent.
    HalfDuplex,
    /// The agent is taken out of what the microphone hears.
    Cancel,
}

impl Resolver<'_> {
    pub(super) fn sound(&self, section: &mut Section<'_>) -> Option<SoundLine> {
        if !cfg!(feature = "sound") {
            section.problem("kind", "this trunkline was built without sound cards (cargo feature `sound`)");
        }
        let input = section.get("input").map_or(Some(DEFAULT.to_owned()), |value| device(&value));
        let output = section.get("output").map_or(input.clone(), |value| device(&value));
        let rate = section.rate("sample-rate").unwrap_or(Rate::Hz16000);
        let card_rate = section.get("card-rate").map(|value| value.whole(8_000..=96_000));
        let period = section.whole("period-ms", 5..=100, PERIOD_MS);
        let start = start(section);
        let (half_duplex, cancel) = (section.flag("half-duplex"), section.flag("echo-cancel"));
        let echo = match (half_duplex, cancel) {
            (true, true) => {
                section.problem(
                    "half-duplex",
                    "beside `echo-cancel` there is nothing left for it to do; wanted one of them",
                );
                Echo::Nothing
            }
            (true, false) => Echo::HalfDuplex,
            (false, true) => Echo::Cancel,
            (false, false) => Echo::Nothing,
        };
        if cancel && !cfg!(feature = "aec") {
            section.problem(
                "echo-cancel",
                "this trunkline was built without it (cargo feature `aec`); wanted half-duplex = true, or another build",
            );
        }
        let mut table = section.table("tones");
        let tones = Tone::ALL.map(|(key, _)| table.get(key).map_or(Some(Source::BuiltIn), |value| self.tone(&value)));
        table.finish();
        let [connecting, connected, lost, busy] = tones;
        Some(SoundLine {
            input: input?,
            output: output?,
            rate,
            card_rate: match card_rate {
                Some(rate) => Some(rate?),
                None => None,
            },
            period: Duration::from_millis(period.into()),
            start: start?,
            echo,
            tones: [connecting?, connected?, lost?, busy?],
        })
    }

    fn tone(&self, value: &Value<'_>) -> Option<Source> {
        match value.as_str() {
            Some("") => Some(Source::None),
            Some(path) if path.to_ascii_lowercase().ends_with(".wav") => {
                let path = self.folder.join(path);
                // Whether it is read as what it should be shows when the line opens; that it is there is known now.
                if let Err(error) = std::fs::metadata(&path) {
                    value.problem(format!("cannot be read: {error}"));
                }
                Some(Source::File(path))
            }
            _ => {
                value.problem("wanted a .wav file, or \"\" for none");
                None
            }
        }
    }
}

/// A device's name, as `trunkline devices` shows it.
fn device(value: &Value<'_>) -> Option<String> {
    let name = value.str()?;
    if Name::parse(name).is_number() {
        value.problem(
            "cards get their numbers as they come, and may have others after the next start; wanted the card's name, \
             as `trunkline devices` shows it",
        );
        return None;
    }
    Some(name.to_owned())
}

fn start(section: &mut Section<'_>) -> Option<Mode> {
    let value = section.get("start");
    let silence = section.get("silence-seconds");
    let found = value.as_ref().map_or("always", |value| value.as_str().unwrap_or_default());
    if let Some(silence) = silence.as_ref().filter(|_| found != "vad") {
        silence.problem("it is for start = \"vad\", whose calls end by silence; leave it out");
    }
    match found {
        "always" => Some(Mode::Always),
        "key" => Some(Mode::Key),
        "vad" => {
            let seconds = silence.map_or(Some(SILENCE_SECONDS), |value| value.whole(2..=3600))?;
            Some(Mode::Vad { silence: Duration::from_secs(seconds.into()) })
        }
        _ => {
            if let Some(value) = &value {
                value.problem(no_such("way to start a call", found, &["always", "vad", "key"]));
            }
            None
        }
    }
}

/// Its keys, for a section of which nothing else is known.
pub(super) const KEYS: &[&str] = &[
    "input",
    "output",
    "sample-rate",
    "card-rate",
    "period-ms",
    "start",
    "silence-seconds",
    "half-duplex",
    "echo-cancel",
    "tones",
];

/// What ALSA plays to when nobody says where.
const DEFAULT: &str = "default";
const PERIOD_MS: u32 = 20;
const SILENCE_SECONDS: u32 = 15;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Problems, ProcessEnvironment, load};

    /// The line of a file with these keys, or what is wrong with it.
    fn read(keys: &str) -> Result<SoundLine, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let text = format!(
            "[line.desk]\nkind = \"sound\"\n{keys}\n[trunk.a]\nurl = \"wss://a.example/\"\ndialect = \"binary\"\n\
             [[route]]\nline = \"desk\"\ntrunks = [\"a\"]\n"
        );
        std::fs::write(&path, text).unwrap();
        let shown = |problems: Problems| problems.to_string().replace(&path.display().to_string(), "t.toml");
        let config = load(Path::new(&path), &ProcessEnvironment).map_err(shown)?;
        Ok(config.lines[0].kind.sound().unwrap().clone())
    }

    #[test]
    fn nothing_said_is_the_default_card_at_16_khz_and_a_call_whenever_it_is_there() {
        let line = read("").unwrap();
        assert_eq!((line.input.as_str(), line.output.as_str(), line.rate), ("default", "default", Rate::Hz16000));
        assert_eq!((line.start, line.echo, line.card_rate), (Mode::Always, Echo::Nothing, None));
        assert_eq!(line.period, Duration::from_millis(20));
        assert_eq!(line.tones, [Source::BuiltIn, Source::BuiltIn, Source::BuiltIn, Source::BuiltIn]);
    }

    #[test]
    fn the_speaker_is_the_microphones_card_unless_another_is_named() {
        let line = read("input = \"plughw:CARD=Headset,DEV=0\"").unwrap();
        assert_eq!(line.output, "plughw:CARD=Headset,DEV=0");
        let line =
            read("input = \"hw:CARD=Mic\"\noutput = \"hw:CARD=Box\"\nstart = \"vad\"\nsilence-seconds = 5").unwrap();
        assert_eq!((line.input.as_str(), line.output.as_str()), ("hw:CARD=Mic", "hw:CARD=Box"));
        assert_eq!(line.start, Mode::Vad { silence: Duration::from_secs(5) });
    }

    #[test]
    fn what_cannot_be_is_told_with_what_would_do() {
        for (keys, words) in [
            ("input = \"hw:1,0\"", "cards get their numbers as they come"),
            ("output = \"plughw:CARD=0\"", "wanted the card's name"),
            ("start = \"voice\"", "no such way to start a call"),
            ("silence-seconds = 5", "it is for start = \"vad\""),
            ("card-rate = 7000", "8000 to 96000"),
            ("period-ms = 2", "5 to 100"),
            ("tones.lost = \"lost.mp3\"", "wanted a .wav file, or \"\" for none"),
            ("tones.lost = \"nowhere.wav\"", "cannot be read"),
            ("tones.ring = \"\"", "no such key"),
            ("half-duplex = true\necho-cancel = true", "wanted one of them"),
            ("listen = \"127.0.0.1:1\"", "no such key"),
        ] {
            let problems = read(keys).expect_err(keys);
            assert!(problems.contains(words), "{keys}: {problems}");
        }
    }

    #[test]
    #[cfg(not(feature = "aec"))]
    fn a_build_without_the_canceller_says_so_and_what_is_there_instead() {
        assert!(read("echo-cancel = true").unwrap_err().contains("half-duplex = true, or another build"));
    }

    #[test]
    fn a_tone_may_be_a_file_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let wav = folder.path().join("ready.wav");
        std::fs::write(&wav, "").unwrap();
        let line = read(&format!("tones = {{ connected = {wav:?}, busy = \"\" }}")).unwrap();
        assert_eq!(line.tones, [Source::BuiltIn, Source::File(wav), Source::BuiltIn, Source::None]);
    }
}
