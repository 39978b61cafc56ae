//! A line that is a pipe or a file: one call, from the start of the daemon to the end of its input.
//!
//! Reading and writing may block, so each has a thread of its own; between them and the media thread are bounded queues
//! of frames. The reader keeps to the clock: a file, or a pipe that is fed faster than speech, is read at 50 frames a
//! second, with [`AHEAD`] of tolerance for a source whose clock is not ours.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};
use tokio::sync::mpsc;

use crate::media::{
    Rate,
    clock::PTIME,
    frame::{Frame, MAX_SAMPLES},
    resample::Resampler,
};

/// Both ends of a pipe line, as a media thread wants them.
pub struct Ends {
    /// The rate of its frames.
    pub rate: Rate,
    /// What the caller says.
    pub input: Input,
    /// What the caller hears.
    pub output: Output,
}

/// Up to 20 ms of the caller.
pub struct Piece {
    frame: Frame,
    len: usize,
}

impl Piece {
    /// Its samples.
    #[must_use]
    pub fn samples(&self) -> &[i16] {
        &self.frame[..self.len]
    }
}

/// The caller's end.
pub struct Input(mpsc::Receiver<Piece>);

impl Input {
    /// The next piece; `None` at the end.
    pub async fn recv(&mut self) -> Option<Piece> {
        self.0.recv().await
    }
}

/// The listener's end.
pub struct Output(mpsc::Sender<Frame>);

impl Output {
    /// Whether the next frame has room: a pipe that nobody reads blocks its writer, never the media thread.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.capacity() > 0 || self.0.is_closed()
    }

    /// Hands one frame to the writer.
    ///
    /// # Errors
    /// When the writer has given up.
    pub fn write(&self, samples: &[i16]) -> io::Result<()> {
        let mut frame = Frame::silence(rate_of(samples.len()));
        frame.copy_from_slice(samples);
        match self.0.try_send(frame) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the output any more"))
            }
        }
    }
}

/// Opens a pipe line: `None` is standard input or output, as raw PCM16 LE; a path is a WAV file.
///
/// # Errors
/// When a file cannot be opened or read as what it should be; the message names it.
pub fn open(input: Option<&Path>, output: Option<&Path>, rate: Rate) -> io::Result<(Ends, thread::JoinHandle<()>)> {
    let source = Source::open(input, rate)?;
    let sink = Sink::open(output, rate)?;
    let (to_call, from_source) = mpsc::channel(QUEUE);
    let (to_sink, from_call) = mpsc::channel(QUEUE);
    thread::Builder::new().name("pipe-in".to_owned()).spawn(move || read(source, rate, &to_call))?;
    let writer = thread::Builder::new().name("pipe-out".to_owned()).spawn(move || write(sink, from_call))?;
    Ok((Ends { rate, input: Input(from_source), output: Output(to_sink) }, writer))
}

enum Source {
    Raw(Box<dyn Read + Send>),
    Wav(Box<(WavReader<BufReader<File>>, Resampler)>),
}

impl Source {
    fn open(path: Option<&Path>, rate: Rate) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Raw(Box::new(io::stdin()))) };
        let reader = WavReader::open(path).map_err(|error| about(path, &error))?;
        let WavSpec { channels, sample_rate, bits_per_sample, sample_format } = reader.spec();
        let Some(from) = Rate::from_hz(sample_rate)
            .filter(|_| channels == 1 && bits_per_sample == 16 && sample_format == SampleFormat::Int)
        else {
            return Err(about(path, &"it must be 16-bit PCM, mono, at 8000, 16000, 24000 or 48000 Hz"));
        };
        Ok(Self::Wav(Box::new((reader, Resampler::new(from, rate)))))
    }

    /// Fills `out` as far as the source goes; 0 at its end.
    fn read(&mut self, out: &mut [i16]) -> io::Result<usize> {
        match self {
            Self::Raw(source) => {
                let mut bytes = [0; 2 * MAX_SAMPLES];
                let bytes = &mut bytes[..2 * out.len()];
                let mut n = 0;
                while n < bytes.len() {
                    match source.read(&mut bytes[n..]) {
                        Ok(0) => break,
                        Ok(more) => n += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                for (sample, pair) in out.iter_mut().zip(bytes[..n].chunks_exact(2)) {
                    *sample = i16::from_le_bytes([pair[0], pair[1]]);
                }
                Ok(n / 2)
            }
            Self::Wav(wav) => {
                let (reader, resampler) = &mut **wav;
                let mut done = 0;
                while done < out.len() {
                    let mut samples = [0; MAX_SAMPLES];
                    let wanted = (out.len() - done) * resampler.from().hz() as usize / resampler.to().hz() as usize;
                    let wanted = wanted.clamp(1, MAX_SAMPLES);
                    let mut n = 0;
                    for (slot, sample) in samples[..wanted].iter_mut().zip(reader.samples()) {
                        *slot = sample.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                        n += 1;
                    }
                    done += resampler.process(&samples[..n], &mut out[done..]).produced;
                    if n == 0 {
                        break;
                    }
                }
                Ok(done)
            }
        }
    }
}

fn read(mut source: Source, rate: Rate, call: &mpsc::Sender<Piece>) {
    let started = Instant::now();
    for number in 0_u32.. {
        let mut frame = Frame::silence(rate);
        // A source that fails is at its end: the call ends in order, and the samples so far were heard.
        let Ok(len @ 1..) = source.read(&mut frame) else { return };
        let due = PTIME * number;
        if let Some(early) = due.checked_sub(started.elapsed() + AHEAD) {
            thread::sleep(early);
        }
        if call.blocking_send(Piece { frame, len }).is_err() {
            return;
        }
    }
}

enum Sink {
    Raw(BufWriter<Box<dyn Write + Send>>),
    Wav(Box<WavWriter<BufWriter<File>>>),
}

impl Sink {
    fn open(path: Option<&Path>, rate: Rate) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Raw(BufWriter::new(Box::new(io::stdout())))) };
        let spec =
            WavSpec { channels: 1, sample_rate: rate.hz(), bits_per_sample: 16, sample_format: SampleFormat::Int };
        Ok(Self::Wav(Box::new(WavWriter::create(path, spec).map_err(|error| about(path, &error))?)))
    }

    fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        match self {
            Self::Raw(sink) => {
                for sample in samples {
                    sink.write_all(&sample.to_le_bytes())?;
                }
                sink.flush()
            }
            Self::Wav(writer) => write_wav(writer, samples),
        }
    }
}

fn write_wav<W: Write + Seek>(writer: &mut WavWriter<W>, samples: &[i16]) -> io::Result<()> {
    samples.iter().try_for_each(|&sample| writer.write_sample(sample)).map_err(io::Error::other)
}

fn write(mut sink: Sink, mut call: mpsc::Receiver<Frame>) {
    while let Some(frame) = call.blocking_recv() {
        if sink.write(&frame).is_err() {
            // The queue closes, and the call hears of it with its next frame.
            return;
        }
    }
    if let Sink::Wav(writer) = sink {
        // Nothing can be done for a header that cannot be written any more; the samples are there.
        let _ = writer.finalize();
    }
}

fn about(path: &Path, error: &dyn core::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

fn rate_of(frame: usize) -> Rate {
    Rate::ALL.into_iter().find(|rate| rate.frame() == frame).unwrap_or(Rate::Hz48000)
}

/// Frames between a pipe and its call: 160 ms.
const QUEUE: usize = 8;
/// How far a source may run ahead of our clock.
const AHEAD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wav(path: &Path, rate: u32, samples: &[i16]) {
        let spec = WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut writer = WavWriter::create(path, spec).unwrap();
        samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
    }

    #[test]
    fn a_wav_file_comes_through_whole_and_its_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
        let speech: Vec<i16> = (0..1000).collect();
        wav(&input, 8000, &speech);
        let (mut ends, writer) = open(Some(&input), Some(&output), Rate::Hz8000).unwrap();
        let mut heard = vec![];
        while let Some(piece) = ends.input.0.blocking_recv() {
            heard.extend_from_slice(piece.samples());
            ends.output
                .write(&{
                    let mut frame = [0; 160];
                    frame[..piece.samples().len()].copy_from_slice(piece.samples());
                    frame
                })
                .unwrap();
        }
        assert_eq!(heard, speech);
        drop(ends);
        writer.join().unwrap();
        let written: Vec<i16> = WavReader::open(&output).unwrap().samples().map(Result::unwrap).collect();
        assert_eq!(written[..1000], speech);
        assert_eq!(written.len(), 1120, "whole frames");
    }

    #[test]
    fn a_file_at_another_rate_is_converted() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
        wav(&input, 48_000, &[1000; 9600]);
        let (mut ends, _) = open(Some(&input), Some(&output), Rate::Hz16000).unwrap();
        let mut samples = 0;
        while let Some(piece) = ends.input.0.blocking_recv() {
            samples += piece.samples().len();
        }
        assert_eq!(samples, 3200);
    }

    #[test]
    fn a_file_of_the_wrong_sort_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("music.wav");
        wav(&path, 44_100, &[0; 10]);
        let error = open(Some(&path), None, Rate::Hz8000).err().unwrap().to_string();
        assert!(error.contains("music.wav: it must be 16-bit PCM, mono"), "{error}");
        let error = open(Some(Path::new("/nowhere/in.wav")), None, Rate::Hz8000).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/in.wav: "), "{error}");
    }
}
