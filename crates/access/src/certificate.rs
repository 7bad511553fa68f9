//! The names of client certificates.

use std::time::SystemTime;

use aws_lc_rs::digest;

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

/// What a client certificate says of its holder. The TLS library has verified its chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The URIs among the alternative names.
    pub uris: Vec<String>,
    /// The DNS names among the alternative names.
    pub dns_names: Vec<String>,
    /// The mail addresses among the alternative names.
    pub emails: Vec<String>,
    /// The common names of the subject.
    pub common_names: Vec<String>,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// The SHA-256 of its DER.
    pub fingerprint: [u8; 32],
}

/// The reason why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
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

impl CertificateName {
    /// The kinds, with their words in a policy.
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("uri", Self::Uri),
        ("dns", Self::Dns),
        ("email", Self::Email),
        ("common-name", Self::CommonName),
    ];
}

impl Certificate {
    /// Returns the name of the first kind that the certificate has.
    pub(crate) fn choose(&self, kinds: &[CertificateName]) -> Result<&str, CertificateFault> {
        let mut names = kinds.iter().map(|kind| match kind {
            CertificateName::Uri => &self.uris,
            CertificateName::Dns => &self.dns_names,
            CertificateName::Email => &self.emails,
            CertificateName::CommonName => &self.common_names,
        });
        match names.find(|names| !names.is_empty()).map(Vec::as_slice) {
            Some([name]) if !name.is_empty() => Ok(name),
            None | Some([_]) => Err(CertificateFault::Nameless),
            Some(several) => Err(CertificateFault::Ambiguous(several.len())),
        }
    }
}

/// Returns the SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
