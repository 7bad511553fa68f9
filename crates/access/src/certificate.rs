//! The names of client certificates.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The field of a certificate that names its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// A URI among the alternative names, such as a SPIFFE id.
    Uri,
    /// A DNS name among the alternative names.
    Dns,
    /// A mail address among the alternative names.
    Email,
    /// The common name of the subject.
    CommonName,
}

/// The reason why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// It cannot be parsed.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// It has none of the names that the policy looks for.
    #[error("the certificate has none of the names that the policy looks for")]
    Nameless,
    /// It has several names of the kind that comes first, and which one is meant is open.
    #[error("the certificate has {0} names of one kind; a peer has one")]
    Ambiguous(usize),
    /// The policy lists its fingerprint as revoked.
    #[error("the certificate is revoked")]
    Revoked,
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    names: Vec<(CertificateName, Box<str>)>,
    pub(crate) not_after: SystemTime,
}

impl CertificateName {
    /// The kinds, with their words in a policy.
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("uri", Self::Uri),
        ("dns", Self::Dns),
        ("email", Self::Email),
        ("common-name", Self::CommonName),
    ];
}

impl Names {
    /// Parses a certificate whose chain was verified. Its signature is not looked at.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, CertificateFault> {
        let malformed = |_| CertificateFault::Malformed;
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| CertificateFault::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateFault::Malformed);
        }
        let mut names = Vec::new();
        if let Some(alternatives) = certificate.subject_alternative_name().map_err(malformed)? {
            for name in &alternatives.value.general_names {
                let (kind, name) = match name {
                    GeneralName::URI(name) => (CertificateName::Uri, name),
                    GeneralName::DNSName(name) => (CertificateName::Dns, name),
                    GeneralName::RFC822Name(name) => (CertificateName::Email, name),
                    _ => continue,
                };
                names.push((kind, (*name).into()));
            }
        }
        for name in certificate.subject().iter_common_name() {
            let name = name.as_str().map_err(|_| CertificateFault::Malformed)?;
            names.push((CertificateName::CommonName, name.into()));
        }
        let not_after = certificate.validity().not_after.timestamp();
        let not_after = Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
        Ok(Self {
            names,
            not_after: SystemTime::UNIX_EPOCH + not_after,
        })
    }

    /// Returns the name of the first kind that the certificate has.
    pub(crate) fn choose(&self, kinds: &[CertificateName]) -> Result<&str, CertificateFault> {
        for kind in kinds {
            let of_kind = self
                .names
                .iter()
                .filter(|(of, name)| of == kind && !name.is_empty());
            let mut of_kind = of_kind.map(|(_, name)| &**name);
            if let Some(name) = of_kind.next() {
                return match of_kind.count() {
                    0 => Ok(name),
                    more => Err(CertificateFault::Ambiguous(more + 1)),
                };
            }
        }
        Err(CertificateFault::Nameless)
    }
}

/// Returns the SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
