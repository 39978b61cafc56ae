//! How the daemon is, for people: columns, bars, and what is wrong first.

use core::fmt::Write;

use crate::{
    control::desk::{Call, Status},
    media::level::SILENCE_DBOV,
};

/// How it may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For files and pipes.
    Plain,
    /// For a terminal.
    Colours,
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set (no-color.org).
    #[must_use]
    pub fn of_terminal(is_terminal: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_terminal && !unwanted { Self::Colours } else { Self::Plain }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// The whole status. `now_ms` is the wall clock (ms since 1970).
#[must_use]
pub fn status(status: &Status, now_ms: u64, style: Style) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_status(&mut text, status, now_ms, style);
    text
}

fn write_status(text: &mut String, status: &Status, now_ms: u64, style: Style) -> core::fmt::Result {
    let state = match (status.draining, status.problems.is_empty()) {
        (true, _) => style.paint(YELLOW, "draining"),
        (false, true) => style.paint(GREEN, "ready"),
        (false, false) => style.paint(RED, "not well"),
    };
    let Status { version, pid, max_calls, refused, .. } = status;
    let (live, up) = (status.calls.len(), span(status.uptime_s));
    writeln!(
        text,
        "trunkline {version}  {state}  process {pid}, up {up}, {live} of {max_calls} calls, {refused} refused"
    )?;
    for problem in &status.problems {
        writeln!(text, "  {} {problem}", style.paint(RED, "!"))?;
    }
    if status.records_waiting + status.records_lost + status.log_lines_lost > 0 {
        let Status { records_waiting, records_lost, log_lines_lost, .. } = status;
        writeln!(text, "  records: {records_waiting} waiting, {records_lost} lost; log lines: {log_lines_lost} lost")?;
    }

    let mut rows = vec![["LINE", "KIND", "LISTENS ON", "LIVE", "SO FAR"].map(str::to_owned).to_vec()];
    rows.extend(status.lines.iter().map(|line| {
        let listens_on = line.listens_on.as_deref().unwrap_or("-");
        let counts = (line.calls.to_string(), line.calls_so_far.to_string());
        vec![line.name.clone(), line.kind.clone(), listens_on.to_owned(), counts.0, counts.1]
    }));
    columns(text, &rows, style)?;

    writeln!(text)?;
    writeln!(text, "{}", style.paint(BOLD, "TRUNKS"))?;
    for trunk in &status.trunks {
        writeln!(text, "{}  {} {}, {} live", style.paint(BOLD, &trunk.name), trunk.dialect, trunk.url, trunk.calls)?;
        if let Some(last) = &trunk.last_handshake {
            let ms = last.dns_ms + last.connect_ms + last.tls_ms + last.upgrade_ms;
            let cipher = last.cipher.as_deref().unwrap_or("no TLS");
            writeln!(text, "  answered {}: {} in {ms} ms, {cipher}", ago(now_ms, last.at_ms), last.peer)?;
        }
        if let Some(last) = &trunk.last_refusal {
            let when = ago(now_ms, last.at_ms);
            writeln!(text, "  {} {when}: {}", style.paint(YELLOW, "did not"), last.words)?;
        }
        if trunk.last_handshake.is_none() && trunk.last_refusal.is_none() {
            writeln!(text, "  not dialled yet")?;
        }
    }
    if !status.calls.is_empty() {
        writeln!(text)?;
        text.push_str(&calls(&status.calls, style));
    }
    Ok(())
}

/// The live calls.
#[must_use]
pub fn calls(calls: &[Call], style: Style) -> String {
    if calls.is_empty() {
        return "no live calls\n".to_owned();
    }
    let head = ["CALL", "LINE", "TRUNK", "STAGE", "TIME", "CALLER", "AGENT", "DELAY", "DROPPED", "UNDERRUNS", "LATE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(calls.iter().map(|call| {
        vec![
            call.call_id.clone(),
            call.line.clone(),
            call.trunk.clone().unwrap_or_else(|| "-".to_owned()),
            call.stage.clone(),
            span(call.seconds),
            level(call.level_up_dbov),
            level(call.level_down_dbov),
            format!("{} ms", call.delay_ms),
            call.dropped_samples.to_string(),
            call.underruns.to_string(),
            call.late.to_string(),
        ]
    }));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = columns(&mut text, &rows, style);
    text
}

/// Rows under a head, each column as wide as its widest.
fn columns(text: &mut String, rows: &[Vec<String>], style: Style) -> core::fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            write!(line, "{cell:width$}  ", width = width(column))?;
        }
        let line = line.trim_end();
        writeln!(text, "{}", if number == 0 { style.paint(BOLD, line) } else { line.to_owned() })?;
    }
    Ok(())
}

/// A level as a bar and a figure; six bars from -60 dBov up.
fn level(dbov: i8) -> String {
    if dbov == SILENCE_DBOV {
        return format!("{:6} silent", "");
    }
    let bars = ((i32::from(dbov) + 60).clamp(0, 59) / 10 + 1) as usize;
    format!("{:6} {dbov}", "#".repeat(bars))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn ago(now_ms: u64, at_ms: u64) -> String {
    format!("{} ago", span(now_ms.saturating_sub(at_ms) / 1000))
}

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::desk;

    const SHOWN: &str = "\
trunkline 0.1.0  not well  process 412, up 1 d 2 h, 2 of 8 calls, 4 refused
  ! records cannot be written: No space left on device
  records: 12 waiting, 0 lost; log lines: 0 lost
LINE  KIND         LISTENS ON      LIVE  SO FAR
pbx   audiosocket  127.0.0.1:9092  2     117

TRUNKS
agent  ozonetel wss://agent.example.com/ws?..., 1 live
  answered 5 s ago: 192.0.2.7:443 in 82 ms, TLS13_AES_128_GCM_SHA256
spare  ozonetel wss://agent.example.com/ws?..., 0 live
  did not 1:45 ago: spare.example.com:443: the server said 401 Unauthorized

CALL          LINE  TRUNK  STAGE    TIME  CALLER      AGENT          DELAY  DROPPED  UNDERRUNS  LATE
abcdefgh2345  pbx   agent  bridged  1:23  ####   -24         silent  20 ms  0        1          0
zyxwvuts7654  pbx   -      dialing  1:23  ####   -24         silent  20 ms  0        1          0
";

    #[test]
    fn what_is_wrong_comes_first_and_every_call_has_its_row() {
        let shown = status(&desk::tests::status(), 1_767_225_605_200, Style::Plain);
        assert_eq!(shown, SHOWN);
    }

    #[test]
    fn only_a_terminal_gets_colours_and_the_words_are_the_same() {
        let shown = status(&desk::tests::status(), 1_767_225_605_200, Style::Colours);
        assert!(shown.contains("\x1b[31mnot well\x1b[0m"));
        let mut plain = shown;
        for code in ["0", BOLD, RED, GREEN, YELLOW] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, SHOWN);
    }

    #[test]
    fn a_daemon_without_calls_says_so() {
        assert_eq!(calls(&[], Style::Plain), "no live calls\n");
        let mut idle = desk::tests::status();
        (idle.calls, idle.problems, idle.records_waiting) = (Vec::new(), Vec::new(), 0);
        assert!(status(&idle, 0, Style::Plain).starts_with("trunkline 0.1.0  ready  process 412"));
    }
}
