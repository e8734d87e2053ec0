//! The native calls on the path of bytes and connections, as plain Node-API functions.
//!
//! A method of a napi-rs class looks its object up, checks the object's type and lends a typed array through a table
//! with references and locks: 1.2 µs a call on the machine of the README's figures, a third of the user time that an
//! echo of 16 KiB took. Here what a call works on is the function's own data.

use super::functions::{self, integer, returned};
use super::javascript::{Bindings, View};
use crate::connection::Handle;
use crate::engine::Start;
use crate::host::Host;
use crate::limits::ADDRESS_MAX_BYTES;
use crate::net::addresses::{self, Address, Peer};
use crate::net::connect::Target;
use crate::ring::SLABS;
use napi::bindgen_prelude::{Error, Result, Status, check_status};
use napi::sys;
use std::net::{IpAddr, ToSocketAddrs};
use std::ptr;
use std::rc::Rc;
use std::time::Instant;

/// What the calls work on.
pub struct HotCalls {
    /// The shard. Once it is closed, `flush` and `write` drop what they are given, and `peer` knows nobody.
    pub host: Rc<Host>,
    /// What it holds of JavaScript.
    pub bindings: Rc<Bindings>,
}

impl HotCalls {
    /// An object with `flush`, `write`, `replaceSlab`, `peer` and `connect`. The functions may outlive the shard.
    pub fn into_object(self, env: sys::napi_env) -> Result<sys::napi_value> {
        let calls = Rc::new(self);
        let functions = [
            (c"flush", flush as functions::Callback),
            (c"write", write),
            (c"replaceSlab", replace_slab),
            (c"peer", peer),
            (c"connect", connect),
        ];
        // SAFETY: these callbacks take their data by `functions::arguments`, as this type, on the shard's thread.
        unsafe { functions::object(env, &calls, &functions) }
    }
}

/// As [`functions::arguments`]; counts the call.
///
/// # Safety
/// As there.
// SAFETY: every caller is a callback below.
unsafe fn arguments<'a, const COUNT: usize>(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> ([sys::napi_value; COUNT], &'a HotCalls) {
    // SAFETY: by the caller.
    let (values, calls) = unsafe { functions::arguments::<HotCalls, COUNT>(env, info) };
    calls.host.count_call();
    (values, calls)
}

/// Room for a text of bounded length and the zero behind it.
type Text = [u8; ADDRESS_MAX_BYTES + 1];

/// A text in UTF-8, written into `bytes`.
fn text(env: sys::napi_env, value: sys::napi_value, bytes: &mut Text) -> Result<&[u8]> {
    let mut length = 0;
    // SAFETY: a handle of the current scope; Node writes as many bytes as there is room for, and a zero behind them.
    check_status!(unsafe {
        sys::napi_get_value_string_utf8(env, value, bytes.as_mut_ptr().cast(), bytes.len(), &mut length)
    })?;
    Ok(&bytes[..length])
}

/// An IP address, which may have a zone behind a percent sign, and a port.
pub fn ip(address: &[u8], port: u16) -> Result<Address> {
    let refused = || Error::new(Status::InvalidArg, "expected an IP address");
    let text = std::str::from_utf8(address).map_err(|_| refused())?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Address::Ip((address, port).into()));
    }
    // An interface's name has to be looked up; nothing else is, for names are resolved before they come here.
    let mut found = (text, port).to_socket_addrs().ok().filter(|_| text.contains('%')).ok_or_else(refused)?;
    found.next().map(Address::Ip).ok_or_else(refused)
}

/// `flush()`: applies the commands in the ring. Whoever calls it holds the rings: a closed shard does not.
// SAFETY: called by Node only, on the shard's thread, as the callback of a function that `function` made.
unsafe extern "C" fn flush(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: Node calls with the information of this call.
    let ([], HotCalls { host, .. }) = unsafe { arguments(env, info) };
    host.guarded(|| host.flush());
    ptr::null_mut()
}

/// `write(handle, data)`: applies the commands in the ring, then sends data at once; the rest is copied.
// SAFETY: as `flush`.
unsafe extern "C" fn write(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `flush`.
    let ([handle, data], HotCalls { host, .. }) = unsafe { arguments(env, info) };
    let send = || {
        let (handle, view) = (Handle::from_word(integer(env, handle)?), View::of(env, data)?);
        // JavaScript runs within `write` only to be told of a panic, after which the bytes are not touched.
        // SAFETY: the view is of an argument of this call, on the shard's thread.
        host.write(handle, unsafe { view.bytes() });
        Ok(ptr::null_mut())
    };
    returned(env, host.guarded(send))
}

/// `replaceSlab(index, slab)`: another slab in the place of a retired one, once no command refers to the old one.
/// Returns how many replaced slabs are followed, of which some may be collected by now.
// SAFETY: as `flush`.
unsafe extern "C" fn replace_slab(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `flush`.
    let ([index, slab], HotCalls { host, bindings }) = unsafe { arguments(env, info) };
    let replace = || {
        let index = usize::try_from(integer(env, index)?).ok().filter(|&index| index < SLABS);
        let index = index.ok_or_else(|| Error::new(Status::InvalidArg, "there is no such slab"))?;
        let view = View::of(env, slab)?;
        // A closing shard (a callback of this batch met a panic) reads no more, and its references may be gone.
        let mut followed = 0;
        if !host.is_closing() {
            followed = bindings.replace_slab(index, &view)?;
            // SAFETY: the bindings refer to the buffer from now on, until the host is closed or the slab is replaced.
            // It is used on this thread only, and checked for detachment.
            host.replace_slab(index, unsafe { view.region() });
        }
        let mut result = ptr::null_mut();
        // SAFETY: a plain call.
        check_status!(unsafe { sys::napi_create_uint32(env, followed as u32, &mut result) })?;
        Ok(result)
    };
    returned(env, host.guarded(replace))
}

/// `peer(handle)`: the peer's family, port and address in one string, for an object of three would take a tenth of what
/// a short connection costs. Null once the connection's end was handled.
// SAFETY: as `flush`.
unsafe extern "C" fn peer(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `flush`.
    let ([handle], HotCalls { host, .. }) = unsafe { arguments(env, info) };
    let look = || {
        let handle = Handle::from_word(integer(env, handle)?);
        let peer = host.inspect(|engine| engine.peer(handle)).flatten();
        let text = peer.and_then(|peer| match peer {
            Peer::Ip(peer) => {
                let (address, family, port) = addresses::parts(peer);
                Some(format!("{family} {port} {address}"))
            }
            Peer::Unix | Peer::NamedUnix => Some("Unix".into()),
            Peer::Writer | Peer::Reader => None,
        });
        let mut result = ptr::null_mut();
        // SAFETY: plain calls; the text is copied.
        unsafe {
            check_status!(match text {
                Some(text) => sys::napi_create_string_latin1(
                    env,
                    text.as_ptr().cast(),
                    text.len() as isize,
                    &mut result
                ),
                None => sys::napi_get_null(env, &mut result),
            })?;
        }
        Ok(result)
    };
    returned(env, host.guarded(look))
}

/// `connect(request, server, address, port, local, localPort, switches)`: begins a connection; see `NativeShard::hot_calls`.
// SAFETY: as `flush`.
unsafe extern "C" fn connect(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `flush`.
    let ([request, server, address, port, local, local_port, switches], HotCalls { host, .. }) =
        unsafe { arguments(env, info) };
    let begin = || {
        let mut room: (Text, Text) = ([0; _], [0; _]);
        let (name, local) = (text(env, address, &mut room.0)?, text(env, local, &mut room.1)?);
        let address = match u16::try_from(integer(env, port)?) {
            Ok(port) => ip(name, port)?,
            Err(_) => Address::Unix(name.to_vec()),
        };
        let local = if local.is_empty() { None } else { Some(ip(local, integer(env, local_port)? as u16)?) };
        let switches = integer(env, switches)?;
        let (no_delay, keep_alive) = (switches & 1 != 0, switches & 2 != 0);
        let start = Start::To(Box::new(Target { address, local, no_delay, keep_alive }));
        let (request, server) = (integer(env, request)? as u32, integer(env, server)? as u16);
        host.with_engine(|engine| engine.connect(Instant::now(), request, server, start));
        Ok(ptr::null_mut())
    };
    returned(env, host.guarded(begin))
}
