//! The errors of TLS, with what to do about them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertRevocationListError, CertificateError, client::VerifierBuilderError,
    pki_types::pem,
};

/// The error of loading TLS files, or of a handshake.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: Arc<io::Error>,
    },
    /// A file has no certificate.
    #[error("{} has no certificate; expected PEM, -----BEGIN CERTIFICATE-----", .0.display())]
    NoCertificate(PathBuf),
    /// A file is not PEM, or not of what it should contain.
    #[error("{} does not contain {expected} in PEM: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The expected contents.
        expected: &'static str,
        /// The problem.
        problem: String,
    },
    /// A certificate or revocation list cannot be used, or a certificate does not belong to its key.
    #[error("cannot use {}: {source}", path.display())]
    Unusable {
        /// The file of the certificates or lists.
        path: PathBuf,
        /// The error of rustls.
        source: rustls::Error,
    },
    /// A certificate file without a key file, or the other way round.
    #[error("a certificate and its key must be given together")]
    HalfIdentity,
    /// Clients need certificates, and there is no authority to verify them with.
    #[error(
        "certificates of clients are asked for, and there is no file of their authorities; give a client CA file"
    )]
    NoClientCa,
    /// The name of the server is neither a DNS name nor an IP address.
    #[error("{0:?} is neither a DNS name nor an IP address; set the server name")]
    ServerName(String),
    /// The system trusts no authority.
    #[error("the system trusts no authority ({0}); give a CA file")]
    NoSystemRoots(String),
    /// The handshake failed.
    #[error("{}", explained(.0))]
    Handshake(#[source] Arc<io::Error>),
}

impl TlsError {
    pub(crate) fn read(path: &Path, error: &io::Error) -> Self {
        // The error is rebuilt from its kind and text, because it is kept in a value that is cloned.
        Self::Read {
            path: path.to_owned(),
            source: Arc::new(io::Error::new(error.kind(), error.to_string())),
        }
    }

    pub(crate) fn malformed(path: &Path, expected: &'static str, error: pem::Error) -> Self {
        let problem = match error {
            pem::Error::NoItemsFound => "none found".to_owned(),
            other => other.to_string(),
        };
        Self::Malformed {
            path: path.to_owned(),
            expected,
            problem,
        }
    }

    pub(crate) fn unusable(path: &Path, source: rustls::Error) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn unusable_verifier(path: &Path, error: &VerifierBuilderError) -> Self {
        let source = match error {
            VerifierBuilderError::InvalidCrl(problem) => problem.clone().into(),
            other => rustls::Error::General(other.to_string()),
        };
        Self::unusable(path, source)
    }

    pub(crate) fn handshake(error: io::Error) -> Self {
        Self::Handshake(Arc::new(error))
    }
}

fn explained(error: &io::Error) -> String {
    match remedy(error) {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}

/// Returns what to do about the error, if rustls made it and it is a known one.
#[must_use]
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    let inner = error.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(problem)) => certificate_remedy(problem),
        Some(rustls::Error::InvalidCertRevocationList(CertRevocationListError::BadSignature)) => {
            Some("the revocation list is of another authority with the same name: give its list")
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            Some("the server does not speak TLS here: use http://, or another port")
        }
        Some(rustls::Error::AlertReceived(alert)) => refusal(|known| known == *alert),
        Some(_) => None,
        // A server that refuses a client's certificate says so after the handshake of TLS 1.3. The
        // error then comes from h2, which keeps only the text of what it reads.
        None => {
            let text = error.to_string();
            refusal(|known| text.contains(&rustls::Error::AlertReceived(known).to_string()))
        }
    }
}

fn certificate_remedy(problem: &CertificateError) -> Option<&'static str> {
    use CertificateError as Problem;
    Some(match problem {
        // A bad signature is one of another authority with the same name.
        Problem::UnknownIssuer | Problem::BadSignature => {
            "no trusted authority has signed the server's certificate: give the CA file of its \
             authority"
        }
        Problem::Expired | Problem::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it, or set the clock of this machine"
        }
        Problem::NotValidYet | Problem::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: set the clock of this machine, or of the \
             authority"
        }
        Problem::NotValidForName | Problem::NotValidForNameContext { .. } => {
            "the server's certificate is for another name: correct the address, or set the server \
             name"
        }
        Problem::InvalidPurpose | Problem::InvalidPurposeContext { .. } => {
            "the server's certificate is not one for servers (extended key usage serverAuth)"
        }
        Problem::Revoked => {
            "the authority has revoked the server's certificate: give the server a new one"
        }
        Problem::UnknownRevocationStatus => {
            "the revocation lists do not cover the server's certificate, or an authority between it \
             and the root: add the list of each authority"
        }
        Problem::ExpiredRevocationList | Problem::ExpiredRevocationListContext { .. } => {
            "the revocation list has expired: fetch the newest list of the authority"
        }
        _ => return None,
    })
}

fn refusal(is_meant: impl Fn(AlertDescription) -> bool) -> Option<&'static str> {
    let found = REFUSALS
        .into_iter()
        .find(|(alerts, _)| alerts.iter().any(|alert| is_meant(*alert)));
    found.map(|(_, remedy)| remedy)
}

/// The remedies for the refusals of a server.
const REFUSALS: [(&[AlertDescription], &str); 5] = [
    (
        &[
            AlertDescription::CertificateRequired,
            AlertDescription::AccessDenied,
        ],
        "the server requires a client certificate: give a certificate file and a key file",
    ),
    (
        &[
            AlertDescription::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            AlertDescription::CertificateRevoked,
            AlertDescription::CertificateExpired,
            AlertDescription::CertificateUnknown,
            AlertDescription::UnknownCA,
            AlertDescription::DecryptError,
        ],
        "the server refused the certificate of this client: give one that its authority has signed \
         and that is valid now",
    ),
    (
        &[AlertDescription::UnrecognisedName],
        "the server has no certificate for this name: correct the address, or set the server name",
    ),
    (
        &[AlertDescription::NoApplicationProtocol],
        "the server does not offer HTTP/2 here: switch it on, or use another port",
    ),
    (
        &[
            AlertDescription::ProtocolVersion,
            AlertDescription::HandshakeFailure,
        ],
        "the server and this client have no version or cipher of TLS in common, or the server \
         requires a client certificate",
    ),
];
