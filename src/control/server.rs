//! Connections of whoever watches and steers: bounded in number, in size and in time, and one request each.
//!
//! A connection for each request costs little a second and leaves nothing idle that would have to be watched.

use std::{convert::Infallible, io, rc::Rc, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use log::debug;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    task::spawn_local,
    time::timeout,
};

pub(crate) type Answer = Response<Full<Bytes>>;
pub(crate) type BoxError = Box<dyn core::error::Error + Send + Sync>;

/// Where connections come in, and who answers them.
pub(crate) trait Door: 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;
    /// What is known of the other side.
    type Caller: 'static;

    /// The next connection.
    async fn accept(&self) -> io::Result<(Self::Stream, Self::Caller)>;

    /// The answer to a request.
    async fn answer<B>(&self, caller: &Self::Caller, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>;
}

/// Serves for ever.
pub(crate) async fn serve<D: Door>(door: D) {
    let door = Rc::new(door);
    let seats = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let (stream, caller) = match door.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: the calls come first, the watcher comes again.
                debug!(error:%; "a control connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else { continue };
        let door = Rc::clone(&door);
        spawn_local(async move {
            match timeout(PATIENCE, attend(&*door, stream, &caller)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(error:%; "a control connection broke off"),
                Err(_) => debug!("a control connection took too long"),
            }
            drop(seat);
        });
    }
}

/// One request and its answer.
async fn attend<D: Door>(door: &D, stream: D::Stream, caller: &D::Caller) -> hyper::Result<()> {
    let service = service_fn(|request| async { Ok::<_, Infallible>(door.answer(caller, request).await) });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown()
        .await?;
    let mut stream = served.io.into_inner();
    // A close with bytes unread is a reset, which can overtake the answer. Late or broken, it is closed then.
    let _ = stream.shutdown().await;
    let mut rest = [0; 512];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    Ok(())
}

/// The body of a request, or the answer to one that is too long or did not come.
pub(crate) async fn body<B>(request: Request<B>, most: usize) -> Result<Bytes, Answer>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    match Limited::new(request.into_body(), most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, format_args!("the body is too long; at most {most} bytes")))
        }
        Err(error) => Err(refuse(StatusCode::BAD_REQUEST, format_args!("the body did not come: {error}"))),
    }
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut json = serde_json::to_vec(body).expect("our answers have texts for keys");
    json.push(b'\n');
    answer(status, "application/json", json)
}

/// An answer that says what is wrong: `{"error":"..."}`.
pub(crate) fn refuse(status: StatusCode, words: impl core::fmt::Display) -> Answer {
    #[derive(Serialize)]
    struct Refused {
        error: String,
    }
    json(status, &Refused { error: words.to_string() })
}

/// This path knows another method only (RFC 9110 15.5.6).
pub(crate) fn only(method: &'static str) -> Answer {
    let mut refused = refuse(StatusCode::METHOD_NOT_ALLOWED, format_args!("only {method}"));
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
    refused
}

pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    // `trunkline status` names it when it does not understand the answer.
    headers.insert(header::SERVER, HeaderValue::from_static(concat!("trunkline/", env!("CARGO_PKG_VERSION"))));
    response
}

const MOST_CONNECTIONS: usize = 32;
/// Line and headers of a request.
const MOST_HEAD: usize = 16 * 1024;
/// A connection is over in so long, however slowly the other side writes and reads.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// Answers with the length of the body.
    struct Counter;

    impl Door for Counter {
        type Stream = DuplexStream;
        type Caller = ();

        async fn accept(&self) -> io::Result<(DuplexStream, ())> {
            core::future::pending().await
        }

        async fn answer<B>(&self, (): &(), request: Request<B>) -> Answer
        where
            B: Body<Data = Bytes>,
            B::Error: Into<BoxError>,
        {
            match body(request, 10).await {
                Ok(body) => json(StatusCode::OK, &body.len()),
                Err(answer) => answer,
            }
        }
    }

    /// What comes back for these bytes, until the connection is closed; and whether it was closed in time.
    fn exchange(request: &str, patience: Duration) -> (String, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = duplex(64 * 1024);
            client.write_all(request.as_bytes()).await.unwrap();
            let attended = async {
                let attended = timeout(patience, attend(&Counter, server, &())).await;
                attended.is_ok()
            };
            let read = async {
                let mut text = String::new();
                while !text.ends_with("\r\n\r\n3\n") && !text.contains("error") {
                    let mut bytes = [0; 4096];
                    match client.read(&mut bytes).await.unwrap() {
                        0 => break,
                        n => text.push_str(core::str::from_utf8(&bytes[..n]).unwrap()),
                    }
                }
                drop(client);
                text
            };
            let (in_time, text) = tokio::join!(attended, read);
            (text, in_time)
        })
    }

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn a_connection_has_one_request_and_says_so() {
        let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        let (text, in_time) = exchange(&format!("{request}{request}"), LONG);
        assert!(in_time && text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("connection: close\r\n") && text.contains("server: trunkline/"), "{text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    }

    #[test]
    fn a_body_that_is_too_long_gets_an_answer_however_much_of_it_comes() {
        for length in [11, 40_000] {
            let body = "x".repeat(length);
            let (text, _) = exchange(&format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}"), LONG);
            assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
            assert!(text.ends_with("{\"error\":\"the body is too long; at most 10 bytes\"}\n"), "{text}");
        }
    }

    #[test]
    fn whoever_dawdles_is_left() {
        for request in ["", "GET / HT", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"] {
            assert_eq!(exchange(request, SHORT), (String::new(), false), "{request}");
        }
    }
}
