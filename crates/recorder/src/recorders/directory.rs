//! The directories of records that share a budget.

use std::{fs, io, path::Path};

/// The suffix of a record's directory.
const SUFFIX: &str = ".record";

/// The longest escaped name that is not shortened. File systems accept names of 255 bytes.
const ESCAPED_BYTES_MAX: usize = 200;

/// Returns the directory of the record of this name: the name with every byte escaped that is special to
/// file systems or shells. A long name is cut, and a fingerprint keeps it unique.
pub(super) fn directory_of(name: &str) -> String {
    let escape = |byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    let mut directory: String = name.bytes().map(escape).collect();
    if directory.is_empty() {
        // No other name has this directory, because a percent sign alone is no escape.
        directory.push('%');
    }
    if directory.len() > ESCAPED_BYTES_MAX {
        directory.truncate(ESCAPED_BYTES_MAX - 20);
        // A tilde in a name is escaped, so that no short name looks like a cut one.
        directory = format!("{directory}~{:016x}", fingerprint(name));
    }
    directory + SUFFIX
}

/// FNV-1a of 64 bits.
fn fingerprint(name: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Returns the directories of the records in `dir`, sorted.
pub(super) fn record_directories(dir: &Path) -> io::Result<Vec<String>> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A link to a directory counts: the operator may have moved a record to another disk.
        let is_directory = entry.path().is_dir();
        // Our names are UTF-8.
        if let (true, Ok(name)) = (is_directory, entry.file_name().into_string())
            && name.ends_with(SUFFIX)
        {
            directories.push(name);
        }
    }
    directories.sort_unstable();
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_readable_and_safe() {
        let url = "http://localhost:9100/metrics";
        for (name, directory) in [
            (url, "http%3A%2F%2Flocalhost%3A9100%2Fmetrics.record"),
            ("", "%.record"),
            ("..", "...record"),
            ("%", "%25.record"),
            ("é", "%C3%A9.record"),
        ] {
            assert_eq!(directory_of(name), directory);
        }
    }

    #[test]
    fn long_names_fit_and_differ() {
        let long = "x".repeat(4_000);
        let [one, other] = [1, 2].map(|n| directory_of(&format!("{long}{n}")));
        assert_ne!(one, other);
        assert!(one.len() <= 255 && other.len() <= 255);
        assert_eq!(one, directory_of(&format!("{long}1")));
        assert!(directory_of(&"/".repeat(100)).len() <= 255);
    }
}
