//! `[line.NAME]` of the kind `pipe`.

use std::{fs, os::unix::fs::FileTypeExt, path::PathBuf};

use rustix::fs::{Access, access};

use crate::{
    config::{
        Line, LineKind,
        file::{Section, Value},
        resolve::{Resolver, folder_of, place, readable},
    },
    dialect::Direction,
    media::Rate,
};

/// A line that is a pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeLine {
    /// Where its calls come from.
    pub source: PipeSource,
    /// The rate of raw samples, and of the output.
    pub sample_rate: Rate,
    /// `Uplink`: nobody hears the agent.
    pub direction: Direction,
}

impl PipeLine {
    /// Whether it has one call, from the start of the daemon to the end of its input.
    #[must_use]
    pub const fn is_one_call(&self) -> bool {
        matches!(self.source, PipeSource::Ends { input: PipeEnd::Standard | PipeEnd::Wav(_), .. })
    }
}

/// Where the calls of a pipe line come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PipeSource {
    /// Two files or pipes.
    Ends {
        /// The caller's voice.
        input: PipeEnd,
        /// The agent's voice; `None`: nobody hears it.
        output: Option<PipeEnd>,
    },
    /// The connections of the Unix socket with this path.
    Socket(PathBuf),
}

/// One end of a pipe line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PipeEnd {
    /// `-`: raw PCM16 on stdin or stdout.
    Standard,
    /// A `.wav` file.
    Wav(PathBuf),
    /// A FIFO of raw PCM16.
    Fifo(PathBuf),
}

impl PipeEnd {
    const fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Standard => None,
            Self::Wav(path) | Self::Fifo(path) => Some(path),
        }
    }
}

impl Resolver<'_> {
    pub(super) fn pipe(&self, section: &mut Section<'_>) -> Option<PipeLine> {
        let [input, output, listen] = ["input", "output", "listen"].map(|key| section.get(key));
        let sample_rate = section.rate("sample-rate").unwrap_or(Rate::Hz8000);
        let direction = section.get("direction").map_or(Direction::Both, |value| match value.as_str() {
            Some("both") => Direction::Both,
            Some("uplink") => Direction::Uplink,
            _ => {
                value.problem("wanted \"both\" or \"uplink\"");
                Direction::Both
            }
        });
        if let Some(listen) = listen {
            for (key, _) in [("input", input), ("output", output)].iter().filter(|(_, value)| value.is_some()) {
                section.problem(key, "beside `listen`; a connection has both voices, leave out one of the two");
            }
            let source = PipeSource::Socket(self.socket(&listen)?);
            return Some(PipeLine { source, sample_rate, direction });
        }
        if let (Some(output), Direction::Uplink) = (&output, direction) {
            output.problem("nobody hears the agent with direction = \"uplink\"; leave out one of the two");
        }
        let input = input.map_or(Some(PipeEnd::Standard), |value| self.input(&value));
        let has_output = output.is_some();
        let output = output.map_or(Some(PipeEnd::Standard), |value| self.output(&value));
        let (input, output) = (input?, output?);
        if let (PipeEnd::Fifo(_), Direction::Both) = (&input, direction)
            && !matches!(output, PipeEnd::Fifo(_))
        {
            let key = if has_output { "output" } else { "input" };
            section.problem(
                key,
                "a FIFO has one call after another, and so has to have its output; wanted a FIFO for `output`, too \
                 (`mkfifo PATH`), or direction = \"uplink\"",
            );
        }
        let output = (direction == Direction::Both).then_some(output);
        Some(PipeLine { source: PipeSource::Ends { input, output }, sample_rate, direction })
    }

    fn input(&self, value: &Value<'_>) -> Option<PipeEnd> {
        let end = self.end(value)?;
        match &end {
            PipeEnd::Standard => {}
            PipeEnd::Wav(path) => {
                if let Err(error) = readable(path) {
                    value.problem(format!("cannot be read: {error}"));
                }
            }
            PipeEnd::Fifo(path) => {
                if let Err(error) = access(path, Access::READ_OK) {
                    value.problem(format!("cannot be read: {error}"));
                }
            }
        }
        Some(end)
    }

    fn output(&self, value: &Value<'_>) -> Option<PipeEnd> {
        let end = self.end(value)?;
        match &end {
            PipeEnd::Standard => {}
            PipeEnd::Wav(path) => {
                if !folder_of(path).is_dir() {
                    value.problem("its folder does not exist");
                }
            }
            PipeEnd::Fifo(path) => {
                if let Err(error) = access(path, Access::WRITE_OK) {
                    value.problem(format!("cannot be written to: {error}"));
                }
            }
        }
        Some(end)
    }

    fn end(&self, value: &Value<'_>) -> Option<PipeEnd> {
        let text = value.as_str().unwrap_or_default();
        if text == "-" {
            return Some(PipeEnd::Standard);
        }
        let path = self.folder.join(text);
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("wav")) {
            return Some(PipeEnd::Wav(path));
        }
        match fs::metadata(&path) {
            Ok(file) if file.file_type().is_fifo() => return Some(PipeEnd::Fifo(path)),
            Err(_) if !text.is_empty() => {
                let make = format!("`mkfifo {}`", path.display().to_string().escape_debug());
                value.problem(format!("not there; make it by {make}, or name a .wav file, or `-`"));
            }
            Ok(_) | Err(_) => value.problem("wanted a FIFO (`mkfifo PATH`), a .wav file, or `-`"),
        }
        None
    }

    /// The path of a Unix socket.
    fn socket(&self, value: &Value<'_>) -> Option<PathBuf> {
        const WANTED: &str = "wanted the path of a Unix socket, e.g. \"/run/trunkline/desk.sock\"";
        let path = self.path(value, WANTED)?;
        if !value.as_str()?.contains('/') {
            value.problem(WANTED);
        } else if path.as_os_str().len() > MAX_SOCKET_PATH {
            value.problem(format!("too long; the path of a socket has at most {MAX_SOCKET_PATH} bytes"));
        }
        Some(path)
    }
}

/// Two that share stdin or stdout, read one FIFO or listen at one path, or write what another does, would stop each other
/// or lose what they have.
pub(super) fn clashes(control: Option<&PathBuf>, sections: &[(&str, Section<'_>)], lines: &[Option<Line>]) {
    let mut standard: Vec<(&str, &str)> = Vec::new();
    let mut written: Vec<(PathBuf, &str)> = Vec::new();
    let mut read: Vec<(PathBuf, &str)> = Vec::new();
    let mut sockets: Vec<(PathBuf, String)> =
        control.map(|path| (place(path), "[control] socket".to_owned())).into_iter().collect();
    for ((name, section), line) in sections.iter().zip(lines) {
        let Some(Line { kind: LineKind::Pipe(pipe), .. }) = line else { continue };
        let (input, output) = match &pipe.source {
            PipeSource::Ends { input, output } => (input, output.as_ref()),
            PipeSource::Socket(path) => {
                let place = place(path);
                if let Some((_, other)) = sockets.iter().find(|(other, _)| *other == place) {
                    section.problem("listen", format!("it is taken by {other}; wanted another path"));
                }
                sockets.push((place, format!("[line.{name}] listen")));
                continue;
            }
        };
        if let Some(path) = output.and_then(PipeEnd::path) {
            let place = place(path);
            if input.path().is_some_and(|input| self::place(input) == place) {
                let wanted = if let PipeEnd::Fifo(_) = input {
                    "it is the input too, and the agent would hear itself; wanted another FIFO"
                } else {
                    "it is the input too, and would be emptied; wanted another file"
                };
                section.problem("output", wanted);
            }
            if let Some((_, other)) = written.iter().find(|(other, _)| *other == place) {
                section.problem("output", format!("[line.{other}] writes it too; wanted another file"));
            }
            written.push((place, name));
        }
        if let PipeEnd::Fifo(path) = input {
            let place = place(path);
            if let Some((_, other)) = read.iter().find(|(other, _)| *other == place) {
                section.problem("input", format!("[line.{other}] reads it too; wanted another FIFO"));
            }
            read.push((place, name));
        }
        for (key, end) in [("input", Some(input)), ("output", output)] {
            if end != Some(&PipeEnd::Standard) {
                continue;
            }
            if let Some((_, other)) = standard.iter().find(|(other_key, _)| *other_key == key) {
                section.problem(key, format!("`-` is taken by [line.{other}]; wanted a .wav file"));
            }
            standard.push((key, name));
        }
    }
}

pub(super) const KEYS: &[&str] = &["input", "output", "listen", "sample-rate", "direction"];

/// What the address of a Unix socket has room for, less its end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::config::{Config, Problems, ProcessEnvironment, load};

    /// Reads a config with these pipe lines, in a folder with two FIFOs, a recording and a text.
    fn read(lines: &[&str]) -> Result<Config, Problems> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["mic.fifo", "ear.fifo"] {
            mknodat(CWD, folder.path().join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        for name in ["talk.wav", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let mut text = "[control]\nsocket = \"/run/t/control.sock\"\n".to_owned();
        for (line, name) in lines.iter().zip(["a", "b"]) {
            text += &format!("[line.{name}]\nkind = \"pipe\"\n{line}\n");
            text += &format!("[[route]]\nline = \"{name}\"\ntrunks = [\"agent\"]\n");
        }
        text += "[trunk.agent]\nurl = \"wss://agent.example.com\"\ndialect = \"binary\"\n";
        let path = folder.path().join("t.toml");
        fs::write(&path, text).unwrap();
        load(&path, &ProcessEnvironment)
    }

    fn line(text: &str) -> PipeLine {
        match &read(&[text]).unwrap().lines[0].kind {
            LineKind::Pipe(line) => (**line).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn assert_refused(lines: &[&str], key: &str, words: &str) {
        let problems = read(lines).unwrap_err().0;
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.key == key && problem.wanted.contains(words), "{problem}");
    }

    #[test]
    fn a_pair_of_fifos_a_lone_one_and_a_socket_are_read() {
        let both = line("input = \"mic.fifo\"\noutput = \"ear.fifo\"\nsample-rate = 16000");
        let PipeSource::Ends { input: PipeEnd::Fifo(input), output: Some(PipeEnd::Fifo(_)) } = &both.source else {
            panic!("{both:?}")
        };
        assert!(input.ends_with("mic.fifo") && !both.is_one_call());
        let alone = line("input = \"mic.fifo\"\ndirection = \"uplink\"");
        assert!(matches!(alone.source, PipeSource::Ends { input: PipeEnd::Fifo(_), output: None }));
        assert_eq!((alone.direction, alone.sample_rate), (Direction::Uplink, Rate::Hz8000));
        let socket = line("listen = \"/run/t/desk.sock\"");
        assert_eq!(socket.source, PipeSource::Socket("/run/t/desk.sock".into()));
        assert!(!socket.is_one_call());
        assert!(line("output = \"ear.fifo\"").is_one_call() && line("input = \"talk.wav\"").is_one_call());
    }

    #[test]
    fn a_path_that_is_nothing_says_how_it_comes_to_be_something() {
        assert_refused(
            &["input = \"gone.fifo\"\ndirection = \"uplink\""],
            "[line.a] input",
            "not there; make it by `mkfifo ",
        );
        assert_refused(&["output = \"gone.fifo\""], "[line.a] output", "gone.fifo`, or name a .wav file, or `-`");
        assert_refused(
            &["input = \"notes.txt\""],
            "[line.a] input",
            "wanted a FIFO (`mkfifo PATH`), a .wav file, or `-`",
        );
        assert_refused(&["listen = \"127.0.0.1:9092\""], "[line.a] listen", "wanted the path of a Unix socket");
        assert_refused(&["listen = 9092"], "[line.a] listen", "wanted the path of a Unix socket");
        let long = format!("listen = \"/{}\"", "x".repeat(107));
        assert_refused(&[&long], "[line.a] listen", "too long; the path of a socket has at most 107 bytes");
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let both = "a FIFO has one call after another";
        assert_refused(&["input = \"mic.fifo\""], "[line.a] input", both);
        assert_refused(&["input = \"mic.fifo\"\noutput = \"a.wav\""], "[line.a] output", both);
        assert_refused(&["listen = \"/run/t/desk.sock\"\ninput = \"-\""], "[line.a] input", "beside `listen`");
        assert_refused(&["output = \"a.wav\"\ndirection = \"uplink\""], "[line.a] output", "nobody hears the agent");
        assert_refused(&["direction = \"down\""], "[line.a] direction", "wanted \"both\" or \"uplink\"");
        let itself = "input = \"mic.fifo\"\noutput = \"./mic.fifo\"";
        assert_refused(&[itself], "[line.a] output", "the agent would hear itself");
    }

    #[test]
    fn two_lines_in_one_place_are_told() {
        let listen = "listen = \"/run/t/desk.sock\"";
        assert_refused(&[listen, listen], "[line.b] listen", "it is taken by [line.a] listen");
        assert_refused(&["listen = \"/run/t/control.sock\""], "[line.a] listen", "it is taken by [control] socket");
        let mic = "input = \"mic.fifo\"\ndirection = \"uplink\"";
        assert_refused(&[mic, mic], "[line.b] input", "[line.a] reads it too");
        let ear = |input: &str| format!("input = \"{input}\"\noutput = \"ear.fifo\"");
        assert_refused(&[&ear("talk.wav"), &ear("-")], "[line.b] output", "[line.a] writes it too");
    }
}
