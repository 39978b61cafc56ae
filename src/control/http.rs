//! The control port: `/health` and `/metrics`, for whoever watches the box. Reading only.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::debug;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::control::metrics::Metrics;

/// Serves until the listener fails. At most [`MOST_CONNECTIONS`] at once, each with [`HEAD_TIMEOUT`] for a request.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let seats = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: the calls come first, the watcher comes again.
                debug!(error:% = error; "the control port could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else { continue };
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<_>| {
                let answer = answer(request.method(), request.uri().path(), &metrics);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                debug!(peer:%, error:%; "a connection to the control port broke off");
            }
            drop(seat);
        });
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, "text/plain; version=0.0.4", metrics.text()),
        (&Method::GET | &Method::HEAD, "/health") => {
            (StatusCode::OK, "application/json", format!("{{\"status\":\"ok\",\"calls\":{}}}\n", metrics.live()))
        }
        (_, "/metrics" | "/health") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "here are /health and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

const MOST_CONNECTIONS: usize = 32;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_and_metrics_are_there_and_nothing_else() {
        let metrics = Metrics::default();
        assert_eq!(answer(&Method::GET, "/health", &metrics).status(), StatusCode::OK);
        assert_eq!(answer(&Method::GET, "/metrics", &metrics).status(), StatusCode::OK);
        assert_eq!(answer(&Method::POST, "/metrics", &metrics).status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer(&Method::GET, "/", &metrics).status(), StatusCode::NOT_FOUND);
    }
}
