//! Files, standard input and standard output, and what moves their audio: one thread that reads, one that writes.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::Path,
    thread,
    time::Instant,
};

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};
use tokio::sync::mpsc;

use crate::{
    config::PipeEnd,
    dialect::Direction,
    leg::pipe::{AHEAD, Ends, Piece, QUEUE, Way, fifo::FifoSink, pack, shorten, unpack},
    media::{
        Rate,
        clock::PTIME,
        frame::{Frame, MAX_SAMPLES},
        resample::Resampler,
    },
};

/// Opens the one call of a line whose input is a file or standard input. Gives what writes its output, where there is one,
/// to be joined when the call is over.
///
/// # Errors
/// When a file cannot be opened or read as what it should be; the message names it.
pub fn open(
    input: &PipeEnd,
    output: Option<&PipeEnd>,
    rate: Rate,
    direction: Direction,
) -> io::Result<(Ends, Option<thread::JoinHandle<()>>)> {
    let mut source = Source::open(input, rate)?;
    let (to_call, from_source) = mpsc::channel(QUEUE);
    let (to_sink, writer) = output.map(|end| start_writer(end, rate)).transpose()?.unzip();
    let work = move || feed(&mut source, None, rate, &to_call);
    thread::Builder::new().name("pipe-in".to_owned()).spawn(work)?;
    Ok((Ends { rate, direction, way: Way::Queues(from_source, to_sink) }, writer))
}

/// Starts the thread that writes the output of one call.
pub(super) fn start_writer(end: &PipeEnd, rate: Rate) -> io::Result<(mpsc::Sender<Frame>, thread::JoinHandle<()>)> {
    let sink = Sink::open(end, rate)?;
    let (to_sink, from_call) = mpsc::channel(QUEUE);
    let writer = thread::Builder::new().name("pipe-out".to_owned()).spawn(move || write(sink, from_call))?;
    Ok((to_sink, writer))
}

/// What the caller's voice is read from.
pub(super) enum Source {
    Raw(Box<dyn Read + Send>),
    Wav(Box<(WavReader<BufReader<File>>, Resampler)>),
}

impl Source {
    fn open(end: &PipeEnd, rate: Rate) -> io::Result<Self> {
        let path = match end {
            PipeEnd::Standard => return Ok(Self::Raw(Box::new(io::stdin()))),
            PipeEnd::Fifo(path) => return Ok(Self::Raw(Box::new(File::open(path)?))),
            PipeEnd::Wav(path) => path,
        };
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
    pub(super) fn read(&mut self, out: &mut [i16]) -> io::Result<usize> {
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
                unpack(&bytes[..n], out);
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

/// Feeds one call from a source, at the pace of speech, until the source is at its end, which is `true`, or the call is
/// over. `first`: what was read of it already.
pub(super) fn feed(source: &mut Source, mut first: Option<Piece>, rate: Rate, call: &mpsc::Sender<Piece>) -> bool {
    let (mut started, mut number) = (Instant::now(), 0_u32);
    loop {
        let piece = match first.take() {
            Some(piece) => piece,
            None => {
                let mut frame = Frame::silence(rate);
                // A source that fails is at its end: the call ends in order, and the samples so far were heard.
                let Ok(len @ 1..) = source.read(&mut frame) else { break };
                Piece { frame, len }
            }
        };
        let (due, now) = (PTIME * number, started.elapsed());
        if let Some(early) = due.checked_sub(now + AHEAD) {
            thread::sleep(early);
        } else if now > due + AHEAD {
            // It paused: what it says next is not owed, and would be too much at once.
            (started, number) = (Instant::now(), 0);
        }
        number += 1;
        if call.blocking_send(piece).is_err() {
            return false;
        }
    }
    true
}

enum Sink {
    Standard(io::Stdout),
    Wav(Box<WavWriter<BufWriter<File>>>),
    Fifo(FifoSink),
}

impl Sink {
    fn open(end: &PipeEnd, rate: Rate) -> io::Result<Self> {
        let path = match end {
            PipeEnd::Standard => {
                let stdout = io::stdout();
                shorten(&stdout);
                return Ok(Self::Standard(stdout));
            }
            PipeEnd::Fifo(path) => return Ok(Self::Fifo(FifoSink::new(path))),
            PipeEnd::Wav(path) => path,
        };
        let spec =
            WavSpec { channels: 1, sample_rate: rate.hz(), bits_per_sample: 16, sample_format: SampleFormat::Int };
        Ok(Self::Wav(Box::new(WavWriter::create(path, spec).map_err(|error| about(path, &error))?)))
    }

    /// `call` says whether the call is over, for a sink that would wait for ever.
    fn write(&mut self, samples: &[i16], call: &mpsc::Receiver<Frame>) -> io::Result<()> {
        let mut space = [0; 2 * MAX_SAMPLES];
        match self {
            Self::Standard(stdout) => {
                stdout.write_all(pack(samples, &mut space))?;
                stdout.flush()
            }
            Self::Fifo(fifo) => fifo.write(pack(samples, &mut space), || call.is_closed()),
            Self::Wav(writer) => write_wav(writer, samples),
        }
    }
}

fn write_wav<W: Write + Seek>(writer: &mut WavWriter<W>, samples: &[i16]) -> io::Result<()> {
    samples.iter().try_for_each(|&sample| writer.write_sample(sample)).map_err(io::Error::other)
}

fn write(mut sink: Sink, mut call: mpsc::Receiver<Frame>) {
    while let Some(frame) = call.blocking_recv() {
        if sink.write(&frame, &call).is_err() {
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

    type Opened = (mpsc::Receiver<Piece>, mpsc::Sender<Frame>, thread::JoinHandle<()>);

    fn open_wav(input: &Path, output: &Path, rate: Rate) -> Opened {
        let [input, output] = [input, output].map(|path| PipeEnd::Wav(path.to_owned()));
        let (ends, writer) = open(&input, Some(&output), rate, Direction::Both).unwrap();
        let Way::Queues(caller, Some(ear)) = ends.way else { unreachable!() };
        (caller, ear, writer.unwrap())
    }

    #[test]
    fn a_wav_file_comes_through_whole_and_its_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
        let speech: Vec<i16> = (0..1000).collect();
        wav(&input, 8000, &speech);
        let (mut caller, ear, writer) = open_wav(&input, &output, Rate::Hz8000);
        let mut heard = vec![];
        while let Some(piece) = caller.blocking_recv() {
            heard.extend_from_slice(piece.samples());
            let mut frame = Frame::silence(Rate::Hz8000);
            frame[..piece.samples().len()].copy_from_slice(piece.samples());
            ear.blocking_send(frame).unwrap();
        }
        assert_eq!(heard, speech);
        drop(ear);
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
        let (mut caller, _ear, _) = open_wav(&input, &output, Rate::Hz16000);
        let mut samples = 0;
        while let Some(piece) = caller.blocking_recv() {
            samples += piece.samples().len();
        }
        assert_eq!(samples, 3200);
    }

    #[test]
    fn a_file_of_the_wrong_sort_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("music.wav");
        wav(&path, 44_100, &[0; 10]);
        let said = |path: &Path| Source::open(&PipeEnd::Wav(path.to_owned()), Rate::Hz8000).err().unwrap().to_string();
        let error = said(&path);
        assert!(error.contains("music.wav: it must be 16-bit PCM, mono"), "{error}");
        let error = said(Path::new("/nowhere/in.wav"));
        assert!(error.starts_with("/nowhere/in.wav: "), "{error}");
    }
}
