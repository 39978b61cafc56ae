//! What a process costs, as the kernel tells it.

use std::{collections::BTreeMap, fs, time::Duration};

/// The time that a process has run, thread by thread.
#[derive(Clone, Debug, Default)]
pub struct CpuTime {
    threads: BTreeMap<u32, Duration>,
    /// User and system time of the whole process, in steps of 10 ms.
    coarse: Duration,
}

impl CpuTime {
    /// Reads `/proc/PID/task/*/schedstat` and `/proc/PID/stat`.
    ///
    /// `None`: there is no such process.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): the command's name may hold anything, so fields are counted from its closing bracket.
        let ticks = |field: usize| stat.rsplit_once(") ")?.1.split(' ').nth(field)?.parse::<u64>().ok();
        let coarse = Duration::from_millis((ticks(11)? + ticks(12)?) * 10); // USER_HZ is 100 on every Linux port in use
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let threads = tasks.filter_map(|task| {
            let spent = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let spent = Duration::from_nanos(spent.split(' ').next()?.parse().ok()?);
            Some((task.file_name().to_str()?.parse().ok()?, spent))
        });
        Some(Self { threads: threads.collect(), coarse })
    }

    /// The time spent since `earlier`. A kernel without schedstat gives it in steps of 10 ms, which one call does not
    /// fill in ten seconds.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        if self.threads.values().all(Duration::is_zero) {
            return self.coarse.saturating_sub(earlier.coarse);
        }
        let spent = self.threads.iter().map(|(id, now)| {
            let before = earlier.threads.get(id).copied().unwrap_or_default();
            now.saturating_sub(before)
        });
        spent.sum()
    }
}

/// A row of `/proc/PID/status` in kB: `VmRSS` is resident memory, `VmHWM` the most it ever was.
#[must_use]
pub fn status_kb(pid: u32, row: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let row = status.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(':'))?;
    row.split_whitespace().next()?.parse().ok()
}

/// The time that all processors together were busy since boot.
#[must_use]
pub fn machine_busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // proc(5): user nice system idle iowait irq softirq steal; a guest's time is in user already
    let busy = fields.iter().take(8).enumerate().filter(|&(i, _)| i != 3 && i != 4).map(|(_, ticks)| ticks);
    Duration::from_millis(busy.sum::<u64>() * 10)
}
