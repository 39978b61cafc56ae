//! Folders that are written to: is there room, and may the service write.

use super::{Check, Finding};

/// A folder, or the one above it that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The key of the config.
    pub key: String,
    /// Where it is, as the config has it.
    pub path: String,
    /// The nearest that exists: itself, or one above it.
    pub there: String,
    /// Bytes that are free to us, and all.
    pub space: Option<(u64, u64)>,
    /// The file system takes no writing.
    pub read_only: bool,
    /// Who would write, and whether they may. `None`: it could not be found out.
    pub writer: (String, Option<bool>),
    /// What of the unit shuts the service out of it.
    pub shut: Option<Shut>,
}

/// Why the service cannot write there, whatever its user may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// `ProtectSystem=strict`, which `ReadWritePaths=` opens.
    System,
    /// `ProtectHome=`, which nothing opens (systemd.exec(5)).
    Home,
}

/// Judges it.
#[must_use]
pub fn judge(folder: &Folder) -> Finding {
    let Folder { key, path, there, space, read_only, writer: (who, may), shut } = folder;
    let failed = |found: String, fix: String| Finding::fail(Check::Disk, key.clone(), found, fix);
    match shut {
        Some(Shut::System) => {
            return failed(
                format!("the unit lets the service write below /var/lib/trunkline only, and not in {path}"),
                format!(
                    "take a folder in /var/lib/trunkline; or `sudo systemctl edit trunkline` and under [Service] \
                     `ReadWritePaths={path}`"
                ),
            );
        }
        Some(Shut::Home) => {
            return failed(
                format!("the unit keeps the service from all homes (ProtectHome=), and so from {path}"),
                "take a folder in /var/lib/trunkline; or in /srv, with its `ReadWritePaths=`".to_owned(),
            );
        }
        None => {}
    }
    if *read_only {
        return failed(
            format!("{there} is on a file system that is mounted read-only"),
            format!("`findmnt -T {there}` shows which; `sudo mount -o remount,rw` it, and see `dmesg` for why"),
        );
    }
    if *may == Some(false) {
        let fix = if there == path {
            format!("`sudo chown {who} {path}`")
        } else {
            format!("`sudo install -d -o {who} -m 700 {path}`")
        };
        return failed(format!("{who} may not write in {there}"), fix);
    }
    let Some((free, all)) = *space else {
        return Finding::skip(Check::Disk, key.clone(), format!("how much room {there} has could not be found out"));
    };
    let said = format!("{path}: {} of {} free", size(free), size(all));
    let clear = format!(
        "`sudo du -xh --max-depth=2 {there} | sort -h | tail` shows what takes it; keep-days, max-mib and keep-files limit what is kept"
    );
    if free < FULL {
        return failed(format!("{said}: it is full, and records wait in memory"), clear);
    }
    if free < SHORT || free < all / 20 && free < PLENTY {
        return Finding::warn(Check::Disk, key.clone(), format!("{said}: that fills up soon"), clear);
    }
    Finding::ok(Check::Disk, key.clone(), said)
}

/// One that gives no answer, which whoever writes there waits for as well.
#[must_use]
pub fn silent(key: &str, path: &str) -> Finding {
    Finding::fail(
        Check::Disk,
        key,
        format!("{path} does not answer: is it on a machine that is down?"),
        "`findmnt -l` shows what is mounted there and from where; take a folder on a disk of this machine",
    )
}

fn size(bytes: u64) -> String {
    if bytes >= 10 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{} MiB", bytes >> 20) }
}

/// Less than one file of the event log.
const FULL: u64 = 16 << 20;

/// An hour of ten recorded calls takes a gigabyte; whatever is kept is gone in minutes.
const SHORT: u64 = 256 << 20;

/// A twentieth of a large disk is a lot.
const PLENTY: u64 = 2 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn folder() -> Folder {
        Folder {
            key: "[records] directory".to_owned(),
            path: "/var/lib/trunkline".to_owned(),
            there: "/var/lib/trunkline".to_owned(),
            space: Some((20 << 30, 30 << 30)),
            read_only: false,
            writer: ("trunkline".to_owned(), Some(true)),
            shut: None,
        }
    }

    #[test]
    fn a_folder_with_room_is_good_and_one_without_is_told_with_what_takes_it() {
        assert_eq!(judge(&folder()).found, "/var/lib/trunkline: 20 GiB of 30 GiB free");
        let of = |free, all| judge(&Folder { space: Some((free, all)), ..folder() }).status;
        assert_eq!(of(1 << 20, 30 << 30), Status::Fail);
        assert_eq!(of(100 << 20, 30 << 30), Status::Warn);
        assert_eq!(of(1 << 30, 100 << 30), Status::Warn);
        assert_eq!(of(3 << 30, 100 << 30), Status::Ok);
    }

    #[test]
    fn whoever_may_not_write_is_told_the_command() {
        let shut = Folder { writer: ("trunkline".to_owned(), Some(false)), ..folder() };
        assert_eq!(judge(&shut).fix.as_deref(), Some("`sudo chown trunkline /var/lib/trunkline`"));
        let missing = Folder { there: "/var/lib".to_owned(), ..shut };
        assert!(judge(&missing).fix.is_some_and(|fix| fix.contains("install -d -o trunkline")));
        let sandboxed = Folder { path: "/srv/calls".to_owned(), shut: Some(Shut::System), ..folder() };
        assert!(judge(&sandboxed).fix.is_some_and(|fix| fix.contains("ReadWritePaths=/srv/calls")));
        let home = Folder { path: "/home/a/calls".to_owned(), shut: Some(Shut::Home), ..folder() };
        assert!(judge(&home).fix.is_some_and(|fix| !fix.contains("/home")));
        assert_eq!(judge(&Folder { read_only: true, ..folder() }).status, Status::Fail);
    }
}
