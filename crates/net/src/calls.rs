//! The calls of one connection, run by the task of the connection.
//!
//! With a task per call, each call that sends something wakes the task of the connection, which often
//! runs at once and writes a single frame. Here a connection first polls all calls that are ready and
//! then writes what they sent together.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker,
};

/// Spawns futures onto the task of one connection: the calls of hyper, and handlers that outlive the
/// response to their call. They are dropped when the connection has ended. Clones spawn onto the same
/// connection.
#[derive(Clone, Debug, Default)]
pub struct CallSpawner(Arc<Spawned>);

#[derive(Default)]
struct Spawned(Mutex<Vec<Call>>);

type Call = BoxFuture<'static, ()>;

/// A connection with its calls. Resolves when the connection ends; calls that are left are dropped.
pub(crate) struct WithCalls<C> {
    connection: Pin<Box<C>>,
    spawner: CallSpawner,
    calls: FuturesUnordered<Call>,
    task: Arc<Task>,
    calls_woken: Arc<Part>,
    connection_woken: Arc<Part>,
}

/// The task that polls a connection and its calls.
#[derive(Debug, Default)]
struct Task {
    waker: AtomicWaker,
    /// The task looks at its parts again before it returns, so that it need not be woken.
    runs: AtomicBool,
}

/// The waker of one part of the task.
#[derive(Debug)]
struct Part {
    task: Arc<Task>,
    woken: AtomicBool,
}

/// The number of times that one poll of the task looks at its parts.
const ROUNDS: usize = 8;

impl<F> hyper::rt::Executor<F> for CallSpawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.spawn(call);
    }
}

impl CallSpawner {
    /// Runs `call` after the current poll of the connection. It is for handlers of the connection's own
    /// calls: from elsewhere, nothing wakes the connection.
    pub fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        // A panic ends one call, as it would in a task.
        let call = AssertUnwindSafe(call).catch_unwind().map(|_| ());
        // Only stored: the connection is being polled.
        self.lock().push(Box::pin(call));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Future> WithCalls<C> {
    /// Runs `connection`, whose executor is `spawner`.
    pub(crate) fn new(connection: C, spawner: CallSpawner) -> Self {
        let task = Arc::new(Task::default());
        let part = || {
            Arc::new(Part {
                task: Arc::clone(&task),
                // Both parts have to be polled once before anything can wake them.
                woken: AtomicBool::new(true),
            })
        };
        Self {
            connection: Box::pin(connection),
            spawner,
            calls: FuturesUnordered::new(),
            calls_woken: part(),
            connection_woken: part(),
            task,
        }
    }

    pub(crate) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    /// Polls the parts that were woken.
    fn poll_parts(&mut self) -> Poll<C::Output> {
        let calls_waker = Waker::from(Arc::clone(&self.calls_woken));
        // Calls first: the connection below then writes what all of them have sent. A flag is taken
        // before its part is polled, so that a wake-up meanwhile counts again.
        if self.calls_woken.take() {
            self.poll_calls(&calls_waker);
        }
        if self.connection_woken.take() {
            let waker = Waker::from(Arc::clone(&self.connection_woken));
            let mut cx = Context::from_waker(&waker);
            if let Poll::Ready(ended) = self.connection.as_mut().poll(&mut cx) {
                // The calls that wait for something of the connection see its end, too.
                self.poll_calls(Waker::noop());
                return Poll::Ready(ended);
            }
        }
        let mut spawned = self.spawner.lock();
        if !spawned.is_empty() {
            self.calls.extend(spawned.drain(..));
            // Gives the memory back: a connection rarely opens many calls at once.
            *spawned = Vec::new();
            // A new call has no waker yet, so that its first poll has to be caused here.
            self.calls_woken.woken.store(true, SeqCst);
        }
        Poll::Pending
    }

    /// Polls the calls that were woken.
    fn poll_calls(&mut self, waker: &Waker) {
        let mut cx = Context::from_waker(waker);
        while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(&mut cx) {}
    }

    fn is_woken(&self) -> bool {
        self.calls_woken.woken.load(SeqCst) || self.connection_woken.woken.load(SeqCst)
    }
}

impl<C: Future> Future for WithCalls<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        // In each poll, because the waker of a task may change between two polls.
        this.task.waker.register(cx.waker());
        this.task.runs.store(true, SeqCst);
        let mut rounds = 0;
        loop {
            let polled = this.poll_parts();
            if polled.is_ready() {
                // `runs` stays set: no wake-up concerns a task that has ended.
                return polled;
            }
            rounds += 1;
            // Bounded: parts that wake each other must not keep the thread from other connections.
            if rounds == ROUNDS || !this.is_woken() {
                break;
            }
        }
        // A part that is woken from now on wakes the task. One that was woken before is seen here.
        this.task.runs.store(false, SeqCst);
        if this.is_woken() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Part {
    fn take(&self) -> bool {
        self.woken.swap(false, SeqCst)
    }
}

impl Wake for Part {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The part stores `woken` and then loads `runs`, the task the other way round. With a
        // weaker order than `SeqCst` both might load the old value, and the wake-up would be lost.
        self.woken.store(true, SeqCst);
        if !self.task.runs.load(SeqCst) {
            self.task.waker.wake();
        }
    }
}

impl std::fmt::Debug for Spawned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawned").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, time::Duration};

    use hyper::rt::Executor as _;
    use tokio::sync::mpsc;

    use super::*;

    /// A connection that counts its polls and the messages of its calls, and ends after `all` of them.
    fn counting(
        all: usize,
        polls: &Arc<AtomicUsize>,
    ) -> (
        mpsc::UnboundedSender<()>,
        impl Future<Output = usize> + use<>,
    ) {
        let (sender, mut messages) = mpsc::unbounded_channel();
        let (polls, mut received) = (Arc::clone(polls), 0);
        let connection = poll_fn(move |cx| {
            polls.fetch_add(1, SeqCst);
            while received < all {
                if messages.poll_recv(cx).is_pending() {
                    return Poll::Pending;
                }
                received += 1;
            }
            Poll::Ready(received)
        });
        (sender, connection)
    }

    #[tokio::test]
    async fn calls_that_are_ready_run_before_the_connection() {
        const CALLS: usize = 50;
        let (spawner, polls) = (CallSpawner::default(), Arc::default());
        let (sender, connection) = counting(2 * CALLS, &polls);
        let start = Arc::new(tokio::sync::Semaphore::new(CALLS));
        for _ in 0..CALLS {
            let (sender, start) = (sender.clone(), Arc::clone(&start));
            spawner.execute(async move {
                for _ in 0..2 {
                    start.acquire().await.expect("open").forget();
                    sender.send(()).ok();
                }
            });
        }
        let running = tokio::spawn(WithCalls::new(connection, spawner));
        tokio::task::yield_now().await;
        let before = polls.load(SeqCst);
        start.add_permits(CALLS);
        assert_eq!(running.await.expect("no panic"), 2 * CALLS);
        let after = polls.load(SeqCst) - before;
        assert!(after <= 2, "{after} polls of the connection for 50 calls");
    }

    #[tokio::test]
    async fn call_that_panics_ends_alone_and_later_wakes_are_seen() {
        let (spawner, polls) = (CallSpawner::default(), Arc::default());
        let (sender, connection) = counting(3, &polls);
        spawner.execute(async { panic!("on purpose") });
        spawner.execute(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                sender.send(()).ok();
            }
        });
        let ended =
            tokio::time::timeout(Duration::from_secs(10), WithCalls::new(connection, spawner));
        assert_eq!(ended.await, Ok(3));
    }

    #[tokio::test]
    async fn calls_are_dropped_with_the_connection() {
        let (spawner, polls) = (CallSpawner::default(), Arc::default());
        let (sender, connection) = counting(1, &polls);
        let held = Arc::new(());
        let in_call = Arc::clone(&held);
        spawner.execute(async move {
            std::future::pending::<()>().await;
            drop(in_call);
        });
        spawner.execute(async move {
            tokio::task::yield_now().await;
            sender.send(()).ok();
        });
        assert_eq!(WithCalls::new(connection, spawner).await, 1);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn call_that_is_always_ready_leaves_the_thread_to_others() {
        let (spawner, polls) = (CallSpawner::default(), Arc::default());
        let (_sender, connection) = counting(1, &polls);
        spawner.execute(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let running = tokio::spawn(WithCalls::new(connection, spawner));
        let others = tokio::time::timeout(
            Duration::from_secs(10),
            tokio::spawn(tokio::time::sleep(Duration::from_millis(1))),
        );
        assert!(others.await.is_ok());
        running.abort();
    }
}
