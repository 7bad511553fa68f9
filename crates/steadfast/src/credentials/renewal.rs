//! Newer credentials for a stream that is open.

use std::time::Duration;

use steadfast_session::Authorization;
use tokio::{sync::mpsc, time::timeout};
use tracing::debug;

use super::CallCredentials;

/// Requests for newer credentials, as a protocol makes them before those of its stream expire.
#[derive(Clone, Debug)]
pub struct RenewalRequests(mpsc::Sender<()>);

/// The other end of [`RenewalRequests`], which [`Link::renew_credentials`](crate::Link::renew_credentials)
/// serves.
#[derive(Debug)]
pub struct Renewer(mpsc::Receiver<()>);

/// Longest wait for a source. The protocol asks again in any case.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(30);

impl RenewalRequests {
    /// Returns requests, and their other end.
    #[must_use]
    pub fn new() -> (Self, Renewer) {
        // One waits while another is served; more would ask for the same.
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), Renewer(receiver))
    }

    /// Asks for newer credentials. Never waits. Does nothing while they are being obtained.
    pub fn request(&self) {
        self.0.try_send(()).ok();
    }
}

impl Renewer {
    /// Obtains the credentials for the next request; `None` when the last requester is gone, or if there is no
    /// source. What fails is logged: the protocol asks again.
    pub(crate) async fn next(&mut self, credentials: &CallCredentials) -> Option<Authorization> {
        // Other credentials never change.
        if !credentials.is_renewable() {
            return None;
        }
        loop {
            self.0.recv().await?;
            let obtained = tokio::select! {
                obtained = timeout(SOURCE_TIMEOUT, credentials.obtain(false)) => obtained,
                // Dropping the request leaves nothing of it behind.
                () = self.closed() => return None,
            };
            match obtained {
                Ok(Ok(metadata)) => {
                    let authorization = metadata.get("authorization").map(str::to_owned);
                    if authorization.is_some() {
                        return authorization.map(Authorization);
                    }
                }
                Ok(Err(error)) => debug!(%error, "no newer credentials yet"),
                Err(_) => {
                    debug!(timeout = ?SOURCE_TIMEOUT, "the source of credentials takes too long");
                }
            }
        }
    }

    /// Resolves when the last requester is gone. Requests in the meantime are served already.
    async fn closed(&mut self) {
        while self.0.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::Relaxed},
        },
    };

    use tokio::{task::yield_now, time::sleep};

    use super::*;
    use crate::{CredentialsError, Metadata};

    /// The first request hangs, the second fails, and others return their number.
    async fn answer(number: u32) -> Result<Metadata, CredentialsError> {
        match number {
            0 => pending().await,
            1 => Err(CredentialsError::Other("the login is away".into())),
            _ => Ok(Metadata::new().with("authorization", number.to_string())?),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn source_that_hangs_or_fails_is_asked_again() {
        let asked = Arc::new(AtomicU32::new(0));
        let source = {
            let asked = Arc::clone(&asked);
            move |refused: bool| {
                assert!(!refused, "the open stream shows that they were accepted");
                answer(asked.fetch_add(1, Relaxed))
            }
        };
        let (requests, mut renewer) = RenewalRequests::new();
        let (sender, mut delivered) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            let credentials = CallCredentials::from(source);
            while let Some(Authorization(token)) = renewer.next(&credentials).await {
                sender.send(token).unwrap();
            }
        });
        requests.request();
        yield_now().await;
        // Those that come while the source hangs ask for the same.
        for _ in 0..100 {
            requests.request();
        }
        sleep(SOURCE_TIMEOUT + Duration::from_secs(1)).await;
        assert_eq!(asked.load(Relaxed), 1);
        for number in 1..4 {
            requests.request();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(asked.load(Relaxed), number + 1);
        }
        assert_eq!(delivered.try_recv().unwrap(), "2");
        assert_eq!(delivered.try_recv().unwrap(), "3");
        drop(requests);
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn source_that_hangs_does_not_outlive_its_link() {
        let source = |_: bool| answer(0);
        let (requests, mut renewer) = RenewalRequests::new();
        let credentials = CallCredentials::from(source);
        let serving = tokio::spawn(async move { renewer.next(&credentials).await });
        requests.request();
        sleep(Duration::from_secs(1)).await;
        drop(requests);
        let served = timeout(Duration::from_secs(1), serving).await;
        assert_eq!(served.unwrap().unwrap(), None);
    }
}
