//! TLS for clients: rustls with aws-lc-rs, and certificate files that are read again when they change.
//!
//! ```no_run
//! use steadfast::tls::TlsOptions;
//!
//! let mut options = TlsOptions::default();
//! options.ca_file = Some("/etc/tls/ca.pem".into());
//! options.cert_file = Some("/etc/tls/client.pem".into());
//! options.key_file = Some("/etc/tls/client.key".into());
//! let tls = options.load(&[b"h2"])?;
//! # Ok::<(), steadfast::tls::TlsError>(())
//! ```

mod error;
mod files;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

pub use self::error::TlsError;
pub(crate) use self::error::remedy;
use self::files::{Contents, Fingerprint};
pub use tokio_rustls::client::TlsStream;

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
    /// list that has not expired. `None` checks no revocation.
    pub crl_file: Option<PathBuf>,
    /// The name that the server's certificate must have, and that is sent to it (SNI). `None` takes
    /// the host of the address.
    pub server_name: Option<String>,
}

/// TLS settings with their files loaded. Clones share everything.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

/// The counters of a [`Tls`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsCounters {
    /// Times at which changed files were taken.
    pub reloads: u64,
    /// Times at which changed files could not be used, so that the old ones stayed in use.
    pub failed_reloads: u64,
}

struct Shared {
    options: TlsOptions,
    alpn: Vec<Vec<u8>>,
    /// Read once: the system has no file to compare.
    system_roots: Option<Arc<RootCertStore>>,
    state: Mutex<State>,
}

struct State {
    config: Arc<ClientConfig>,
    /// The files that `config` was made of.
    loaded: Fingerprint,
    /// The files that were found unusable last. Each is reported once.
    refused: Option<Fingerprint>,
    counters: TlsCounters,
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
            None => Some(Arc::new(system_roots()?)),
        };
        let alpn: Vec<_> = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let contents = Contents::read(self)?;
        let config = client_config(self, &alpn, system_roots.as_ref(), &contents)?;
        let state = State {
            config: Arc::new(config),
            loaded: contents.fingerprint(),
            refused: None,
            counters: TlsCounters::default(),
        };
        Ok(Tls {
            shared: Arc::new(Shared {
                options: self.clone(),
                alpn,
                system_roots,
                state: Mutex::new(state),
            }),
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
        let name = self.shared.options.server_name.as_deref().unwrap_or(host);
        let name = server_name(name)?;
        let config = self.current().await;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(TlsError::handshake)
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> TlsCounters {
        self.shared.state().counters
    }

    /// Returns the configuration of the newest usable files.
    async fn current(&self) -> Arc<ClientConfig> {
        if !self.shared.options.has_files() {
            return Arc::clone(&self.shared.state().config);
        }
        let shared = Arc::clone(&self.shared);
        // A file may be on a disk that stalls, and the tasks of other links run on this thread. The
        // caller's deadline ends the wait for it.
        tokio::task::spawn_blocking(move || shared.reload())
            .await
            .unwrap_or_else(|_| Arc::clone(&self.shared.state().config))
    }
}

impl Shared {
    /// Reads the files, and takes them if they changed and are usable.
    fn reload(&self) -> Arc<ClientConfig> {
        let contents = Contents::read(&self.options);
        let fingerprint = contents
            .as_ref()
            .map_or(Fingerprint::UNREADABLE, Contents::fingerprint);
        {
            let mut state = self.state();
            if state.loaded == fingerprint {
                state.refused = None;
                return Arc::clone(&state.config);
            }
            if state.refused == Some(fingerprint) {
                return Arc::clone(&state.config);
            }
        }
        // Without the lock: parsing a bundle of authorities takes milliseconds.
        let config = contents.and_then(|contents| {
            client_config(
                &self.options,
                &self.alpn,
                self.system_roots.as_ref(),
                &contents,
            )
        });
        let mut state = self.state();
        match config {
            Ok(config) => {
                info!(options = ?self.options, "certificate files changed; new connections use them");
                state.config = Arc::new(config);
                state.loaded = fingerprint;
                state.refused = None;
                state.counters.reloads += 1;
            }
            Err(error) => {
                warn!(%error, "certificate files changed and cannot be used; the old ones stay in use");
                state.refused = Some(fingerprint);
                state.counters.failed_reloads += 1;
            }
        }
        Arc::clone(&state.config)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TlsOptions {
    fn has_files(&self) -> bool {
        let files = [&self.ca_file, &self.cert_file, &self.crl_file];
        files.iter().any(|file| file.is_some())
    }
}

fn client_config(
    options: &TlsOptions,
    alpn: &[Vec<u8>],
    system_roots: Option<&Arc<RootCertStore>>,
    contents: &Contents,
) -> Result<ClientConfig, TlsError> {
    // Named, because the default of the process panics when a program links two providers.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions of TLS");
    let mut roots = RootCertStore::empty();
    if let (Some(path), Some(pem)) = (&options.ca_file, &contents.ca) {
        for certificate in certificates(path, pem)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::unusable(path, error))?;
        }
    }
    let roots = system_roots.cloned().unwrap_or_else(|| Arc::new(roots));
    let builder = match (&options.crl_file, &contents.crl) {
        (Some(path), Some(pem)) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .with_crls(revocation_lists(path, pem)?)
                // Whoever keeps a new list away must not keep a revoked certificate in use.
                .enforce_revocation_expiration()
                .build()
                .map_err(|error| TlsError::unusable_list(path, &error))?;
            builder.with_webpki_verifier(verifier)
        }
        _ => builder.with_root_certificates(roots),
    };
    let files = (&options.cert_file, &options.key_file);
    let mut config = match (files, &contents.identity) {
        ((Some(cert_file), Some(key_file)), Some((cert, key))) => {
            let chain = certificates(cert_file, cert)?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| TlsError::malformed(key_file, "a private key", error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsError::unusable(cert_file, error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = items(path, pem, "certificates")?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(chain)
}

fn revocation_lists(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    const EXPECTED: &str = "certificate revocation lists";
    let lists = items(path, pem, EXPECTED)?;
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
    path: &Path,
    pem: &[u8],
    expected: &'static str,
) -> Result<Vec<T>, TlsError> {
    T::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::malformed(path, expected, error))
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
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}
