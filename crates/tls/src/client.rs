//! The side that dials.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::ServerName,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

pub use tokio_rustls::client::TlsStream;

pub use crate::error::remedy;
use crate::{
    TlsCounters, TlsError,
    files::{Contents, Files},
    pem, provider,
    reload::Reloaded,
};

/// The settings of TLS. Files are PEM.
///
/// The files are read at [`TlsOptions::load`] and compared at every handshake. Only new connections use
/// new files; no open one ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TlsOptions {
    /// The certificates of the authorities to trust. `None` trusts those of the system, which are read
    /// once.
    pub ca_file: Option<PathBuf>,
    /// The certificate of this client, followed by those of its intermediate authorities. Requires
    /// [`TlsOptions::key_file`].
    pub cert_file: Option<PathBuf>,
    /// The private key of [`TlsOptions::cert_file`].
    pub key_file: Option<PathBuf>,
    /// The revocation lists of the authorities. Every certificate below the root must be covered by a
    /// list that has not expired, at every connection: no session is resumed. `None` checks no
    /// revocation.
    pub crl_file: Option<PathBuf>,
    /// The name that the server's certificate must have, and that is sent to it (SNI). `None` takes
    /// the host of the address.
    pub server_name: Option<String>,
}

/// TLS settings with their files loaded. Clones share everything.
#[derive(Clone)]
pub struct Tls {
    options: Arc<TlsOptions>,
    config: Arc<Reloaded<ClientConfig>>,
}

impl TlsOptions {
    /// Reads the files. `alpn` lists the application protocols to offer, `h2` for gRPC and `http/1.1`
    /// for pages.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or used, or if the system trusts no authority.
    pub fn load(&self, alpn: &[&[u8]]) -> Result<Tls, TlsError> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(TlsError::HalfIdentity);
        }
        if let Some(name) = &self.server_name {
            server_name(name)?;
        }
        let system_roots = match self.ca_file {
            Some(_) => None,
            // Read once: the system has no file to compare.
            None => Some(Arc::new(system_roots()?)),
        };
        let alpn: Vec<_> = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let files = Files {
            ca: self.ca_file.clone(),
            crl: self.crl_file.clone(),
            identity: self.cert_file.clone().zip(self.key_file.clone()),
        };
        // No interval: a client that was refused tries again at once with its new certificate.
        let config = Reloaded::new(files, Duration::ZERO, move |contents| {
            client_config(contents, system_roots.as_ref(), &alpn)
        })?;
        Ok(Tls {
            options: Arc::new(self.clone()),
            config: Arc::new(config),
        })
    }
}

impl Tls {
    /// Does the handshake of a client on `stream` with the server `host`, a name or an IP address.
    ///
    /// # Errors
    ///
    /// Returns an error if the server's certificate is not accepted, or the server refuses this client.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the stream. It must have a deadline of the caller's.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.options.server_name.as_deref().unwrap_or(host);
        let name = server_name(name)?;
        let config = self.config.current().await;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(TlsError::handshake)
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> TlsCounters {
        self.config.counters()
    }
}

fn client_config(
    contents: &Contents,
    system_roots: Option<&Arc<RootCertStore>>,
    alpn: &[Vec<u8>],
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions of TLS");
    let roots = match (&contents.ca, system_roots) {
        (Some(ca), _) => pem::roots(ca)?,
        (None, Some(roots)) => Arc::clone(roots),
        (None, None) => Arc::new(RootCertStore::empty()),
    };
    let builder = match &contents.crl {
        Some(crl) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .with_crls(pem::revocation_lists(crl)?)
                // Whoever keeps a new list away must not keep a revoked certificate in use.
                .enforce_revocation_expiration()
                .build()
                .map_err(|error| TlsError::unusable_verifier(&crl.0, &error))?;
            builder.with_webpki_verifier(verifier)
        }
        None => builder.with_root_certificates(roots),
    };
    let mut config = match &contents.identity {
        Some(files) => {
            let (chain, key) = pem::identity(files)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsError::unusable(&files.0.0, error))?
        }
        None => builder.with_no_client_auth(),
    };
    if contents.crl.is_some() {
        // A resumed session would not verify the certificate again, and the list may have expired.
        config.resumption = Resumption::disabled();
    }
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that webpki refuses; one of them must not cost the others.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        return Err(TlsError::NoSystemRoots(
            why.unwrap_or_else(|| "none found".to_owned()),
        ));
    }
    Ok(roots)
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
