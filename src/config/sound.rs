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
