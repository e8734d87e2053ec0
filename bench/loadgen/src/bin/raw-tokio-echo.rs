//! The ceiling of the tokio engine: an echo server as one writes it with tokio. A current-thread runtime, a task for each
//! connection, which reads into a buffer of its own and writes all of it before it reads again.
//!
//! Ends on SIGTERM by the signal's default action: there is nothing to clean up.

use std::{io, process::ExitCode};

use clap::Parser;
use loadgen::raw_server::{self, Listen, announce};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    runtime::Builder,
};

/// Bytes that a connection reads at once: twice the largest message of the benchmark, for only a read that leaves room
/// tells tokio that there is no more, and saves the call that would find nothing. Each connection has such a buffer, so it
/// is not larger.
const READ_BUFFER_BYTES: usize = 32 * 1024;

/// Echo server on bare tokio, the ceiling of the benchmark for the tokio engine.
#[derive(Parser)]
#[command(version, name = "raw-tokio-echo")]
struct Cli {
    #[command(flatten)]
    listen: Listen,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let served = Builder::new_current_thread()
        .enable_io()
        .build()
        .and_then(|runtime| runtime.block_on(serve(&cli.listen)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raw-tokio-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Accepts without end; returns only with the listener's error.
async fn serve(listen: &Listen) -> io::Result<()> {
    let (bound, addr) = listen.bind()?;
    match bound {
        raw_server::Listener::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            announce(&addr, "raw-tokio");
            loop {
                if let Some((stream, _)) = accepted(listener.accept().await)? {
                    // A client that has reset already makes this fail; the read will see it too.
                    let _ = stream.set_nodelay(true);
                    spawn_echo(stream);
                }
            }
        }
        raw_server::Listener::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            announce(&addr, "raw-tokio");
            loop {
                if let Some((stream, _)) = accepted(listener.accept().await)? {
                    spawn_echo(stream);
                }
            }
        }
    }
}

/// None for a connection that its client took back while it was queued.
fn accepted<Accepted>(result: io::Result<Accepted>) -> io::Result<Option<Accepted>> {
    match result {
        Ok(accepted) => Ok(Some(accepted)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
        Err(error) => Err(error),
    }
}

fn spawn_echo(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    tokio::spawn(async move {
        // An error of one connection is that connection's end; a benchmark's client sees it.
        let _ = echo(stream).await;
    });
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
    }
}
