//! What the PEM files contain, and the errors that name the file.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use crate::{TlsError, files::Pem};

/// A certificate with those of its intermediate authorities, and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(crate) fn certificates((path, pem): &Pem) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = items((path, pem), "certificates")?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(path.clone()));
    }
    Ok(chain)
}

pub(crate) fn identity((cert, key): &(Pem, Pem)) -> Result<Identity, TlsError> {
    let chain = certificates(cert)?;
    let (path, pem) = key;
    let key = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| TlsError::malformed(path, "a private key", error))?;
    Ok((chain, key))
}

pub(crate) fn roots(pem: &Pem) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::unusable(&pem.0, error))?;
    }
    Ok(Arc::new(roots))
}

pub(crate) fn revocation_lists(
    (path, pem): &Pem,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    const EXPECTED: &str = "certificate revocation lists";
    let lists = items((path, pem), EXPECTED)?;
    if lists.is_empty() {
        // Without a list rustls would check no revocation.
        return Err(TlsError::malformed(
            path,
            EXPECTED,
            pem::Error::NoItemsFound,
        ));
    }
    Ok(lists)
}

/// Reads the items of one kind. Other kinds are passed over.
fn items<T: PemObject>(
    (path, pem): (&std::path::PathBuf, &[u8]),
    expected: &'static str,
) -> Result<Vec<T>, TlsError> {
    T::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::malformed(path, expected, error))
}
