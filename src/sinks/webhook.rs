//! A sink that takes each item as the body of a POST.
//!
//! The receiver can tell that it came from us by `X-Trunkline-Signature`, that it is new by `X-Trunkline-Timestamp`,
//! which is signed too, and that it is not a repetition by `X-Trunkline-Id`.

use core::{fmt::Write as _, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use ring::hmac;
use tokio::{task::spawn_local, time::timeout};

use super::{Fault, connect::Connector, item::Item};
use crate::{
    clock,
    config::{Secret, Url},
};

/// A webhook and the connection to it.
pub(super) struct Webhook {
    connector: Connector,
    authority: String,
    target: String,
    key: Option<hmac::Key>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Webhook {
    pub(super) fn new(connector: Connector, url: &Url, secret: Option<&Secret>) -> Self {
        Self {
            connector,
            authority: url.authority.clone(),
            target: url.path_and_query.clone(),
            key: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes())),
            sender: None,
        }
    }

    /// Sends an item and waits for the answer.
    pub(super) async fn deliver(&mut self, item: &Item) -> Result<(), Fault> {
        let seconds = clock::epoch_ms() / 1000;
        let request = self.request(item, seconds).map_err(|error| Fault::Never(error.to_string()))?;
        // Only one that is given back goes on to the next item.
        let mut kept = self.sender.take();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            // The receiver has closed it since: that is no failure yet.
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let answered = timeout(self.connector.timeout(), async {
            let response = sender.send_request(request).await?;
            let verdict = verdict(&response);
            let rest = Limited::new(response.into_body(), MOST_ANSWER).collect().await;
            Ok::<_, hyper::Error>((verdict, rest.is_ok()))
        });
        match answered.await {
            Err(_) => Err(later(format!("no answer in {} ms", self.connector.timeout().as_millis()))),
            Ok(Err(error)) => Err(later(error.to_string())),
            Ok(Ok((verdict, is_whole))) => {
                self.sender = is_whole.then_some(sender);
                verdict
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Fault> {
        let stream = self.connector.connect().await.map_err(later)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| later(error.to_string()))?;
        // Its end shows at the sender.
        spawn_local(async move { connection.await.is_ok() });
        Ok(sender)
    }

    fn request(&self, item: &Item, seconds: u64) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::post(&self.target)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("trunkline/", env!("CARGO_PKG_VERSION")))
            .header("x-trunkline-id", &item.id)
            .header("x-trunkline-timestamp", seconds);
        if let Some(key) = &self.key {
            request = request.header("x-trunkline-signature", signature(key, seconds, &item.body));
        }
        request.body(Full::new(Bytes::from(item.body.clone())))
    }
}

/// `sha256=` and the HMAC (RFC 2104) of timestamp, dot and body, in hex.
fn signature(key: &hmac::Key, seconds: u64, body: &str) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(seconds.to_string().as_bytes());
    context.update(b".");
    context.update(body.as_bytes());
    let mut text = "sha256=".to_owned();
    for byte in context.sign().as_ref() {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What an answer means. A refusal of what was sent is one for ever; whoever may not, or is at a wrong place, can be
/// helped by an operator, and the item waits for that.
fn verdict(response: &Response<Incoming>) -> Result<(), Fault> {
    judge(response.status(), response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()))
}

fn judge(status: StatusCode, retry_after: Option<&str>) -> Result<(), Fault> {
    if status.is_success() {
        return Ok(());
    }
    let words = format!("the answer was {status}");
    match status.as_u16() {
        // RFC 9110 15.5: unauthorized, forbidden, not found, timeout, misdirected, too early, too many; 423 of WebDAV.
        401..=405 | 407 | 408 | 421 | 423 | 425 | 429 => {}
        400..=499 => return Err(Fault::Never(words)),
        _ => {}
    }
    let wait = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    Err(Fault::Later { words, wait })
}

fn later(words: String) -> Fault {
    Fault::Later { words, wait: None }
}

/// More of an answer is not read.
const MOST_ANSWER: usize = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_a_receiver_computes() {
        // printf '%s' '1700000000.{"id":"x"}' | openssl dgst -sha256 -hmac hush
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"hush");
        assert_eq!(
            signature(&key, 1_700_000_000, r#"{"id":"x"}"#),
            "sha256=dc9bc7ddcdc0255e29426c2ee9caaf048a38c5242ab25a1152d5c15bc7ec336a"
        );
    }

    #[test]
    fn a_refusal_of_the_item_is_for_ever_and_any_other_is_not() {
        let judged = |status: u16| judge(StatusCode::from_u16(status).unwrap(), None);
        for good in [200, 201, 202, 204] {
            assert!(judged(good).is_ok(), "{good}");
        }
        for never in [400, 406, 409, 410, 413, 415, 422, 431] {
            assert!(matches!(judged(never), Err(Fault::Never(_))), "{never}");
        }
        for later in [301, 302, 401, 403, 404, 405, 407, 408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(judged(later), Err(Fault::Later { .. })), "{later}");
        }
    }

    #[test]
    fn a_receiver_may_say_when_to_come_again() {
        let wait = |said| match judge(StatusCode::SERVICE_UNAVAILABLE, Some(said)) {
            Err(Fault::Later { wait, .. }) => wait,
            _ => None,
        };
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }
}
