//! Whether a webhook is Telnyx's own: it signs the time and the body, and nothing is believed before that was checked.
//!
//! Telnyx, "Receiving Webhooks": `telnyx-signature-ed25519` is the base64 of an Ed25519 signature (RFC 8032) over
//! `{telnyx-timestamp}|{body}`, the body as it came, by the key that the account shows as its public key.

use core::fmt;

use ring::signature::{ED25519, UnparsedPublicKey};

/// The name of the header with the signature.
pub const SIGNATURE: &str = "telnyx-signature-ed25519";
/// The name of the header with the time at which it was signed (s since 1970).
pub const TIMESTAMP: &str = "telnyx-timestamp";

/// Why a webhook is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The header [`SIGNATURE`] or [`TIMESTAMP`] is not there.
    Unsigned,
    /// One of them is nothing that Telnyx would send.
    Malformed,
    /// It was signed so long before or after now (s).
    Stale(i64),
    /// The signature is of another text, or by another key.
    Mismatch,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unsigned => f.write_str("it is not signed"),
            Self::Malformed => f.write_str("its signature or timestamp is malformed"),
            Self::Stale(late) if late < 0 => {
                write!(f, "it was signed {} s from now; is this machine's clock right?", late.unsigned_abs())
            }
            Self::Stale(late) => {
                write!(f, "it was signed {late} s ago; it is a replay, or this machine's clock is wrong")
            }
            Self::Mismatch => f.write_str("its signature is not by public-key"),
        }
    }
}

impl core::error::Error for Doubt {}

/// Checks a webhook. `now` is the wall clock (s since 1970).
///
/// # Errors
/// [`Doubt`] says why it is not Telnyx's, or not of now.
pub fn check(
    key: &[u8; 32],
    signature: Option<&[u8]>,
    timestamp: Option<&[u8]>,
    body: &[u8],
    now: i64,
) -> Result<(), Doubt> {
    let (Some(signature), Some(timestamp)) = (signature, timestamp) else { return Err(Doubt::Unsigned) };
    // i64 takes a sign, and 19 digits may not fit.
    if timestamp.is_empty() || timestamp.len() > MOST_DIGITS || !timestamp.iter().all(u8::is_ascii_digit) {
        return Err(Doubt::Malformed);
    }
    let signed_at = core::str::from_utf8(timestamp).ok().and_then(|text| text.parse::<i64>().ok());
    let signed_at = signed_at.ok_or(Doubt::Malformed)?;
    if signature.len() > MOST_BASE64 {
        return Err(Doubt::Malformed);
    }
    let signature = base64_simd::STANDARD.decode_to_vec(signature).map_err(|_| Doubt::Malformed)?;
    if signature.len() != SIGNATURE_BYTES {
        return Err(Doubt::Malformed);
    }
    let mut text = Vec::with_capacity(timestamp.len() + 1 + body.len());
    text.extend_from_slice(timestamp);
    text.push(b'|');
    text.extend_from_slice(body);
    UnparsedPublicKey::new(&ED25519, key).verify(&text, &signature).map_err(|_| Doubt::Mismatch)?;
    // After the signature, so that a stranger's clock is nobody's clue.
    let late = now.saturating_sub(signed_at);
    if late.abs() > TOLERANCE { Err(Doubt::Stale(late)) } else { Ok(()) }
}

/// Reads a public key as the portal shows it: base64 of 32 bytes.
///
/// # Errors
/// Says what would do instead.
pub fn public_key(text: &str) -> Result<[u8; 32], &'static str> {
    let wanted = "wanted the account's public key as the portal shows it: 44 characters of base64";
    let bytes = base64_simd::STANDARD.decode_to_vec(text).map_err(|_| wanted)?;
    bytes.try_into().map_err(|_| wanted)
}

/// How old a webhook may be (s); the same as in Telnyx's own libraries.
const TOLERANCE: i64 = 300;
/// RFC 8032 5.1.6.
const SIGNATURE_BYTES: usize = 64;
/// Those of a signature in base64.
const MOST_BASE64: usize = 88;
/// Of a time in seconds.
const MOST_DIGITS: usize = 12;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const NOW: i64 = 1_763_700_000;

    fn pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
    }

    fn key(pair: &Ed25519KeyPair) -> [u8; 32] {
        pair.public_key().as_ref().try_into().unwrap()
    }

    fn sign(pair: &Ed25519KeyPair, text: &str) -> String {
        base64_simd::STANDARD.encode_to_string(pair.sign(text.as_bytes()))
    }

    #[test]
    fn what_telnyx_signed_is_believed() {
        let signature = sign(&pair(), "1763700000|{\"data\":{}}");
        let check = |at| check(&key(&pair()), Some(signature.as_bytes()), Some(b"1763700000"), b"{\"data\":{}}", at);
        for at in [NOW, NOW + 300, NOW - 300] {
            assert_eq!(check(at), Ok(()));
        }
        assert_eq!(check(NOW + 301), Err(Doubt::Stale(301)));
        assert_eq!(check(NOW - 301), Err(Doubt::Stale(-301)));
    }

    #[test]
    fn a_byte_more_or_less_or_another_key_is_not() {
        let good = sign(&pair(), "1763700000|{}");
        let other = sign(&Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap(), "1763700000|{}");
        for (signature, timestamp, body) in [
            (&good, "1763700000", "{} "),
            (&good, "1763700000", ""),
            (&good, "1763700001", "{}"),
            (&good, "01763700000", "{}"),
            (&other, "1763700000", "{}"),
        ] {
            let checked =
                check(&key(&pair()), Some(signature.as_bytes()), Some(timestamp.as_bytes()), body.as_bytes(), NOW);
            assert_eq!(checked, Err(Doubt::Mismatch), "{signature} {timestamp} {body}");
        }
    }

    #[test]
    fn what_is_no_signature_or_no_time_is_told_apart_from_a_wrong_one() {
        let good = sign(&pair(), "1763700000|{}");
        let check = |signature: Option<&str>, timestamp: Option<&str>| {
            check(&key(&pair()), signature.map(str::as_bytes), timestamp.map(str::as_bytes), b"{}", NOW)
        };
        assert_eq!(check(None, Some("1763700000")), Err(Doubt::Unsigned));
        assert_eq!(check(Some(&good), None), Err(Doubt::Unsigned));
        for timestamp in ["", "now", "-1763700000", "+1763700000", "1763700000.5", "99999999999999999999"] {
            assert_eq!(check(Some(&good), Some(timestamp)), Err(Doubt::Malformed), "{timestamp}");
        }
        for signature in ["", "AAAA", "%%%", &good[1..], &good.repeat(2)] {
            assert_eq!(check(Some(signature), Some("1763700000")), Err(Doubt::Malformed), "{signature}");
        }
    }

    #[test]
    fn a_public_key_is_32_bytes() {
        let text = base64_simd::STANDARD.encode_to_string(key(&pair()));
        assert_eq!(public_key(&text), Ok(key(&pair())));
        for bad in ["", "AAAA", &text[1..], &format!("{text}{text}"), "-----BEGIN PUBLIC KEY-----"] {
            assert!(public_key(bad).is_err(), "{bad}");
        }
    }
}
