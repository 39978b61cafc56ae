//! TLS: which ciphers, whom to trust, and what to tell an operator when it fails.
//!
//! The cipher order is decided by this machine's CPU and not by habit: on a Pi 4, which has no AES instructions,
//! AES-GCM costs more than twice what ChaCha20-Poly1305 does. As most servers leave the choice to the client, ours counts.

use core::{fmt, time::Duration};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    AlertDescription, CertificateError, CipherSuite, ClientConfig, Connection, DigitallySignedStruct, OtherError,
    PeerIncompatible, RootCertStore, ServerConfig, SignatureScheme, SupportedCipherSuite,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// The cryptography of ring, its suites in this machine's order.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    order(&mut provider.cipher_suites, has_aes());
    Arc::new(provider)
}

/// Puts the suites that cost the least first. AES-128 stands before AES-256 everywhere: it takes 10 rounds, not 14.
pub fn order(suites: &mut [SupportedCipherSuite], has_aes: bool) {
    suites.sort_by_key(|suite| {
        let cost = match suite.suite() {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => u8::from(has_aes) * 2,
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => u8::from(!has_aes),
            _ => 2 - u8::from(has_aes),
        };
        (suite.tls13().is_none(), cost)
    });
}

/// What a client needs: the platform's roots (or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name) and the
/// certificates of `ca_file`. The first call reads dozens of files, as [`PlatformRoots::get`] does: not for a thread
/// that moves audio.
///
/// # Errors
/// [`TlsError`] when there is nobody to trust, or `ca_file` does not hold certificates.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_with(PlatformRoots::get(), ca_file)
}

/// Whom the platform trusts.
#[derive(Debug)]
pub struct PlatformRoots {
    roots: RootCertStore,
    /// Why there are none, if that is known.
    why_none: Option<String>,
}

impl PlatformRoots {
    /// As they were when this process first asked: they are read once, however many `ca-file`s stand beside them.
    pub fn get() -> &'static Self {
        static READ: OnceLock<PlatformRoots> = OnceLock::new();
        READ.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            Self { roots, why_none: found.errors.first().map(ToString::to_string) }
        })
    }
}

fn client_config_with(platform: &PlatformRoots, ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = platform.roots.clone();
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| TlsError::NotTrustable(path.to_owned(), explain_tls(&error)))?;
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots(platform.why_none.clone()));
    }
    let provider = provider();
    let inner = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        // Nothing is let through that rustls's own verifier refuses, see `Verifier`.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { inner, provider }))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.resumption = Resumption::in_memory_sessions(RESUMED);
    Ok(Arc::new(config))
}

/// What the stand-in agent needs: a certificate for localhost and `names`, from a CA that exists for it alone. Both
/// stand in `dir` as `server.pem` and `ca.pem`, the key in `server-key.pem`; they are used again while they serve.
/// The CA's own key is never written.
///
/// # Errors
/// [`TlsError`] when a name is none or `dir` cannot be written.
pub fn throwaway_ca(dir: &Path, names: &[String]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for name in names {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    if let Some(config) = reusable(dir, &all) {
        return Ok(config);
    }
    make(dir, all)?;
    server_config(&dir.join(SERVER), &dir.join(KEY))
}

fn reusable(dir: &Path, names: &[String]) -> Option<Arc<ServerConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&dir.join(CA)).ok()? {
        roots.add(certificate).ok()?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().ok()?;
    let chain = certificates(&dir.join(SERVER)).ok()?;
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + RENEWED_BEFORE);
    for name in names {
        let name = ServerName::try_from(name.as_str()).ok()?;
        for time in [UnixTime::now(), soon] {
            verifier.verify_server_cert(chain.first()?, &[], &name, &[], time).ok()?;
        }
    }
    server_config(&dir.join(SERVER), &dir.join(KEY)).ok()
}

fn make(dir: &Path, names: Vec<String>) -> Result<(), TlsError> {
    let setup = |error: rcgen::Error| TlsError::Setup(error.to_string());
    let day = UnixTime::now().as_secs() / DAY;
    let (not_before, not_after) = (date_of(day.saturating_sub(1)), date_of(day + VALID_DAYS));
    let valid = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(not_before.0, not_before.1, not_before.2);
        params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
    };
    let mut server = CertificateParams::new(names.clone()).map_err(|_| TlsError::BadNames(names))?;
    valid(&mut server);
    server.distinguished_name.push(DnType::CommonName, "trunkline stand-in agent");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;

    let mut ca = CertificateParams::default();
    valid(&mut ca);
    // A new name each time, or an old CA of the same name would be tried for the new one's certificates.
    ca.distinguished_name.push(DnType::CommonName, format!("trunkline throwaway CA {}", UnixTime::now().as_secs()));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().map_err(setup)?).map_err(setup)?;

    let key = KeyPair::generate().map_err(setup)?;
    let certificate = server.signed_by(&key, &ca).map_err(setup)?;
    fs::create_dir_all(dir).map_err(|error| TlsError::Unwritable(dir.to_owned(), error))?;
    for (name, text, mode) in
        [(KEY, key.serialize_pem(), 0o600), (SERVER, certificate.pem(), 0o644), (CA, ca.pem(), 0o644)]
    {
        let path = dir.join(name);
        write(&path, &text, mode).map_err(|error| TlsError::Unwritable(path, error))?;
    }
    Ok(())
}

/// Never leaves half a file, nor a key that others could read for a moment.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?.write_all(text.as_bytes())?;
    fs::rename(fresh, path)
}

/// What a server needs: its certificate, with those of the issuers between it and the root behind it, and its key.
///
/// # Errors
/// [`TlsError`] when one of the files is not what it should be, or they do not belong together.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem_error(key, error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// When the first certificate of a PEM file, the server's own, ends (s since 1970).
///
/// # Errors
/// [`TlsError`] when there is none that can be read.
pub fn file_valid_until(path: &Path) -> Result<u64, TlsError> {
    let unreadable = || TlsError::NotPem(path.to_owned(), "its certificate cannot be understood".to_owned());
    certificates(path)?.first().and_then(valid_until).ok_or_else(unreadable)
}

/// When a certificate ends (s since 1970), if it can be read. The verifier tells: after all time it has expired, and that
/// is looked at before whom it is from.
#[must_use]
pub fn valid_until(certificate: &CertificateDer<'_>) -> Option<u64> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    match verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::since_unix_epoch(AFTER_ALL)) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(not_after.as_secs())
        }
        _ => None,
    }
}

/// The cipher suite in use, once the handshake is done.
#[must_use]
pub fn suite_name(connection: &Connection) -> Option<&'static str> {
    connection.negotiated_cipher_suite()?.suite().as_str()
}

/// Says what went wrong in a handshake, and what would mend it.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return explain_tls(error);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "it closed the connection in the middle of the handshake; does TLS belong on this port?".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The same for what rustls says.
#[must_use]
pub fn explain_tls(error: &rustls::Error) -> String {
    use PeerIncompatible::{ServerDoesNotSupportTls12Or13, ServerTlsVersionIsDisabledByOurConfig};
    match error {
        rustls::Error::InvalidCertificate(error) => explain_certificate(error),
        rustls::Error::NoCertificatesPresented => "it showed no certificate".to_owned(),
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS; check the port".to_owned(),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(ServerDoesNotSupportTls12Or13 | ServerTlsVersionIsDisabledByOurConfig) => {
            "it speaks neither TLS 1.2 nor TLS 1.3; it has to be brought up to date".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) | rustls::Error::PeerIncompatible(_) => {
            "the two sides have no cipher, key exchange or signature in common".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "it does not serve the name in the url; check the host".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate from us, and Trunkline has none to show".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => "it does not speak HTTP/1.1 on this port".to_owned(),
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate,
        ) => "it does not accept our certificate; has it been told our ca.pem, and the right name?".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("it broke off with the alert {alert:?}"),
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its certificate expired on {}, and it is {} here; it has to be renewed",
            Day(*not_after),
            Day(*time)
        ),
        CertificateError::Expired => "its certificate has expired; it has to be renewed".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is valid from {} only, and it is {} here; is this machine's clock right?",
            Day(*not_before),
            Day(*time)
        ),
        CertificateError::NotValidYet => "its certificate is not valid yet; is this machine's clock right?".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is for {}, not for {}; is the host in the url right?",
            names(presented),
            expected.to_str()
        ),
        CertificateError::NotValidForName => {
            "its certificate is for another name; is the host in the url right?".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "its certificate is from an issuer that is not trusted here; add its CA by ca-file".to_owned()
        }
        CertificateError::Other(other) if other.0.is::<SelfSigned>() => {
            "its certificate is self-signed; have a CA issue one, or trust this one by ca-file".to_owned()
        }
        // webpki's `Error::CaUsedAsEndEntity`, a type that rustls does not show.
        CertificateError::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is a CA's own (CA:TRUE), which no server may show; have one issued with CA:FALSE"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "its certificate is not signed by the CA that it names; is ca-file an older one of the same name?"
                .to_owned()
        }
        CertificateError::Revoked => "its certificate was revoked; it has to be replaced".to_owned(),
        other => format!("its certificate was refused: {other}"),
    }
}

/// The names of a certificate as `DnsName("a.example")` or `IpAddress(::1)`, without the wrapping.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name at all (a common name alone does not count)".to_owned();
    }
    let bare = |name: &String| -> String {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
        inner.chars().filter(|c| c.is_ascii_graphic() && *c != '"').take(253).collect()
    };
    let mut words = presented.iter().take(MAX_NAMES).map(bare).collect::<Vec<_>>().join(", ");
    if presented.len() > MAX_NAMES {
        words += &format!(" and {} more", presented.len() - MAX_NAMES);
    }
    words
}

/// Why TLS cannot be set up: the operator's to mend.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// A file that is broken, and how.
    NotPem(PathBuf, String),
    /// A file without a certificate.
    NoCertificate(PathBuf),
    /// A file whose certificate cannot serve as a root, and why.
    NotTrustable(PathBuf, String),
    /// Nobody to trust, and why if that is known.
    NoRoots(Option<String>),
    /// A file or folder that cannot be written.
    Unwritable(PathBuf, io::Error),
    /// One of these is not a name that a certificate can carry.
    BadNames(Vec<String>),
    /// Anything else that a library refused.
    Setup(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{} cannot be read: {error}", path.display()),
            Self::NotPem(path, why) => write!(f, "{} is no good PEM file: {why}", path.display()),
            Self::NoCertificate(path) => write!(
                f,
                "{0} has no certificate; wanted PEM (`-----BEGIN CERTIFICATE-----`), \
                 which `openssl x509 -inform der -in {0}` makes of DER",
                path.display()
            ),
            Self::NotTrustable(path, why) => {
                write!(f, "{} has a certificate that cannot be used: {why}", path.display())
            }
            Self::NoRoots(why) => {
                f.write_str("no CA is trusted on this machine; run `apt install ca-certificates`, or set ca-file")?;
                why.as_ref().map_or(Ok(()), |why| write!(f, " ({why})"))
            }
            Self::Unwritable(path, error) => write!(f, "{} cannot be written: {error}", path.display()),
            Self::BadNames(names) => write!(f, "not all of these are names or addresses: {}", names.join(", ")),
            Self::Setup(why) => write!(f, "TLS cannot be set up: {why}"),
        }
    }
}

impl core::error::Error for TlsError {}

/// rustls's own verifier, which this one only listens to: where it calls an issuer unknown, this says whether the
/// certificate issued itself, since what helps then is another thing.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Trusting nobody but the certificate itself tells: from another issuer, it is still refused for its issuer.
    fn is_self_signed(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> bool {
        let mut roots = RootCertStore::empty();
        if roots.add(certificate.clone().into_owned()).is_err() {
            return false;
        }
        let alone = WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone()).build();
        alone.is_ok_and(|alone| {
            !matches!(
                alone.verify_server_cert(certificate, &[], name, &[], now),
                Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
            )
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
                if self.is_self_signed(end_entity, server_name, now) =>
            {
                Err(CertificateError::Other(OtherError(Arc::new(SelfSigned))).into())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed")
    }
}

impl core::error::Error for SelfSigned {}

/// The certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(path).map_err(|error| TlsError::Unreadable(path.to_owned(), error))?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| pem_error(path, error))?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

fn pem_error(path: &Path, error: rustls::pki_types::pem::Error) -> TlsError {
    match error {
        rustls::pki_types::pem::Error::Io(error) => TlsError::Unreadable(path.to_owned(), error),
        error => TlsError::NotPem(path.to_owned(), error.to_string()),
    }
}

/// Whether AES-GCM runs in hardware. ring asks the same of the CPU.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// A point in time, printed as its day.
struct Day(UnixTime);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date_of(self.0.as_secs() / DAY);
        write!(f, "{year}-{month:02}-{day:02}")
    }
}

/// Year, month and day of the so-manieth day since 1970. The years of the count begin in March, so that the leap day is
/// their last and every month begins after `(153 * month + 2) / 5` days; 400 of them have 146,097 days.
fn date_of(day: u64) -> (i32, u8, u8) {
    let day = day.min(MAX_DAY) + 719_468; // since the 1st of March of the year 0
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (i32::try_from(year).unwrap_or(i32::MAX), u8::try_from(month).unwrap_or(1), u8::try_from(day).unwrap_or(1))
}

/// RFC 7301: a server of many protocols shall not take us for an HTTP/2 client.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Sessions that can be resumed: one trunk rarely has more servers behind it.
const RESUMED: usize = 8;

/// Later than any certificate ends: its year has four digits (RFC 5280 4.1.2.5).
const AFTER_ALL: Duration = Duration::from_secs(300_000_000_000);

/// Names of a certificate that a message lists; some carry a hundred.
const MAX_NAMES: usize = 6;

const CA: &str = "ca.pem";
const SERVER: &str = "server.pem";
const KEY: &str = "server-key.pem";

/// Seconds.
const DAY: u64 = 24 * 60 * 60;

/// 31st of December 9999.
const MAX_DAY: u64 = 2_932_896;

/// Some TLS stacks refuse server certificates of more than 825 days.
const VALID_DAYS: u64 = 800;

/// A stand-in that is started today should still serve in a week.
const RENEWED_BEFORE: Duration = Duration::from_secs(7 * DAY);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::{ClientConnection, InvalidMessage, ServerConnection};

    use super::*;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    /// A CA and the file that makes it trusted.
    pub(crate) fn ca(dir: &Path) -> (Ca, PathBuf) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "site CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let path = dir.join("site-ca.pem");
        fs::write(&path, ca.pem()).unwrap();
        (ca, path)
    }

    /// A server whose certificate is for localhost and otherwise as `with` makes it.
    pub(crate) fn server(issuer: Option<&Ca>, with: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        server_of(issuer, rustls::ALL_VERSIONS, with)
    }

    fn server_of(
        issuer: Option<&Ca>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        with: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        with(&mut params);
        let certificate = match issuer {
            Some(ca) => params.signed_by(&key, ca).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }

    fn rootless(why_none: Option<&str>) -> PlatformRoots {
        PlatformRoots { roots: RootCertStore::empty(), why_none: why_none.map(str::to_owned) }
    }

    /// A client that trusts this file and, unlike a real one, not the machine's own roots.
    pub(crate) fn client(ca_file: &Path) -> Arc<ClientConfig> {
        client_config_with(&rootless(None), Some(ca_file)).unwrap()
    }

    /// A handshake in memory.
    pub(crate) fn shake(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
        name: &'static str,
    ) -> Result<(Connection, Connection), rustls::Error> {
        let name = ServerName::try_from(name).unwrap();
        let mut client = Connection::Client(ClientConnection::new(client.clone(), name).unwrap());
        let mut server = Connection::Server(ServerConnection::new(server.clone()).unwrap());
        while client.wants_write() || server.wants_write() {
            for _ in 0..2 {
                let mut bytes = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut bytes).unwrap();
                }
                let mut bytes = bytes.as_slice();
                while !bytes.is_empty() {
                    server.read_tls(&mut bytes).unwrap();
                    server.process_new_packets()?;
                }
                core::mem::swap(&mut client, &mut server);
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok((client, server))
    }

    fn refused(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &'static str) -> String {
        explain_tls(&shake(client, server, name).unwrap_err())
    }

    #[test]
    fn the_end_of_a_certificate_is_known_whoever_issued_it() {
        let dir = tempfile::tempdir().unwrap();
        throwaway_ca(dir.path(), &[]).unwrap();
        let ends = (UnixTime::now().as_secs() / DAY + VALID_DAYS) * DAY;
        assert_eq!(file_valid_until(&dir.path().join(SERVER)).unwrap(), ends);
        assert_eq!(file_valid_until(&dir.path().join(CA)).unwrap(), ends);
        assert!(matches!(file_valid_until(&dir.path().join(KEY)), Err(TlsError::NoCertificate(_))));
        assert_eq!(valid_until(&CertificateDer::from(vec![0x30, 0])), None);
    }

    #[test]
    fn the_platforms_roots_are_read_once() {
        assert!(core::ptr::eq(PlatformRoots::get(), PlatformRoots::get()));
    }

    #[test]
    fn chacha_comes_first_only_where_aes_is_done_in_software() {
        let names = |has_aes| {
            let mut suites = rustls::crypto::ring::default_provider().cipher_suites;
            order(&mut suites, has_aes);
            suites.iter().map(|suite| suite.suite().as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(
            names(false)[..6],
            [
                "TLS13_CHACHA20_POLY1305_SHA256",
                "TLS13_AES_128_GCM_SHA256",
                "TLS13_AES_256_GCM_SHA384",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            ]
        );
        assert_eq!(
            names(true)[..5],
            [
                "TLS13_AES_128_GCM_SHA256",
                "TLS13_AES_256_GCM_SHA384",
                "TLS13_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            ]
        );
        assert_eq!(names(true).len(), rustls::crypto::ring::default_provider().cipher_suites.len());
    }

    #[test]
    fn the_server_picks_what_this_machine_prefers() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, ca_file) = ca(dir.path());
        let (ours, theirs) = shake(&client(&ca_file), &server(Some(&ca), |_| {}), "localhost").unwrap();
        let expected = if has_aes() { "TLS13_AES_128_GCM_SHA256" } else { "TLS13_CHACHA20_POLY1305_SHA256" };
        assert_eq!(suite_name(&ours), Some(expected));
        assert_eq!(suite_name(&theirs), Some(expected));
        let old = server_of(Some(&ca), &[&rustls::version::TLS12], |_| {});
        let (ours, _) = shake(&client(&ca_file), &old, "localhost").unwrap();
        assert!(suite_name(&ours).unwrap().starts_with("TLS_ECDHE_ECDSA_WITH_"));
    }

    #[test]
    fn a_bad_certificate_is_refused_and_the_words_say_which_way_it_is_bad() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, ca_file) = ca(dir.path());
        let trusting = client(&ca_file);
        let today = Day(UnixTime::now());

        let expired = server(Some(&ca), |params| params.not_after = rcgen::date_time_ymd(2024, 2, 29));
        assert_eq!(
            refused(&trusting, &expired, "localhost"),
            format!("its certificate expired on 2024-02-29, and it is {today} here; it has to be renewed")
        );
        let early = server(Some(&ca), |params| params.not_before = rcgen::date_time_ymd(2999, 12, 31));
        assert_eq!(
            refused(&trusting, &early, "localhost"),
            format!(
                "its certificate is valid from 2999-12-31 only, and it is {today} here; is this machine's clock right?"
            )
        );
        let good = server(Some(&ca), |_| {});
        assert_eq!(
            refused(&trusting, &good, "agent.example.com"),
            "its certificate is for localhost, 127.0.0.1, not for agent.example.com; is the host in the url right?"
        );
        let nameless = server(Some(&ca), |params| params.subject_alt_names.clear());
        assert_eq!(
            refused(&trusting, &nameless, "localhost"),
            "its certificate is for no name at all (a common name alone does not count), not for localhost; \
             is the host in the url right?"
        );
        let own = server(None, |_| {});
        assert_eq!(
            refused(&trusting, &own, "localhost"),
            "its certificate is self-signed; have a CA issue one, or trust this one by ca-file"
        );
        let own_ca = server(None, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert_eq!(
            refused(&trusting, &own_ca, "localhost"),
            "its certificate is a CA's own (CA:TRUE), which no server may show; have one issued with CA:FALSE"
        );
        let elsewhere = tempfile::tempdir().unwrap();
        let (other, _) = self::ca(elsewhere.path());
        assert_eq!(
            refused(&trusting, &server(Some(&other), |_| {}), "localhost"),
            // Both CAs are called "site CA": only the signature tells them apart.
            "its certificate is not signed by the CA that it names; is ca-file an older one of the same name?"
        );
        assert_eq!(
            refused(&trusting, &throwaway_ca(elsewhere.path(), &[]).unwrap(), "localhost"),
            "its certificate is from an issuer that is not trusted here; add its CA by ca-file"
        );
    }

    #[test]
    fn a_self_signed_certificate_can_be_trusted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let path = dir.path().join("own.pem");
        fs::write(&path, certificate.pem()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let own = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let own = Arc::new(own);
        shake(&client(&path), &own, "localhost").unwrap();
        assert!(refused(&client(&path), &own, "example.com").contains("not for example.com"));
    }

    #[test]
    fn a_throwaway_ca_is_used_again_while_it_serves() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/for/it");
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        let first = throwaway_ca(&dir, &[]).unwrap();
        for name in ["localhost", "127.0.0.1", "::1"] {
            shake(&client(&dir.join("ca.pem")), &first, name).unwrap();
        }
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("server-key.pem"), mode("ca.pem")), (0o600, 0o644));
        let ca = read("ca.pem");
        let again = throwaway_ca(&dir, &["localhost".to_owned()]).unwrap();
        assert_eq!(read("ca.pem"), ca);
        shake(&client(&dir.join("ca.pem")), &again, "localhost").unwrap();

        let named = throwaway_ca(&dir, &["agent.example.com".to_owned(), "192.0.2.7".to_owned()]).unwrap();
        assert_ne!(read("ca.pem"), ca, "the old one was not for these names");
        for name in ["agent.example.com", "192.0.2.7", "localhost"] {
            shake(&client(&dir.join("ca.pem")), &named, name).unwrap();
        }
        let key = read("server-key.pem");
        let other = KeyPair::generate().unwrap();
        fs::write(dir.join("server-key.pem"), other.serialize_pem()).unwrap();
        throwaway_ca(&dir, &[]).unwrap();
        assert_ne!(read("server-key.pem"), other.serialize_pem().as_bytes(), "that key was not the certificate's");
        assert_ne!(read("server-key.pem"), key);
        fs::write(dir.join("ca.pem"), "rubbish").unwrap();
        let mended = throwaway_ca(&dir, &[]).unwrap();
        shake(&client(&dir.join("ca.pem")), &mended, "localhost").unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3, "nothing half-made is left");
    }

    #[test]
    fn a_setup_that_cannot_work_says_what_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let said =
            |path: &Path| client_config(Some(path)).unwrap_err().to_string().replace(path.to_str().unwrap(), "F");
        assert_eq!(said(&dir.path().join("none.pem")), "F cannot be read: No such file or directory (os error 2)");
        let wanted = "F has no certificate; wanted PEM (`-----BEGIN CERTIFICATE-----`), \
                      which `openssl x509 -inform der -in F` makes of DER";
        assert_eq!(said(&path("empty.pem", b"")), wanted);
        assert_eq!(said(&path("der.pem", b"\x30\x82\x01\x0a\x02\x01")), wanted);
        assert_eq!(said(&path("key.pem", KeyPair::generate().unwrap().serialize_pem().as_bytes())), wanted);
        let cut = said(&path("cut.pem", b"-----BEGIN CERTIFICATE-----\nMIIB\n"));
        assert!(cut.starts_with("F is no good PEM file: "), "{cut}");
        let junk = said(&path("junk.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
        assert!(junk.starts_with("F has a certificate that cannot be used: "), "{junk}");
        assert_eq!(
            client_config_with(&rootless(None), None).unwrap_err().to_string(),
            "no CA is trusted on this machine; run `apt install ca-certificates`, or set ca-file"
        );
        let why = client_config_with(&rootless(Some("no /x")), None).unwrap_err().to_string();
        assert!(why.ends_with("or set ca-file (no /x)"), "{why}");
        let bad = throwaway_ca(dir.path(), &["w\u{fc}rst".to_owned()]).unwrap_err().to_string();
        assert!(bad.starts_with("not all of these are names or addresses: localhost, 127.0.0.1, ::1, w"), "{bad}");
        let file = path("file", b"");
        let within = throwaway_ca(&file.join("x"), &[]).unwrap_err().to_string();
        assert!(within.contains("cannot be written"), "{within}");
    }

    #[test]
    fn every_failure_is_told_in_an_operators_words() {
        let table: [(rustls::Error, &str); 12] = [
            (InvalidMessage::InvalidContentType.into(), "what answers there does not speak TLS; check the port"),
            (
                rustls::Error::AlertReceived(AlertDescription::ProtocolVersion),
                "it speaks neither TLS 1.2 nor TLS 1.3; it has to be brought up to date",
            ),
            (
                PeerIncompatible::ServerDoesNotSupportTls12Or13.into(),
                "it speaks neither TLS 1.2 nor TLS 1.3; it has to be brought up to date",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
                "the two sides have no cipher, key exchange or signature in common",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::UnrecognisedName),
                "it does not serve the name in the url; check the host",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
                "it wants a certificate from us, and Trunkline has none to show",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::UnknownCA),
                "it does not accept our certificate; has it been told our ca.pem, and the right name?",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::InternalError),
                "it broke off with the alert InternalError",
            ),
            (rustls::Error::NoApplicationProtocol, "it does not speak HTTP/1.1 on this port"),
            (CertificateError::Expired.into(), "its certificate has expired; it has to be renewed"),
            (CertificateError::NotValidYet.into(), "its certificate is not valid yet; is this machine's clock right?"),
            (CertificateError::Revoked.into(), "its certificate was revoked; it has to be replaced"),
        ];
        for (error, words) in table {
            assert_eq!(explain(&io::Error::new(io::ErrorKind::InvalidData, error)), words);
        }
        assert_eq!(
            explain(&io::ErrorKind::UnexpectedEof.into()),
            "it closed the connection in the middle of the handshake; does TLS belong on this port?"
        );
        let many: Vec<_> = (0..99).map(|i| format!("DnsName(\"a{i}.example\")")).collect();
        assert_eq!(names(&many), "a0.example, a1.example, a2.example, a3.example, a4.example, a5.example and 93 more");
        assert_eq!(names(&["DnsName(\"\x1b[31m\u{202e}evil\")".to_owned()]), "[31mevil");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (day, date) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (19_783, "2024-03-01"),
            (20_453, "2025-12-31"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
            (MAX_DAY, "9999-12-31"),
            (u64::MAX / DAY, "9999-12-31"),
        ] {
            assert_eq!(Day(UnixTime::since_unix_epoch(Duration::from_secs(day * DAY))).to_string(), date);
        }
    }
}
