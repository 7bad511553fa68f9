//! The certificate files: read whole, bounded, and compared by a fingerprint.

use std::{
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::TlsError;

/// The size limit of certificates and keys. The bundle of all public authorities has a quarter of it.
const MAX_MIB: u64 = 1;

/// The size limit of revocation lists. Those of large authorities have some tens of MiB.
const MAX_LIST_MIB: u64 = 64;

/// The PEM files of one side of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) crl: Option<PathBuf>,
    /// The certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// A file and what it contains.
pub(crate) type Pem = (PathBuf, Vec<u8>);

/// The contents of [`Files`].
#[derive(Hash)]
pub(crate) struct Contents {
    pub(crate) ca: Option<Pem>,
    pub(crate) crl: Option<Pem>,
    /// The certificate and its key.
    pub(crate) identity: Option<(Pem, Pem)>,
}

/// A hash of contents, by which a change is noticed. It keeps no copy of a private key, and does not
/// depend on the clock of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Files {
    pub(crate) fn is_empty(&self) -> bool {
        self.ca.is_none() && self.crl.is_none() && self.identity.is_none()
    }

    pub(crate) fn read(&self) -> Result<Contents, TlsError> {
        let optional = |path: &Option<PathBuf>, max_mib| {
            let path = path.as_deref();
            path.map(|path| read(path, max_mib)).transpose()
        };
        let identity = match &self.identity {
            Some((cert, key)) => Some((read(cert, MAX_MIB)?, read(key, MAX_MIB)?)),
            None => None,
        };
        Ok(Contents {
            ca: optional(&self.ca, MAX_MIB)?,
            crl: optional(&self.crl, MAX_LIST_MIB)?,
            identity,
        })
    }
}

impl Fingerprint {
    /// Stands for files that could not be read.
    pub(crate) const UNREADABLE: Self = Self(0);
}

impl Contents {
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        // Random keys: nobody can prepare files that look equal.
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        Fingerprint(KEYS.get_or_init(RandomState::new).hash_one(self))
    }
}

fn read(path: &Path, max_mib: u64) -> Result<Pem, TlsError> {
    let bytes = read_regular(path, max_mib).map_err(|error| TlsError::read(path, &error))?;
    Ok((path.to_owned(), bytes))
}

fn read_regular(path: &Path, max_mib: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe waits for its writer, and nothing could end that wait.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let max_bytes = max_mib << 20;
    let mut bytes = Vec::new();
    File::open(path)?
        .take(max_bytes + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::other(format!("larger than {max_mib} MiB")));
    }
    Ok(bytes)
}
