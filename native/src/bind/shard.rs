//! A shard's native half, as its thread's JavaScript holds it.

use super::hot_calls::HotCalls;
use super::javascript::{Bindings, View, element, property, uv_loop};
use super::{NativeAddress, POLL_CONTROL, SystemFailure, address_value};
use crate::connection::Handle;
use crate::engine::mio::MioEngine;
use crate::engine::tokio::TokioEngine;
use crate::engine::{SocketEngine, Start};
use crate::error::During;
use crate::guardian;
use crate::host::Host;
use crate::link::ShardLink;
use crate::malloc;
use crate::metrics;
use crate::net::addresses::{Address, Peer};
use crate::net::{connect, listen, options};
use crate::ring::{SLABS, SharedMemory};
use crate::shard::ServerLimits;
use crate::write_queue::FileRange;
use napi::bindgen_prelude::*;
use napi_derive::napi;
use socket2::SockAddr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Instant;

/// How a server's connections start.
#[napi(object)]
pub struct NativeServerLimits {
    /// High watermark.
    pub write_high_bytes: u32,
    /// Low watermark.
    pub write_low_bytes: u32,
    /// Most bytes that one connection may queue.
    pub write_max_bytes: u32,
    /// Milliseconds without activity; 0 for no limit.
    pub idle_timeout_ms: u32,
    /// Whether the shard may rest between small batches.
    pub moderation: bool,
    /// Token of its TLS; 0 for none.
    pub tls: u32,
    /// Connections begin without TLS, and get it by `startTls`.
    pub tls_upgrade: bool,
}

/// One engine, nested in this thread's libuv loop.
#[napi]
pub struct NativeShard {
    pub(super) host: Rc<Host>,
    bindings: Rc<Bindings>,
    /// How other threads know it, when a supervisor has it.
    link: Option<Arc<ShardLink>>,
}

#[napi]
impl NativeShard {
    /// Takes the shared memory and the function that handles a batch; see `src/workers/shard-loop.ts`.
    #[napi(
        constructor,
        catch_unwind,
        ts_args_type = "options: { engine: string, metrics: number, supervised: boolean, control: Int32Array, events: Int32Array, commands: Int32Array, writeSlab: Uint8Array, slabs: readonly Uint8Array[], drain: () => void, closed: () => void }"
    )]
    pub fn new(env: Env, options: Object<'_>) -> Result<Self> {
        let token: u32 = options.get_named_property("metrics")?;
        let supervised: bool = options.get_named_property("supervised")?;
        let engine: String = options.get_named_property("engine")?;
        let (env, options) = (env.raw(), options.raw());
        let view = |name| View::of(env, property(env, options, name)?);
        let (control, events, commands) = (view(c"control")?, view(c"events")?, view(c"commands")?);
        let write_slab = view(c"writeSlab")?;
        let array = property(env, options, c"slabs")?;
        let slabs = (0..SLABS).map(|i| View::of(env, element(env, array, i)?)).collect::<Result<Vec<_>>>()?;
        let metrics = metrics::find(token)
            .ok_or_else(|| Error::new(Status::InvalidArg, format!("no counters have the token {token}")))?;
        let link = supervised.then(|| Arc::new(ShardLink::new(token, metrics.clone())));
        malloc::give_back_at_end();
        let name = engine;
        let engine = make_engine(&name, &metrics, link.clone())?;
        // SAFETY: the values are handles of this call's scope.
        let bindings = unsafe {
            Bindings::new(
                env,
                options,
                property(env, options, c"drain")?,
                property(env, options, c"closed")?,
                &[&control, &events, &commands, &write_slab],
                &slabs,
            )?
        };
        // SAFETY: the bindings keep every buffer referenced until the host is closed; only slabs are ever reachable by
        // users, and those are checked for detachment. The regions are used on this thread only, by the host.
        let memory = unsafe {
            let mut regions = slabs.iter().map(|slab| slab.region());
            let slabs =
                std::array::from_fn(|_| regions.next().expect("as many slabs as places were collected"));
            SharedMemory::new(
                control.region(),
                events.region(),
                commands.region(),
                write_slab.region(),
                slabs,
            )
        };
        let bindings = Rc::new(bindings);
        if let Some(link) = &link {
            guardian::join(link.clone());
        }
        // SAFETY: the loop is this thread's.
        let host =
            unsafe { Host::new(uv_loop(env)?, engine, memory, bindings.clone(), metrics, link.clone()) };
        let host = host.map_err(|error| {
            if let Some(link) = &link {
                guardian::leave(link, Vec::new());
            }
            Error::new(Status::GenericFailure, error)
        })?;
        // SAFETY: the host lives until its handles are closed, which removes the hook.
        if let Err(error) = unsafe { bindings.close_at_exit(Rc::as_ptr(&host)) } {
            host.close();
            return Err(error);
        }
        log::debug!(engine = name.as_str(); "the engine is open");
        Ok(Self { host, bindings, link })
    }

    /// Makes a server known, before `listen`; `number` is its number in the process, 0 for one that only this thread knows. Throws, and
    /// knows nothing of it, when its TLS configuration is closed.
    #[napi(catch_unwind)]
    pub fn add_server(&self, server: u16, number: u32, limits: NativeServerLimits) -> Result<()> {
        let security = super::tls::security(limits.tls, limits.tls_upgrade)?;
        self.host.allow_moderation(server, limits.moderation);
        let limits = ServerLimits {
            write_high_bytes: limits.write_high_bytes,
            write_low_bytes: limits.write_low_bytes,
            write_max_bytes: limits.write_max_bytes as usize,
            idle_timeout_ms: limits.idle_timeout_ms,
        };
        self.host.with_engine(|engine| {
            engine.add_server(server, number, limits);
            if let Some(security) = security {
                engine.secure_server(server, security);
            }
        });
        Ok(())
    }

    /// Accepts from a listener; null when it does.
    #[napi(catch_unwind)]
    pub fn listen(&self, server: u16, listener: u32) -> Option<SystemFailure> {
        let Some(listener) = listen::find(listener) else {
            return Some(SystemFailure::new("listen", &io::Error::from_raw_os_error(libc::EBADF)));
        };
        let result = self.host.with_engine(|engine| engine.listen(server, listener));
        let result = result.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ESHUTDOWN)));
        result.err().map(|error| SystemFailure::new(POLL_CONTROL, &error))
    }

    /// The shard serves the server of that number, and listens on these: whoever took their place lets go.
    #[napi(catch_unwind)]
    pub fn serves(&self, number: u32, listeners: Vec<u32>) {
        if let Some(link) = &self.link {
            guardian::serve(link, number, &listeners);
        }
    }

    /// Accepts what waits in a server's queues, then no more. How many connections the server had in all; each of them
    /// is or will be announced. Null when the shard is closed, which announces no more.
    #[napi(catch_unwind)]
    pub fn unlisten(&self, server: u16, number: u32) -> Option<f64> {
        if let Some(link) = &self.link {
            guardian::resign(link, number);
        }
        self.host
            .with_engine(|engine| engine.unlisten(Instant::now(), server))
            .map(|accepted| accepted as f64)
    }

    /// Forgets a server that does not listen and has no connection (any more); its number may be used again.
    #[napi(catch_unwind)]
    pub fn remove_server(&self, server: u16) {
        self.host.allow_moderation(server, true);
        self.host.with_engine(|engine| engine.remove_server(server));
    }

    /// The calls on the path of bytes. `flush` applies the commands in the ring; `write` does too, then sends large
    /// data at once and copies the rest; `replaceSlab` puts another slab in the place of a retired one, once no command
    /// refers to the old one, and returns how many replaced slabs are followed; `peer` tells a connection's peer, as family,
    /// port and address with spaces between (`Unix` for a Unix socket), until the connection's end was handled. `connect`
    /// begins a connection on behalf of a server of this thread's own, to an IP address and port, or, with port -1, to the
    /// name of a Unix socket; `local` is an IP address to come from, `switches` has 1 for TCP_NODELAY and 2 for
    /// SO_KEEPALIVE. One event follows.
    #[napi(
        catch_unwind,
        ts_return_type = "{ flush: () => void, write: (handle: number, data: Uint8Array) => void, replaceSlab: (index: number, slab: Uint8Array) => number, peer: (handle: number) => string | null, connect: (request: number, server: number, address: string, port: number, local: string, localPort: number, switches: number) => void }"
    )]
    pub fn hot_calls(&self, env: Env) -> Result<Object<'_>> {
        let calls = HotCalls { host: self.host.clone(), bindings: self.bindings.clone() };
        Ok(Object::from_raw(env.raw(), calls.into_object(env.raw())?))
    }

    /// As `write`, but the rest is referred to. False when the connection is gone.
    #[napi(catch_unwind, ts_args_type = "handle: number, data: Uint8Array")]
    pub fn write_owned(&self, handle: i32, data: Unknown<'_>) -> Result<bool> {
        let (pin, length) = self.bindings.pin(data.raw())?;
        Ok(self.host.write_pinned(Handle::from_word(handle), pin, length))
    }

    /// Sends `count` bytes of a file from `offset` on, or all to its end for a negative count; an event tells of it. The
    /// descriptor stays the caller's. Null when it is begun.
    #[napi(catch_unwind)]
    pub fn send_file(&self, handle: i32, fd: i32, offset: i64, count: i64) -> Option<SystemFailure> {
        // SAFETY: JavaScript's caller keeps its file open for the length of this call; a closed one is EBADF.
        let duplicate = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
        if duplicate < 0 {
            return Some(SystemFailure::new("fcntl", &io::Error::last_os_error()));
        }
        // SAFETY: it is new, and ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(duplicate) };
        let offset = offset.unsigned_abs();
        let end = u64::try_from(count).map_or(u64::MAX, |count| offset.saturating_add(count));
        self.host.send_file(Handle::from_word(handle), FileRange { fd, offset, end, sent: 0 });
        None
    }

    /// By which broadcasts know its connections.
    #[napi(catch_unwind)]
    pub fn seat(&self) -> i32 {
        self.host.inspect(|engine| engine.seat_number() as i32).unwrap_or(-1)
    }

    /// A connection gets what is broadcast to a topic from now on; null when that is so.
    #[napi(catch_unwind)]
    pub fn subscribe(&self, handle: i32, topic: String) -> Option<SystemFailure> {
        let subscribed =
            self.host.with_engine(|engine| engine.subscribe(Handle::from_word(handle), topic.into()));
        subscribed?.err().map(|error| SystemFailure::new("eventfd", &error))
    }

    /// It does not any more.
    #[napi(catch_unwind)]
    pub fn unsubscribe(&self, handle: i32, topic: String) {
        self.host.with_engine(|engine| engine.unsubscribe(Handle::from_word(handle), topic.into()));
    }

    /// Bytes of a connection that are not sent yet.
    #[napi(catch_unwind)]
    pub fn buffered_bytes(&self, handle: i32) -> i64 {
        self.host.buffered_bytes(Handle::from_word(handle)) as i64
    }

    /// How many slabs that were replaced may still be kept by a chunk; exact when more than `limit`.
    #[napi(catch_unwind)]
    pub fn retained_slabs(&self, limit: u32) -> u32 {
        self.bindings.retained_slabs(limit as usize) as u32
    }

    /// Our address.
    #[napi(catch_unwind)]
    pub fn local_address(&self, handle: i32) -> Either3<NativeAddress, String, SystemFailure> {
        let look = |fd: BorrowedFd<'_>| socket2::SockRef::from(&fd).local_addr();
        self.address(handle, "getsockname", look)
    }

    /// The peer's address, asked of the kernel.
    #[napi(catch_unwind)]
    pub fn peer_address(&self, handle: i32) -> Either3<NativeAddress, String, SystemFailure> {
        let look = |fd: BorrowedFd<'_>| socket2::SockRef::from(&fd).peer_addr();
        self.address(handle, "getpeername", look)
    }

    /// Begins with a socket that is connected already, on behalf of a server of this thread's own; as `connect`. Its
    /// descriptor is the shard's from now on, or, by `duplicate`, a duplicate of it is. Null when that is so.
    #[napi(catch_unwind)]
    pub fn adopt(&self, request: u32, server: u16, fd: i32, duplicate: bool) -> Option<SystemFailure> {
        // SAFETY: a question that a closed descriptor answers by EBADF.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Some(SystemFailure::new("fcntl", &io::Error::last_os_error()));
        }
        // SAFETY: it is open; whose it is, is JavaScript's word: its caller gives it away, or keeps it open for this call.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let taken = if duplicate {
            let clone = owned.try_clone();
            _ = owned.into_raw_fd(); // stays the caller's
            clone.during("fcntl").and_then(|fd| connect::inspect(&fd).map(|peer| (fd, peer)))
        } else {
            match connect::inspect(&owned) {
                Ok(peer) => Ok((owned, peer)),
                Err(error) => {
                    _ = owned.into_raw_fd(); // as above: it was not taken
                    Err(error)
                }
            }
        };
        match taken {
            Ok((fd, peer)) => {
                let start = Start::With(fd, Peer::from(&peer));
                self.host.with_engine(|engine| engine.connect(Instant::now(), request, server, start));
                None
            }
            Err(error) => Some(error.into()),
        }
    }

    /// Calls a request off; unless its event is on its way it says ECANCELED.
    #[napi(catch_unwind)]
    pub fn cancel_connect(&self, request: u32) {
        self.host.with_engine(|engine| engine.cancel_connect(request));
    }

    /// The descriptor's number; -1 once closed.
    #[napi(catch_unwind)]
    pub fn descriptor(&self, handle: i32) -> i32 {
        self.with_socket(handle, |fd| Ok(fd.as_raw_fd())).unwrap_or(-1)
    }

    /// Whether a descriptor is that of one of its connections or listeners.
    #[napi(catch_unwind)]
    pub fn uses(&self, fd: i32) -> bool {
        self.host.with_engine(|engine| engine.uses(fd)).unwrap_or(false)
    }

    /// A socket option, as a number.
    #[napi(catch_unwind)]
    pub fn get_option(&self, handle: i32, name: String) -> Either<u32, SystemFailure> {
        let result = self.with_socket(handle, move |fd| options::read(fd.as_fd(), &name));
        result.map_or_else(|error| Either::B(SystemFailure::new("getsockopt", &error)), Either::A)
    }

    /// Sets a socket option; null when it is set.
    #[napi(catch_unwind)]
    pub fn set_option(&self, handle: i32, name: String, value: u32) -> Option<SystemFailure> {
        let result = self.with_socket(handle, move |fd| options::write(fd.as_fd(), &name, value));
        result.err().map(|error| SystemFailure::new("setsockopt", &error))
    }

    /// JavaScript of this thread ends: applies the commands in the ring, and leaves what is new to other shards.
    #[napi(catch_unwind)]
    pub fn retire(&self) {
        self.host.retire();
    }

    /// Closes everything; `closed` is called when it is done. Graceful: connections that are closed already get the
    /// time that their last bytes need.
    #[napi(catch_unwind)]
    pub fn close(&self, graceful: bool) {
        if graceful {
            self.host.close_when_quiet();
        } else {
            self.host.close();
        }
    }

    /// Panics in native code, as a defect would. Only tests call it: nothing that a peer or a user does may panic.
    #[napi(catch_unwind)]
    pub fn panic(&self) {
        self.host.with_engine(|_| panic!("a test asked for it"));
    }

    fn address(
        &self,
        handle: i32,
        syscall: &str,
        look: impl FnOnce(BorrowedFd<'_>) -> io::Result<SockAddr> + Send + 'static,
    ) -> Either3<NativeAddress, String, SystemFailure> {
        match self.with_socket(handle, look).map(|address| address_value(&Address::of(&address))) {
            Ok(Either::A(address)) => Either3::A(address),
            Ok(Either::B(name)) => Either3::B(name),
            Err(error) => Either3::C(SystemFailure::new(syscall, &error)),
        }
    }

    fn with_socket<T: Send + 'static>(
        &self,
        handle: i32,
        look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, result) = mpsc::channel();
        let look = Box::new(move |fd: BorrowedFd<'_>| _ = sender.send(look(fd)));
        self.host.with_engine(|engine| engine.with_socket(Handle::from_word(handle), look));
        // Nothing was sent when there is no such socket.
        result.try_recv().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EBADF)))
    }
}

impl NativeShard {
    /// What its other methods work on.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }
}

fn make_engine(
    name: &str,
    metrics: &Arc<metrics::Metrics>,
    link: Option<Arc<ShardLink>>,
) -> Result<Box<dyn SocketEngine>> {
    match name {
        "mio" => MioEngine::open(metrics.clone(), link)
            .map(|engine| Box::new(engine) as Box<dyn SocketEngine>)
            .map_err(|error| Error::new(Status::GenericFailure, format!("cannot open a poll: {error}"))),
        "tokio" => TokioEngine::open(metrics.clone(), link)
            .map(|engine| Box::new(engine) as Box<dyn SocketEngine>)
            .map_err(|error| {
                Error::new(Status::GenericFailure, format!("cannot start a tokio runtime: {error}"))
            }),
        _ => {
            Err(Error::new(Status::InvalidArg, format!("there is no engine {name:?}; available: mio, tokio")))
        }
    }
}
