//! ALSA's side of a sound card, by cpal: which device is meant, how it is opened, and its callbacks.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use cpal::{
    BufferSize, Device, DeviceId, Error, ErrorKind, Host, HostId, InputCallbackInfo, OutputCallbackInfo, SampleFormat,
    SizedSample, Stream, StreamConfig, SupportedBufferSize, SupportedStreamConfigRange,
    traits::{DeviceTrait, HostTrait, StreamTrait},
};

use serde::Serialize;

use crate::{
    clock,
    leg::sound::{
        Way,
        card::{Card, CardSetup, Counts, End, Fault, Format},
        name::{Name, is_like},
    },
    media::card::{CardSample, from_mono, to_mono},
};

/// Opens both ways of a card and starts them.
///
/// # Errors
/// [`Fault`] names the device and what to do.
pub fn open(setup: &CardSetup) -> Result<Card, Fault> {
    hush();
    let host = host()?;
    let counts = Arc::new(Counts::default());
    let microphone = find(&host, &setup.input, Way::Input)?;
    let speaker = find(&host, &setup.output, Way::Output)?;
    let ears = Choice::of(&microphone, Way::Input, setup)?;
    let mouth = Choice::of(&speaker, Way::Output, setup)?;
    let (input, heard) = ears.open(|config| {
        let (hear, heard) = rtrb::RingBuffer::new(ring(ears.hz));
        open_input(&microphone, config, ears.sample, hear, &counts).map(|stream| (stream, heard))
    })?;
    let (output, to_play) = mouth.open(|config| {
        let (to_play, play) = rtrb::RingBuffer::new(ring(mouth.hz));
        open_output(&speaker, config, mouth.sample, play, &counts).map(|stream| (stream, to_play))
    })?;
    for (stream, choice) in [(&input, &ears), (&output, &mouth)] {
        stream.play().map_err(|error| refused(choice, &error))?;
    }
    let (input_format, output_format) = (ears.format(&input), mouth.format(&output));
    for (choice, format) in [(&ears, &input_format), (&mouth, &output_format)] {
        if format.period as usize > ring(format.hz) / 3 {
            let words = format!(
                "{} = \"{}\": it gives and takes sound {} ms at a time, which is no conversation; wanted another \
                 period-ms, or a plughw: device",
                choice.way.key(),
                choice.name,
                u64::from(format.period) * 1000 / u64::from(format.hz)
            );
            return Err(Fault { words, is_lasting: true });
        }
    }
    Ok(Card { heard, to_play, input: input_format, output: output_format, counts, streams: Box::new([input, output]) })
}

/// Has ALSA's library keep to itself what it says on this thread from now on: it would say it on stderr, each time that a
/// card which is out is tried, and in words of its own innards. What counts is in its errors.
fn hush() {
    // A new place for it, which is freed with the next one; where there is none it goes on speaking.
    let _ = ::alsa::Output::local_error_handler();
}

/// ALSA, as it is configured now.
///
/// # Errors
/// Where there is none.
pub fn host() -> Result<Host, Fault> {
    cpal::host_from_id(HostId::Alsa)
        .map_err(|error| Fault { words: format!("there is no ALSA on this machine: {error}"), is_lasting: true })
}

/// The device of this name.
///
/// # Errors
/// Where there is none, or it goes the other way only.
pub fn find(host: &Host, name: &str, way: Way) -> Result<Device, Fault> {
    let device = if name == "default" {
        // Always there in name; what is behind it shows when it is opened.
        host.default_input_device()
    } else {
        // As it is written, and then as cpal would write it.
        let id = DeviceId::new(HostId::Alsa, name);
        let listed = || host.devices().ok()?.find(|device| device.id().ok().as_ref() == Some(&id));
        listed().or_else(|| host.device_by_id(&id))
    };
    device.ok_or_else(|| missing(host, name, way))
}

fn missing(host: &Host, name: &str, way: Way) -> Fault {
    let key = way.key();
    let ids = host.devices().into_iter().flatten().filter_map(|device| device.id().ok());
    let names: Vec<String> = ids.map(|id| id.id().to_owned()).collect();
    if let Some(card) = Name::parse(name).card() {
        let mut cards: Vec<&str> = names.iter().filter_map(|name| Name::parse(name).card()).collect();
        cards.retain(|card| !card.bytes().all(|byte| byte.is_ascii_digit()));
        cards.sort_unstable();
        cards.dedup();
        if cards.contains(&card) {
            let words = format!(
                "{key} = \"{name}\": the card {card} has no such device; `trunkline devices` shows those that it has"
            );
            return Fault { words, is_lasting: true };
        }
        let words = if cards.is_empty() {
            format!(
                "{key} = \"{name}\": this user sees no sound card at all; plug {card} in, or, where `aplay -l` shows it to \
                 root, give the service the unit's sound drop-in (docs/sound.md)"
            )
        } else {
            let there = cards.join(", ");
            format!("{key} = \"{name}\": no sound card is called {card} now (there are: {there}); plug it in")
        };
        return Fault { words, is_lasting: false };
    }
    let like = names.iter().find(|known| is_like(name, known));
    let meant = like.map(|known| format!("did you mean \"{known}\"? ")).unwrap_or_default();
    let words = format!(
        "{key} = \"{name}\": there is no such sound device; {meant}`trunkline devices` shows what this user can open"
    );
    Fault { words, is_lasting: true }
}

/// How a device is to be opened.
struct Choice<'d> {
    name: &'d str,
    way: Way,
    hz: u32,
    channels: u16,
    sample: SampleFormat,
    period: u32,
}

impl<'d> Choice<'d> {
    fn of(device: &Device, way: Way, setup: &'d CardSetup) -> Result<Self, Fault> {
        let name = if way == Way::Input { &setup.input } else { &setup.output };
        let ranges = ranges(device, way).map_err(|error| explain(name, way, &error))?;
        let Some((range, hz)) = best(&ranges, setup.rate) else {
            let words = match setup.rate {
                Some(rate) => format!(
                    "{} = \"{name}\": it does not run at card-rate = {rate} (it has {}); leave card-rate out",
                    way.key(),
                    rates(&ranges)
                ),
                None => format!("{} = \"{name}\": it has no rate from 8 to 96 kHz with 16 or 32 bits", way.key()),
            };
            return Err(Fault { words, is_lasting: true });
        };
        let wanted = (u64::from(hz) * setup.period.as_micros() as u64 / 1_000_000) as u32;
        let period = match *range.buffer_size() {
            SupportedBufferSize::Range { min, max } => wanted.clamp(min, max.max(min)),
            SupportedBufferSize::Unknown => wanted,
        };
        Ok(Self { name, way, hz, channels: range.channels(), sample: range.sample_format(), period })
    }

    /// Opens it with the wanted period, or with its own where it cannot have that.
    fn open<T>(&self, open: impl Fn(StreamConfig) -> Result<T, Error>) -> Result<T, Fault> {
        let with = |buffer_size| open(StreamConfig { channels: self.channels, sample_rate: self.hz, buffer_size });
        let opened = match with(BufferSize::Fixed(self.period)) {
            Err(error) if error.kind() == ErrorKind::UnsupportedConfig => with(BufferSize::Default),
            opened => opened,
        };
        opened.map_err(|error| refused(self, &error))
    }

    fn format(&self, stream: &Stream) -> Format {
        let period = stream.buffer_size().unwrap_or(self.period);
        let sample = match self.sample {
            SampleFormat::I16 => "i16",
            SampleFormat::I32 => "i32",
            _ => "f32",
        };
        Format { hz: self.hz, channels: self.channels, sample, period }
    }
}

/// A device, for whoever looks for one.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// ALSA's name, for the config.
    pub name: String,
    /// What its maker calls it.
    pub card: String,
    /// Its microphone.
    pub input: WayInfo,
    /// Its speaker.
    pub output: WayInfo,
}

/// One way of a device.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayInfo {
    /// It has none.
    None,
    /// It can be opened: rates, kinds of sample and channels in words.
    Formats(String),
    /// It cannot be opened now: why.
    Refused(String),
}

impl WayInfo {
    /// Whether it can be opened.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        matches!(self, Self::Formats(_))
    }
}

/// The devices that this user sees. Not `all` leaves out those that are other views of the same card.
///
/// # Errors
/// Where there is no ALSA.
pub fn list(all: bool) -> Result<Vec<DeviceInfo>, Fault> {
    hush();
    let host = host()?;
    let devices =
        host.devices().map_err(|error| Fault { words: format!("ALSA lists no devices: {error}"), is_lasting: true })?;
    let mut infos = Vec::new();
    for device in devices {
        let Ok(id) = device.id() else { continue };
        let parsed = Name::parse(id.id());
        let is_view = parsed.card().is_some() && !id.id().starts_with("plughw:") || parsed.is_number();
        if !all && (is_view || NOT_CARDS.contains(&id.id())) {
            continue;
        }
        let card = device.description().map(|description| description.name().to_owned()).unwrap_or_default();
        let way = |way: Way, has: bool| if has { way_info(&device, id.id(), way) } else { WayInfo::None };
        let (input, output) = (way(Way::Input, device.supports_input()), way(Way::Output, device.supports_output()));
        // A plugin for something that is not here (JACK, OSS) is nobody's card.
        let is_refused = |info: &WayInfo| matches!(info, WayInfo::Refused(_) | WayInfo::None);
        if !all && parsed.card().is_none() && is_refused(&input) && is_refused(&output) {
            continue;
        }
        infos.push(DeviceInfo { name: id.id().to_owned(), card, input, output });
    }
    Ok(infos)
}

/// What one way of the device of this name can do, in words.
///
/// # Errors
/// [`Fault`] names the device and what to do.
pub fn look(name: &str, way: Way) -> Result<String, Fault> {
    hush();
    let host = host()?;
    match way_info(&find(&host, name, way)?, name, way) {
        WayInfo::Formats(formats) => Ok(formats),
        WayInfo::Refused(words) => Err(Fault { words, is_lasting: false }),
        WayInfo::None => Err(missing(&host, name, way)),
    }
}

fn way_info(device: &Device, name: &str, way: Way) -> WayInfo {
    let ranges = match ranges(device, way) {
        Ok(ranges) => ranges,
        Err(error) if error.kind() == ErrorKind::UnsupportedOperation => return WayInfo::None,
        Err(error) => return WayInfo::Refused(explain(name, way, &error).words),
    };
    let samples = SAMPLES.iter().filter(|sample| ranges.iter().any(|range| range.sample_format() == **sample));
    let samples: Vec<String> = samples.map(ToString::to_string).collect();
    let channels = ranges.iter().map(SupportedStreamConfigRange::channels);
    let (least, most) = (channels.clone().min().unwrap_or(0), channels.max().unwrap_or(0));
    let channels = if least == most { format!("{least} channels") } else { format!("{least} to {most} channels") };
    WayInfo::Formats(format!("{}; {}; {channels}", rates(&ranges), samples.join(", ")))
}

/// What a device can do in this direction.
///
/// # Errors
/// Where it cannot be opened.
pub fn ranges(device: &Device, way: Way) -> Result<Vec<SupportedStreamConfigRange>, Error> {
    match way {
        Way::Input => Ok(device.supported_input_configs()?.collect()),
        Way::Output => Ok(device.supported_output_configs()?.collect()),
    }
}

/// The best way to open a device: first of all a rate that loses nothing, then the least to convert.
fn best(ranges: &[SupportedStreamConfigRange], rate: Option<u32>) -> Option<(&SupportedStreamConfigRange, u32)> {
    let wanted: &[u32] = rate.as_slice();
    let wanted = if wanted.is_empty() { &RATES } else { wanted };
    let rank = |range: &SupportedStreamConfigRange| {
        let sample = SAMPLES.iter().position(|sample| *sample == range.sample_format())?;
        // 1, 2, and then ever more: those are for whoever has a mixing desk.
        Some((range.channels().max(1), sample))
    };
    wanted.iter().find_map(|&hz| {
        let fits = |range: &&SupportedStreamConfigRange| {
            (range.min_sample_rate()..=range.max_sample_rate()).contains(&hz) && rank(range).is_some()
        };
        ranges.iter().filter(fits).min_by_key(|range| rank(range)).map(|range| (range, hz))
    })
}

/// Its rates in words.
#[must_use]
pub fn rates(ranges: &[SupportedStreamConfigRange]) -> String {
    let mut known: Vec<(u32, u32)> =
        ranges.iter().map(|range| (range.min_sample_rate(), range.max_sample_rate())).collect();
    known.sort_unstable();
    known.dedup();
    let words = known
        .into_iter()
        .map(|(least, most)| if least == most { format!("{least} Hz") } else { format!("{least} to {most} Hz") });
    words.collect::<Vec<_>>().join(", ")
}

fn open_input(
    device: &Device,
    config: StreamConfig,
    sample: SampleFormat,
    ring: rtrb::Producer<i16>,
    counts: &Arc<Counts>,
) -> Result<Stream, Error> {
    match sample {
        SampleFormat::I16 => hear::<i16>(device, config, ring, counts),
        SampleFormat::I32 => hear::<i32>(device, config, ring, counts),
        _ => hear::<f32>(device, config, ring, counts),
    }
}

fn open_output(
    device: &Device,
    config: StreamConfig,
    sample: SampleFormat,
    ring: rtrb::Consumer<i16>,
    counts: &Arc<Counts>,
) -> Result<Stream, Error> {
    match sample {
        SampleFormat::I16 => play::<i16>(device, config, ring, counts),
        SampleFormat::I32 => play::<i32>(device, config, ring, counts),
        _ => play::<f32>(device, config, ring, counts),
    }
}

fn hear<T: SizedSample + CardSample>(
    device: &Device,
    config: StreamConfig,
    mut ring: rtrb::Producer<i16>,
    counts: &Arc<Counts>,
) -> Result<Stream, Error> {
    let channels = usize::from(config.channels);
    let (counts, on_error) = (Arc::clone(counts), Arc::clone(counts));
    let callback = move |samples: &[T], info: &InputCallbackInfo| {
        counted(&counts, || {
            let mono = to_mono(samples, channels);
            let (came, room) = (mono.len(), ring.slots());
            if let Ok(chunk) = ring.write_chunk_uninit(came.min(room)) {
                chunk.fill_from_iter(mono);
            }
            counts.overrun.fetch_add(came.saturating_sub(room) as u64, Relaxed);
            let at = info.timestamp();
            let age = at.callback.saturating_duration_since(at.capture);
            counts.input_us.store(age.as_micros() as u32, Relaxed);
            counts.heard.fetch_add(1, Relaxed);
        });
    };
    device.build_input_stream(config, callback, move |error| on_error_of(&on_error, &error), Some(POLL))
}

fn play<T: SizedSample + CardSample>(
    device: &Device,
    config: StreamConfig,
    mut ring: rtrb::Consumer<i16>,
    counts: &Arc<Counts>,
) -> Result<Stream, Error> {
    let channels = usize::from(config.channels);
    let (counts, on_error) = (Arc::clone(counts), Arc::clone(counts));
    let mut began = false;
    let callback = move |samples: &mut [T], info: &OutputCallbackInfo| {
        counted(&counts, || {
            let wanted = samples.len() / channels;
            let there = match ring.read_chunk(ring.slots().min(wanted)) {
                Ok(chunk) => from_mono(chunk, channels, samples),
                Err(_) => from_mono([], channels, samples), // never: so many were there
            };
            began |= there > 0;
            if began {
                counts.starved.fetch_add((wanted - there) as u64, Relaxed);
            }
            let at = info.timestamp();
            let wait = at.playback.saturating_duration_since(at.callback);
            counts.output_us.store(wait.as_micros() as u32, Relaxed);
            counts.played_at_us.store(clock::now().as_micros() as u64, Relaxed);
            counts.played.fetch_add(1, Relaxed);
        });
    };
    device.build_output_stream(config, callback, move |error| on_error_of(&on_error, &error), Some(POLL))
}

fn on_error_of(counts: &Counts, error: &Error) {
    match error.kind() {
        ErrorKind::Xrun => _ = counts.xruns.fetch_add(1, Relaxed),
        // It goes on as it was, or elsewhere.
        ErrorKind::RealtimeDenied | ErrorKind::DeviceChanged => {}
        ErrorKind::DeviceNotAvailable => counts.end(End::Gone),
        _ => {
            counts.end(End::Failed);
            // cpal tries again at once, and a sound server that is gone fails at once: a thread that comes before others
            // would take a whole core until its stream is dropped.
            thread::sleep(BREATH);
        }
    }
}

#[cfg(feature = "count-allocs")]
fn counted(counts: &Counts, work: impl FnOnce()) {
    let info = allocation_counter::measure(work);
    counts.allocations.fetch_add(info.count_total, Relaxed);
}

#[cfg(not(feature = "count-allocs"))]
fn counted(_: &Counts, work: impl FnOnce()) {
    work();
}

fn refused(choice: &Choice<'_>, error: &Error) -> Fault {
    explain(choice.name, choice.way, error)
}

/// Why a device could not be opened, as somebody who can do something about it wants to read it.
#[must_use]
pub fn explain(name: &str, way: Way, error: &Error) -> Fault {
    let (key, noun) = (way.key(), way.noun());
    let (words, is_lasting) = match error.kind() {
        ErrorKind::DeviceBusy => {
            let holder = Name::parse(name).holder(way);
            let who = holder.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
            // In the service's sandbox others' processes are not seen.
            let find = if holder.is_none() { " (`fuser -v /dev/snd/*` names it)" } else { "" };
            (format!("another program{who} holds it{find}; end that, or share the card by a dsnoop or dmix device"), false)
        }
        ErrorKind::PermissionDenied => (
            "this user may not open it; put the user into the group `audio`, and the unit's sound drop-in in its place \
             (docs/sound.md)"
                .to_owned(),
            true,
        ),
        ErrorKind::UnsupportedOperation => {
            (format!("it has no {noun}; `trunkline devices` shows which have one"), true)
        }
        ErrorKind::UnsupportedConfig | ErrorKind::InvalidInput => {
            (format!("it cannot be opened as wanted ({error}); leave period-ms and card-rate out, or use plughw"), true)
        }
        ErrorKind::DeviceNotAvailable => ("it is not there now; plug it in".to_owned(), false),
        _ => (format!("{error}; is its sound server up?"), false),
    };
    Fault { words: format!("{key} = \"{name}\": {words}"), is_lasting }
}

const fn ring(hz: u32) -> usize {
    (hz / 2) as usize
}

/// Names that ALSA has on every machine, and that lead nowhere.
const NOT_CARDS: [&str; 3] = ["null", "lavrate", "samplerate"];
/// Rates of cards, the best first: what most run at, and then what loses nothing of speech.
pub const RATES: [u32; 10] = [48_000, 96_000, 44_100, 88_200, 32_000, 24_000, 22_050, 16_000, 11_025, 8_000];
/// Kinds of sample, the best first.
const SAMPLES: [SampleFormat; 3] = [SampleFormat::I16, SampleFormat::I32, SampleFormat::F32];
/// How long a stream that failed waits between two attempts.
const BREATH: Duration = Duration::from_millis(10);
/// How long a card may be silent before its thread looks whether it is still there.
const POLL: Duration = Duration::from_millis(500);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn why_a_card_does_not_open_is_a_sentence_with_its_name_and_what_to_do() {
        let name = "plughw:CARD=Headset,DEV=0";
        for (kind, words, is_lasting) in [
            (
                ErrorKind::DeviceBusy,
                "another program holds it (`fuser -v /dev/snd/*` names it); end that, or share the card by a dsnoop or dmix device",
                false,
            ),
            (
                ErrorKind::PermissionDenied,
                "this user may not open it; put the user into the group `audio`, and the",
                true,
            ),
            (ErrorKind::UnsupportedOperation, "it has no microphone; `trunkline devices` shows which have one", true),
            (ErrorKind::UnsupportedConfig, "it cannot be opened as wanted (", true),
            (ErrorKind::DeviceNotAvailable, "it is not there now; plug it in", false),
            (ErrorKind::BackendError, "; is its sound server up?", false),
        ] {
            let fault = explain(name, Way::Input, &Error::new(kind));
            assert!(fault.words.starts_with("input = \"plughw:CARD=Headset,DEV=0\": "), "{fault}");
            assert!(fault.words.contains(words) && !fault.words.ends_with('.'), "{fault}");
            assert_eq!(fault.is_lasting, is_lasting, "{fault}");
        }
        let fault = explain("hw:Door", Way::Output, &Error::new(ErrorKind::UnsupportedOperation));
        assert_eq!(fault.words, "output = \"hw:Door\": it has no speaker; `trunkline devices` shows which have one");
    }

    #[test]
    fn a_rate_that_is_wanted_is_had_or_refused_and_else_the_best_is_taken() {
        let size = SupportedBufferSize::Unknown;
        let range =
            |channels, least, most, sample| SupportedStreamConfigRange::new(channels, least, most, size, sample);
        let ranges = [
            range(2, 44_100, 48_000, SampleFormat::I16),
            range(1, 44_100, 44_100, SampleFormat::I32),
            range(1, 44_100, 44_100, SampleFormat::U8),
        ];
        let had = |rate| best(&ranges, rate).map(|(range, hz)| (hz, range.channels(), range.sample_format()));
        assert_eq!(had(None), Some((48_000, 2, SampleFormat::I16)));
        assert_eq!(had(Some(44_100)), Some((44_100, 1, SampleFormat::I32)));
        assert_eq!(had(Some(12_345)), None);
        assert_eq!(rates(&ranges), "44100 Hz, 44100 to 48000 Hz");
    }
}
