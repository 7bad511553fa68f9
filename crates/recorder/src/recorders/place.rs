//! The directories of records that share a budget.

use std::{fs, io, path::Path};

use crate::frame::FileKind;

/// What the name of a record's directory ends with.
const SUFFIX: &str = ".record";

/// Bytes of an escaped name that are kept as they are; file systems take names of 255.
const PLAIN_MAX: usize = 200;

/// The name of the directory for the record of this name: it with everything escaped that file
/// systems or people may take for something else. A long one is cut and told apart by a fingerprint.
pub(super) fn place_of(name: &str) -> String {
    let escaped = |byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    let mut place: String = name.bytes().map(escaped).collect();
    if place.is_empty() {
        place.push('%');
    }
    if place.len() > PLAIN_MAX {
        place.truncate(PLAIN_MAX - 20);
        place = format!("{place}~{:016x}", fingerprint(name));
    }
    place + SUFFIX
}

/// FNV-1a of 64 bits.
fn fingerprint(name: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The directories of the records in `dir`, sorted: names inside of it, and the empty one for itself
/// if it is that of a record.
pub(super) fn records_in(dir: &Path) -> io::Result<Vec<String>> {
    let mut places = Vec::new();
    let mut own = false;
    for entry in fs::read_dir(dir)? {
        // A name that is not UTF-8 is not ours; what went meanwhile is not there.
        let entry = entry?;
        let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else {
            continue;
        };
        if kind.is_dir() && name.ends_with(SUFFIX) {
            places.push(name);
        } else if FileKind::parse(&name).is_some() {
            own = true;
        }
    }
    if own {
        places.push(String::new());
    }
    places.sort_unstable();
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories_that_can_be_read_and_are_told_apart() {
        assert_eq!(
            place_of("http://localhost:9100/metrics"),
            "http%3A%2F%2Flocalhost%3A9100%2Fmetrics.record"
        );
        assert_eq!(place_of(""), "%.record");
        assert_eq!(place_of(".."), "...record");
        assert_eq!(place_of("%"), "%25.record");
        assert_eq!(place_of("é"), "%C3%A9.record");
    }

    #[test]
    fn long_names_fit_and_differ() {
        let long = "x".repeat(4_000);
        let (one, other) = (place_of(&format!("{long}1")), place_of(&format!("{long}2")));
        assert_ne!(one, other);
        assert!(one.len() <= 255 && other.len() <= 255);
        assert_eq!(one, place_of(&format!("{long}1")));
        assert!(place_of(&"/".repeat(100)).len() <= 255);
    }
}
