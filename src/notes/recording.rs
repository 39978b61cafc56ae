//! The recording of one call: a WAV file, the caller left, the agent right, each as it was heard at the line.
//!
//! While the call lasts its name ends in `.part`, and every few seconds its header is right for what is there, so that
//! it can be played after a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hound::{SampleFormat, WavSpec, WavWriter};

use super::files::Files;
use crate::{
    call::tap::Sound,
    media::{Rate, frame::MAX_SAMPLES, resample::Resampler},
};

/// A recording that is being made.
pub(super) struct Recording {
    wav: WavWriter<BufWriter<File>>,
    part: PathBuf,
    path: PathBuf,
    /// That of the first frame.
    rate: Rate,
    /// For frames of another rate: caller and agent.
    resamplers: Option<Box<[Resampler; 2]>>,
    /// Samples of each side.
    samples: u64,
    flush_at: u64,
    /// When the next frame is heard, if none is missing (ms since 1970).
    next_ms: u64,
    /// What the tap had lost when the last frame came.
    lost: u64,
}

impl Recording {
    /// Begins with the rate of this frame, which is not yet written. `lost`: frames that the tap has lost so far.
    pub(super) fn begin(folder: &Path, name: &str, first: &Sound, lost: u64) -> io::Result<Self> {
        let path = folder.join(name);
        let part = folder.join(format!("{name}{PART}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&part)?;
        let spec = WavSpec {
            channels: 2,
            sample_rate: first.rate.hz(),
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let wav = WavWriter::new(BufWriter::new(file), spec).map_err(as_io)?;
        Ok(Self {
            wav,
            part,
            path,
            rate: first.rate,
            resamplers: None,
            samples: 0,
            flush_at: 0,
            next_ms: first.at_ms,
            lost,
        })
    }

    /// Writes a frame. Where frames were lost before it there is silence, so that what follows keeps its place.
    pub(super) fn hear(&mut self, sound: &Sound, lost: u64) -> io::Result<()> {
        let missing = (sound.at_ms.saturating_sub(self.next_ms) + PTIME_MS / 2) / PTIME_MS;
        // The wall clock may jump: no more is made up than was lost.
        for _ in 0..missing.min(lost.saturating_sub(self.lost)) {
            let silence = [0; MAX_SAMPLES];
            let frame = &silence[..self.rate.frame()];
            self.write(frame, frame)?;
        }
        (self.lost, self.next_ms) = (lost, sound.at_ms + PTIME_MS);
        if sound.rate == self.rate {
            self.resamplers = None;
            self.write(sound.caller(), sound.agent())?;
        } else {
            let to = self.rate;
            let fresh = || Box::new([Resampler::new(sound.rate, to), Resampler::new(sound.rate, to)]);
            let mut resamplers =
                self.resamplers.take().filter(|pair| pair[0].from() == sound.rate).unwrap_or_else(fresh);
            let [mut caller, mut agent] = [[0; 2 * MAX_SAMPLES]; 2];
            let heard = resamplers[0].process(sound.caller(), &mut caller).produced;
            let said = resamplers[1].process(sound.agent(), &mut agent).produced;
            self.write(&caller[..heard], &agent[..said])?;
            self.resamplers = Some(resamplers);
        }
        if self.samples >= self.flush_at {
            self.wav.flush().map_err(as_io)?;
            self.flush_at = self.samples + FLUSH_SECONDS * u64::from(self.rate.hz());
        }
        Ok(())
    }

    /// Gives the file its name. It is safe on the disk then.
    pub(super) fn finish(self, files: &Files) -> io::Result<()> {
        let Self { wav, part, path, .. } = self;
        wav.finalize().map_err(as_io)?;
        File::open(&part)?.sync_data()?;
        fs::rename(&part, &path)?;
        files.sync_names();
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, caller: &[i16], agent: &[i16]) -> io::Result<()> {
        if self.samples > MOST_SAMPLES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a WAV file cannot be longer"));
        }
        for (caller, agent) in caller.iter().zip(agent) {
            self.wav.write_sample(*caller).map_err(as_io)?;
            self.wav.write_sample(*agent).map_err(as_io)?;
        }
        self.samples += caller.len().min(agent.len()) as u64;
        Ok(())
    }
}

/// Gives their names to the recordings of calls that were live when a daemon was killed: they can be played as far as
/// their headers say. Gives how many.
pub(super) fn adopt(files: &Files) -> usize {
    let mut adopted = 0;
    for name in files.names() {
        let whole = name.strip_suffix(PART).filter(|name| name.starts_with("call_") && name.ends_with(".wav"));
        if let Some(whole) = whole
            && fs::rename(files.path().join(&name), files.path().join(whole)).is_ok()
        {
            adopted += 1;
        }
    }
    adopted
}

fn as_io(error: hound::Error) -> io::Error {
    match error {
        hound::Error::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

const PART: &str = ".part";
/// One frame (ms).
const PTIME_MS: u64 = crate::media::clock::PTIME_MS as u64;
/// The header is right so often (s of sound).
const FLUSH_SECONDS: u64 = 5;
/// A header counts bytes in 32 bits.
const MOST_SAMPLES: u64 = (u32::MAX as u64 - 1024) / 4 - MAX_SAMPLES as u64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sound(at_ms: u64, rate: Rate, caller: i16, agent: i16) -> Sound {
        Sound::new(1, at_ms, rate, &vec![caller; rate.frame()], &vec![agent; rate.frame()])
    }

    fn read(path: &Path) -> (WavSpec, Vec<i16>) {
        let mut wav = hound::WavReader::open(path).unwrap();
        (wav.spec(), wav.samples().map(Result::unwrap).collect())
    }

    fn files(folder: &tempfile::TempDir) -> Files {
        Files::open(folder.path().to_owned(), None).unwrap()
    }

    const NAME: &str = "call_k3vqd2mxa7re_20250725_072145.wav";

    #[test]
    fn the_caller_is_left_and_the_agent_right() {
        let folder = tempfile::tempdir().unwrap();
        let first = sound(1000, Rate::Hz8000, 100, -7);
        let mut recording = Recording::begin(folder.path(), NAME, &first, 0).unwrap();
        recording.hear(&first, 0).unwrap();
        recording.hear(&sound(1020, Rate::Hz8000, 200, -8), 0).unwrap();
        assert!(!folder.path().join(NAME).exists());
        recording.finish(&files(&folder)).unwrap();
        let (spec, samples) = read(&folder.path().join(NAME));
        assert_eq!((spec.channels, spec.sample_rate, samples.len()), (2, 8000, 640));
        assert_eq!((&samples[..2], &samples[638..]), (&[100, -7][..], &[200, -8][..]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn frames_of_another_rate_are_brought_to_that_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = sound(0, Rate::Hz8000, 1000, 1000);
        let mut recording = Recording::begin(folder.path(), NAME, &first, 0).unwrap();
        for n in 0..50 {
            let rate = if n < 25 { Rate::Hz8000 } else { Rate::Hz24000 };
            recording.hear(&sound(n * 20, rate, 1000, -1000), 0).unwrap();
        }
        recording.finish(&files(&folder)).unwrap();
        let (spec, samples) = read(&folder.path().join(NAME));
        assert_eq!((spec.sample_rate, samples.len()), (8000, 16_000));
        let (left, right) = (samples[15_000], samples[15_001]);
        assert!((left - 1000).abs() < 10 && (right + 1000).abs() < 10, "{left} {right}");
    }

    #[test]
    fn lost_frames_are_silence_and_a_clock_that_jumps_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let first = sound(0, Rate::Hz8000, 5, 5);
        let mut recording = Recording::begin(folder.path(), NAME, &first, 7).unwrap();
        recording.hear(&first, 7).unwrap();
        recording.hear(&sound(80, Rate::Hz8000, 6, 6), 10).unwrap();
        recording.hear(&sound(3_600_000, Rate::Hz8000, 7, 7), 10).unwrap();
        recording.finish(&files(&folder)).unwrap();
        let (_, samples) = read(&folder.path().join(NAME));
        assert_eq!(samples.len(), 6 * 320);
        assert_eq!([samples[0], samples[320], samples[4 * 320], samples[5 * 320]], [5, 0, 6, 7]);
    }

    #[test]
    fn a_killed_daemon_leaves_what_can_be_played() {
        let folder = tempfile::tempdir().unwrap();
        let first = sound(0, Rate::Hz8000, 5, 5);
        let mut recording = Recording::begin(folder.path(), NAME, &first, 0).unwrap();
        for n in 0..600 {
            recording.hear(&sound(n * 20, Rate::Hz8000, 5, 5), 0).unwrap();
        }
        let part = folder.path().join(format!("{NAME}{PART}"));
        let left = fs::read(&part).unwrap();
        drop(recording);
        fs::write(&part, left).unwrap();
        fs::write(folder.path().join("other.part"), "").unwrap();
        assert_eq!(adopt(&files(&folder)), 1);
        let (_, samples) = read(&folder.path().join(NAME));
        assert!(samples.len() / 16_000 >= 10, "{}", samples.len());
    }
}
