//! Where Telnyx's webhooks come in. Nothing of one is read before its signature was checked, and it is answered at once:
//! what it leads to is done after.

use std::{cell::RefCell, io, net::SocketAddr};

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes},
};
use log::{debug, warn};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    clock,
    control::{
        messages,
        server::{Answer, BoxError, Door, body, json, only, refuse},
    },
    media::Now,
    telnyx::{
        event::Event,
        signature::{self, Doubt},
    },
    told::Told,
};

/// The receiver. It takes webhooks on every path: what is in front of it may have taken a part of the path away.
pub(super) struct Webhook<F> {
    listener: TcpListener,
    public_key: [u8; 32],
    take: F,
    refused: RefCell<Refused>,
}

impl<F: Fn(&Event) + 'static> Webhook<F> {
    /// `take` gets every event that Telnyx signed.
    pub(super) fn new(listener: TcpListener, public_key: [u8; 32], take: F) -> Self {
        Self { listener, public_key, take, refused: RefCell::default() }
    }

    async fn take<B>(&self, peer: SocketAddr, request: Request<B>) -> Result<Answer, Answer>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if request.method() != Method::POST {
            return Err(only("POST"));
        }
        let header = |name| request.headers().get(name).map(|value| value.as_bytes().to_owned());
        let (signed, at) = (header(signature::SIGNATURE), header(signature::TIMESTAMP));
        let bytes = body(request, MOST_BODY).await?;
        let now = i64::try_from(clock::epoch_ms() / 1000).unwrap_or(i64::MAX);
        if let Err(doubt) = signature::check(&self.public_key, signed.as_deref(), at.as_deref(), &bytes, now) {
            self.on_doubt(peer, doubt);
            return Err(refuse(StatusCode::FORBIDDEN, doubt));
        }
        match Event::parse(&bytes) {
            Ok(Some(event)) => {
                debug!(call_control_id = event.call, event_id = event.id, kind:? = event.kind; "webhook received");
                (self.take)(&event);
            }
            Ok(None) => debug!("a webhook was about nothing that matters here"),
            Err(error) => {
                // Telnyx signed it, and would only send it again.
                warn!(peer:%; "a webhook of Telnyx could not be understood: {error}");
                return Err(refuse(StatusCode::BAD_REQUEST, error));
            }
        }
        Ok(json(StatusCode::OK, &Taken { result: "ok" }))
    }

    fn on_doubt(&self, peer: SocketAddr, doubt: Doubt) {
        if let Some(webhooks) = self.refused.borrow_mut().count(doubt, clock::now()) {
            warn!(
                message_id = messages::TELNYX_WEBHOOK_REFUSED, peer:%, webhooks;
                "a webhook was refused: {doubt}"
            );
        }
    }
}

impl<F: Fn(&Event) + 'static> Door for Webhook<F> {
    type Stream = TcpStream;
    type Caller = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.listener.accept().await
    }

    async fn answer<B>(&self, peer: &SocketAddr, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        match self.take(*peer, request).await {
            Ok(answer) | Err(answer) => answer,
        }
    }
}

#[derive(Serialize)]
struct Taken {
    result: &'static str,
}

/// Whoever finds the port can have webhooks refused all day; each reason is told once a minute.
#[derive(Default)]
struct Refused([Told; 4]);

impl Refused {
    /// One more was refused; gives how many were since it was last told, when it is time to tell.
    fn count(&mut self, doubt: Doubt, now: Now) -> Option<u64> {
        let told = &mut self.0[match doubt {
            Doubt::Unsigned => 0,
            Doubt::Malformed => 1,
            Doubt::Stale(_) => 2,
            Doubt::Mismatch => 3,
        }];
        told.count(now)
    }
}

/// An event has 1 to 2 kB; custom SIP headers can make it longer.
const MOST_BODY: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_to_refuse_is_told_once_a_minute_with_how_often_it_was() {
        let mut refused = Refused::default();
        let at = Now::from_secs;
        assert_eq!(refused.count(Doubt::Mismatch, at(5)), Some(1));
        assert_eq!(refused.count(Doubt::Mismatch, at(6)), None);
        assert_eq!(refused.count(Doubt::Stale(400), at(6)), Some(1));
        assert_eq!(refused.count(Doubt::Stale(500), at(7)), None);
        assert_eq!(refused.count(Doubt::Mismatch, at(65)), Some(2));
    }
}
