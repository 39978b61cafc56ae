//! The least that this job can cost: AudioSocket to WebSocket and back, nothing else.
//!
//! No pacing, no cushion, no checks, no timeouts: what comes is carried on at once. It is a floor to compare with, not
//! something to run calls on. Use: `relay --listen ADDR --agent ADDR --dialect D [--ca FILE]`.

use std::{io, net::SocketAddr, path::Path, process::ExitCode, sync::Arc};

use rig::{
    args::Args,
    dialect::Dialect,
    line, tls, websocket,
    websocket::{Frame, Inbox},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("relay: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let args = Args::parse(std::env::args().skip(1), &["listen", "agent", "dialect", "ca"])?;
    let (agent, dialect) = (args.required("agent")?, args.required("dialect")?);
    let ca = args.text("ca").map(|ca| tls::client(Path::new(ca)).map_err(|why| why.to_string())).transpose()?;
    let listen: SocketAddr = args.required("listen")?;
    let listener = TcpListener::bind(listen).await.map_err(|why| why.to_string())?;
    loop {
        let (phone, _) = listener.accept().await.map_err(|why| why.to_string())?;
        let ca = ca.clone();
        tokio::spawn(async move {
            if let Err(why) = call(phone, agent, dialect, ca).await {
                eprintln!("relay: {why}");
            }
        });
    }
}

async fn call(phone: TcpStream, agent: SocketAddr, dialect: Dialect, ca: Option<Arc<ClientConfig>>) -> io::Result<()> {
    phone.set_nodelay(true)?;
    let trunk = TcpStream::connect(agent).await?;
    trunk.set_nodelay(true)?;
    match ca {
        None => relay(phone, trunk, agent, dialect).await,
        Some(ca) => {
            let trunk = TlsConnector::from(ca).connect(ServerName::from(agent.ip()), trunk).await?;
            relay(phone, trunk, agent, dialect).await
        }
    }
}

async fn relay<T>(phone: TcpStream, mut trunk: T, agent: SocketAddr, dialect: Dialect) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut inbox = Inbox::default();
    websocket::connect(&mut trunk, &mut inbox, &agent.to_string()).await?;
    let (phone_in, phone_out) = phone.into_split();
    let (trunk_in, trunk_out) = tokio::io::split(trunk);
    tokio::select! {
        ended = uplink(phone_in, trunk_out, dialect) => ended,
        ended = downlink(trunk_in, inbox, phone_out, dialect) => ended,
    }
}

async fn uplink(
    mut phone: impl AsyncRead + Unpin,
    mut trunk: impl AsyncWrite + Unpin,
    dialect: Dialect,
) -> io::Result<()> {
    let (mut message, mut out) = (Vec::new(), Vec::new());
    let (mut inbox, mut samples) = (Inbox::default(), Vec::new());
    for opening in dialect.opening() {
        websocket::write_frame(websocket::TEXT, opening.as_bytes(), Some(MASK), &mut out);
    }
    let mut number = 0;
    while inbox.fill(&mut phone).await? {
        let mut used = 0;
        while let Some((kind, payload, len)) = line::parse(&inbox.bytes()[used..]) {
            if kind == line::KIND_AUDIO {
                samples.clear();
                samples.extend(line::samples(payload));
                for chunk in samples.chunks(dialect.chunk()) {
                    number += 1;
                    message.clear();
                    dialect.write_audio(number, chunk, &mut message);
                    websocket::write_frame(dialect.opcode(), &message, Some(MASK), &mut out);
                }
            }
            used += len;
        }
        inbox.consume(used);
        if !out.is_empty() {
            trunk.write_all(&out).await?;
            trunk.flush().await?;
            out.clear();
        }
    }
    Ok(())
}

async fn downlink(
    mut trunk: impl AsyncRead + Unpin,
    mut inbox: Inbox,
    mut phone: impl AsyncWrite + Unpin,
    dialect: Dialect,
) -> io::Result<()> {
    let (mut samples, mut out) = (Vec::new(), Vec::new());
    while inbox.fill(&mut trunk).await? {
        let mut used = 0;
        while let Some(frame) = Frame::parse(&inbox.bytes()[used..]) {
            let message = &*frame.payload(&mut inbox.bytes()[used..]);
            used += frame.end;
            if frame.opcode == dialect.opcode()
                && let Some(audio) = dialect.audio(message)
            {
                dialect.decode(audio, &mut samples);
                line::write_audio(&samples, &mut out);
            }
        }
        inbox.consume(used);
        if !out.is_empty() {
            phone.write_all(&out).await?;
            out.clear();
        }
    }
    Ok(())
}

/// One key for all frames: drawing random ones is left out, applying them is not.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
