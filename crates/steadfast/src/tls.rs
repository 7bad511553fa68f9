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

pub(crate) use steadfast_tls::client::remedy;
pub use steadfast_tls::{
    TlsCounters, TlsError,
    client::{Tls, TlsOptions, TlsStream},
};
