//! Bearer tokens (RFC 7519): signed for the agents that we dial, verified of the clients that dial us.
//!
//! The algorithm is the operator's choice and never the token's: a token that is signed otherwise is refused before its
//! signature is looked at. The cryptography is ring's, which TLS brings anyway. What time it is, one is told.

use core::fmt;

use jsonwebtoken::{
    Algorithm as Name, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{self, ErrorKind},
    signature as traits,
};
use ring::{hmac, rand::SystemRandom, signature};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::config::Secret;

/// How a token is signed (RFC 7518 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// HMAC with SHA-256: both sides have the same secret.
    Hs256,
}

impl Algorithm {
    /// All of them, in the order that help shows them.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::Hs256];

    /// The algorithm of a name as RFC 7518 spells it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Its name in a token's header and in the config.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Hs256 => "HS256",
        }
    }

    const fn theirs(self) -> Name {
        match self {
            Self::Rs256 => Name::RS256,
            Self::Es256 => Name::ES256,
            Self::Hs256 => Name::HS256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom a token is about. What it does not tell is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Whose call it is.
    pub tenant_id: String,
    /// Which call it is.
    pub interaction_id: String,
}

/// Makes tokens.
#[derive(Clone)]
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    /// The key as it was given, by which two signers are told apart.
    given: Secret,
    expires_seconds: u32,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Signer {
    /// A signer with a private key in PEM or, for [`Algorithm::Hs256`], the secret itself. Its tokens are good for so
    /// many seconds.
    ///
    /// # Errors
    /// [`KeyError`] when the key is not one for this algorithm.
    pub fn new(algorithm: Algorithm, given: &Secret, expires_seconds: u32) -> Result<Self, KeyError> {
        let text = given.reveal();
        let key = match algorithm {
            Algorithm::Hs256 => EncodingKey::from_secret(shared(text)?),
            Algorithm::Rs256 | Algorithm::Es256 if !text.contains("PRIVATE KEY-----") => {
                return Err(KeyError::NotPrivate(algorithm));
            }
            Algorithm::Rs256 => {
                EncodingKey::from_rsa_pem(pem(text).as_bytes()).map_err(|_| KeyError::NotPrivate(algorithm))?
            }
            Algorithm::Es256 => {
                EncodingKey::from_ec_pem(pem(text).as_bytes()).map_err(|_| KeyError::NotPrivate(algorithm))?
            }
        };
        signer(&algorithm.theirs(), &key).map_err(|_| KeyError::NotPrivate(algorithm))?;
        use_ring();
        Ok(Self { algorithm, key, given: given.clone(), expires_seconds, issuer: None, audience: None })
    }

    /// Puts the claim `iss` in, if there is one.
    #[must_use]
    pub fn with_issuer(mut self, issuer: Option<String>) -> Self {
        self.issuer = issuer;
        self
    }

    /// Puts the claim `aud` in, if there is one.
    #[must_use]
    pub fn with_audience(mut self, audience: Option<String>) -> Self {
        self.audience = audience;
        self
    }

    /// A token about this call, from `now` on (seconds since 1970, UTC).
    ///
    /// # Errors
    /// [`Unsigned`] when ring gives no signature, which takes a system without randomness.
    pub fn sign(&self, claims: &Claims, now: u64) -> Result<Secret, Unsigned> {
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
        for (name, value) in [("tenant_id", &claims.tenant_id), ("interaction_id", &claims.interaction_id)] {
            if !value.is_empty() {
                put(name, value.as_str().into());
            }
        }
        put("iat", now.into());
        put("exp", (now + u64::from(self.expires_seconds)).into());
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                put(name, value.as_str().into());
            }
        }
        let header = Header::new(self.algorithm.theirs());
        jsonwebtoken::encode(&header, &body, &self.key).map(Secret::new).map_err(|_| Unsigned)
    }
}

impl PartialEq for Signer {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.algorithm, it.expires_seconds, it.issuer.clone(), it.audience.clone());
        of(self) == of(other) && self.given == other.given
    }
}

impl Eq for Signer {}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.algorithm)
    }
}

/// Reads tokens.
#[derive(Clone)]
pub struct Verifier {
    algorithm: Algorithm,
    key: DecodingKey,
    /// The key as it was given, by which two verifiers are told apart.
    given: Secret,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Verifier {
    /// A verifier with a public key in PEM or, for [`Algorithm::Hs256`], the secret itself.
    ///
    /// # Errors
    /// [`KeyError`] when the key is not one for this algorithm.
    pub fn new(algorithm: Algorithm, given: &Secret) -> Result<Self, KeyError> {
        let text = given.reveal();
        let key = match algorithm {
            Algorithm::Hs256 => DecodingKey::from_secret(shared(text)?),
            // A private key would be read and then match nothing; a certificate is not a key.
            Algorithm::Rs256 | Algorithm::Es256 if !text.contains("PUBLIC KEY-----") => {
                return Err(KeyError::NotPublic(algorithm));
            }
            Algorithm::Rs256 => {
                DecodingKey::from_rsa_pem(pem(text).as_bytes()).map_err(|_| KeyError::NotPublic(algorithm))?
            }
            Algorithm::Es256 => {
                DecodingKey::from_ec_pem(pem(text).as_bytes()).map_err(|_| KeyError::NotPublic(algorithm))?
            }
        };
        use_ring();
        Ok(Self { algorithm, key, given: given.clone(), issuer: None, audience: None })
    }

    /// Lets in only tokens whose claim `iss` is this, if there is one.
    #[must_use]
    pub fn with_issuer(mut self, issuer: Option<String>) -> Self {
        self.issuer = issuer;
        self
    }

    /// Lets in only tokens whose claim `aud` is or holds this, if there is one.
    #[must_use]
    pub fn with_audience(mut self, audience: Option<String>) -> Self {
        self.audience = audience;
        self
    }

    /// Reads a token as it is at `now` (seconds since 1970, UTC). A clock may be off by [`LEEWAY`].
    ///
    /// # Errors
    /// [`Refusal`] says why it is not good; its words hold nothing of the token.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, Refusal> {
        let header = token.split('.').next().unwrap_or_default();
        let header = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(header).map_err(|_| Refusal::NoToken)?;
        let header: Head = serde_json::from_slice(&header).map_err(|_| Refusal::NoToken)?;
        if header.alg != self.algorithm.name() {
            return Err(Refusal::Algorithm(self.algorithm));
        }
        if header.crit.is_some() {
            return Err(Refusal::Critical);
        }
        let mut validation = Validation::new(self.algorithm.theirs());
        // It would ask the system for the time, and let claims pass that are no numbers.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims.clear();
        let body = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &validation);
        let body = body.map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => Refusal::Signature,
            _ => Refusal::NoToken,
        })?;
        self.check(&body.claims, now)
    }

    fn check(&self, body: &Map<String, Value>, now: u64) -> Result<Claims, Refusal> {
        let expires = seconds(body, "exp")?.ok_or(Refusal::NoExpiry)?;
        if expires + LEEWAY <= now {
            return Err(Refusal::Expired { seconds: now - expires });
        }
        if let Some(begins) = seconds(body, "nbf")?.filter(|begins| *begins > now + LEEWAY) {
            return Err(Refusal::Early { seconds: begins - now });
        }
        if self.issuer.as_deref().is_some_and(|ours| body.get("iss").and_then(Value::as_str) != Some(ours)) {
            return Err(Refusal::Issuer);
        }
        if self.audience.as_deref().is_some_and(|ours| !is_for(body.get("aud"), ours)) {
            return Err(Refusal::Audience);
        }
        Ok(Claims { tenant_id: text(body, "tenant_id")?, interaction_id: text(body, "interaction_id")? })
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.algorithm, it.issuer.clone(), it.audience.clone());
        of(self) == of(other) && self.given == other.given
    }
}

impl Eq for Verifier {}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.algorithm)
    }
}

/// What has to be known of a token before its signature is looked at.
#[derive(Deserialize)]
struct Head {
    alg: String,
    /// What one must understand to take the token (RFC 7515 4.1.11). We understand none of it.
    crit: Option<IgnoredAny>,
}

/// A time (RFC 7519 2, NumericDate), which may have a fraction.
fn seconds(body: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, Refusal> {
    let Some(value) = body.get(name) else { return Ok(None) };
    let number = value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64));
    // Beyond 2^53 it is no time, and sums of two times must not overflow.
    number.filter(|number| *number < 1 << 53).map(Some).ok_or(Refusal::Claim(name))
}

fn text(body: &Map<String, Value>, name: &'static str) -> Result<String, Refusal> {
    match body.get(name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Refusal::Claim(name)),
    }
}

/// RFC 7519 4.1.3: one text or an array of them.
fn is_for(audience: Option<&Value>, ours: &str) -> bool {
    match audience {
        Some(Value::String(one)) => one == ours,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(ours)),
        Some(_) | None => false,
    }
}

/// A shared secret. RFC 7518 3.2 wants as many bits as the hash has.
fn shared(text: &str) -> Result<&[u8], KeyError> {
    if text.len() < 32 { Err(KeyError::Short) } else { Ok(text.as_bytes()) }
}

/// Environment variables often have a key in one line.
fn pem(text: &str) -> String {
    text.replace("\\n", "\n")
}

/// Why a key will not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It does not sign with this algorithm.
    NotPrivate(Algorithm),
    /// It does not verify with this algorithm.
    NotPublic(Algorithm),
    /// A shared secret that could be guessed.
    Short,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivate(Algorithm::Rs256) => {
                f.write_str("wanted an RSA private key in PEM, of 2048 bits or more, without a passphrase")
            }
            Self::NotPrivate(Algorithm::Es256) => f.write_str(
                "wanted a P-256 private key in PEM and PKCS#8, without a passphrase \
                 (openssl pkcs8 -topk8 -nocrypt makes one of an EC PRIVATE KEY)",
            ),
            Self::NotPublic(Algorithm::Rs256) => f.write_str("wanted an RSA public key in PEM"),
            Self::NotPublic(Algorithm::Es256) => f.write_str("wanted a P-256 public key in PEM"),
            Self::NotPrivate(Algorithm::Hs256) | Self::NotPublic(Algorithm::Hs256) | Self::Short => {
                f.write_str("wanted a secret of at least 32 bytes (RFC 7518 3.2)")
            }
        }
    }
}

impl core::error::Error for KeyError {}

/// A token that could not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsigned;

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bearer token could not be signed")
    }
}

impl core::error::Error for Unsigned {}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has not the form of one.
    NoToken,
    /// It is not signed as it has to be.
    Algorithm(Algorithm),
    /// It demands something of us that we do not know.
    Critical,
    /// It was signed with another key, or changed.
    Signature,
    /// It would be good for ever.
    NoExpiry,
    /// It was good until so long ago.
    Expired {
        /// How long.
        seconds: u64,
    },
    /// It will be good in so long.
    Early {
        /// How long.
        seconds: u64,
    },
    /// It is somebody else's.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// This claim is of another kind than it has to be.
    Claim(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToken => f.write_str("the bearer token is not a JWT"),
            Self::Algorithm(wanted) => write!(f, "the token is not signed by {wanted}"),
            Self::Critical => f.write_str("the token's header demands an extension (`crit`)"),
            Self::Signature => f.write_str("the token's signature does not match the key"),
            Self::NoExpiry => f.write_str("the token has no `exp`"),
            Self::Expired { seconds } => write!(f, "the token expired {seconds} s ago"),
            Self::Early { seconds } => write!(f, "the token is not valid for another {seconds} s"),
            Self::Issuer => f.write_str("the token's `iss` is another"),
            Self::Audience => f.write_str("the token's `aud` is another"),
            Self::Claim(name) => write!(f, "the token's `{name}` is of the wrong kind"),
        }
    }
}

impl core::error::Error for Refusal {}

/// How far two clocks may be apart (s).
pub const LEEWAY: u64 = 30;

/// Lets the crate use ring. Once is enough, and once more does no harm.
fn use_ring() {
    let _ = RING.install_default();
}

static RING: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

fn signer(algorithm: &Name, key: &EncodingKey) -> errors::Result<Box<dyn JwtSigner>> {
    let key = match algorithm {
        Name::RS256 => {
            let pair = signature::RsaKeyPair::from_der(key.as_bytes());
            SigningKey::Rsa(Box::new(pair.map_err(|_| ErrorKind::InvalidKeyFormat)?))
        }
        Name::ES256 => {
            let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
            let pair = signature::EcdsaKeyPair::from_pkcs8(kind, key.as_bytes(), &SystemRandom::new());
            SigningKey::Ecdsa(pair.map_err(|_| ErrorKind::InvalidKeyFormat)?)
        }
        Name::HS256 => SigningKey::Hmac(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())),
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(key))
}

fn verifier(algorithm: &Name, key: &DecodingKey) -> errors::Result<Box<dyn JwtVerifier>> {
    let bytes = key.try_get_as_bytes()?;
    let key = match algorithm {
        Name::RS256 => {
            let kind = &signature::RSA_PKCS1_2048_8192_SHA256;
            VerifyingKey::Rsa(signature::UnparsedPublicKey::new(kind, bytes.to_vec()))
        }
        Name::ES256 => {
            let kind = &signature::ECDSA_P256_SHA256_FIXED;
            VerifyingKey::Ecdsa(signature::UnparsedPublicKey::new(kind, bytes.to_vec()))
        }
        Name::HS256 => VerifyingKey::Hmac(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(key))
}

enum SigningKey {
    Rsa(Box<signature::RsaKeyPair>),
    Ecdsa(signature::EcdsaKeyPair),
    Hmac(hmac::Key),
}

impl traits::Signer<Vec<u8>> for SigningKey {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, traits::Error> {
        match self {
            Self::Rsa(pair) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signed)
                    .map(|()| signed)
                    .map_err(|_| traits::Error::new())
            }
            Self::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signed| signed.as_ref().to_vec())
                .map_err(|_| traits::Error::new()),
            Self::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for SigningKey {
    fn algorithm(&self) -> Name {
        match self {
            Self::Rsa(_) => Name::RS256,
            Self::Ecdsa(_) => Name::ES256,
            Self::Hmac(_) => Name::HS256,
        }
    }
}

enum VerifyingKey {
    Rsa(signature::UnparsedPublicKey<Vec<u8>>),
    Ecdsa(signature::UnparsedPublicKey<Vec<u8>>),
    Hmac(hmac::Key),
}

impl traits::Verifier<Vec<u8>> for VerifyingKey {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), traits::Error> {
        match self {
            Self::Rsa(key) | Self::Ecdsa(key) => key.verify(message, signed).map_err(|_| traits::Error::new()),
            Self::Hmac(key) => hmac::verify(key, message, signed).map_err(|_| traits::Error::new()),
        }
    }
}

impl JwtVerifier for VerifyingKey {
    fn algorithm(&self) -> Name {
        match self {
            Self::Rsa(_) => Name::RS256,
            Self::Ecdsa(_) => Name::ES256,
            Self::Hmac(_) => Name::HS256,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RSA_PRIVATE: &str = include_str!("../../../tests/keys/rsa-private.pem");
    const RSA_PRIVATE_PKCS1: &str = include_str!("../../../tests/keys/rsa-private-pkcs1.pem");
    const RSA_PUBLIC: &str = include_str!("../../../tests/keys/rsa-public.pem");
    const EC_PRIVATE: &str = include_str!("../../../tests/keys/ec-private.pem");
    const EC_PUBLIC: &str = include_str!("../../../tests/keys/ec-public.pem");
    const SHARED: &str = "a secret of thirty-two bytes, 32!";

    /// Made by PyJWT 2.15.1 of {"tenant_id":"t-1","interaction_id":"int-9","iat":1700000000,"exp":1700000300}.
    const RS256: &str = concat!(
        "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.",
        "eyJ0ZW5hbnRfaWQiOiJ0LTEiLCJpbnRlcmFjdGlvbl9pZCI6ImludC05IiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDAzMDB9.",
        "kTDID_5vZ8NeAH_PHDmvHctFtHOtBWd0N6kWSLDmiXqV1nUB1DJ7A63g2zjKfF47KY_AGTtvdNCwk2baA7-9L7f72fQTKf4S-UUvXmZn5",
        "Xv-2LRv5vdzCW58URredcrrrS6wqSxbao4QkwwUTzNPUa7CmtpEZR7cFwmiYexUMd60p4h2wNzwhg-Y_YJIXUr9g-Q63GxgWpyWx4BaYS",
        "L8MW5_idOWUfAduyq9GwTyAUJAjfNj9T9YkXJ8YealxctJtnf2It-wfgUlqgPVQKmOBYawbWqoINerOkdwixISYKeNBeedajmcLtF4Bzq",
        "bQjr9YeBQNXEWbZY67mypAScyZw"
    );
    const ES256: &str = concat!(
        "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.",
        "eyJ0ZW5hbnRfaWQiOiJ0LTEiLCJpbnRlcmFjdGlvbl9pZCI6ImludC05IiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDAzMDB9.",
        "1W7uirm0QuJDehj9aAB7Jg49pNzkVyhjrgMoaSDmaPM27b65xaOPwsiQ0CQlKp4yZEyktpESNqnHYFHbHksPPQ"
    );
    const HS256: &str = concat!(
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
        "eyJ0ZW5hbnRfaWQiOiJ0LTEiLCJpbnRlcmFjdGlvbl9pZCI6ImludC05IiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjE3MDAwMDAzMDB9.",
        "Bsbr8JXZgIgOyzgAmMPgSxscjFdjoXGY84bytRE3_MM"
    );
    const SIGNED_AT: u64 = 1_700_000_000;

    fn verifier(algorithm: Algorithm) -> Verifier {
        let key = match algorithm {
            Algorithm::Rs256 => RSA_PUBLIC,
            Algorithm::Es256 => EC_PUBLIC,
            Algorithm::Hs256 => SHARED,
        };
        Verifier::new(algorithm, &Secret::new(key)).unwrap()
    }

    fn signer(algorithm: Algorithm) -> Signer {
        let key = match algorithm {
            Algorithm::Rs256 => RSA_PRIVATE,
            Algorithm::Es256 => EC_PRIVATE,
            Algorithm::Hs256 => SHARED,
        };
        Signer::new(algorithm, &Secret::new(key), 300).unwrap()
    }

    fn claims() -> Claims {
        Claims { tenant_id: "t-1".to_owned(), interaction_id: "int-9".to_owned() }
    }

    /// A token with this body and a good signature.
    fn signed(header: &str, body: &str) -> String {
        let part = |text: &str| base64_simd::URL_SAFE_NO_PAD.encode_to_string(text);
        let message = format!("{}.{}", part(header), part(body));
        let signed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SHARED.as_bytes()), message.as_bytes());
        format!("{message}.{}", base64_simd::URL_SAFE_NO_PAD.encode_to_string(signed.as_ref()))
    }

    fn verdict(body: &str) -> Result<Claims, Refusal> {
        let token = signed(r#"{"alg":"HS256"}"#, body);
        verifier(Algorithm::Hs256).verify(&token, SIGNED_AT)
    }

    #[test]
    fn tokens_of_another_librarys_making_are_taken_in_every_algorithm() {
        for (algorithm, token) in [(Algorithm::Rs256, RS256), (Algorithm::Es256, ES256), (Algorithm::Hs256, HS256)] {
            assert_eq!(verifier(algorithm).verify(token, SIGNED_AT), Ok(claims()), "{algorithm}");
        }
    }

    #[test]
    fn what_one_side_signs_the_other_takes() {
        for algorithm in Algorithm::ALL {
            let token = signer(algorithm).sign(&claims(), SIGNED_AT).unwrap();
            assert_eq!(verifier(algorithm).verify(token.reveal(), SIGNED_AT), Ok(claims()), "{algorithm}");
            assert_eq!(format!("{token:?} {:?}", signer(algorithm)), format!("*** Signer({algorithm})"));
        }
    }

    #[test]
    fn a_signed_token_tells_the_four_claims_and_what_else_was_asked_for() {
        let signer = signer(Algorithm::Hs256);
        let body = |signer: &Signer| {
            let token = signer.sign(&claims(), SIGNED_AT).unwrap();
            let part = token.reveal().split('.').nth(1).unwrap();
            String::from_utf8(base64_simd::URL_SAFE_NO_PAD.decode_to_vec(part).unwrap()).unwrap()
        };
        let four = r#""exp":1700000300,"iat":1700000000,"interaction_id":"int-9""#;
        assert_eq!(body(&signer), format!(r#"{{{four},"tenant_id":"t-1"}}"#));
        let signer = signer.with_issuer(Some("us".to_owned())).with_audience(Some("them".to_owned()));
        assert_eq!(body(&signer), format!(r#"{{"aud":"them",{four},"iss":"us","tenant_id":"t-1"}}"#));
    }

    #[test]
    fn the_old_form_of_an_rsa_key_and_a_key_in_one_line_are_read() {
        for key in [RSA_PRIVATE_PKCS1.to_owned(), RSA_PRIVATE.trim().replace('\n', "\\n")] {
            let signer = Signer::new(Algorithm::Rs256, &Secret::new(key), 60).unwrap();
            let token = signer.sign(&claims(), SIGNED_AT).unwrap();
            assert_eq!(verifier(Algorithm::Rs256).verify(token.reveal(), SIGNED_AT), Ok(claims()));
        }
    }

    #[test]
    fn a_token_is_good_until_its_expiry_and_a_little_longer() {
        let verifier = verifier(Algorithm::Rs256);
        let ends = SIGNED_AT + 300;
        assert_eq!(verifier.verify(RS256, ends + LEEWAY - 1), Ok(claims()));
        assert_eq!(verifier.verify(RS256, ends + LEEWAY), Err(Refusal::Expired { seconds: LEEWAY }));
        assert_eq!(verdict(r#"{"exp":0}"#), Err(Refusal::Expired { seconds: SIGNED_AT }));
        assert_eq!(verdict(r#"{"exp":1700000000.5}"#), Ok(Claims::default()));
        assert_eq!(verdict("{}"), Err(Refusal::NoExpiry));
        for never in [r#""1900000000""#, "null", "-1", "1e300", "18446744073709551615", "true"] {
            assert_eq!(verdict(&format!(r#"{{"exp":{never}}}"#)), Err(Refusal::Claim("exp")), "{never}");
        }
    }

    #[test]
    fn a_token_is_not_good_before_its_time() {
        assert_eq!(verdict(r#"{"exp":1700000300,"nbf":1700000030}"#), Ok(Claims::default()));
        assert_eq!(verdict(r#"{"exp":1700000300,"nbf":1700000031}"#), Err(Refusal::Early { seconds: 31 }));
        assert_eq!(verdict(r#"{"exp":1700000300,"nbf":"soon"}"#), Err(Refusal::Claim("nbf")));
    }

    #[test]
    fn the_token_does_not_choose_how_it_is_verified() {
        // RFC 8725 2.1: a secret that is the public key's text must not pass for an RSA signature.
        let verifier = verifier(Algorithm::Rs256);
        for token in [HS256, ES256] {
            assert_eq!(verifier.verify(token, SIGNED_AT), Err(Refusal::Algorithm(Algorithm::Rs256)));
        }
        let unsigned = RS256.replacen("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9", "eyJhbGciOiJub25lIn0", 1);
        assert_eq!(verifier.verify(&unsigned, SIGNED_AT), Err(Refusal::Algorithm(Algorithm::Rs256)));
    }

    #[test]
    fn what_was_changed_or_signed_by_another_is_refused() {
        let verifier = verifier(Algorithm::Rs256);
        let (message, signed) = RS256.rsplit_once('.').unwrap();
        let later = message.replace("MDB9", "MDl9");
        assert_ne!(later, message);
        assert_eq!(verifier.verify(&format!("{later}.{signed}"), SIGNED_AT), Err(Refusal::Signature));
        assert_eq!(verifier.verify(&format!("{message}."), SIGNED_AT), Err(Refusal::Signature));
        let other = Verifier::new(Algorithm::Hs256, &Secret::new(SHARED.replace('a', "b"))).unwrap();
        assert_eq!(other.verify(HS256, SIGNED_AT), Err(Refusal::Signature));
    }

    #[test]
    fn what_is_no_token_is_refused_at_every_length() {
        let verifier = verifier(Algorithm::Rs256);
        for end in 0..RS256.len() {
            assert!(verifier.verify(&RS256[..end], SIGNED_AT).is_err(), "{end}");
        }
        for odd in ["", ".", "..", "...", "a.b.c", "e30.e30.e30", "\u{e9}.\u{e9}.\u{e9}", &format!("{HS256}.x")] {
            assert!(verifier.verify(odd, SIGNED_AT).is_err(), "{odd}");
        }
        assert_eq!(verdict("[]"), Err(Refusal::NoToken));
        assert_eq!(verdict("not JSON"), Err(Refusal::NoToken));
    }

    #[test]
    fn a_demand_that_is_not_understood_is_refused() {
        let token = signed(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, r#"{"exp":1700000300}"#);
        assert_eq!(verifier(Algorithm::Hs256).verify(&token, SIGNED_AT), Err(Refusal::Critical));
    }

    #[test]
    fn issuer_and_audience_are_looked_at_where_the_operator_names_them() {
        let verifier = verifier(Algorithm::Hs256);
        let ours = |name: &str| Some(name.to_owned());
        let verdict = |verifier: &Verifier, rest: &str| {
            let token = signed(r#"{"alg":"HS256"}"#, &format!(r#"{{"exp":1700000300{rest}}}"#));
            verifier.verify(&token, SIGNED_AT).err()
        };
        assert_eq!(verdict(&verifier, r#","iss":"x","aud":["y"]"#), None);
        let issued = verifier.clone().with_issuer(ours("us"));
        assert_eq!(verdict(&issued, r#","iss":"us""#), None);
        for other in ["", r#","iss":"them""#, r#","iss":["us"]"#] {
            assert_eq!(verdict(&issued, other), Some(Refusal::Issuer), "{other}");
        }
        let meant = verifier.with_audience(ours("us"));
        for good in [r#","aud":"us""#, r#","aud":["them","us"]"#] {
            assert_eq!(verdict(&meant, good), None, "{good}");
        }
        for other in ["", r#","aud":"them""#, r#","aud":[]"#, r#","aud":{"us":1}"#] {
            assert_eq!(verdict(&meant, other), Some(Refusal::Audience), "{other}");
        }
    }

    #[test]
    fn ids_are_texts_or_are_not_told() {
        assert_eq!(verdict(r#"{"exp":1700000300,"tenant_id":7}"#), Err(Refusal::Claim("tenant_id")));
        assert_eq!(verdict(r#"{"exp":1700000300,"interaction_id":null}"#), Err(Refusal::Claim("interaction_id")));
        assert_eq!(verdict(r#"{"exp":1700000300}"#), Ok(Claims::default()));
    }

    #[test]
    fn a_key_of_another_kind_is_refused_with_what_would_do() {
        let signing = |algorithm, key: &str| Signer::new(algorithm, &Secret::new(key), 300).map(drop);
        let verifying = |algorithm, key: &str| Verifier::new(algorithm, &Secret::new(key)).map(drop);
        for (algorithm, wrong) in [
            (Algorithm::Rs256, [RSA_PUBLIC, EC_PRIVATE, "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----"]),
            (Algorithm::Es256, [EC_PUBLIC, RSA_PRIVATE, SHARED]),
        ] {
            for key in wrong {
                assert_eq!(signing(algorithm, key), Err(KeyError::NotPrivate(algorithm)), "{key}");
            }
        }
        for (algorithm, wrong) in [
            (Algorithm::Rs256, [RSA_PRIVATE, EC_PUBLIC, "-----BEGIN CERTIFICATE-----"]),
            (Algorithm::Es256, [EC_PRIVATE, RSA_PUBLIC, ""]),
        ] {
            for key in wrong {
                assert_eq!(verifying(algorithm, key), Err(KeyError::NotPublic(algorithm)), "{key}");
            }
        }
        assert_eq!(signing(Algorithm::Hs256, "too short"), Err(KeyError::Short));
        assert_eq!(verifying(Algorithm::Hs256, "too short"), Err(KeyError::Short));
    }
}
