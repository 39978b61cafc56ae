//! Connections to sinks.

use core::time::Duration;
use std::sync::Arc;

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    config::Sink,
    leg::websocket::tls::{self, TlsError},
};

/// What bytes go over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Makes connections to one sink.
pub(super) struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    /// How long the whole may take.
    timeout: Duration,
}

impl Connector {
    /// Reads the certificates that it takes.
    pub(super) fn new(sink: &Sink) -> Result<Self, TlsError> {
        let url = &sink.at.url;
        let tls = if url.secure { Some(tls::client_config(sink.ca_file.as_deref())?) } else { None };
        Ok(Self { host: url.host.clone(), port: url.port, tls, timeout: sink.timeout })
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Name, TCP and TLS. The error is for people.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let connected = timeout(self.timeout, self.within_time()).await;
        connected.unwrap_or_else(|_| Err(format!("no connection in {} ms", self.timeout.as_millis())))
    }

    async fn within_time(&self) -> Result<Box<dyn Stream>, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| error.to_string())?;
        // A wish, not a need.
        let _ = stream.set_nodelay(true);
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| "no certificate can carry the name in the url".to_owned())?;
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name, stream).await.map_err(|error| tls::explain(&error))?;
        Ok(Box::new(stream))
    }
}
