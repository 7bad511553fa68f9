//! The names of client certificates.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

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

/// The content of a client certificate that concerns its holder. The TLS library has verified its chain and its key.
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
    /// Its names cannot be read.
    #[error("the names of the certificate cannot be read")]
    Unreadable,
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
    /// Reads a certificate in DER, whose chain and key must be verified already.
    ///
    /// # Errors
    ///
    /// Returns [`CertificateFault::Unreadable`] if it is no certificate, or has a name that is damaged.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateFault> {
        let unreadable = |_| CertificateFault::Unreadable;
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|_| CertificateFault::Unreadable)?;
        // A certificate with two extensions of names is an error here.
        let alternative = parsed.subject_alternative_name().map_err(unreadable)?;
        let (mut uris, mut dns_names, mut emails) = (Vec::new(), Vec::new(), Vec::new());
        for name in alternative.iter().flat_map(|it| &it.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(email) => emails.push((*email).to_owned()),
                GeneralName::Invalid(..) => return Err(CertificateFault::Unreadable),
                _ => {}
            }
        }
        // One in another encoding counts as a name without text: left out, it would make another unambiguous.
        let common_names = parsed.subject().iter_common_name();
        let common_names = common_names.map(|it| it.as_str().unwrap_or_default().to_owned());
        // A time before 1970 is over, whichever it is.
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            uris,
            dns_names,
            emails,
            common_names: common_names.collect(),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            fingerprint: sha256(der),
        })
    }

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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_are_read_from_der() {
        let mut params = CertificateParams::new(vec!["api.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "api");
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        for name in ["spiffe://prod/api", "spiffe://prod/other"] {
            let name = name.try_into().unwrap();
            params.subject_alt_names.push(SanType::URI(name));
        }
        let email = "ops@example.org".try_into().unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name(email));
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::from_der(made.der()).unwrap();
        assert_eq!(
            read,
            Certificate {
                uris: vec!["spiffe://prod/api".into(), "spiffe://prod/other".into()],
                dns_names: vec!["api.example".into()],
                emails: vec!["ops@example.org".into()],
                common_names: read.common_names.clone(),
                not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000),
                fingerprint: sha256(made.der()),
            }
        );
        assert!(read.common_names.contains(&"api".to_owned()));
        let half = &made.der()[..made.der().len() / 2];
        for damaged in [half, b"", b"no certificate"] {
            let fault = Certificate::from_der(damaged).unwrap_err();
            assert_eq!(fault, CertificateFault::Unreadable);
        }
    }
}
