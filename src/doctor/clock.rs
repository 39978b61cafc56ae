//! The clock. A board without a battery wakes up in the past, where every certificate is from the future.

use super::{Check, Finding, day};

/// When this binary was built, or at least no later (s since 1970): no clock that is right is before that. What the
/// release scripts say (reproducible-builds.org, SOURCE_DATE_EPOCH), else a day on which there was no such binary yet.
pub const BUILT: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => number(text),
    None => 1_795_219_200, // 2026-11-21
};

/// Judges it. `is_synchronized`: what the kernel was told by whoever keeps the clock; `None`: nobody could be asked.
#[must_use]
pub fn judge(now: u64, built: u64, is_synchronized: Option<bool>) -> Finding {
    let today = day(now);
    if now < built {
        return Finding::fail(
            Check::Clock,
            "clock",
            format!(
                "it is {today} here, and this trunkline was built on {}: certificates look as if they were not valid yet",
                day(built)
            ),
            "`sudo timedatectl set-ntp true`, and let UDP port 123 out; at once: `sudo timedatectl set-time 'YYYY-MM-DD HH:MM:SS'`",
        );
    }
    if now > built + MOST_YEARS * YEAR {
        return Finding::fail(
            Check::Clock,
            "clock",
            format!("it is {today} here, {MOST_YEARS} years after this trunkline was built: certificates look expired"),
            "`timedatectl` shows it; `sudo timedatectl set-ntp true`",
        );
    }
    match is_synchronized {
        Some(false) => Finding::warn(
            Check::Clock,
            "clock",
            format!("it is {today} here, but nobody keeps it right"),
            "`sudo timedatectl set-ntp true`; `timedatectl timesync-status` or `chronyc tracking` shows why not",
        ),
        Some(true) => Finding::ok(Check::Clock, "clock", format!("{today} UTC, synchronized")),
        None => Finding::ok(Check::Clock, "clock", format!("{today} UTC")),
    }
}

/// Decimal digits, for a constant.
const fn number(text: &str) -> u64 {
    let (bytes, mut at, mut sum) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        assert!(bytes[at].is_ascii_digit(), "SOURCE_DATE_EPOCH is not a number of seconds");
        sum = sum * 10 + (bytes[at] - b'0') as u64;
        at += 1;
    }
    sum
}

const YEAR: u64 = 31_557_600;

/// No binary is in use for so long.
const MOST_YEARS: u64 = 25;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    const NOW: u64 = 1_800_000_000; // 2027-01-15

    #[test]
    fn a_clock_before_the_build_is_wrong_and_the_next_step_is_named() {
        let finding = judge(0, NOW, Some(true));
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.found.contains("it is 1970-01-01 here, and this trunkline was built on 2027-01-15"));
        assert!(finding.fix.is_some_and(|fix| fix.contains("timedatectl set-ntp true")));
        assert_eq!(judge(NOW - 1, NOW, None).status, Status::Fail);
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_worth_a_look() {
        assert_eq!(judge(NOW, NOW, Some(false)).status, Status::Warn);
        assert_eq!(judge(NOW, NOW, Some(true)).found, "2027-01-15 UTC, synchronized");
        assert_eq!(judge(NOW, NOW, None).status, Status::Ok);
    }

    #[test]
    fn a_clock_far_in_the_future_is_wrong() {
        assert_eq!(judge(NOW + 26 * YEAR, NOW, Some(true)).status, Status::Fail);
    }

    #[test]
    fn the_build_has_a_day() {
        assert_eq!(number("1795824000"), 1_795_824_000);
        assert_eq!(day(1_795_824_000), "2026-11-28");
        const { assert!(BUILT >= 1_700_000_000) };
    }
}
