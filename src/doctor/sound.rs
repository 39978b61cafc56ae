//! Sound cards: whether there is one, whether the service may open it, and whether its threads run before others.

use super::{
    Check, Finding,
    account::{Account, Owned},
};

/// What is known of the card of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Card {
    /// The daemon has it, and says this of it.
    OfDaemon(String),
    /// It is there, with what it can do.
    There(String),
    /// It is not there or cannot be opened now, and why, with the next step.
    Refused(String),
    /// Somebody holds it, who may be the daemon, which could not be asked.
    Held,
}

/// Judges the card of one way (`input` or `output`) by its name in the config.
#[must_use]
pub fn judge_card(key: &str, name: &str, card: &Card) -> Finding {
    match card {
        Card::OfDaemon(says) if says.starts_with("out") => Finding::fail(
            Check::Sound,
            key,
            format!("{name}: the daemon says that the card is {says}"),
            "`journalctl -u trunkline -g 'sound card is out'` has the reason",
        ),
        Card::OfDaemon(says) => Finding::ok(Check::Sound, key, format!("{name}: the daemon has it, {says}")),
        Card::There(formats) => Finding::ok(Check::Sound, key, format!("{name}: {formats}")),
        Card::Held => Finding::skip(Check::Sound, key, format!("{name} is in use, probably by the daemon")),
        Card::Refused(why) => {
            Finding::fail_in_words(Check::Sound, key, why, format!("`trunkline devices --test {name}`"))
        }
    }
}

/// What decides whether the service may have sound.
#[derive(Clone, Debug)]
pub struct Rights<'f> {
    /// Whom it runs as, in the unit's groups too; `None`: there is no such user.
    pub account: Option<&'f Account>,
    /// The unit, if it is installed.
    pub unit: Option<&'f Unit>,
    /// The number of the group `audio`.
    pub audio: Option<u32>,
    /// The files of /dev/snd; empty: there are none.
    pub devices: &'f [Device],
}

/// A file of /dev/snd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its path.
    pub file: String,
    /// Whose it is.
    pub owned: Owned,
    /// What access(2) says, where we are who it is about: logind gives cards to whoever sits there by an access list.
    pub may: Option<bool>,
}

/// What the unit and its drop-ins say, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// `SupplementaryGroups=`
    pub groups: Vec<String>,
    /// `Group=`
    pub group: Option<String>,
    /// `PrivateDevices=yes`, and no later `no`.
    pub private_devices: bool,
    /// `LimitRTPRIO=`
    pub rtprio: Option<u32>,
    /// `ProtectHome=`, whichever but `no`.
    pub protect_home: bool,
    /// `RestrictRealtime=yes`, and no later `no`.
    pub restrict_realtime: bool,
    /// `ReadWritePaths=`
    pub writable: Vec<String>,
    /// `User=`
    pub user: Option<String>,
}

impl Unit {
    /// Reads the unit and then its drop-ins, in the order in which systemd does.
    #[must_use]
    pub fn read<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut unit = Self::default();
        for line in texts.into_iter().flat_map(str::lines) {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let (value, is_yes) = (value.trim(), matches!(value.trim(), "yes" | "true" | "on" | "1"));
            let words = || value.split_whitespace().map(|word| word.trim_start_matches(['-', '+']).to_owned());
            match key.trim() {
                "User" => unit.user = Some(value.to_owned()),
                "Group" => unit.group = Some(value.to_owned()).filter(|group| !group.is_empty()),
                "SupplementaryGroups" | "ReadWritePaths" => {
                    let list = if key.trim() == "ReadWritePaths" { &mut unit.writable } else { &mut unit.groups };
                    // An empty one forgets those before it (systemd.exec(5)).
                    if value.is_empty() { list.clear() } else { list.extend(words()) }
                }
                "ProtectHome" => unit.protect_home = !matches!(value, "" | "no" | "false" | "off" | "0"),
                "PrivateDevices" => unit.private_devices = is_yes,
                "RestrictRealtime" => unit.restrict_realtime = is_yes,
                // The soft one before the hard one.
                "LimitRTPRIO" => {
                    unit.rtprio = match value.split(':').next() {
                        Some("infinity") => Some(u32::MAX),
                        soft => soft.and_then(|soft| soft.parse().ok()),
                    }
                }
                _ => {}
            }
        }
        unit
    }

    /// The groups that it gives to its user.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().chain(&self.group).map(String::as_str)
    }
}

/// Judges the right to open a card.
#[must_use]
pub fn judge_rights(rights: &Rights<'_>) -> Finding {
    let Rights { account, unit, audio, devices } = *rights;
    let Some(account) = account else {
        return Finding::fail(
            Check::Sound,
            RIGHTS,
            "there is no user for the service",
            "`sudo systemd-sysusers` makes the user trunkline of the package",
        );
    };
    let name = &account.name;
    if let Some(unit) = unit
        && unit.private_devices
    {
        return Finding::fail(
            Check::Sound,
            RIGHTS,
            "the unit keeps the service from every device",
            format!("`{DROP_IN}`"),
        );
    }
    if devices.is_empty() {
        return Finding::skip(Check::Sound, RIGHTS, "there is no /dev/snd to look at");
    }
    let is_shut = |device: &&Device| !device.may.unwrap_or_else(|| account.may(6, device.owned));
    let Some(Device { file: first, .. }) = devices.iter().find(is_shut) else {
        return Finding::ok(Check::Sound, RIGHTS, format!("{name} may open the {} files of /dev/snd", devices.len()));
    };
    if audio.is_some_and(|audio| account.gids.contains(&audio)) {
        return Finding::fail(
            Check::Sound,
            RIGHTS,
            format!("{name} is in the group audio, and may not open {first}"),
            format!(
                "`ls -l {first}` shows whose it is; `sudo udevadm trigger --subsystem-match=sound` gives it to audio"
            ),
        );
    }
    let fix = match unit {
        Some(_) => format!("`{DROP_IN}`"),
        None => format!("`sudo usermod -aG audio {name}`, and log in again"),
    };
    Finding::fail(Check::Sound, RIGHTS, format!("{name} may not open {first}: it is not in the group audio"), fix)
}

/// Judges the right to run before others. `limit` is RLIMIT_RTPRIO of this process, where no unit decides.
#[must_use]
pub fn judge_realtime(unit: Option<&Unit>, limit: u64) -> Finding {
    let (may, whose) = match unit {
        Some(unit) => (u64::from(unit.rtprio.unwrap_or(0)) >= WANTED && !unit.restrict_realtime, "the service"),
        None => (limit >= WANTED, "this user"),
    };
    if may {
        return Finding::ok(
            Check::Realtime,
            "realtime",
            format!("{whose} may run before others (SCHED_FIFO {WANTED})"),
        );
    }
    Finding::warn(
        Check::Realtime,
        "realtime",
        format!("{whose} may not run before others: a busy machine is heard as clicks"),
        match unit {
            Some(_) => format!("`{DROP_IN}`"),
            None => {
                format!("a line `@audio - rtprio {WANTED}` in /etc/security/limits.d/trunkline.conf, and log in again")
            }
        },
    )
}

const RIGHTS: &str = "sound rights";

/// What the threads of a sound line ask for (systemd/trunkline-sound.conf has the same).
const WANTED: u64 = 20;

const DROP_IN: &str = "sudo mkdir -p /etc/systemd/system/trunkline.service.d && sudo ln -s \
                       /usr/share/trunkline/trunkline-sound.conf /etc/systemd/system/trunkline.service.d/ && sudo \
                       systemctl daemon-reload && sudo systemctl restart trunkline";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    const UNIT: &str = include_str!("../../systemd/trunkline.service");
    const SOUND: &str = include_str!("../../systemd/trunkline-sound.conf");

    fn account() -> Account {
        Account { name: "trunkline".to_owned(), uid: 995, gids: vec![994] }
    }

    fn devices() -> Vec<Device> {
        let owned = Owned { mode: 0o660, uid: 0, gid: 29 };
        ["controlC0", "pcmC0D0p"].map(|name| Device { file: format!("/dev/snd/{name}"), owned, may: None }).into()
    }

    fn judged(unit: Option<&Unit>, devices: &[Device]) -> Finding {
        let account = account().with(unit.into_iter().flat_map(Unit::groups), "audio:x:29:\n");
        judge_rights(&Rights { account: Some(&account), unit, audio: Some(29), devices })
    }

    #[test]
    fn our_own_unit_has_no_sound_and_with_our_own_drop_in_it_has() {
        let (plain, with) = (Unit::read([UNIT]), Unit::read([UNIT, SOUND]));
        assert_eq!(plain.user.as_deref(), Some("trunkline"));
        let finding = judged(Some(&plain), &devices());
        assert_eq!(
            (finding.status, finding.found.as_str()),
            (Status::Fail, "the unit keeps the service from every device")
        );
        assert!(finding.fix.unwrap().contains("trunkline-sound.conf"));
        assert_eq!(judged(Some(&with), &devices()).status, Status::Ok);
        let owned = Owned { mode: 0o600, uid: 0, gid: 29 };
        let shut = [Device { file: "/dev/snd/controlC0".to_owned(), owned, may: None }];
        assert!(judged(Some(&with), &shut).fix.unwrap().contains("udevadm trigger"));
        assert_eq!(judge_realtime(Some(&plain), 99).status, Status::Warn);
        assert_eq!(judge_realtime(Some(&with), 0).status, Status::Ok);
    }

    #[test]
    fn whoever_runs_it_by_hand_has_to_be_in_the_group() {
        let finding = judged(None, &devices());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.fix.unwrap().contains("usermod -aG audio trunkline"));
        assert_eq!(judged(None, &[]).status, Status::Skip);
        // An access list of logind's.
        let seated: Vec<_> = devices().into_iter().map(|device| Device { may: Some(true), ..device }).collect();
        assert_eq!(judged(None, &seated).status, Status::Ok);
        assert_eq!(judge_realtime(None, 20).status, Status::Ok);
        assert_eq!(judge_realtime(None, 0).status, Status::Warn);
        let nobody = judge_rights(&Rights { account: None, unit: None, audio: None, devices: &[] });
        assert!(nobody.fix.unwrap().contains("systemd-sysusers"));
    }

    #[test]
    fn a_unit_may_give_rights_in_other_words() {
        for (group, rtprio) in [("Group=audio", "infinity"), ("SupplementaryGroups=29", "20:99"), ("Group=29", "99")] {
            let unit = Unit::read([group, &format!("LimitRTPRIO={rtprio}")]);
            assert_eq!(judged(Some(&unit), &devices()).status, Status::Ok, "{group}");
            assert_eq!(judge_realtime(Some(&unit), 0).status, Status::Ok, "{rtprio}");
        }
        assert!(Unit::read([UNIT]).protect_home && !Unit::read([UNIT, "ProtectHome=no"]).protect_home);
    }

    #[test]
    fn an_empty_list_forgets_those_before_it() {
        let unit =
            Unit::read(["SupplementaryGroups=audio video\n", "SupplementaryGroups=\nReadWritePaths=-/srv/a /srv/b"]);
        assert_eq!((unit.groups.len(), unit.writable), (0, vec!["/srv/a".to_owned(), "/srv/b".to_owned()]));
    }

    #[test]
    fn a_card_that_cannot_be_opened_is_told_with_the_next_step() {
        assert_eq!(judge_card("k", "n", &Card::OfDaemon("out".to_owned())).status, Status::Fail);
        assert_eq!(judge_card("k", "n", &Card::OfDaemon("there".to_owned())).status, Status::Ok);
        assert_eq!(judge_card("k", "n", &Card::Held).status, Status::Skip);
        let busy = Card::Refused("another program holds n; `fuser -v /dev/snd/*` names it".to_owned());
        assert_eq!(judge_card("k", "n", &busy).fix.as_deref(), Some("`fuser -v /dev/snd/*` names it"));
    }
}
