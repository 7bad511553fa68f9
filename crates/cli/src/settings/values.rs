//! The kinds of values that settings have.

use std::{
    any::TypeId,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::Given;
use crate::units;

/// Returns the id of a type; the compiler of the stated version has no constant for it.
type TypeOf = fn() -> TypeId;

/// The names of values in the help, where a declaration gives no other.
pub(super) const NAMES: [(TypeOf, &str); 6] = [
    (TypeId::of::<Given<Duration>>, "DURATION"),
    (TypeId::of::<Given<Size>>, "SIZE"),
    (TypeId::of::<Given<u32>>, "N"),
    (TypeId::of::<Given<usize>>, "N"),
    (TypeId::of::<Given<bool>>, "BOOL"),
    (TypeId::of::<Given<Listen>>, "[IP]:PORT"),
];

/// A type that a setting can have.
pub(crate) trait Setting: Clone + Send + Sync + Sized + 'static {
    /// Parses the text; the error says what is wrong and what to write.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Parses the items of a list in the file.
    fn from_list(_items: &[&str]) -> Result<Self, String> {
        Err("it is a list; write one value".to_owned())
    }
}

impl Setting for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        units::duration(text)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl Setting for Size {
    fn from_text(text: &str) -> Result<Self, String> {
        units::size(text).map(Self)
    }
}

impl Setting for String {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("it is empty; give a value".into())
        } else {
            Ok(text.to_owned())
        }
    }
}

/// An empty text is as if nothing were given.
impl<T: Setting> Setting for Option<T> {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(None);
        }
        T::from_text(text).map(Some)
    }
}

impl Setting for u32 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a whole number; write one, like 5"))
    }
}

impl Setting for usize {
    fn from_text(text: &str) -> Result<Self, String> {
        u32::from_text(text).map(|number| number as Self)
    }
}

impl Setting for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a truth value; write true or false"))
    }
}

impl Setting for u16 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a port; write a number up to 65535"))
    }
}

/// Several values, with commas between them or as a list in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Several<T>(pub(crate) Vec<T>);

impl<T: Setting> Setting for Several<T> {
    fn from_text(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim);
        let items = items.filter(|item| !item.is_empty()).map(T::from_text);
        items.collect::<Result<_, _>>().map(Self)
    }

    fn from_list(items: &[&str]) -> Result<Self, String> {
        let items = items.iter().map(|item| T::from_text(item));
        items.collect::<Result<_, _>>().map(Self)
    }
}

/// An address to listen on. Without a host, like `:9090`, it is every IPv4 address of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) SocketAddr);

impl Setting for Listen {
    fn from_text(text: &str) -> Result<Self, String> {
        // With a second colon it is an IPv6 address, whose brackets are missing or not.
        let port = text.strip_prefix(':').filter(|port| !port.contains(':'));
        if let Some(port) = port {
            let address = |port: u16| Self((Ipv4Addr::UNSPECIFIED, port).into());
            return u16::from_text(port).map(address);
        }
        // Addresses are not looked up, and this name is the one that people write.
        let text = text.replacen("localhost:", "127.0.0.1:", 1);
        SocketAddr::from_text(&text).map(Self)
    }
}

impl Setting for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            let is_address = |host: &str| host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            let digits = |port: &str| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
            // If the host is right, the fault is in the port, and the error speaks of the port.
            let parts = text.rsplit_once(':');
            let parts = parts.filter(|(host, port)| is_address(host) && digits(port));
            if let Some(fault) = parts.and_then(|(_, port)| u16::from_text(port).err()) {
                return fault;
            }
            let form = match parts {
                Some((host, port)) if host.contains(':') && !host.contains('[') => {
                    format!("[{host}]:{port}, an IPv6 address stands in brackets")
                }
                _ if text.matches(':').nth(1).is_some() => {
                    "[IP]:PORT, like [::1]:9000, an IPv6 address stands in brackets".to_owned()
                }
                _ => "IP:PORT, like 127.0.0.1:9000".to_owned(),
            };
            format!("{text:?} is not an address; write {form}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faulty_address_shows_how_to_write_it() {
        for (text, expected) in [
            (
                "::1:9000",
                "write [::1]:9000, an IPv6 address stands in brackets",
            ),
            ("fe80::1:2:9000", "write [fe80::1:2]:9000"),
            ("::1", "write [IP]:PORT"),
            ("[::1]", "write [IP]:PORT"),
            ("localhost", "write IP:PORT"),
            ("127.0.0.1", "write IP:PORT"),
            ("[::1]:70000", "\"70000\" is not a port"),
        ] {
            let fault = SocketAddr::from_text(text).unwrap_err();
            assert!(fault.contains(expected), "{fault}");
            let fault = Listen::from_text(text).unwrap_err();
            assert!(fault.contains(expected), "{fault}");
        }
        let fault = Listen::from_text(":70000").unwrap_err();
        assert!(fault.contains("\"70000\" is not a port"), "{fault}");
        let every = Listen::from_text(":9000").unwrap();
        assert_eq!(every.0, (Ipv4Addr::UNSPECIFIED, 9000).into());
    }
}
