//! The ceiling of TLS: raw-tokio-echo with tokio-rustls around its sockets. Sessions are resumed by tickets, as node:tls does
//! it, which cost the server no memory.
//!
//! Ends on SIGTERM by the signal's default action: there is nothing to clean up.

use std::{error::Error, io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use loadgen::{
    limits::reserve_descriptors,
    raw_server::{announce_with, bind_tcp},
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{self, Ticketer},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
};
use tokio_rustls::TlsAcceptor;

/// As raw-tokio-echo has it: twice the largest message of the benchmark.
const READ_BUFFER_BYTES: usize = 32 * 1024;

/// Echo server on bare tokio and rustls, the ceiling of the benchmark of TLS.
#[derive(Parser)]
#[command(version, name = "raw-tokio-rustls-echo")]
struct Cli {
    /// IP address and port to listen on; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// Its certificate, as PEM
    #[arg(long)]
    tls_cert: PathBuf,
    /// The certificate's key, as PEM
    #[arg(long)]
    tls_key: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raw-tokio-rustls-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(&cli.tls_cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&cli.tls_key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = Ticketer::new()?;
    // Raises the limit as far as it goes; how many connections will come is not known here.
    reserve_descriptors(0)?;
    let runtime = Builder::new_current_thread().enable_io().build()?;
    Ok(runtime.block_on(serve(cli.addr, TlsAcceptor::from(Arc::new(config))))?)
}

/// Accepts without end; returns only with the listener's error.
async fn serve(addr: SocketAddr, acceptor: TlsAcceptor) -> io::Result<()> {
    let listener = TcpListener::from_std(bind_tcp(addr)?)?;
    announce_with("tls://", &listener.local_addr()?.into(), "raw-tokio-rustls");
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Its client took it back while it was queued.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // An error of one connection is that connection's end; a benchmark's client sees it.
            let _ = echo(acceptor, stream).await;
        });
    }
}

async fn echo(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..length]).await?;
        stream.flush().await?;
    }
}
