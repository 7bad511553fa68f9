//! The side that listens.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tracing::warn;

pub use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    TlsCounters, TlsError,
    files::{Contents, Files},
    pem, provider,
    reload::Reloaded,
    validity::Validity,
};

/// The settings of TLS of listeners. Files are PEM.
///
/// The files are read at [`ServerTls::load`] and compared when a handshake begins, at most once a second.
/// Only new connections use new files; no open one ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsOptions {
    /// The certificate of the server, followed by those of its intermediate authorities.
    pub cert_file: PathBuf,
    /// The private key of the certificate.
    pub key_file: PathBuf,
    /// The certificates of the authorities whose clients are accepted.
    pub client_ca_file: Option<PathBuf>,
    /// The revocation lists of these authorities. Every certificate below the root must be covered by a
    /// list that has not expired. `None` checks no revocation.
    pub client_crl_file: Option<PathBuf>,
    /// Whether clients need a certificate. Anything but [`ClientAuth::None`] requires `client_ca_file`.
    pub client_auth: ClientAuth,
}

/// The certificates that a listener asks of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None.
    #[default]
    None,
    /// A client may have none, but not an invalid one.
    Optional,
    /// Every client has a valid one.
    Required,
}

/// The application protocol of a listener, which it agrees on with its clients (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

/// The newest usable configuration of listeners. Clones share everything.
#[derive(Clone, Debug)]
pub struct ServerTls {
    configs: Arc<Reloaded<Configs>>,
}

/// The configurations that are made of one set of files.
struct Configs {
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
    not_after: Option<SystemTime>,
}

/// The reason why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// The client left.
    Disconnected,
    /// The client speaks another protocol, probably without TLS.
    NotTls,
    /// The client has no version or cipher of TLS in common with the server.
    NoCommonVersion,
    /// The client has no application protocol in common with the listener.
    NoCommonProtocol,
    /// The client refused something of the server, probably its certificate.
    RefusedByClient,
    /// The client has no certificate.
    NoCertificate,
    /// The client's certificate is of another authority.
    UnknownIssuer,
    /// The client's certificate has expired.
    Expired,
    /// The client's certificate is not valid yet.
    NotValidYet,
    /// The client's certificate is not one for clients.
    WrongPurpose,
    /// The client's certificate is revoked.
    Revoked,
    /// No usable revocation list covers the client's certificate.
    UnknownRevocation,
    /// The client's certificate is invalid for another reason.
    InvalidCertificate,
    /// The client breaks the protocol.
    Other,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or used, or if clients cannot be verified as wanted.
    pub fn load(options: &ServerTlsOptions) -> Result<Self, TlsError> {
        let wants_clients = options.client_auth != ClientAuth::None;
        if wants_clients && options.client_ca_file.is_none() {
            return Err(TlsError::NoClientCa);
        }
        let files = Files {
            ca: options.client_ca_file.clone().filter(|_| wants_clients),
            crl: options.client_crl_file.clone().filter(|_| wants_clients),
            identity: Some((options.cert_file.clone(), options.key_file.clone())),
        };
        let auth = options.client_auth;
        let configs = Reloaded::new(files, INTERVAL, move |contents| configs(contents, auth))?;
        Ok(Self {
            configs: Arc::new(configs),
        })
    }

    /// Returns the configuration for a new connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let configs = self.configs.current().await;
        Arc::clone(match protocol {
            Protocol::Http1 => &configs.http1,
            Protocol::Http2 => &configs.http2,
        })
    }

    /// Returns the time at which the first certificate of the chain in use expires, if all are readable.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.configs.last().not_after
    }

    /// Returns the counters of the files.
    #[must_use]
    pub fn counters(&self) -> TlsCounters {
        self.configs.counters()
    }
}

/// Shortest time between two looks at the files: a storm of handshakes must not become one of reads.
const INTERVAL: Duration = Duration::from_secs(1);

fn configs(contents: &Contents, auth: ClientAuth) -> Result<Configs, TlsError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions of TLS");
    let builder = match &contents.ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = pem::roots(ca)?;
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if let Some(crl) = &contents.crl {
                verifier = verifier
                    .with_crls(pem::revocation_lists(crl)?)
                    // Whoever keeps a new list away must not keep a revoked certificate in use.
                    .enforce_revocation_expiration();
            }
            if auth == ClientAuth::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            let path = &contents.crl.as_ref().unwrap_or(ca).0;
            let verifier = verifier.build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| TlsError::unusable_verifier(path, &error))?,
            )
        }
    };
    let files = contents.identity.as_ref();
    let files = files.expect("a listener has a certificate");
    let (chain, key) = pem::identity(files)?;
    let validity = Validity::of_chain(&chain);
    let mut http1 = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::unusable(&files.0.0, error))?;
    if contents.ca.is_some() {
        // A resumed session would not verify the certificate again, which may be revoked by now.
        http1.session_storage = Arc::new(NoServerSessionStorage {});
        http1.send_tls13_tickets = 0;
    }
    warn_unless_valid(validity, &files.0.0);
    let mut http2 = http1.clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    http2.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Configs {
        http1: Arc::new(http1),
        http2: Arc::new(http2),
        not_after: validity.map(|validity| validity.not_after),
    })
}

/// Only a warning: a clock may be wrong, and clients decide for themselves.
fn warn_unless_valid(validity: Option<Validity>, path: &Path) {
    let (now, path) = (SystemTime::now(), path.display());
    match validity {
        Some(validity) if validity.not_after < now => {
            warn!(%path, "the certificate has expired: clients refuse it");
        }
        Some(validity) if validity.not_before > now => {
            warn!(%path, "the certificate is not valid yet: clients refuse it");
        }
        Some(_) => {}
        None => warn!(%path, "the time at which the certificate expires cannot be read"),
    }
}

impl HandshakeFailure {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Timeout,
        Self::Disconnected,
        Self::NotTls,
        Self::NoCommonVersion,
        Self::NoCommonProtocol,
        Self::RefusedByClient,
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotValidYet,
        Self::WrongPurpose,
        Self::Revoked,
        Self::UnknownRevocation,
        Self::InvalidCertificate,
        Self::Other,
    ];

    /// Returns the reason of an error of rustls or of the system.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let inner = error.get_ref();
        let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                io::ErrorKind::TimedOut => Self::Timeout,
                _ => Self::Disconnected,
            };
        };
        match error {
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                Self::NotTls
            }
            rustls::Error::PeerIncompatible(_) => Self::NoCommonVersion,
            rustls::Error::NoApplicationProtocol => Self::NoCommonProtocol,
            rustls::Error::AlertReceived(_) => Self::RefusedByClient,
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(problem) => Self::of_certificate(problem),
            rustls::Error::InvalidCertRevocationList(_) => Self::UnknownRevocation,
            _ => Self::Other,
        }
    }

    fn of_certificate(problem: &CertificateError) -> Self {
        use CertificateError as Problem;
        match problem {
            // A bad signature is one of another authority with the same name.
            Problem::UnknownIssuer | Problem::BadSignature => Self::UnknownIssuer,
            Problem::Expired | Problem::ExpiredContext { .. } => Self::Expired,
            Problem::NotValidYet | Problem::NotValidYetContext { .. } => Self::NotValidYet,
            Problem::InvalidPurpose | Problem::InvalidPurposeContext { .. } => Self::WrongPurpose,
            Problem::Revoked => Self::Revoked,
            Problem::UnknownRevocationStatus
            | Problem::ExpiredRevocationList
            | Problem::ExpiredRevocationListContext { .. } => Self::UnknownRevocation,
            _ => Self::InvalidCertificate,
        }
    }

    /// Returns the name that metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Disconnected => "disconnected",
            Self::NotTls => "not_tls",
            Self::NoCommonVersion => "no_common_version",
            Self::NoCommonProtocol => "no_common_protocol",
            Self::RefusedByClient => "refused_by_client",
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotValidYet => "not_valid_yet",
            Self::WrongPurpose => "wrong_purpose",
            Self::Revoked => "revoked",
            Self::UnknownRevocation => "unknown_revocation",
            Self::InvalidCertificate => "invalid_certificate",
            Self::Other => "other",
        }
    }

    /// Returns the reason and its remedy in words.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Timeout => "the client did not complete the handshake in time",
            Self::Disconnected => "the client left",
            Self::NotTls => "the client does not speak TLS: it must use https://",
            Self::NoCommonVersion => {
                "the client and the server have no version or cipher in common"
            }
            Self::NoCommonProtocol => {
                "the client does not offer the protocol of this listener, h2 for gRPC or http/1.1 \
                 for pages"
            }
            Self::RefusedByClient => {
                "the client refused the handshake, probably because it does not trust the \
                 authority of the server's certificate"
            }
            Self::NoCertificate => "the client has no certificate",
            Self::UnknownIssuer => {
                "no authority of the client CA file has signed the client's certificate"
            }
            Self::Expired => "the client's certificate has expired",
            Self::NotValidYet => "the client's certificate is not valid yet",
            Self::WrongPurpose => {
                "the client's certificate is not one for clients (extended key usage clientAuth)"
            }
            Self::Revoked => "the client's certificate is revoked",
            Self::UnknownRevocation => {
                "the client's certificate is not covered by a revocation list that is of its \
                 authority and has not expired"
            }
            Self::InvalidCertificate => "the client's certificate is invalid",
            Self::Other => "the client breaks the protocol",
        }
    }
}
