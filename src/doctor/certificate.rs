//! Certificates: of peers, which we have to believe, and our own, which others have to.

use rustls::CertificateError;

use super::{Check, DAY, Finding, day};
use crate::leg::websocket::tls;

/// Judges a handshake with a peer at `host:port`. `until` is when its certificate ends (s since 1970), as far as known.
#[must_use]
pub fn judge_peer(
    subject: impl Into<String>,
    (host, port): (&str, u16),
    shaken: Result<Option<u64>, &rustls::Error>,
    now: u64,
) -> Finding {
    match shaken {
        Ok(until) => match until.map(|until| (until, until.saturating_sub(now) / DAY)) {
            None => Finding::ok(Check::Tls, subject, "its certificate is good"),
            Some((until, days)) if days < SOON_DAYS => Finding::warn(
                Check::Tls,
                subject,
                format!("its certificate is good for {} more, until {}", days_in_words(days), day(until)),
                format!("ask whoever runs {host} whether it is renewed by itself; calls fail from that day on"),
            ),
            Some((until, days)) => Finding::ok(
                Check::Tls,
                subject,
                format!("its certificate is good for {} more, until {}", days_in_words(days), day(until)),
            ),
        },
        Err(error) => {
            let words = tls::explain_tls(error);
            let found = words.split("; ").next().unwrap_or(&words);
            Finding::fail(Check::Tls, subject, found, fix(error, &words, host, port))
        }
    }
}

/// What mends it.
fn fix(error: &rustls::Error, words: &str, host: &str, port: u16) -> String {
    let look = format!(
        "`openssl s_client -connect {host}:{port} -servername {host} </dev/null | openssl x509 -noout -subject -issuer -dates -ext subjectAltName`"
    );
    let rest = words.split_once("; ").map_or("", |(_, rest)| rest);
    let rustls::Error::InvalidCertificate(fault) = error else {
        return if rest.is_empty() { format!("look with {look}") } else { format!("{rest}; {look}") };
    };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
            "whoever runs {host} has to renew it, unless this machine's clock is wrong (see the line `clock`); {look}"
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("set this machine's clock (see the line `clock`): `sudo timedatectl set-ntp true`; {look}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("write the url with a name that the certificate has, or have one issued for {host}; {look}")
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "if it is a CA of your own, name its file by `ca-file`, or install it for all (update-ca-certificates(8)); \
             if not, whoever runs {host} has to send the intermediate certificates along, or somebody on the way opens \
             TLS; {look}"
        ),
        _ => format!("{rest}; {look}").trim_start_matches("; ").to_owned(),
    }
}

/// Judges a certificate of ours, by when it ends, or why that is not known.
#[must_use]
pub fn judge_own(subject: impl Into<String>, file: &str, until: Result<u64, &str>, now: u64) -> Finding {
    let look = format!("`openssl x509 -noout -dates -in {file}`");
    match until {
        Err(why) => Finding::fail(Check::Certificate, subject, why, "put a certificate and its key there, in PEM"),
        Ok(until) if until <= now => Finding::fail(
            Check::Certificate,
            subject,
            format!("our certificate expired on {}, and it is {} here: nobody will connect", day(until), day(now)),
            format!("renew it in place, the daemon takes the new one by itself; {look}"),
        ),
        Ok(until) if (until - now) / DAY < SOON_DAYS => Finding::warn(
            Check::Certificate,
            subject,
            format!("our certificate is good for {} more, until {}", days_in_words((until - now) / DAY), day(until)),
            format!("renew it in place, the daemon takes the new one by itself; {look}"),
        ),
        Ok(until) => Finding::ok(
            Check::Certificate,
            subject,
            format!("our certificate is good for {} more, until {}", days_in_words((until - now) / DAY), day(until)),
        ),
    }
}

fn days_in_words(days: u64) -> String {
    match days {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Renewals come about a month before the end; what has less than two weeks was not renewed.
const SOON_DAYS: u64 = 14;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::time::Duration;

    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;
    use crate::doctor::Status;

    const NOW: u64 = 1_800_000_000; // 2027-01-15

    fn failed(error: CertificateError) -> (String, String) {
        let error = rustls::Error::InvalidCertificate(error);
        let finding = judge_peer("[trunk.agent] TLS", ("agent.example.com", 443), Err(&error), NOW);
        assert_eq!(finding.status, Status::Fail);
        (finding.found, finding.fix.unwrap_or_default())
    }

    #[test]
    fn each_fault_of_a_certificate_has_its_own_words_and_its_own_next_step() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (found, fix) = failed(CertificateError::ExpiredContext { time: at(NOW), not_after: at(NOW - 3 * DAY) });
        assert_eq!(found, "its certificate expired on 2027-01-12, and it is 2027-01-15 here");
        assert!(fix.starts_with("whoever runs agent.example.com has to renew it"), "{fix}");
        let (found, fix) = failed(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("agent.example.com").unwrap(),
            presented: vec!["DnsName(\"other.example.com\")".to_owned()],
        });
        assert_eq!(found, "its certificate is for other.example.com, not for agent.example.com");
        assert!(fix.starts_with("write the url with a name that the certificate has"), "{fix}");
        let (found, fix) = failed(CertificateError::UnknownIssuer);
        assert!(found.contains("not trusted here") && fix.contains("`ca-file`"), "{found} {fix}");
        let (found, fix) = failed(CertificateError::NotValidYet);
        assert!(found.contains("not valid yet") && fix.contains("clock"), "{found} {fix}");
        assert!(fix.contains("openssl s_client -connect agent.example.com:443"), "{fix}");
    }

    #[test]
    fn a_certificate_that_ends_soon_is_told_before_it_does() {
        let of = |days: u64| judge_peer("x", ("a.example", 443), Ok(Some(NOW + days * DAY + 5)), NOW);
        assert_eq!((of(13).status, of(14).status, of(90).status), (Status::Warn, Status::Ok, Status::Ok));
        assert_eq!(of(90).found, "its certificate is good for 90 days more, until 2027-04-15");
        assert_eq!(judge_peer("x", ("a.example", 443), Ok(None), NOW).status, Status::Ok);
        let own = |until| judge_own("[line.cloud]", "/etc/x.pem", Ok(until), NOW).status;
        assert_eq!([own(NOW), own(NOW + DAY), own(NOW + 40 * DAY)], [Status::Fail, Status::Warn, Status::Ok]);
    }
}
