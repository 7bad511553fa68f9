//! Files that are read whole.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Reads a file; of a longer one, the first `limit` bytes. Everything but a regular file is refused.
pub(crate) fn read_regular_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe waits for its writer, and nothing could end that wait.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
