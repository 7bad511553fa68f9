//! The certificate files: read whole, bounded, and compared by a fingerprint.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    path::Path,
    sync::OnceLock,
};

use super::{TlsError, TlsOptions};
use crate::regular_file::read_regular_file;

/// The largest file. The bundle of all public authorities has a quarter of it.
const MAX_BYTES: u64 = 1 << 20;

/// The contents of the files of a [`TlsOptions`].
#[derive(Hash)]
pub(super) struct Contents {
    pub(super) ca: Option<Vec<u8>>,
    pub(super) crl: Option<Vec<u8>>,
    /// The certificate and its key.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A hash of contents, by which a change is noticed. It keeps no copy of a private key, and does not
/// depend on the clock of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    /// Stands for files that could not be read.
    pub(super) const UNREADABLE: Self = Self(0);
}

impl Contents {
    pub(super) fn read(options: &TlsOptions) -> Result<Self, TlsError> {
        let ca = options.ca_file.as_deref().map(read).transpose()?;
        let crl = options.crl_file.as_deref().map(read).transpose()?;
        let identity = match (&options.cert_file, &options.key_file) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(Self { ca, crl, identity })
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        // Random keys: nobody can prepare files that look equal.
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        Fingerprint(KEYS.get_or_init(RandomState::new).hash_one(self))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let result = match read_regular_file(path, MAX_BYTES + 1) {
        Ok(contents) if contents.len() as u64 > MAX_BYTES => {
            Err(io::Error::other("larger than 1 MiB"))
        }
        read => read,
    };
    result.map_err(|error| TlsError::read(path, &error))
}
