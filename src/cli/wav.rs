//! WAV files that an operator names on the command line.

use std::{fs::File, io::BufReader, path::Path};

use crate::media::Rate;

/// Reads all of a WAV; of several channels the first (left). The words of an error are for the operator.
pub(super) fn read_wav(path: &Path) -> Result<(Rate, Vec<i16>), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut wav = hound::WavReader::new(BufReader::new(file)).map_err(|error| match error {
        hound::Error::IoError(error) => format!("not a WAV file ({error}); {CONVERT}"),
        hound::Error::FormatError(problem) => format!("not a WAV file ({problem}); {CONVERT}"),
        other => format!("{other}; it has to be 16-bit PCM, {CONVERT}"),
    })?;
    let spec = wav.spec();
    let Some(rate) = Rate::from_hz(spec.sample_rate) else {
        let hz = spec.sample_rate;
        return Err(format!("it has {hz} samples a second; 8000, 16000, 24000 and 48000 are possible, {CONVERT}"));
    };
    if spec.sample_format != hound::SampleFormat::Int || spec.bits_per_sample != 16 {
        return Err(format!("its samples have {} bits; it has to be 16-bit PCM, {CONVERT}", spec.bits_per_sample));
    }
    let left: Result<Vec<i16>, _> = wav.samples().step_by(usize::from(spec.channels.max(1))).collect();
    let samples = left.map_err(|error| format!("it is cut short or damaged ({error})"))?;
    if samples.is_empty() { Err("it is empty".to_owned()) } else { Ok((rate, samples)) }
}

const CONVERT: &str = "as `sox IN.wav -r 8000 -b 16 -e signed OUT.wav` makes it";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(sample_rate: u32, channels: u16, bits_per_sample: u16, samples: &[i8]) -> Result<(Rate, Vec<i16>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.wav");
        let sample_format = hound::SampleFormat::Int;
        let spec = hound::WavSpec { channels, sample_rate, bits_per_sample, sample_format };
        let mut wav = hound::WavWriter::create(&path, spec).unwrap();
        samples.iter().for_each(|&sample| wav.write_sample(sample).unwrap());
        wav.finalize().unwrap();
        read_wav(&path)
    }

    #[test]
    fn the_left_channel_is_read_at_the_files_own_rate() {
        assert_eq!(read(24_000, 2, 16, &[1, -7, 2, -7]), Ok((Rate::Hz24000, vec![1, 2])));
    }

    #[test]
    fn what_is_no_good_says_what_would_be() {
        for (file, words) in [
            (read(44_100, 1, 16, &[1]), "it has 44100 samples a second; 8000"),
            (read(8000, 1, 8, &[1]), "its samples have 8 bits; it has to be 16-bit PCM, as `sox"),
            (read(8000, 1, 16, &[]), "it is empty"),
        ] {
            let said = file.unwrap_err();
            assert!(said.starts_with(words), "{said}");
        }
        assert!(read_wav(Path::new("/no/such.wav")).unwrap_err().starts_with("No such file"));
    }
}
