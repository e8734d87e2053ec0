//! The ceiling of the tokio engine: an echo server as one writes it with tokio. A current-thread runtime, a task for each
//! connection, which reads into a buffer of its own and writes all of it before it reads again.
//!
//! Ends on SIGTERM by the signal's default action: there is nothing to clean up.

use std::{io, process::ExitCode};

use clap::Parser;
use loadgen::raw_server::{Listen, announce};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
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
    let listener = TcpListener::from_std(listen.bind()?)?;
    announce(listener.local_addr()?, "raw-tokio");
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        tokio::spawn(async move {
            // An error of one connection is that connection's end; a benchmark's client sees it.
            let _ = echo(stream).await;
        });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    // A client that has reset already makes this fail; the read will see it too.
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
    }
}
