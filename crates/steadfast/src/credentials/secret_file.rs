//! A file with a secret.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{sync::Mutex, task::spawn_blocking};

use super::{CredentialsError, MAX_TOKEN};
use crate::regular_file::read_regular_file;

/// The path of a file with a secret.
#[derive(Clone, Debug)]
pub(super) struct SecretFile {
    path: Arc<Path>,
    /// Held while the file is read: a file system that does not respond costs one thread, however many attempts
    /// are abandoned.
    reading: Arc<Mutex<()>>,
}

impl SecretFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path: path.into(),
            reading: Arc::default(),
        }
    }

    /// Reads the file. A content longer than any secret is cut at twice the limit.
    pub(super) async fn read(&self) -> Result<Vec<u8>, CredentialsError> {
        // Longer than a secret may be, so that a longer one is refused and not cut.
        self.read_with(|path| read_regular_file(path, MAX_TOKEN as u64 * 2))
            .await
    }

    /// Reads the file with `read`, which is a parameter for tests.
    async fn read_with(
        &self,
        read: impl FnOnce(&Path) -> io::Result<Vec<u8>> + Send + 'static,
    ) -> Result<Vec<u8>, CredentialsError> {
        let reading = Arc::clone(&self.reading).lock_owned().await;
        let path = Arc::clone(&self.path);
        // Not on a thread of the runtime: a network file system that does not respond must not delay the link.
        let content = spawn_blocking(move || {
            let content = read(&path);
            drop(reading);
            content
        });
        content
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| CredentialsError::File {
                path: self.path.to_path_buf(),
                source,
            })
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering::SeqCst},
            mpsc,
        },
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn file_that_cannot_be_read_costs_one_thread() {
        let file = SecretFile::new("secret".into());
        let started = Arc::new(AtomicUsize::new(0));
        let (release, released) = mpsc::channel::<()>();
        let read = |wait: Option<mpsc::Receiver<()>>| {
            let started = Arc::clone(&started);
            file.read_with(move |_| {
                started.fetch_add(1, SeqCst);
                wait.map(|wait| wait.recv());
                Ok(b"token".to_vec())
            })
        };
        let mut abandoned = vec![Box::pin(read(Some(released)))];
        abandoned.extend((0..3).map(|_| Box::pin(read(None))));
        for attempt in abandoned {
            assert!(timeout(Duration::from_millis(20), attempt).await.is_err());
        }
        assert_eq!(started.load(SeqCst), 1);
        release.send(()).unwrap();
        assert_eq!(read(None).await.unwrap(), b"token");
    }
}
