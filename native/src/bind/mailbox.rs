//! A thread's mailbox, as its JavaScript holds it; see `mail.rs` and `mailbox.rs`.

use super::callbacks::Callbacks;
use super::functions::{self, contained, integer, number, returned};
use super::javascript::{View, property, uv_loop};
use super::{SystemFailure, libuv};
use crate::abi;
use crate::mail::{Addressee, Inbox, Mail};
use crate::mailbox::{self, Grant, Parcel};
use crate::nested::{Drained, Nested};
use napi::bindgen_prelude::*;
use napi::sys;
use napi_derive::napi;
use std::ptr;
use std::rc::Rc;

/// One mailbox, nested in this thread's libuv loop.
#[napi]
pub struct NativeMailbox {
    mail: Rc<Mail>,
}

#[napi]
impl NativeMailbox {
    /// By which other threads know it.
    #[napi(getter, catch_unwind)]
    pub fn address(&self) -> u32 {
        self.mail.address()
    }

    /// Whether it keeps the loop alive.
    #[napi(catch_unwind)]
    pub fn keep_alive(&self, alive: bool) {
        self.mail.keep_alive(alive);
    }

    /// A mailbox is gone: what room this thread had there is forgotten.
    #[napi(catch_unwind)]
    pub fn forget(&self, address: u32) {
        self.mail.correspondence(|correspondence| correspondence.forget(address));
    }

    /// Closes everything; `closed` is called when it is done. Idempotent.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.mail.close();
    }

    /// The calls on the path of messages. `reserve` asks for room for so many bytes more: how many there are now; 0 when the
    /// mailbox is full, -1 when it is gone. `send` sends the first `length` bytes of messages, which cost so much of that room
    /// (0 for answers, for which none is needed); false when the mailbox is gone. `sendLarge` sends one message without its
    /// payload, and the payload. `takeLarge` gives the payload of the next such message in the inbox.
    #[napi(
        catch_unwind,
        ts_return_type = "{ reserve: (address: number, bytes: number) => number, send: (address: number, messages: Uint8Array, length: number, cost: number) => boolean, sendLarge: (address: number, message: Uint8Array, payload: Uint8Array, cost: number) => boolean, takeLarge: () => Buffer }"
    )]
    pub fn hot_calls(&self, env: Env) -> Result<Object<'_>> {
        let functions = [
            (c"reserve", reserve as functions::Callback),
            (c"send", send),
            (c"sendLarge", send_large),
            (c"takeLarge", take_large),
        ];
        // SAFETY: these callbacks take their data by `functions::arguments`, as this type, on this thread.
        let object = unsafe { functions::object(env.raw(), &self.mail, &functions)? };
        Ok(Object::from_raw(env.raw(), object))
    }
}

/// The address of who is at a place: a shard's number, or PLACE_SUPERVISOR; 0 when nobody is.
#[napi(catch_unwind)]
pub fn mailbox_at(place: i32) -> u32 {
    mailbox::at(place).unwrap_or(0)
}

/// The numbers of all shards, in their order, each with its address behind it.
#[napi(catch_unwind)]
pub fn shard_mailboxes() -> Vec<u32> {
    mailbox::shards().into_iter().flat_map(|(place, address)| [place as u32, address]).collect()
}

/// The number of a function's name, the same in all threads; 0 when nobody has exposed such a function yet. With `make` it
/// gets one then, unless there are NAMES_MAX already.
#[napi(catch_unwind)]
pub fn name_number(name: String, make: bool) -> u32 {
    mailbox::name(&name, make).unwrap_or(0)
}

/// Opens a mailbox for this thread at a place (PLACE_NONE for none). `control` (MAIL_CONTROL_WORDS) and `inbox`
/// (MAIL_INBOX_BYTES) are where messages come, of which `read` is called; `closed` when nothing native is left after `close`.
#[napi(
    catch_unwind,
    ts_args_type = "options: { place: number, control: Int32Array, inbox: Uint8Array, read: () => void, closed: () => void }"
)]
pub fn open_mailbox(env: Env, options: Object<'_>) -> Result<Either<NativeMailbox, SystemFailure>> {
    let place: i32 = options.get_named_property("place")?;
    let (env, options) = (env.raw(), options.raw());
    let control = View::of(env, property(env, options, c"control")?)?;
    let inbox = View::of(env, property(env, options, c"inbox")?)?;
    let uv = libuv()?;
    let callbacks = Callbacks::of(env, options, c"read", &[&control, &inbox])?;
    // SAFETY: the loop is this thread's; the callbacks keep the memory, which users cannot reach, until the mailbox is closed.
    let opened = unsafe {
        let inbox = Inbox { control: control.region(), bytes: inbox.region() };
        Mail::open(uv, uv_loop(env)?, place, inbox, callbacks.clone())
    };
    Ok(match callbacks.opened(opened)? {
        Either::A(mail) => Either::A(NativeMailbox { mail }),
        Either::B(failure) => Either::B(failure),
    })
}

// SAFETY: called by Node only, on the mailbox's thread, as the callback of a function of `hot_calls`; as all below.
unsafe extern "C" fn reserve(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: Node calls with the information of this call.
    let ([address, bytes], mail) = unsafe { functions::arguments::<Mail, 2>(env, info) };
    let grant = || {
        let (address, bytes) = (integer(env, address)? as u32, integer(env, bytes)? as usize);
        let grant = mail.correspondence(|correspondence| correspondence.reserve(address, bytes));
        number(
            env,
            match grant {
                Some(Grant::Of(bytes)) => bytes as i32,
                Some(Grant::Full) => 0,
                Some(Grant::Gone) | None => -1,
            },
        )
    };
    returned(env, contained(grant))
}

// SAFETY: as `reserve`.
unsafe extern "C" fn send(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `reserve`.
    let ([address, messages, length, cost], mail) = unsafe { functions::arguments::<Mail, 4>(env, info) };
    let send = || {
        let messages = View::of(env, messages)?;
        // SAFETY: the view is of an argument of this call, in which JavaScript does not run.
        let bytes = unsafe { messages.bytes() }.get(..integer(env, length)? as usize);
        let bytes = bytes.ok_or_else(|| Error::new(Status::InvalidArg, "there are not so many bytes"))?;
        let parcel = Parcel { bytes: bytes.into(), large: None, cost: integer(env, cost)? as usize };
        deliver(env, mail, integer(env, address)? as u32, parcel)
    };
    returned(env, contained(send))
}

// SAFETY: as `reserve`.
unsafe extern "C" fn send_large(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `reserve`.
    let ([address, message, payload, cost], mail) = unsafe { functions::arguments::<Mail, 4>(env, info) };
    let send = || {
        let (message, payload) = (View::of(env, message)?, View::of(env, payload)?);
        // SAFETY: as in `send`.
        let (bytes, large) = unsafe { (message.bytes().into(), Some(payload.bytes().into())) };
        let parcel = Parcel { bytes, large, cost: integer(env, cost)? as usize };
        deliver(env, mail, integer(env, address)? as u32, parcel)
    };
    returned(env, contained(send))
}

fn deliver(env: sys::napi_env, mail: &Mail, address: u32, parcel: Parcel) -> Result<sys::napi_value> {
    let sent = mail.correspondence(|correspondence| correspondence.send(address, parcel));
    let mut result = ptr::null_mut();
    // SAFETY: a plain call.
    check_status!(unsafe { sys::napi_get_boolean(env, sent.unwrap_or(false), &mut result) })?;
    Ok(result)
}

// SAFETY: as `reserve`.
unsafe extern "C" fn take_large(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: as in `reserve`.
    let ([], mail) = unsafe { functions::arguments::<Mail, 0>(env, info) };
    let take = || {
        let bytes = mail.take_large();
        let bytes = bytes.ok_or_else(|| Error::new(Status::GenericFailure, "no large message is left"))?;
        let (mut copy, mut result) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a plain call, which copies what is ours.
        check_status!(unsafe {
            sys::napi_create_buffer_copy(env, bytes.len(), bytes.as_ptr().cast(), &mut copy, &mut result)
        })?;
        Ok(result)
    };
    returned(env, contained(take))
}

impl Addressee for Callbacks {
    fn read(&self) -> bool {
        self.call() != Drained::Unable
    }
}

const _: () = assert!(abi::PLACE_SUPERVISOR < 0 && abi::PLACE_NONE < 0, "a shard's number is no other place");
