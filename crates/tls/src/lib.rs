#![doc = include_str!("../README.md")]

pub mod client;
mod error;
mod files;
mod pem;
mod reload;
pub mod server;
mod validity;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use self::{error::TlsError, reload::TlsCounters};

/// Returns the cryptography. It is named, because the default of the process panics when a program
/// links two providers.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
