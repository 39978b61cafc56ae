//! ALSA's names of sound cards, as they stand in a config: `plughw:CARD=Headset,DEV=0`.
//!
//! A card has a name that it keeps, from its maker or from udev, and a number that it gets as it comes. Numbers change
//! when cards are plugged in another order, so a config may only have names.

use std::fs;

use crate::leg::sound::Way;

/// The parts of a device's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'n> {
    card: Option<&'n str>,
    device: u32,
}

impl<'n> Name<'n> {
    /// Takes a name apart, whatever it is.
    #[must_use]
    pub fn parse(name: &'n str) -> Self {
        let mut this = Self { card: None, device: 0 };
        let Some((_, arguments)) = name.split_once(':') else { return this };
        for (place, argument) in arguments.split(',').enumerate() {
            match (argument.split_once('='), place) {
                (Some(("CARD", card)), _) => this.card = Some(card),
                (None, 0) => this.card = Some(argument),
                (Some(("DEV", device)), _) => this.device = device.parse().unwrap_or(0),
                (None, 1) => this.device = argument.parse().unwrap_or(0),
                _ => {}
            }
        }
        this.card = this.card.filter(|card| !card.is_empty());
        this
    }

    /// The card that is named; `None`: what is behind the name is said elsewhere.
    #[must_use]
    pub const fn card(self) -> Option<&'n str> {
        self.card
    }

    /// Whether the card is named by its number.
    #[must_use]
    pub fn is_number(self) -> bool {
        self.card.is_some_and(|card| card.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Who has this way of the device open, where the kernel tells.
    #[must_use]
    pub fn holder(self, way: Way) -> Option<String> {
        let (card, device) = (self.card?, self.device);
        // It goes into a path.
        if !card.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            return None;
        }
        let way = if way == Way::Input { 'c' } else { 'p' };
        let status = fs::read_to_string(format!("/proc/asound/{card}/pcm{device}{way}/sub0/status")).ok()?;
        let pid: u32 = status
            .lines()
            .find_map(|line| line.strip_prefix("owner_pid"))?
            .trim_start_matches([' ', ':'])
            .trim()
            .parse()
            .ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(format!("{} (process {pid})", name.trim()).trim_start().to_owned())
    }
}

/// Whether somebody who wrote the one may have meant the other.
#[must_use]
pub fn is_like(written: &str, known: &str) -> bool {
    let (written, known) = (written.to_ascii_lowercase(), known.to_ascii_lowercase());
    strsim::damerau_levenshtein(&written, &known) <= 1 + written.len() / 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_card_wherever_it_stands() {
        for (name, card, device) in [
            ("plughw:CARD=Headset,DEV=0", Some("Headset"), 0),
            ("hw:Headset,1", Some("Headset"), 1),
            ("hw:CARD=Headset", Some("Headset"), 0),
            ("hw:DEV=2,CARD=Door_1", Some("Door_1"), 2),
            ("front:CARD=PCH,DEV=3", Some("PCH"), 3),
            ("hw:0,1", Some("0"), 1),
            ("default", None, 0),
            ("pulse", None, 0),
            ("hw:", None, 0),
            ("hw:CARD=", None, 0),
            ("", None, 0),
        ] {
            assert_eq!(Name::parse(name), Name { card, device }, "{name}");
        }
    }

    #[test]
    fn a_number_is_no_name() {
        for (name, is_number) in
            [("hw:0", true), ("plughw:CARD=1,DEV=0", true), ("hw:CARD=U0x46d", false), ("default", false)]
        {
            assert_eq!(Name::parse(name).is_number(), is_number, "{name}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_like_and_another_card_is_not() {
        assert!(is_like("plughw:CARD=Headset,DEV=O", "plughw:CARD=Headset,DEV=0"));
        assert!(is_like("defualt", "default"));
        assert!(!is_like("jack", "pulse"));
        assert_eq!(Name::parse("hw:../../etc").holder(Way::Input), None);
    }
}
