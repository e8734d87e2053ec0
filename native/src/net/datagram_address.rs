//! A datagram's address as it lies in front of its payload in shared memory: whole words in this machine's byte order, of
//! which JavaScript compares the first to know an address again, without a call and without making a text of it.
//!
//! | kind | first word | behind it |
//! |---|---|---|
//! | none (of a connected socket) | kind | |
//! | IPv4 | kind, port | 4 bytes |
//! | IPv6 | kind, port | 16 bytes, scope |
//! | Unix | kind, length of the name | the name, in whole words |
#![forbid(unsafe_code)]

use super::addresses::Address;
use crate::abi;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const WORD: usize = 4;
/// Longest name of a Unix socket on any system (unix(7): 108 bytes), in whole words.
const NAME_MAX_BYTES: usize = 108;
/// Longest form.
pub const FORM_MAX_BYTES: usize = WORD + NAME_MAX_BYTES;
const IPV6_BYTES: usize = 16;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct AddressForm {
    bytes: [u8; FORM_MAX_BYTES],
    length: u8,
}

impl AddressForm {
    /// No address.
    pub const NONE: Self = Self { bytes: [0; FORM_MAX_BYTES], length: WORD as u8 };

    /// The first word of a kind; `upper` is the port, or the length of the name.
    fn begin(kind: i32, upper: u16) -> Self {
        let mut form = Self::NONE;
        form.bytes[..WORD].copy_from_slice(&first_word(kind, upper).to_ne_bytes());
        form
    }

    fn with(mut self, bytes: &[u8]) -> Self {
        let start = usize::from(self.length);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.length = (start + bytes.len()).next_multiple_of(WORD) as u8;
        self
    }

    /// Of IPv4.
    #[inline]
    pub fn ipv4(address: [u8; 4], port: u16) -> Self {
        let mut form = Self::NONE;
        form.set_ipv4(address, port);
        form
    }

    /// Becomes one of IPv4: eight bytes, not all that there is room for, as each datagram has one.
    #[inline]
    pub fn set_ipv4(&mut self, address: [u8; 4], port: u16) {
        let word = first_word(abi::ADDRESS_IPV4, port);
        self.bytes[..WORD].copy_from_slice(&word.to_ne_bytes());
        self.bytes[WORD..2 * WORD].copy_from_slice(&address);
        self.length = 2 * WORD as u8;
    }

    /// Of IPv6.
    #[inline]
    pub fn ipv6(address: [u8; IPV6_BYTES], port: u16, scope: u32) -> Self {
        Self::begin(abi::ADDRESS_IPV6, port).with(&address).with(&scope.to_ne_bytes())
    }

    /// Of a Unix socket; a name that no kernel takes is cut.
    pub fn unix(name: &[u8]) -> Self {
        let name = &name[..name.len().min(NAME_MAX_BYTES)];
        Self::begin(abi::ADDRESS_UNIX, name.len() as u16).with(name)
    }

    /// Of an address.
    pub fn of(address: &Address) -> Self {
        match address {
            Address::Ip(SocketAddr::V4(address)) => Self::ipv4(address.ip().octets(), address.port()),
            Address::Ip(SocketAddr::V6(address)) => {
                Self::ipv6(address.ip().octets(), address.port(), address.scope_id())
            }
            Address::Unix(name) => Self::unix(name),
        }
    }

    /// Its bytes, in whole words.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Parts a form from the payload behind it; `None` when it is none, which only a defect makes.
#[inline]
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let word = i32::from_ne_bytes(*bytes.first_chunk()?);
    let length = match word & abi::KIND_MASK {
        abi::ADDRESS_NONE => WORD,
        abi::ADDRESS_IPV4 => WORD + 4,
        abi::ADDRESS_IPV6 => WORD + IPV6_BYTES + 4,
        abi::ADDRESS_UNIX => WORD + usize::from(upper(word)).next_multiple_of(WORD),
        _ => return None,
    };
    (length <= FORM_MAX_BYTES).then(|| bytes.split_at_checked(length)).flatten()
}

fn first_word(kind: i32, upper: u16) -> i32 {
    kind | i32::from(upper) << abi::ADDRESS_PORT_SHIFT
}

fn upper(word: i32) -> u16 {
    (word as u32 >> abi::ADDRESS_PORT_SHIFT) as u16
}

/// What a form says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// No address.
    None,
    /// An IP address and port.
    Ip(SocketAddr),
    /// The name of a Unix socket.
    Unix(&'a [u8]),
}

/// Reads a form that [`split`] has found.
#[inline]
pub fn read(form: &[u8]) -> Form<'_> {
    let Some((first, rest)) = form.split_first_chunk() else { return Form::None };
    let word = i32::from_ne_bytes(*first);
    match word & abi::KIND_MASK {
        abi::ADDRESS_IPV4 => match rest.first_chunk::<4>() {
            Some(&address) => Form::Ip((IpAddr::V4(Ipv4Addr::from(address)), upper(word)).into()),
            None => Form::None,
        },
        abi::ADDRESS_IPV6 => match (rest.first_chunk::<IPV6_BYTES>(), rest.last_chunk::<4>()) {
            (Some(&address), Some(&scope)) => {
                let (address, scope) = (Ipv6Addr::from(address), u32::from_ne_bytes(scope));
                Form::Ip(SocketAddrV6::new(address, upper(word), 0, scope).into())
            }
            _ => Form::None,
        },
        abi::ADDRESS_UNIX => Form::Unix(&rest[..usize::from(upper(word)).min(rest.len())]),
        _ => Form::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_trip_through_their_form_and_are_parted_from_what_follows() {
        let addresses = [
            Address::Ip("127.0.0.1:65535".parse().unwrap()),
            Address::Ip("255.254.253.252:0".parse().unwrap()),
            Address::Ip("[fe80::1%7]:53".parse().unwrap()),
            Address::Unix(b"/tmp/odd".to_vec()),
            Address::Unix(b"\0abstract".to_vec()),
            Address::Unix(vec![b'n'; NAME_MAX_BYTES]),
            Address::Unix(Vec::new()),
        ];
        for address in addresses {
            let form = AddressForm::of(&address);
            assert!(form.as_bytes().len().is_multiple_of(WORD));
            let bytes = [form.as_bytes(), b"payload"].concat();
            let (found, payload) = split(&bytes).unwrap();
            assert_eq!((found, payload), (form.as_bytes(), &b"payload"[..]));
            let read = match read(found) {
                Form::Ip(address) => Address::Ip(address),
                Form::Unix(name) => Address::Unix(name.to_vec()),
                Form::None => unreachable!("none of them is without an address"),
            };
            assert_eq!(read, address);
        }
        assert_eq!(split(AddressForm::NONE.as_bytes()).map(|(form, _)| read(form)), Some(Form::None));
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for bytes in [&b""[..], b"abc", &[9, 0, 0, 0], &[4, 0, 0, 0, 1, 2], &[1, 0, 255, 255, 1]] {
            assert_eq!(split(bytes), None);
        }
    }
}
