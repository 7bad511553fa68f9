//! The knowledge that a newer attempt needs to take over a session.

use steadfast_wire::streamer::Hello;

/// The identity of a session: its id, its principal, and the secret of its client.
///
/// A client that knows the id alone names another session, which nobody else has. The parts are hashed, so that
/// a comparison tells nothing of them and every key is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey([u8; 32]);

impl SessionKey {
    /// `owner` is the principal, empty if nobody is known.
    pub(super) fn new(owner: &str, hello: &Hello) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [
            owner.as_bytes(),
            hello.session_id.as_bytes(),
            &*hello.secret,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }
}
