//! The control socket: what `trunkline status`, `calls`, `dial`, `press`, `transfer`, `digits`, `hangup`,
//! `reload` and `drain` talk to.
//!
//! HTTP over a Unix socket, so that `curl --unix-socket` does as well. Who may is said by the file: its owner and the group
//! `trunkline`.

use std::{io, rc::Rc};

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes},
};
use log::info;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    call::redact::Redacted,
    control::{
        desk::Desk,
        http,
        local::Local,
        server::{self, Answer, BoxError, Door, json, only, refuse},
    },
};

/// Serves for ever.
pub async fn serve(socket: Local, desk: Rc<dyn Desk>) {
    server::serve(Room { socket, desk }).await;
}

struct Room {
    socket: Local,
    desk: Rc<dyn Desk>,
}

/// Who is at the other end, for the log.
#[derive(Clone, Copy)]
struct Caller {
    uid: u32,
    pid: i32,
}

impl Door for Room {
    type Stream = UnixStream;
    type Caller = Caller;

    async fn accept(&self) -> io::Result<(UnixStream, Caller)> {
        let stream = self.socket.accept().await?;
        let peer = stream.peer_cred()?;
        Ok((stream, Caller { uid: peer.uid(), pid: peer.pid().unwrap_or(0) }))
    }

    async fn answer<B>(&self, caller: &Caller, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        answer(&self.desk, *caller, request).await
    }
}

async fn answer<B>(desk: &Rc<dyn Desk>, caller: Caller, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let Caller { uid, pid } = caller;
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (&method, &segments[..]) {
        (&Method::GET, ["status"]) => json(StatusCode::OK, &desk.status()),
        (&Method::GET, ["calls"]) => json(StatusCode::OK, &desk.status().calls),
        (&Method::POST, ["calls", call_id, "hangup"]) => {
            if desk.hang_up(call_id) {
                info!(call_id = *call_id, uid, pid; "call is hung up by order");
                json(StatusCode::ACCEPTED, &Taken { call_id })
            } else {
                refuse(
                    StatusCode::NOT_FOUND,
                    format_args!("there is no live call {call_id}; `trunkline calls` names them"),
                )
            }
        }
        (&Method::POST, ["lines", line, "dial"]) => {
            ordered(request, |Whom { target }| {
                let call_id = Rc::clone(desk).dial(line, &target)?;
                let to = Redacted(&target);
                info!(call_id = call_id.as_str(), line = *line, to:%, uid, pid; "somebody is called by order");
                Ok(call_id)
            })
            .await
        }
        (&Method::POST, ["calls", call_id, "transfer"]) => {
            ordered(request, |Whom { target }| {
                desk.transfer(call_id, &target)?;
                info!(call_id = *call_id, to:% = Redacted(&target), uid, pid; "caller is passed on by order");
                Ok((*call_id).to_owned())
            })
            .await
        }
        (&Method::POST, ["calls", call_id, "digits"]) => {
            ordered(request, |Keys { digits }| {
                Rc::clone(desk).send_digits(call_id, &digits)?;
                // Which ones may be a PIN.
                info!(call_id = *call_id, uid, pid; "keys are pressed by order");
                Ok((*call_id).to_owned())
            })
            .await
        }
        (&Method::POST, ["lines", line, way @ ("press" | "release")]) => {
            match Rc::clone(desk).key(line, *way == "press") {
                Ok(words) => {
                    info!(line = *line, way = *way, uid, pid; "the key of a line is moved by order");
                    json(StatusCode::ACCEPTED, &Moved { words: &words })
                }
                Err(words) => refuse(StatusCode::CONFLICT, words),
            }
        }
        (&Method::POST, ["reload"]) => {
            info!(uid, pid; "config is read again by order");
            let came_of_it = match desk.reload() {
                Ok(came_of_it) => came_of_it.await.unwrap_or_else(|_| Err("the daemon is going down".to_owned())),
                Err(words) => Err(words),
            };
            match came_of_it {
                Ok(words) => json(StatusCode::OK, &Reloaded { words: &words }),
                Err(words) => refuse(StatusCode::CONFLICT, words),
            }
        }
        (&Method::POST, ["drain"]) => {
            info!(uid, pid; "daemon drains by order");
            desk.drain();
            json(StatusCode::ACCEPTED, &desk.status())
        }
        (_, ["status" | "calls"]) => only("GET"),
        (
            _,
            ["calls", _, "hangup" | "transfer" | "digits"]
            | ["lines", _, "dial" | "press" | "release"]
            | ["reload" | "drain"],
        ) => only("POST"),
        _ => http::watch(&**desk, &method, &path).unwrap_or_else(|| {
            let there = "here are /status, /calls, /health, /metrics, POST /lines/LINE/dial, press or release, POST \
                         /calls/CALL_ID/transfer, digits or hangup, and POST /reload or /drain";
            refuse(StatusCode::NOT_FOUND, there)
        }),
    }
}

/// Does what the body asks for, and says of which call.
async fn ordered<B, T: Wish>(request: Request<B>, order: impl FnOnce(T) -> Result<String, String>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let body = match server::body(request, MOST_BODY).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let wish = match serde_json::from_slice(&body) {
        Ok(wish) => wish,
        Err(error) => {
            let words = format_args!("wanted a body such as {}: {error}", T::EXAMPLE);
            return refuse(StatusCode::BAD_REQUEST, words);
        }
    };
    match order(wish) {
        Ok(call_id) => json(StatusCode::ACCEPTED, &Taken { call_id: &call_id }),
        Err(words) => refuse(StatusCode::CONFLICT, words),
    }
}

/// What is asked for in a body rather than in the path, which whoever watches requests would see.
trait Wish: DeserializeOwned {
    const EXAMPLE: &str;
}

/// Somebody to be called.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whom {
    target: String,
}

impl Wish for Whom {
    const EXAMPLE: &str = r#"{"target":"201"}"#;
}

/// Keys to be pressed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    digits: String,
}

impl Wish for Keys {
    const EXAMPLE: &str = r#"{"digits":"4711#"}"#;
}

/// An order was taken.
#[derive(Serialize)]
struct Taken<'a> {
    call_id: &'a str,
}

/// The config was read again.
#[derive(Serialize)]
struct Reloaded<'a> {
    words: &'a str,
}

/// A key was pressed or released.
#[derive(Serialize)]
struct Moved<'a> {
    words: &'a str,
}

/// Far more than any number or row of keys has.
const MOST_BODY: usize = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::control::desk::{
        CallStatus, Status,
        tests::{FakeDesk, busy_status},
    };

    fn ask(desk: &Rc<FakeDesk>, method: &str, path: &str) -> (u16, String) {
        order(desk, method, path, "")
    }

    fn order(desk: &Rc<FakeDesk>, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Full::<Bytes>::from(body.to_owned())).unwrap();
        let desk: Rc<dyn Desk> = desk.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(answer(&desk, Caller { uid: 0, pid: 1 }, request));
        let status = answer.status().as_u16();
        let body = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn status_and_calls_are_what_the_desk_says() {
        let desk = Rc::new(FakeDesk::default());
        let (status, text) = ask(&desk, "GET", "/status");
        assert_eq!((status, serde_json::from_str::<Status>(&text).unwrap()), (200, busy_status()));
        let (status, text) = ask(&desk, "GET", "/calls");
        assert_eq!((status, serde_json::from_str::<Vec<CallStatus>>(&text).unwrap()), (200, busy_status().calls));
        assert_eq!(ask(&desk, "GET", "/health").0, 200);
        assert!(ask(&desk, "GET", "/metrics").1.contains("trunkline_calls 0"));
    }

    #[test]
    fn only_a_live_call_is_hung_up() {
        let desk = Rc::new(FakeDesk::default());
        assert_eq!(
            ask(&desk, "POST", "/calls/k3vqhm2xw7ab/hangup"),
            (202, "{\"call_id\":\"k3vqhm2xw7ab\"}\n".to_owned())
        );
        let (status, text) = ask(&desk, "POST", "/calls/nobody/hangup");
        assert_eq!(status, 404);
        assert!(text.contains("there is no live call nobody; `trunkline calls` names them"), "{text}");
        assert_eq!(*desk.hung_up.borrow(), ["k3vqhm2xw7ab"]);
    }

    #[test]
    fn somebody_is_called_passed_on_and_keyed_as_the_body_says() {
        let desk = Rc::new(FakeDesk::default());
        for (path, body, call_id) in [
            ("/lines/pbx/dial", r#"{"target":"+49 30 1"}"#, "newcall23abc"),
            ("/calls/k3vqhm2xw7ab/transfer", r#"{"target":"sip:201@pbx"}"#, "k3vqhm2xw7ab"),
            ("/calls/k3vqhm2xw7ab/digits", r#"{"digits":"4711#"}"#, "k3vqhm2xw7ab"),
        ] {
            assert_eq!(order(&desk, "POST", path, body), (202, format!("{{\"call_id\":\"{call_id}\"}}\n")));
        }
        let ordered = desk.ordered.take();
        let ordered: Vec<_> = ordered.iter().map(|(one, other)| (one.as_str(), other.as_str())).collect();
        assert_eq!(ordered, [("pbx", "+49 30 1"), ("k3vqhm2xw7ab", "sip:201@pbx"), ("k3vqhm2xw7ab", "4711#")]);
        let (status, text) = order(&desk, "POST", "/lines/cloud/dial", r#"{"target":"201"}"#);
        assert_eq!((status, text.as_str()), (409, "{\"error\":\"no such line; there are: pbx, tape (not cloud)\"}\n"));
        for (path, body, words) in [
            ("/lines/pbx/dial", "", r#"wanted a body such as {\"target\":\"201\"}"#),
            ("/lines/pbx/dial", r#"{"target":201}"#, "invalid type: integer"),
            ("/lines/pbx/dial", r#"{"target":"201","as":"202"}"#, "unknown field `as`"),
            ("/calls/k3vqhm2xw7ab/digits", r#"{"target":"201"}"#, r#"wanted a body such as {\"digits\":"#),
        ] {
            let (status, text) = order(&desk, "POST", path, body);
            assert!(status == 400 && text.contains(words), "{text}");
        }
        assert_eq!(order(&desk, "POST", "/lines/pbx/dial", &"1".repeat(5000)).0, 413);
        assert!(desk.ordered.borrow().is_empty());
    }

    #[test]
    fn drain_says_what_is_left() {
        let desk = Rc::new(FakeDesk::default());
        let (status, text) = ask(&desk, "POST", "/drain");
        assert!(desk.drained.get());
        assert_eq!(status, 202);
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap().calls.len(), 2);
    }

    #[test]
    fn looking_changes_nothing_and_what_is_not_there_is_said() {
        let desk = Rc::new(FakeDesk::default());
        for (method, path, status) in [
            ("GET", "/drain", 405),
            ("GET", "/calls/k3vqhm2xw7ab/hangup", 405),
            ("GET", "/calls/k3vqhm2xw7ab/transfer", 405),
            ("GET", "/calls/k3vqhm2xw7ab/digits", 405),
            ("GET", "/lines/pbx/dial", 405),
            ("POST", "/lines/pbx", 404),
            ("POST", "/status", 405),
            ("POST", "/calls", 405),
            ("POST", "/health", 405),
            ("GET", "/", 404),
            ("POST", "/calls//hangup", 404),
            ("POST", "/calls/k3vqhm2xw7ab", 404),
        ] {
            assert_eq!(ask(&desk, method, path).0, status, "{method} {path}");
        }
        assert!(!desk.drained.get() && desk.hung_up.borrow().is_empty());
    }
}
