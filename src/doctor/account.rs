//! Who the service runs as, and what such a user may do: by /etc/passwd, /etc/group and the modes of files.
//!
//! Nothing is tried as that user. Access lists beyond the nine bits are not looked at.

use std::path::{Path, PathBuf};

use super::{Check, Finding};

/// A user with all of their groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Their name.
    pub name: String,
    /// Their number.
    pub uid: u32,
    /// The numbers of their groups.
    pub gids: Vec<u32>,
}

/// What stat(2) says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its mode; the lowest nine bits count.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Account {
    /// As passwd(5) and group(5) have them. The name may be the number (systemd.exec(5), `User=`).
    #[must_use]
    pub fn find(name: &str, passwd: &str, group: &str) -> Option<Self> {
        Self::by(passwd, group, |fields| fields.first() == Some(&name) || fields.get(2) == Some(&name))
    }

    /// The same by the number.
    #[must_use]
    pub fn of_uid(uid: u32, passwd: &str, group: &str) -> Option<Self> {
        Self::by(passwd, group, |fields| fields.get(2).and_then(|uid| uid.parse().ok()) == Some(uid))
    }

    /// The same in these groups as well, by name or number.
    #[must_use]
    pub fn with<'n>(mut self, names: impl IntoIterator<Item = &'n str>, group: &str) -> Self {
        let number = |name: &str| gid_of(name, group).or_else(|| name.parse().ok());
        self.gids.extend(names.into_iter().filter_map(number));
        self
    }

    fn by(passwd: &str, group: &str, is_wanted: impl Fn(&[&str]) -> bool) -> Option<Self> {
        let fields = |line: &str| -> Option<Self> {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            is_wanted(&fields).then(|| Self { name: name.to_owned(), uid, gids: vec![gid] })
        };
        let mut account = passwd.lines().find_map(fields)?;
        for (_, gid, members) in groups(group) {
            if members.split(',').any(|member| member == account.name) && !account.gids.contains(&gid) {
                account.gids.push(gid);
            }
        }
        Some(account)
    }

    /// Whether they may do all of these (4 read, 2 write, 1 search) with it.
    #[must_use]
    pub fn may(&self, bits: u32, owned: Owned) -> bool {
        let Owned { mode, uid, gid } = owned;
        // The first that fits decides, path_resolution(7).
        let granted = if self.uid == 0 {
            0o7
        } else if self.uid == uid {
            mode >> 6
        } else if self.gids.contains(&gid) {
            mode >> 3
        } else {
            mode
        };
        granted & bits == bits
    }
}

/// What keeps a user from reading a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shut {
    /// A folder on the way.
    Folder(PathBuf),
    /// The file, with all links followed.
    File(PathBuf),
}

/// Tells of a file that this user cannot read, and why.
#[must_use]
pub fn judge_shut(check: Check, key: &str, file: &Path, at: &Shut, who: &str) -> Finding {
    let file = file.display();
    match at {
        Shut::Folder(folder) => Finding::fail(
            check,
            key,
            format!("{who} may not read {file}: {} is shut to that user", folder.display()),
            format!(
                "have whoever renews it put a copy into /etc/trunkline: `sudo install -m 640 -g {who} {file} /etc/trunkline/`"
            ),
        ),
        Shut::File(whole) => {
            let whole = whole.display();
            Finding::fail(
                check,
                key,
                format!("{who} may not read {file}"),
                format!("`sudo chgrp {who} {whole} && sudo chmod g+r {whole}`"),
            )
        }
    }
}

/// The number of a group.
#[must_use]
pub fn gid_of(name: &str, group: &str) -> Option<u32> {
    groups(group).find(|(known, ..)| *known == name).map(|(_, gid, _)| gid)
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, members))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\ntrunkline:x:995:994:Trunkline:/var/lib/trunkline:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:pulse,trunkline\ntrunkline:x:994:\nvideo:x:44:\n";

    #[test]
    fn a_user_has_the_groups_of_both_files() {
        let account = Account::find("trunkline", PASSWD, GROUP);
        assert_eq!(account, Some(Account { name: "trunkline".to_owned(), uid: 995, gids: vec![994, 29] }));
        assert_eq!(Account::of_uid(995, PASSWD, GROUP), account);
        assert_eq!(Account::find("995", PASSWD, GROUP), account);
        let more = account.map(|account| account.with(["video", "7", "tape"], GROUP).gids);
        assert_eq!(more, Some(vec![994, 29, 44, 7]));
        assert_eq!(Account::find("trunk", PASSWD, GROUP), None);
        assert_eq!((gid_of("audio", GROUP), gid_of("tape", GROUP)), (Some(29), None));
    }

    #[test]
    fn a_file_that_the_service_cannot_read_is_told_with_what_lets_it() {
        let key = Path::new("/etc/letsencrypt/live/x/privkey.pem");
        let of = |at| judge_shut(Check::Certificate, "[line.web] key", key, &at, "trunkline");
        let finding = of(Shut::Folder("/etc/letsencrypt/live".into()));
        assert!(finding.found.ends_with("/etc/letsencrypt/live is shut to that user"), "{finding}");
        assert!(finding.fix.is_some_and(|fix| fix.contains("install -m 640 -g trunkline /etc/letsencrypt/live/x/")));
        let fix = of(Shut::File("/srv/key.pem".into())).fix;
        assert_eq!(fix.as_deref(), Some("`sudo chgrp trunkline /srv/key.pem && sudo chmod g+r /srv/key.pem`"));
    }

    #[test]
    fn the_first_of_owner_group_and_others_that_fits_decides() {
        let account = Account { name: "trunkline".to_owned(), uid: 995, gids: vec![994] };
        let owned = |mode, uid, gid| Owned { mode, uid, gid };
        assert!(account.may(6, owned(0o600, 995, 0)));
        assert!(account.may(6, owned(0o660, 0, 994)));
        assert!(!account.may(6, owned(0o660, 0, 29)));
        assert!(!account.may(4, owned(0o007, 995, 994)));
        assert!(account.may(3, owned(0o773, 0, 0)));
        assert!(Account { uid: 0, ..account }.may(6, owned(0, 995, 994)));
    }
}
