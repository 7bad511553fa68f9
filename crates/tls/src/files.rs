//! The certificate files: read whole, bounded, and compared by a fingerprint.

use std::{
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::TlsError;

/// The largest file. The bundle of all public authorities has a quarter of it.
const MAX_BYTES: u64 = 1 << 20;

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
        let optional = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let identity = match &self.identity {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        };
        Ok(Contents {
            ca: optional(&self.ca)?,
            crl: optional(&self.crl)?,
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

fn read(path: &Path) -> Result<Pem, TlsError> {
    let bytes = read_regular(path).map_err(|error| TlsError::read(path, &error))?;
    Ok((path.to_owned(), bytes))
}

fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe waits for its writer, and nothing could end that wait.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(bytes)
}
