use std::sync::{Weak, mpsc};

use tokio::task::JoinSet;

use super::*;
use crate::{
    Epoch,
    log::{DocumentKey, LogReader, MemoryLog},
};

/// A log whose commits the test observes and controls.
struct ControlledLog {
    /// Dropped with the log, before its channels.
    _alive: Arc<()>,
    log: MemoryLog,
    /// Receives the size of each batch.
    batches: mpsc::Sender<usize>,
    /// One result per batch; `None` lets all succeed.
    results: Option<mpsc::Receiver<CommitResult>>,
    maintained: mpsc::Sender<()>,
}

enum CommitResult {
    Succeed,
    Fail,
    Full,
}

use CommitResult::{Fail, Full, Succeed};

/// The test's side of a [`ControlledLog`], and its writer.
struct Test {
    writer: LogWriter,
    reader: Arc<dyn LogReader>,
    batches: mpsc::Receiver<usize>,
    results: mpsc::Sender<CommitResult>,
    maintained: mpsc::Receiver<()>,
    alive: Weak<()>,
}

impl Test {
    /// Starts a writer whose commits succeed at once.
    fn start(options: WriterOptions) -> Self {
        Self::with_callback(false, options, |_| ())
    }

    /// Starts a writer whose commits wait for [`Self::finish_commits`].
    fn start_blocked(options: WriterOptions) -> Self {
        Self::with_callback(true, options, |_| ())
    }

    fn with_callback(
        blocked: bool,
        options: WriterOptions,
        on_commit: impl FnMut(&[Arc<Event>]) + Send + 'static,
    ) -> Self {
        let log = MemoryLog::with_epoch(Epoch(1));
        let reader = log.reader();
        let (batch_sender, batches) = mpsc::channel();
        let (results, result_receiver) = mpsc::channel();
        let (maintained_sender, maintained) = mpsc::channel();
        let strong = Arc::new(());
        let alive = Arc::downgrade(&strong);
        let log = ControlledLog {
            _alive: strong,
            log,
            batches: batch_sender,
            results: blocked.then_some(result_receiver),
            maintained: maintained_sender,
        };
        Self {
            writer: LogWriter::spawn(Box::new(log), options, on_commit).unwrap(),
            reader,
            batches,
            results,
            maintained,
            alive,
        }
    }

    async fn enqueue(&self, sequences: impl IntoIterator<Item = u64>) -> PendingCommit {
        self.writer.enqueue(entries(sequences)).await.unwrap()
    }

    /// Enqueues each sequence as a submission of its own.
    async fn enqueue_each(&self, sequences: impl IntoIterator<Item = u64>) -> Vec<PendingCommit> {
        let mut pending = Vec::new();
        for sequence in sequences {
            pending.push(self.enqueue([sequence]).await);
        }
        pending
    }

    fn finish_commits(&self, results: impl IntoIterator<Item = CommitResult>) {
        for result in results {
            self.results.send(result).unwrap();
        }
    }

    /// Returns the results for an entry that is being committed, one that is queued, one that waits
    /// for capacity, and one that is submitted later, when the commit ends with `result`.
    async fn end_with_waiting_submitters(
        &self,
        result: CommitResult,
    ) -> [Result<Vec<Outcome>, WriteError>; 4] {
        let committing = self.enqueue([1]).await;
        assert_eq!(self.batches.recv(), Ok(1));
        let queued = self.enqueue([2]).await;
        let without_capacity = tokio::spawn({
            let writer = self.writer.clone();
            async move { writer.submit(entries([3])).await }
        });
        tokio::task::yield_now().await;
        self.finish_commits([result]);
        [
            committing.await,
            queued.await,
            without_capacity.await.unwrap(),
            self.writer.submit(entries([4])).await,
        ]
    }
}

impl Log for ControlledLog {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        self.batches.send(batch.len()).unwrap_or(());
        match self.results.as_ref().map(mpsc::Receiver::recv) {
            None | Some(Ok(Succeed)) => self.log.append(batch, now_ms),
            Some(Ok(Full)) => Err(LogError::Full { free: 1, needed: 2 }),
            Some(Ok(Fail) | Err(_)) => Err(LogError::storage("no space")),
        }
    }

    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        self.maintained.send(()).unwrap_or(());
        self.log.maintain(now_ms)
    }

    fn trim(&mut self, upto: u64) -> Result<(), LogError> {
        self.log.trim(upto)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }
}

fn entry(producer: &str, sequence: u64) -> Submission {
    Submission::new(producer, sequence, DocumentKey::new("d", "c", "1"), "{}")
}

fn entries(sequences: impl IntoIterator<Item = u64>) -> Vec<Submission> {
    sequences.into_iter().map(|it| entry("p", it)).collect()
}

fn options() -> WriterOptions {
    WriterOptions::default()
}

/// Options for a queue of this many entries.
fn queue_of(queue_events: usize) -> WriterOptions {
    WriterOptions {
        queue_events,
        ..options()
    }
}

/// Returns `true` if a future is not ready.
async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
    futures_util::poll!(future).is_pending()
}

/// A callback that sends the offsets of committed events.
fn offset_sender() -> (impl FnMut(&[Arc<Event>]) + Send, mpsc::Receiver<u64>) {
    let (sender, offsets) = mpsc::channel();
    let on_commit = move |events: &[Arc<Event>]| {
        for event in events {
            sender.send(event.offset).unwrap();
        }
    };
    (on_commit, offsets)
}

/// A timeout that is only reached if something hangs.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn entries_queued_during_a_commit_share_the_next() {
    let test = Test::start_blocked(options());
    let first = test.enqueue([1]).await;
    assert_eq!(test.batches.recv(), Ok(1));
    let mut others = test.enqueue_each(2..=5).await;
    test.finish_commits([Succeed]);
    first.await.unwrap();
    assert_eq!(test.batches.recv(), Ok(4));
    assert!(waits(&mut others[0]).await, "resolved before it is durable");
    test.finish_commits([Succeed]);
    for (offset, pending) in (2..).zip(others) {
        let outcomes = pending.await.unwrap();
        assert!(
            matches!(&outcomes[..], [Outcome::Appended(event)] if event.offset == offset),
            "each submitter gets its own outcomes"
        );
    }
}

#[tokio::test]
async fn batch_ends_at_its_limits_between_submissions() {
    let by_events = WriterOptions {
        max_batch_events: 4,
        ..options()
    };
    let by_bytes = WriterOptions {
        max_batch_bytes: 2 * entry("p", 1).weight(),
        ..options()
    };
    for (options, submissions, sizes) in [
        (
            by_events,
            vec![2..5, 5..8, 8..20, 20..21, 21..22],
            [6, 12, 2],
        ),
        (by_bytes, vec![2..3, 3..4, 4..5, 5..6, 6..7], [2, 2, 1]),
    ] {
        let test = Test::start_blocked(options);
        let mut pending = vec![test.enqueue([1]).await];
        assert_eq!(test.batches.recv(), Ok(1));
        for sequences in submissions {
            pending.push(test.enqueue(sequences).await);
        }
        test.finish_commits([Succeed, Succeed, Succeed, Succeed]);
        for pending in pending {
            pending.await.unwrap();
        }
        assert_eq!(test.batches.try_iter().collect::<Vec<_>>(), sizes);
    }
}

#[tokio::test]
async fn full_queue_delays_submitters_until_a_commit() {
    let test = Test::start_blocked(queue_of(3));
    let first = test.enqueue([1, 2]).await;
    let _second = test.enqueue([3]).await;
    let mut third = Box::pin(test.enqueue([4]));
    let mut dropped = Box::pin(test.enqueue([5]));
    assert!(waits(&mut third).await);
    assert!(waits(&mut dropped).await);
    drop(dropped);
    test.finish_commits([Succeed]);
    first.await.unwrap();
    let third = third.await;
    test.finish_commits([Succeed, Succeed]);
    third.await.unwrap();
    test.writer.shutdown(LONG).await.unwrap();
    let head = test.reader.bounds().head;
    assert_eq!(head, 4, "the dropped submission is not in the log");
}

#[tokio::test]
async fn queue_is_bounded_in_bytes_but_accepts_one_oversized_batch() {
    let test = Test::start_blocked(WriterOptions {
        queue_bytes: 10,
        ..options()
    });
    let mut large = entry("p", 1);
    large.data = format!("{{\"a\":\"{}\"}}", "x".repeat(100)).into();
    let large = test.writer.enqueue(vec![large]).await.unwrap();
    let mut next = Box::pin(test.enqueue([2]));
    assert!(waits(&mut next).await);
    test.finish_commits([Succeed]);
    large.await.unwrap();
    test.finish_commits([Succeed]);
    next.await.await.unwrap();
}

#[tokio::test]
async fn failed_log_fails_pending_and_later_submitters() {
    let test = Test::start_blocked(queue_of(2));
    for result in test.end_with_waiting_submitters(Fail).await {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, WriteError::Failed(LogError::Storage(_))),
            "{error:?}"
        );
    }
    let ended = test.writer.shutdown(LONG).await;
    assert!(matches!(ended, Err(WriteError::Failed(_))), "{ended:?}");
    assert!(test.alive.upgrade().is_none(), "the log is closed");
}

#[tokio::test]
async fn full_disk_rejects_and_later_accepts_a_submission() {
    let test = Test::start_blocked(options());
    test.finish_commits([Full, Succeed]);
    let rejected = test.writer.submit(entries([1])).await;
    assert!(
        matches!(&rejected, Err(WriteError::Full(LogError::Full { .. }))),
        "{rejected:?}"
    );
    let outcomes = test.writer.submit(entries([1])).await.unwrap();
    assert!(matches!(outcomes[..], [Outcome::Appended(_)]));
    test.writer.accepts().await.unwrap();
    test.writer.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn wait_for_space_ends_with_the_writer() {
    let test = Test::start_blocked(options());
    test.writer.accepts().await.unwrap();
    test.finish_commits([Full]);
    test.writer.submit(entries([1])).await.unwrap_err();
    let mut space = Box::pin(test.writer.accepts());
    assert!(waits(&mut space).await);
    test.writer.shutdown(LONG).await.unwrap();
    let ended = space.await;
    assert!(matches!(ended, Err(WriteError::Closed)), "{ended:?}");
}

#[tokio::test]
async fn writer_panic_fails_pending_and_later_submitters() {
    let test = Test::with_callback(true, queue_of(2), |_| panic!("the callback fails"));
    for result in test.end_with_waiting_submitters(Succeed).await {
        assert!(matches!(result, Err(WriteError::Stopped)), "{result:?}");
    }
    let ended = test.writer.shutdown(LONG).await;
    assert!(matches!(ended, Err(WriteError::Stopped)), "{ended:?}");
}

#[tokio::test]
async fn shutdown_commits_the_queue_and_rejects_later_entries() {
    let test = Test::start_blocked(options());
    let pending = test.enqueue_each(1..=5).await;
    test.finish_commits([Succeed, Succeed, Succeed, Succeed, Succeed]);
    test.writer.shutdown(LONG).await.unwrap();
    assert!(test.alive.upgrade().is_none(), "the log is closed");
    for pending in pending {
        assert_eq!(pending.await.unwrap().len(), 1);
    }
    let rejected = test.writer.submit(entries([6])).await;
    assert!(matches!(rejected, Err(WriteError::Closed)), "{rejected:?}");
    assert_eq!(test.reader.bounds().head, 5);
}

#[tokio::test(start_paused = true)]
async fn shutdown_times_out_and_can_be_repeated() {
    let test = Test::start_blocked(options());
    let pending = test.enqueue([1]).await;
    assert_eq!(test.batches.recv(), Ok(1));
    let busy = test.writer.shutdown(Duration::from_secs(5)).await;
    assert!(matches!(busy, Err(WriteError::Busy(_))), "{busy:?}");
    let dropped = tokio::time::timeout(Duration::from_secs(1), test.writer.shutdown(LONG)).await;
    assert!(dropped.is_err(), "{dropped:?}");
    test.finish_commits([Succeed]);
    // Virtual time would run ahead of the thread.
    tokio::time::resume();
    let both = tokio::join!(test.writer.shutdown(LONG), test.writer.shutdown(LONG));
    assert!(matches!(both, (Ok(()), Ok(()))), "{both:?}");
    test.writer.shutdown(LONG).await.unwrap();
    assert_eq!(pending.await.unwrap().len(), 1);
}

#[tokio::test]
async fn dropping_the_last_handle_commits_the_queue() {
    let test = Test::start(options());
    let pending = test.enqueue([1]).await;
    drop(test.writer.clone());
    drop(test.writer);
    assert_eq!(pending.await.unwrap().len(), 1);
    // The channel is closed when the log is dropped.
    while test.maintained.recv_timeout(LONG).is_ok() {}
    assert!(test.alive.upgrade().is_none());
}

#[tokio::test]
async fn log_is_maintained_at_start_and_between_commits() {
    let test = Test::start(options());
    test.maintained.recv_timeout(LONG).unwrap();
    for sequence in 1..=3 {
        test.writer.submit(entries([sequence])).await.unwrap();
    }
    test.writer.shutdown(LONG).await.unwrap();
    let count = test.maintained.try_iter().count();
    // Once after each commit, and once more whenever the queue was found empty.
    assert!((3..=7).contains(&count), "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_submitters_get_their_own_outcomes() {
    const SUBMITTERS: u64 = 20;
    const EACH: u64 = 50;
    let (on_commit, offsets) = offset_sender();
    let options = WriterOptions {
        max_batch_events: 5,
        ..queue_of(7)
    };
    let test = Test::with_callback(false, options, on_commit);
    let mut tasks = JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let writer = test.writer.clone();
        tasks.spawn(async move {
            let producer = format!("p{submitter}");
            for sequence in 1..=EACH {
                let mut submission = entry(&producer, sequence);
                submission.document.document_id = producer.as_str().into();
                let outcomes = writer.submit(vec![submission]).await.unwrap();
                let [Outcome::Appended(event)] = &outcomes[..] else {
                    panic!("{outcomes:?}");
                };
                assert_eq!(&*event.document_id, producer);
            }
        });
    }
    tasks.join_all().await;
    test.writer.shutdown(LONG).await.unwrap();
    assert!(offsets.iter().eq(1..=SUBMITTERS * EACH));
    assert_eq!(test.reader.bounds().head, SUBMITTERS * EACH);
}
