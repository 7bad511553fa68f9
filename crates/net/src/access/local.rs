//! Peers that are parts of the process itself.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use steadfast_access::{Access, NewToken, Presented, Refused};

use super::KnownPeer;

/// A part of this process, as an extension of its requests. No request from outside has it.
#[derive(Clone, Debug)]
pub struct LocalPeer(pub(super) KnownPeer);

/// The token of the parts of this process that may do everything, and the configuration that knows it alone.
#[derive(Debug)]
pub struct LocalAccess {
    access: Arc<Access>,
    token: NewToken,
}

const LOCAL_GRANTS: &str = "
[[grants]]
role = 'local'
databases = ['**']
collections = ['**']
actions = ['subscribe', 'publish']
[[grants]]
role = 'local'
actions = ['admin']
[[members]]
roles = ['local']
principals = ['token:local']
";

impl LocalAccess {
    /// Creates a random token. `None` if the system has no randomness.
    ///
    /// # Panics
    ///
    /// Never: the configuration is a text of the program.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let token = NewToken::generate()?;
        let text = format!("{}\n{LOCAL_GRANTS}", token.entry("local"));
        let no_keys = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let access = Access::parse("local", &text, no_keys, |_| Ok(()));
        let access = Arc::new(access.expect("a text of the program is valid"));
        Some(Self { access, token })
    }

    /// Returns the value of the header `authorization` of local peers.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.token.reveal())
    }

    /// Returns the local peer if the headers have its token.
    ///
    /// # Errors
    ///
    /// If they do not have it.
    pub fn identify(&self, headers: &HeaderMap) -> Result<LocalPeer, Refused> {
        let presented = Presented {
            authorization: headers.get(AUTHORIZATION).map(HeaderValue::as_bytes),
            certificate: None,
        };
        Ok(LocalPeer(KnownPeer {
            access: Arc::clone(&self.access),
            identity: self.access.authenticate(presented, SystemTime::now())?,
            is_local: true,
            anonymous_client: None,
        }))
    }
}
