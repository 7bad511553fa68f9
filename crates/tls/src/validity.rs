//! The time in which certificates are valid.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The time in which a chain is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// Returns the time in which all certificates of a chain are valid, or `None` if there is none or
    /// one of them cannot be read.
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let each = chain.iter().map(|der| Self::of(der));
        each.reduce(|all, next| {
            let (all, next) = (all?, next?);
            Some(Self {
                not_before: all.not_before.max(next.not_before),
                not_after: all.not_after.min(next.not_after),
            })
        })?
    }

    fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }
}

fn time(seconds: i64) -> SystemTime {
    // A time before 1970 is over, whichever it is.
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
