//! A daemon's status as people read it: aligned, and coloured where there is a terminal.

use core::fmt::Write as _;
use std::{env, io};

use io::IsTerminal as _;

use crate::control::desk::{CallState, CallStatus, LineStatus, Readiness, Status, TrunkStatus};

/// What a panel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) colours: bool,
    pub(super) bars: bool,
}

impl Look {
    /// That of stdout. No colours where somebody said so (no-color.org).
    pub(super) fn of_stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colours: terminal && !unwanted && !dumb, bars: terminal }
    }
}

/// The whole status.
pub(super) fn status(status: &Status, now_ms: u64, look: Look) -> String {
    let mut panel = Panel { text: String::new(), look };
    panel.head(status);
    panel.text.push('\n');
    panel.lines(&status.lines);
    panel.text.push('\n');
    panel.trunks(&status.trunks, now_ms);
    panel.text.push('\n');
    panel.calls(&status.calls);
    panel.text
}

/// The live calls alone.
pub(super) fn calls(calls: &[CallStatus], look: Look) -> String {
    let mut panel = Panel { text: String::new(), look };
    panel.calls(calls);
    panel.text
}

struct Panel {
    text: String,
    look: Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Plain,
    Bold,
    Dim,
    Good,
    Odd,
    Bad,
}

struct Cell {
    text: String,
    right: bool,
    paint: Paint,
}

impl Cell {
    fn left(text: &str) -> Self {
        Self { text: clean(text), right: false, paint: Paint::Plain }
    }

    fn right(text: String) -> Self {
        Self { text, right: true, paint: Paint::Plain }
    }

    /// A number that should be zero.
    fn fault(count: u64) -> Self {
        Self { paint: if count > 0 { Paint::Odd } else { Paint::Plain }, ..Self::right(count.to_string()) }
    }
}

impl Panel {
    fn head(&mut self, status: &Status) {
        let (paint, state) = match status.state {
            Readiness::Ready => (Paint::Good, "ready"),
            Readiness::Draining => (Paint::Odd, "draining"),
        };
        self.put(Paint::Bold, &format!("trunkline {}", clean(&status.version)));
        self.put(Paint::Plain, &format!(", process {}, up {}: ", status.pid, span(status.uptime_seconds)));
        self.put(paint, state);
        let mib = status.pool_high_water_bytes as f64 / f64::from(1 << 20);
        let (live, most) = (status.calls.len(), status.max_calls);
        let _ = writeln!(self.text, "\n{live} of {most} calls, {mib:.1} MiB of the pool used at most");
        for problem in &status.problems {
            self.put(Paint::Bad, &format!("problem: {}", clean(problem)));
            self.text.push('\n');
        }
        let (kept, sinks) = (status.records, status.sinks);
        for (count, words) in [
            (kept.waiting, "records wait to be written"),
            (kept.lost, "records were lost"),
            (sinks.waiting, "items wait for sinks"),
            (sinks.refused, "items were refused by sinks"),
            (sinks.lost, "items for sinks were lost"),
            (status.journal_dropped, "log lines were lost"),
        ] {
            if count > 0 {
                self.put(Paint::Odd, &format!("{count} {words}"));
                self.text.push('\n');
            }
        }
    }

    fn lines(&mut self, lines: &[LineStatus]) {
        let rows = lines.iter().map(|line| {
            [
                Cell::left(&line.name),
                Cell::left(&line.kind),
                Cell::left(line.listen.as_deref().unwrap_or("-")),
                Cell::right(line.calls.to_string()),
                Cell::right(line.last_call_ms_ago.map_or("never".to_owned(), ago)),
            ]
        });
        self.table(["LINE", "KIND", "LISTENS ON", "CALLS", "LAST CALL"], rows);
        for line in lines {
            if let Some(card) = &line.card {
                let paint = if card.starts_with("there") { Paint::Good } else { Paint::Bad };
                self.put(paint, &format!("{}: sound card {}", clean(&line.name), clean(card)));
            }
            if let Some(registration) = &line.registration {
                let paint = if registration == "registered" { Paint::Good } else { Paint::Bad };
                self.put(paint, &format!("{}: {}", clean(&line.name), clean(registration)));
                self.text.push('\n');
            }
        }
    }

    fn trunks(&mut self, trunks: &[TrunkStatus], now_ms: u64) {
        let rows = trunks.iter().map(|trunk| {
            [
                Cell::left(&trunk.name),
                Cell::left(&trunk.dialect),
                Cell::right(trunk.calls.to_string()),
                Cell::left(&trunk.url),
            ]
        });
        self.table(["TRUNK", "DIALECT", "CALLS", "URL"], rows);
        for trunk in trunks {
            if let Some(last) = &trunk.last_handshake {
                let (name, when) = (clean(&trunk.name), ago(now_ms.saturating_sub(last.at_ms)));
                let cipher = clean(last.cipher.as_deref().unwrap_or("without TLS"));
                let total = last.dns_ms + last.connect_ms + last.tls_ms + last.upgrade_ms;
                let _ = writeln!(
                    self.text,
                    "{name}: took a call {when}: {} {cipher}, {total} ms (dns {}, connect {}, tls {}, upgrade {})",
                    clean(&last.peer),
                    last.dns_ms,
                    last.connect_ms,
                    last.tls_ms,
                    last.upgrade_ms,
                );
            }
            if let Some(last) = &trunk.last_refusal {
                let answered_since = trunk.last_handshake.as_ref().is_some_and(|taken| taken.at_ms >= last.at_ms);
                let when = ago(now_ms.saturating_sub(last.at_ms));
                let words = format!("{}: refused one {when}: {}", clean(&trunk.name), clean(&last.words));
                self.put(if answered_since { Paint::Dim } else { Paint::Bad }, &words);
                self.text.push('\n');
            }
        }
    }

    fn calls(&mut self, calls: &[CallStatus]) {
        if calls.is_empty() {
            self.text.push_str("no calls\n");
            return;
        }
        let look = self.look;
        let rows = calls.iter().map(|call| {
            let state = match call.state {
                CallState::Bridged => Paint::Good,
                CallState::Dialing => Paint::Odd,
                CallState::Finishing | CallState::Closing => Paint::Dim,
            };
            [
                Cell::left(&call.call_id),
                Cell::left(&call.line),
                Cell::left(call.trunk.as_deref().unwrap_or("-")),
                Cell { paint: state, ..Cell::left(call.state.as_str()) },
                Cell::right(clock(call.seconds)),
                level(call.level_up_dbov, look),
                level(call.level_down_dbov, look),
                Cell::right(format!("{} ms", call.delay_ms)),
                Cell::right(format!("{} ms", call.uplink_backlog_ms)),
                Cell::fault(call.dropped),
                Cell::fault(call.underruns),
                Cell::fault(call.late),
            ]
        });
        let names = [
            "CALL",
            "LINE",
            "TRUNK",
            "STATE",
            "TIME",
            "UP dBov",
            "DOWN dBov",
            "DELAY",
            "BACKLOG",
            "DROPPED",
            "UNDERRUNS",
            "LATE",
        ];
        self.table(names, rows);
        self.rtp(calls);
    }

    /// What the RTP of those calls is like that are RTP.
    fn rtp(&mut self, calls: &[CallStatus]) {
        let rows = calls.iter().filter_map(|call| {
            let rtp = call.rtp.as_ref()?;
            Some([
                Cell::left(&call.call_id),
                Cell::right(rtp.packets.to_string()),
                Cell::fault(rtp.lost),
                Cell::fault(rtp.concealed_samples),
                Cell::right(format!("{} ms", rtp.jitter_ms)),
                Cell::right(rtp.round_trip_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"))),
                Cell::right(format!("{} ms", rtp.delay_ms)),
            ])
        });
        let mut rows = rows.peekable();
        if rows.peek().is_some() {
            self.text.push('\n');
            self.table(["RTP", "PACKETS", "LOST", "CONCEALED", "JITTER", "ROUND TRIP", "BUFFER"], rows);
        }
    }

    fn table<const N: usize>(&mut self, names: [&str; N], rows: impl Iterator<Item = [Cell; N]>) {
        let mut rows: Vec<[Cell; N]> = rows.collect();
        let right = core::array::from_fn::<bool, N, _>(|column| rows.first().is_some_and(|row| row[column].right));
        let head = core::array::from_fn(|column| Cell {
            text: names[column].to_owned(),
            right: right[column],
            paint: Paint::Dim,
        });
        rows.insert(0, head);
        let widths = core::array::from_fn::<usize, N, _>(|column| {
            rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or(0)
        });
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let padding = widths[column] - cell.text.chars().count();
                let (before, after) = if cell.right { (padding, 0) } else { (0, padding) };
                self.text.extend(core::iter::repeat_n(' ', before));
                self.put(cell.paint, &cell.text);
                if column + 1 < N {
                    self.text.extend(core::iter::repeat_n(' ', after + 2));
                }
            }
            self.text.push('\n');
        }
    }

    fn put(&mut self, paint: Paint, text: &str) {
        // ECMA-48 8.3.117: the eight colours that every terminal has.
        let code = match paint {
            Paint::Plain => "",
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Good => "32",
            Paint::Odd => "33",
            Paint::Bad => "31",
        };
        if self.look.colours && !code.is_empty() {
            let _ = write!(self.text, "\x1b[{code}m{text}\x1b[0m");
        } else {
            self.text.push_str(text);
        }
    }
}

/// A level, and on a terminal a bar of it: empty at -60 dBov, full at 0.
fn level(dbov: Option<i8>, look: Look) -> Cell {
    let number = dbov.map_or("-".to_owned(), |dbov| dbov.to_string());
    if !look.bars {
        return Cell::right(number);
    }
    let filled = dbov.map_or(0, |dbov| (usize::from((i16::from(dbov) + 60).clamp(0, 60) as u16) * BAR).div_ceil(60));
    Cell::right(format!("{number} {}{}", "#".repeat(filled), ".".repeat(BAR - filled)))
}

fn ago(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// What an agent said of itself must not move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

const BAR: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::desk::{RecordsStatus, RtpStatus, tests::busy_status};

    const NOW_MS: u64 = 1_000_000_000;
    const PLAIN: Look = Look { colours: false, bars: false };

    #[test]
    fn a_busy_daemon_reads_like_this() {
        let expected = "\
trunkline 0.1.0, process 812, up 3 d 4 h: ready
2 of 8 calls, 1.2 MiB of the pool used at most

LINE  KIND         LISTENS ON      CALLS  LAST CALL
pbx   audiosocket  127.0.0.1:9092      2    3 s ago
tape  pipe         -                   0      never

TRUNK  DIALECT   CALLS  URL
agent  ozonetel      1  wss://agent.example.com/ws?...
spare  binary        0  ws://127.0.0.1:8765/
agent: took a call 2 s ago: 10.0.0.5:443 TLS13_AES_256_GCM_SHA384, 84 ms (dns 1, connect 12, tls 50, upgrade 21)
agent: refused one 5 min ago: agent.example.com:443: ?[31mconnection refused

CALL          LINE  TRUNK  STATE    TIME  UP dBov  DOWN dBov  DELAY  BACKLOG  DROPPED  UNDERRUNS  LATE
k3vqhm2xw7ab  pbx   agent  bridged  1:23      -23        -60  40 ms     0 ms      160          1     0
zz5dlo2c3qqe  pbx   -      dialing  0:03        -          -   0 ms  2980 ms        0          0     0
";
        let text = status(&busy_status(), NOW_MS, PLAIN);
        assert!(text == expected, "{text}");
    }

    #[test]
    fn what_is_wrong_stands_on_top() {
        let mut troubled = busy_status();
        troubled.state = Readiness::Draining;
        troubled.problems = vec!["draining".to_owned(), "records cannot be written".to_owned()];
        troubled.records = RecordsStatus { waiting: 3, lost: 0 };
        troubled.sinks.waiting = 40;
        troubled.calls.clear();
        let text = status(&troubled, NOW_MS, PLAIN);
        let expected = "\
trunkline 0.1.0, process 812, up 3 d 4 h: draining
0 of 8 calls, 1.2 MiB of the pool used at most
problem: draining
problem: records cannot be written
3 records wait to be written
40 items wait for sinks

LINE ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("\n\nno calls\n"), "{text}");
    }

    #[test]
    fn a_sip_line_shows_whether_it_is_registered_and_its_calls_what_their_network_is_like() {
        let mut busy = busy_status();
        busy.lines[0].registration = Some("registered".to_owned());
        let (packets, lost, concealed_samples, jitter_ms, delay_ms) = (4120, 31, 4960, 7, 42);
        let rtp = RtpStatus { packets, lost, concealed_samples, jitter_ms, round_trip_ms: Some(18), delay_ms };
        busy.calls[0].rtp = Some(rtp);
        let text = status(&busy, NOW_MS, PLAIN);
        assert!(text.contains("      never\npbx: registered\n\nTRUNK "), "{text}");
        let expected = "

RTP           PACKETS  LOST  CONCEALED  JITTER  ROUND TRIP  BUFFER
k3vqhm2xw7ab     4120    31       4960    7 ms       18 ms   42 ms
";
        assert!(text.ends_with(expected), "{text}");
        busy.lines[0].registration = Some("refused".to_owned());
        let coloured = status(&busy, NOW_MS, Look { colours: true, bars: false });
        assert!(coloured.contains("\x1b[31mpbx: refused\x1b[0m"), "{coloured}");
    }

    #[test]
    fn a_terminal_gets_bars_and_colours_in_the_same_columns() {
        let text = calls(&busy_status().calls, Look { colours: true, bars: true });
        assert!(text.contains("-23 #######..."), "{text}");
        assert!(text.contains("-60 .........."), "{text}");
        assert!(text.contains("\x1b[32mbridged\x1b[0m") && text.contains("\x1b[33m160\x1b[0m"), "{text}");
        let bare = calls(&busy_status().calls, Look { colours: false, bars: true });
        let mut stripped = text;
        for code in ["\x1b[0m", "\x1b[2m", "\x1b[32m", "\x1b[33m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, bare);
        let widths: Vec<usize> = bare.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [widths[0]; 3]);
    }

    #[test]
    fn a_refusal_is_only_alarming_while_nothing_came_after_it() {
        let mut trunks = busy_status();
        let look = Look { colours: true, bars: false };
        assert!(status(&trunks, NOW_MS, look).contains("\x1b[2magent: refused one"));
        trunks.trunks[0].last_handshake = None;
        assert!(status(&trunks, NOW_MS, look).contains("\x1b[31magent: refused one"));
    }

    #[test]
    fn times_are_short() {
        for (ms, words) in [(999, "0 s ago"), (59_999, "59 s ago"), (60_000, "1 min ago"), (7_200_000, "2 h ago")] {
            assert_eq!(ago(ms), words);
        }
        assert_eq!(ago(172_800_000), "2 d ago");
        assert_eq!((span(59), span(3599), span(3660)), ("59 s".into(), "59 min".into(), "1 h 1 min".into()));
        assert_eq!((clock(59), clock(3599), clock(36_061)), ("0:59".into(), "59:59".into(), "10:01:01".into()));
    }

    #[test]
    fn a_bar_is_full_at_full_scale_and_shows_the_faintest_sound() {
        let look = Look { colours: false, bars: true };
        for (dbov, bar) in [(0, "##########"), (-59, "#........."), (-60, ".........."), (-127, "..........")] {
            assert!(level(Some(dbov), look).text.ends_with(bar), "{dbov}");
        }
        assert_eq!(level(None, look).text, "- ..........");
    }
}
