//! From the results of many runs to the tables of RESULTS.md.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

/// Markdown of the results, one JSON object a line: medians over the rounds, then what they say about the claims.
///
/// # Errors
/// A line is not JSON.
pub fn markdown(lines: &str) -> Result<String, String> {
    let mut cells: BTreeMap<Cell, Vec<Value>> = BTreeMap::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let result: Value = serde_json::from_str(line).map_err(|why| format!("{why}: {line}"))?;
        cells.entry(Cell::of(&result)).or_default().push(result);
    }
    let results = Results { cells };
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = results.write_delays(&mut out);
    let _ = results.write_allocations(&mut out);
    let _ = results.write_memory(&mut out);
    let _ = results.write_claims(&mut out);
    let _ = results.write_sip_claims(&mut out);
    Ok(out)
}

/// What is compared with what: in this order the rows stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    pass: String,
    transport: String,
    dialect: String,
    calls: u64,
    system: String,
}

impl Cell {
    fn of(result: &Value) -> Self {
        let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
        Self {
            pass: text("pass"),
            transport: text("transport"),
            dialect: text("dialect"),
            calls: result["calls"].as_u64().unwrap_or(0),
            system: text("system"),
        }
    }
}

struct Results {
    cells: BTreeMap<Cell, Vec<Value>>,
}

impl Results {
    fn pass<'r>(&'r self, pass: &'r str) -> impl Iterator<Item = (&'r Cell, &'r [Value])> {
        self.cells.iter().filter(move |(cell, _)| cell.pass == pass).map(|(cell, runs)| (cell, &runs[..]))
    }

    fn write_delays(&self, out: &mut String) -> std::fmt::Result {
        if self.pass(MAIN).next().is_none() {
            return Ok(());
        }
        writeln!(
            out,
            "| trunk | dialect | calls | system | CPU % of a core a call | uplink p50 / p99 / p99.9 ms \
             | round trip p50 / p99 / p99.9 ms | lost | idle MB | kB a call | other load % | runs |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for (cell, runs) in self.pass(MAIN) {
            let Cell { transport, dialect, calls, system, .. } = cell;
            let three = |name: &str| {
                let quantile = |q: &str| shown(median(runs, &format!("{name}_{q}_ms")), 1.0, 2);
                format!("{} / {} / {}", quantile("p50"), quantile("p99"), quantile("p999"))
            };
            writeln!(
                out,
                "| {transport} | {dialect} | {calls} | {system} | {} | {} | {} | {} | {} | {} | {} | {} |",
                shown(median(runs, "cpu_pct_per_call"), 1.0, 3),
                three("uplink"),
                three("round_trip"),
                lost(runs),
                shown(median(runs, "rss_idle_kb"), 1024.0, 1),
                shown(median(runs, "rss_kb_per_call"), 1.0, 0),
                shown(median(runs, "other_load_pct"), 1.0, 0),
                runs.len(),
            )?;
        }
        writeln!(out)
    }

    fn write_allocations(&self, out: &mut String) -> std::fmt::Result {
        if self.pass(ALLOCATIONS).next().is_none() {
            return Ok(());
        }
        writeln!(
            out,
            "| trunk | dialect | calls | system | allocations on media threads a frame |\n|---|---|---|---|---|"
        )?;
        for (Cell { transport, dialect, calls, system, .. }, runs) in self.pass(ALLOCATIONS) {
            let frames = sum(runs, "trunkline_uplink_frames_total") + sum(runs, "trunkline_downlink_frames_total");
            let allocs = (frames > 0).then(|| sum(runs, "trunkline_media_allocations_total") as f64 / frames as f64);
            writeln!(
                out,
                "| {transport} | {dialect} | {calls} | {} | {} |",
                system.trim_end_matches("-counting"),
                shown(allocs, 1.0, 4)
            )?;
        }
        writeln!(out)
    }

    fn write_memory(&self, out: &mut String) -> std::fmt::Result {
        if self.pass(MEMORY).next().is_none() {
            return Ok(());
        }
        writeln!(out, "| system | calls | minutes of echo | idle MB | with calls MB | kB a call | lost |")?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for (Cell { calls, system, .. }, runs) in self.pass(MEMORY) {
            writeln!(
                out,
                "| {system} | {calls} | {} | {} | {} | {} | {} |",
                shown(median(runs, "seconds"), 60.0, 1),
                shown(median(runs, "rss_idle_kb"), 1024.0, 1),
                shown(median(runs, "rss_calls_kb"), 1024.0, 1),
                shown(median(runs, "rss_kb_per_call"), 1.0, 0),
                lost(runs),
            )?;
        }
        writeln!(out)
    }

    /// The claims stand for 50 calls in Ozonetel's dialect.
    fn claimed(&self, pass: &str, transport: &str, system: &str, name: &str) -> Option<f64> {
        let (_, runs) = self.pass(pass).find(|(cell, _)| {
            (&*cell.transport, &*cell.dialect, cell.calls, &*cell.system) == (transport, "ozonetel", 50, system)
        })?;
        median(runs, name)
    }

    fn write_claims(&self, out: &mut String) -> std::fmt::Result {
        let claimed = |pass: &str, system: &str, name: &str| self.claimed(pass, "ws", system, name);
        let ours = |name: &str| claimed(MAIN, "trunkline", name);
        let Some(floor) = claimed(MAIN, "relay", "uplink_p99_ms").filter(|_| ours("cpu_pct_per_call").is_some()) else {
            return Ok(());
        };
        // On a noisy machine the bare relay is late too, and nobody can be earlier than it.
        let at_most = |limit: f64, name: &str| {
            let relay = claimed(MAIN, "relay", name).filter(|_| floor >= 1.0);
            relay.map_or(limit, |relay| limit.max(relay + 1.0))
        };
        let ratio = ours("cpu_pct_per_call").zip(claimed(MAIN, "node", "cpu_pct_per_call")).map(|(a, b)| a / b);
        let mut claims = vec![("CPU a call, as a share of Node's", ratio, 0.6, 2)];
        for (text, name, limit) in [
            ("uplink p50 (ms)", "uplink_p50_ms", 0.2),
            ("uplink p99 (ms)", "uplink_p99_ms", 1.5),
            ("round trip p50 (ms)", "round_trip_p50_ms", 21.0),
            ("round trip p99 (ms)", "round_trip_p99_ms", 31.0),
        ] {
            claims.push((text, ours(name), at_most(limit, name), 2));
        }
        let memory = |name: &str| claimed(MEMORY, "trunkline", name);
        claims.push(("idle memory (MB)", memory("rss_idle_kb").map(|kb| kb / 1024.0), 8.0, 1));
        claims.push(("memory a call (kB)", memory("rss_kb_per_call"), 150.0, 0));
        writeln!(out, "50 calls, Ozonetel on `ws`; uplink p99 of the bare relay {floor:.2} ms:\n")?;
        write_table(&claims, out)
    }

    /// What a call by SIP costs, beside Node's bridge, which has AudioSocket only, and beside our own AudioSocket.
    fn write_sip_claims(&self, out: &mut String) -> std::fmt::Result {
        let cpu = |transport: &str, system: &str| self.claimed(MAIN, transport, system, "cpu_pct_per_call");
        let mut claims = vec![];
        for (transport, text) in
            [("ws", "CPU a SIP call, as a share of Node's on AudioSocket, `ws`"), ("wss", "the same, `wss`")]
        {
            let Some(sip) = cpu(transport, "trunkline-sip") else { continue };
            claims.push((text, cpu(transport, "node").map(|node| sip / node), 1.15, 2));
        }
        if claims.is_empty() {
            return Ok(());
        }
        let memory = |system: &str| self.claimed(MEMORY, "ws", system, "rss_kb_per_call");
        let more = memory("trunkline-sip").zip(memory("trunkline")).map(|(sip, audiosocket)| sip - audiosocket);
        claims.push(("memory a SIP call beyond one on AudioSocket (kB)", more, 20.0, 0));
        writeln!(out, "50 calls by SIP, G.711, Ozonetel:\n")?;
        write_table(&claims, out)
    }
}

/// What is claimed: its words, what was measured, at most what, and its digits.
fn write_table(claims: &[(&str, Option<f64>, f64, usize)], out: &mut String) -> std::fmt::Result {
    writeln!(out, "| claim | measured | at most | |\n|---|---|---|---|")?;
    for &(text, measured, limit, digits) in claims {
        let verdict = measured.map_or("not measured", |measured| if measured <= limit { "holds" } else { "fails" });
        writeln!(out, "| {text} | {} | {limit:.digits$} | {verdict} |", shown(measured, 1.0, digits))?;
    }
    writeln!(out)
}

/// The median of a field over the runs that have it.
fn median(runs: &[Value], name: &str) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().filter_map(|run| run[name].as_f64()).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

fn shown(value: Option<f64>, unit: f64, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.digits$}", value / unit))
}

/// A counter over all runs.
fn sum(runs: &[Value], name: &str) -> u64 {
    runs.iter().filter_map(|run| run[name].as_f64()).sum::<f64>() as u64
}

/// Frames lost over all runs, not their median: one that is lost now and then is a finding. A frame also counts as
/// lost when delay was given back by shortening it where its mark is, so that is told beside it.
fn lost(runs: &[Value]) -> String {
    let mut text = format!("{} of {}", sum(runs, "lost"), sum(runs, "frames"));
    if runs.iter().any(|run| !run["unmarked"].is_null()) {
        // Its codec lets no mark through: whose frames came back is not known, only how many.
        text = format!("unmarked; {} of {} packets back", sum(runs, "unmarked"), sum(runs, "frames"));
    }
    let uplink = sum(runs, "lost_uplink");
    if uplink > 0 && !text.starts_with("unmarked") {
        let _ = write!(text, ", {uplink} before the agent");
    }
    for (name, unit, what) in [
        ("trunkline_downlink_repaid_samples_total", 8, "ms repaid"),
        ("trunkline_uplink_dropped_samples_total", 8, "ms dropped"),
        ("ended_early", 1, "calls cut"),
    ] {
        let counted = sum(runs, name);
        if counted > 0 {
            let _ = write!(text, ", {} {what}", counted.div_ceil(unit));
        }
    }
    text
}

/// The pass that measures delay and CPU.
const MAIN: &str = "main";
/// The pass with the build that counts allocations.
const ALLOCATIONS: &str = "allocations";
/// The pass that echoes for minutes.
const MEMORY: &str = "memory";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(system: &str, pass: &str, cpu: f64, p99: f64) -> String {
        format!(
            "{{\"pass\":\"{pass}\",\"system\":\"{system}\",\"transport\":\"ws\",\"dialect\":\"ozonetel\",\"calls\":50,\
             \"cpu_pct_per_call\":{cpu},\"uplink_p99_ms\":{p99},\"lost\":1,\"frames\":10,\"rss_idle_kb\":8192,\
             \"rss_kb_per_call\":150}}\n"
        )
    }

    #[test]
    fn a_row_is_the_median_of_its_rounds_and_the_sum_of_its_losses() {
        let runs: String = [0.3, 0.1, 0.2].iter().map(|&cpu| run("node", "main", cpu, 1.0)).collect();
        let table = markdown(&runs).unwrap();
        let row = table.lines().find(|line| line.contains("| node |")).unwrap();
        assert!(row.contains("| 0.200 |") && row.contains("| 3 of 30 |") && row.ends_with("| 3 |"), "{row}");
    }

    #[test]
    fn a_late_relay_loosens_the_delay_and_nothing_else() {
        let runs = |floor: f64| {
            [
                run("relay", "main", 0.1, floor),
                run("node", "main", 0.4, 9.0),
                run("trunkline", "main", 0.28, 2.0),
                run("trunkline", "memory", 0.0, 0.0),
            ]
            .concat()
        };
        let quiet = markdown(&runs(0.9)).unwrap();
        assert!(quiet.contains("| uplink p99 (ms) | 2.00 | 1.50 | fails |"), "{quiet}");
        let noisy = markdown(&runs(1.2)).unwrap();
        assert!(noisy.contains("| uplink p99 (ms) | 2.00 | 2.20 | holds |"), "{noisy}");
        assert!(noisy.contains("| CPU a call, as a share of Node's | 0.70 | 0.60 | fails |"), "{noisy}");
        assert!(noisy.contains("| idle memory (MB) | 8.0 | 8.0 | holds |"), "{noisy}");
    }

    #[test]
    fn a_sip_call_is_compared_with_nodes_on_the_same_transport() {
        let runs = [
            run("node", "main", 0.4, 9.0),
            run("trunkline-sip", "main", 0.44, 2.0),
            run("node", "main", 0.5, 9.0).replace("\"ws\"", "\"wss\""),
            run("trunkline-sip", "main", 0.6, 9.0).replace("\"ws\"", "\"wss\""),
        ];
        let table = markdown(&runs.concat()).unwrap();
        assert!(table.contains("AudioSocket, `ws` | 1.10 | 1.15 | holds |"), "{table}");
        assert!(table.contains("the same, `wss` | 1.20 | 1.15 | fails |"), "{table}");
        assert!(table.contains("(kB) | - | 20 | not measured |"), "{table}");
    }

    #[test]
    fn a_line_that_is_not_json_is_named() {
        assert!(markdown("nonsense").unwrap_err().contains("nonsense"));
    }
}
