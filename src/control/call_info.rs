//! Calls that were told of before they came: who calls whom, by the UUID that AudioSocket will name.
//!
//! AudioSocket itself carries no numbers, so a dialplan tells them first, and the call finds them here.

use std::collections::HashMap;

use crate::{
    dialect::{Facts, Parameters, Text},
    leg::audiosocket::Uuid,
    media::Now,
};

/// What was told of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallInfo {
    /// The caller's number.
    pub from: Text,
    /// The number called.
    pub to: Text,
    /// The number dialled in.
    pub did: Text,
    /// Whatever else the agent should know.
    pub custom: Parameters,
}

impl CallInfo {
    /// Adds it to what is known of the call.
    pub fn fill(self, facts: &mut Facts) {
        let Self { from, to, did, custom } = self;
        (facts.from, facts.to, facts.did, facts.custom) = (from, to, did, custom);
    }
}

/// Those that have not come yet.
#[derive(Debug, Default)]
pub struct Expected(HashMap<Uuid, (Now, CallInfo)>);

impl Expected {
    /// Keeps what was told for [`KEPT_FOR`], in the place of what was told of the same call before. `false`: there are
    /// too many.
    pub fn tell(&mut self, now: Now, uuid: Uuid, info: CallInfo) -> bool {
        if self.0.len() >= MOST && !self.0.contains_key(&uuid) {
            self.0.retain(|_, (until, _)| *until > now);
            if self.0.len() >= MOST {
                return false;
            }
        }
        self.0.insert(uuid, (now + KEPT_FOR, info));
        true
    }

    /// The call is here: what was told of it.
    pub fn take(&mut self, now: Now, uuid: Uuid) -> Option<CallInfo> {
        let (until, info) = self.0.remove(&uuid)?;
        (until > now).then_some(info)
    }
}

/// How long a call may take to come: the time between two lines of a dialplan, generously.
pub const KEPT_FOR: Now = Now::from_secs(30);
/// Calls that may be told of and not have come.
pub const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(n: u128) -> Uuid {
        Uuid(n.to_be_bytes())
    }

    fn from(number: &str) -> CallInfo {
        CallInfo { from: number.try_into().expect("short"), ..CallInfo::default() }
    }

    #[test]
    fn a_call_finds_what_was_told_last_of_it_and_only_once() {
        let mut expected = Expected::default();
        assert!(expected.tell(Now::ZERO, uuid(1), from("1")));
        assert!(expected.tell(Now::ZERO, uuid(1), from("2")));
        assert_eq!(expected.take(Now::from_secs(29), uuid(1)), Some(from("2")));
        assert_eq!(expected.take(Now::from_secs(29), uuid(1)), None);
    }

    #[test]
    fn what_was_told_too_early_is_forgotten() {
        let mut expected = Expected::default();
        expected.tell(Now::ZERO, uuid(1), from("1"));
        assert_eq!(expected.take(KEPT_FOR, uuid(1)), None);
    }

    #[test]
    fn those_that_never_came_make_room_when_their_time_is_over() {
        let mut expected = Expected::default();
        for n in 0..MOST as u128 {
            assert!(expected.tell(Now::ZERO, uuid(n), CallInfo::default()));
        }
        assert!(!expected.tell(Now::from_secs(1), uuid(9999), CallInfo::default()));
        assert!(expected.tell(Now::from_secs(1), uuid(3), from("3")), "one that is known may be told anew");
        assert!(expected.tell(KEPT_FOR, uuid(9999), CallInfo::default()));
    }
}
