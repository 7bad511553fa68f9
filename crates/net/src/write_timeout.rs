//! A stream whose writes have a deadline.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A stream that fails with [`io::ErrorKind::TimedOut`] once its peer has accepted no byte for the write
/// timeout. Below TLS, so that each byte that the peer accepts counts, not only whole records.
#[derive(Debug)]
pub(crate) struct WriteTimeout<S> {
    stream: S,
    timeout: Option<Duration>,
    /// Set while a write waits for the peer. Most connections never need it, hence the box.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Set while a write waits for the peer, for those who decide whether the connection may end.
    waits: Arc<AtomicBool>,
}

impl<S> WriteTimeout<S> {
    pub(crate) fn new(stream: S, timeout: Option<Duration>, waits: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            timeout,
            deadline: None,
            waits,
        }
    }

    /// Notes whether a write waits. Flushes do not count: that of a socket never waits.
    fn write<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.waits.store(done.is_pending(), Relaxed);
        self.limit(cx, done)
    }

    /// Passes on the outcome of a write, unless it has been pending for the write timeout.
    fn limit<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let (Poll::Pending, Some(timeout)) = (&done, self.timeout) else {
            // Any progress ends the wait; the next pending write begins another.
            self.deadline = None;
            return done;
        };
        // Kept over several polls: a peer that accepts nothing must not get a new deadline with
        // each.
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        // Polled, not only compared: a peer that accepts nothing never wakes the task by itself.
        deadline.as_mut().poll(cx).map(|()| {
            self.deadline = None;
            let text = format!("peer accepted no data for {timeout:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Unlimited: whether silence is a fault is known only to the protocol above.
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.write(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.write(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.limit(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.limit(cx, done)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn frozen_peer_ends_the_stream_and_a_slow_one_does_not() {
        let limit = Duration::from_secs(30);
        let (near, mut far) = duplex(1_000);
        let waits = Arc::<AtomicBool>::default();
        let mut near = WriteTimeout::new(near, Some(limit), Arc::clone(&waits));
        let writing = tokio::spawn(async move {
            let slowly = near.write_all(&[0; 5_000]).await;
            (slowly.is_ok(), near.write_all(&[0; 5_000]).await)
        });
        let mut buffer = [0; 1_000];
        for _ in 0..5 {
            sleep(limit * 29 / 30).await;
            assert!(waits.load(Relaxed));
            far.read_exact(&mut buffer).await.unwrap();
        }
        let started = Instant::now();
        let (slowly, ended) = writing.await.unwrap();
        assert!(slowly);
        let ended = ended.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert_eq!(ended.to_string(), "peer accepted no data for 30s");
        assert!(started.elapsed() <= limit);
    }
}
