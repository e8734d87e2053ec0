//! What the command `http` takes beside what all commands take.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    HttpOptions,
    request::{Request, RequestParts, Url},
};
use crate::{
    error::LoadError,
    target::Target,
    tls::{TlsClient, TlsVersion},
};

/// Source addresses of connections that take one request, unless told: ports in TIME_WAIT would run out.
const SOURCES: u32 = 200;

/// See the texts.
#[derive(Args, Clone, Debug)]
pub struct HttpArguments {
    /// http://HOST:PORT/PATH, with port 80 and path / where there is none, the same with https:// and port 443, whatever
    /// certificate the server has, or unix:PATH of a socket
    #[arg(long)]
    pub url: String,
    /// Path and query of requests, where --url has none; / unless told
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub conns: usize,
    /// Requests in flight on each connection; with --rate the most that may be
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub pipeline: u32,
    /// A new connection for each request, which says "Connection: close"
    #[arg(long)]
    pub new_connection: bool,
    /// Requests per second in all on a fixed schedule, latency counted from the moment a request was due (corrected for
    /// coordinated omission), and from when it went out beside it; without it the next request follows a response
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// GET, HEAD, POST ...
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub method: String,
    /// A field of the request; again for more of them
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Bytes of the request's body
    #[arg(long, value_name = "B", default_value_t = 0)]
    pub body_bytes: usize,
    /// Source addresses 127.0.0.2, 127.0.0.3 ... that are taken in turn, so that ports in TIME_WAIT do not run out (Linux
    /// loopback only); 0 leaves the address to the kernel; 200 with --new-connection unless told
    #[arg(long, value_name = "N")]
    pub sources: Option<u32>,
    /// Write all that a plot needs, percentiles and each second, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// What all commands take.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Allow an address that is not this machine's loopback.
    pub allow_remote: bool,
    /// See [`HttpOptions`].
    pub tolerate: bool,
    /// See [`HttpOptions`].
    pub progress: bool,
    /// See [`HttpOptions`].
    pub window: Duration,
    /// See [`HttpOptions`].
    pub warmup: Duration,
    /// See [`HttpOptions`].
    pub server_pid: Option<u32>,
}

impl HttpArguments {
    /// What they ask for.
    ///
    /// # Errors
    /// [`LoadError`] by the option's name.
    pub fn options(self, shared: Shared) -> Result<HttpOptions, LoadError> {
        let url = Url::read(&self.url, self.path.as_deref(), shared.allow_remote)?;
        let request = Request::build(&RequestParts {
            method: &self.method,
            url: &url,
            headers: &self.headers,
            body_bytes: self.body_bytes,
            closes: self.new_connection,
            copies: self.pipeline,
        })?;
        let sources = self.sources.unwrap_or(if self.new_connection { SOURCES } else { 0 });
        Ok(HttpOptions {
            target: Target {
                sources: Target::sources_possible(&url.addr, sources),
                addr: url.addr,
                tls: if url.tls { Some(TlsClient::new(TlsVersion::V1_3, false)?) } else { None },
            },
            request,
            connections: self.conns,
            pipeline: self.pipeline,
            new_connection: self.new_connection,
            rate_per_sec: self.rate,
            window: shared.window,
            warmup: shared.warmup,
            server_pid: shared.server_pid,
            tolerate: shared.tolerate,
            progress: shared.progress,
            out: self.out,
        })
    }
}
