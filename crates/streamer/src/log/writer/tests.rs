use std::{
    sync::{Weak, mpsc},
    thread,
};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::*;
use crate::{
    Epoch,
    log::{LogReader, MemoryLog},
};

/// A log that shows what is asked of it, and does it when it is let.
struct Probe {
    /// Gone when the log is, and before the channels.
    _alive: Arc<()>,
    log: MemoryLog,
    /// Sizes of the batches, in order.
    batches: mpsc::Sender<usize>,
    /// One word per batch; without a gate all of them go.
    gate: Option<mpsc::Receiver<Word>>,
    maintained: mpsc::Sender<()>,
}

enum Word {
    Go,
    Fail,
    Full,
}

/// The other ends of a probe.
struct Watch {
    reader: Arc<dyn LogReader>,
    batches: mpsc::Receiver<usize>,
    gate: mpsc::Sender<Word>,
    maintained: mpsc::Receiver<()>,
    alive: Weak<()>,
}

fn probe(gated: bool) -> (Box<dyn Log>, Watch) {
    let log = MemoryLog::with_epoch(Epoch(1));
    let reader = log.reader();
    let (batches, batches_out) = mpsc::channel();
    let (gate_in, gate) = mpsc::channel();
    let (maintained, maintained_out) = mpsc::channel();
    let alive = Arc::new(());
    let watch = Watch {
        reader,
        batches: batches_out,
        gate: gate_in,
        maintained: maintained_out,
        alive: Arc::downgrade(&alive),
    };
    let probe = Probe {
        _alive: alive,
        log,
        batches,
        gate: gated.then_some(gate),
        maintained,
    };
    (Box::new(probe), watch)
}

impl Log for Probe {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        self.batches.send(batch.len()).unwrap_or(());
        match self.gate.as_ref().map(mpsc::Receiver::recv) {
            None | Some(Ok(Word::Go)) => self.log.append(batch, now_ms),
            Some(Ok(Word::Full)) => Err(LogError::Full { free: 1, needed: 2 }),
            Some(Ok(Word::Fail) | Err(_)) => Err(LogError::Storage("no space".into())),
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
    Submission {
        producer: producer.into(),
        sequence,
        database: "d".into(),
        collection: "c".into(),
        document_id: "1".into(),
        operation: None,
        data: Bytes::from_static(b"{}"),
        origin: None,
    }
}

fn entries(sequences: impl IntoIterator<Item = u64>) -> Vec<Submission> {
    sequences.into_iter().map(|it| entry("p", it)).collect()
}

fn spawn(log: Box<dyn Log>, options: WriterOptions) -> LogWriter {
    LogWriter::spawn(log, options, |_| ()).unwrap()
}

/// Whether a future is not ready when it is asked once.
async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
    futures_util::poll!(future).is_pending()
}

/// A deadline of the tests' own: nothing here takes so long unless it hangs.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn entries_are_told_when_they_are_in_the_log_and_commits_come_in_order() {
    let (log, watch) = probe(false);
    let (committed, commits) = mpsc::channel();
    let writer = LogWriter::spawn(log, WriterOptions::default(), move |events| {
        committed.send(events.to_vec()).unwrap();
    })
    .unwrap();
    for start in [1, 4, 7] {
        let outcomes = writer.submit(entries(start..start + 3)).await.unwrap();
        assert_eq!(outcomes.len(), 3);
        assert_eq!(watch.reader.bounds().head, start + 2);
    }
    assert_eq!(
        writer.submit(entries([9])).await.unwrap(),
        [Outcome::Duplicate]
    );
    writer.shutdown(LONG).await.unwrap();
    let told: Vec<u64> = commits.iter().flatten().map(|event| event.offset).collect();
    assert_eq!(told, (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn everything_that_queues_during_a_commit_goes_with_the_next() {
    let (log, watch) = probe(true);
    let writer = spawn(log, WriterOptions::default());
    let first = writer.enqueue(entries([1])).await.unwrap();
    assert_eq!(watch.batches.recv(), Ok(1));
    let mut others = Vec::new();
    for sequence in 2..=5 {
        others.push(writer.enqueue(entries([sequence])).await.unwrap());
    }
    watch.gate.send(Word::Go).unwrap();
    first.await.unwrap();
    assert_eq!(watch.batches.recv(), Ok(4));
    assert!(waits(&mut others[0]).await, "told before it is durable");
    watch.gate.send(Word::Go).unwrap();
    for (offset, pending) in (2..).zip(others) {
        let outcomes = pending.await.unwrap();
        assert!(
            matches!(&outcomes[..], [Outcome::Appended(event)] if event.offset == offset),
            "each submitter gets its own outcomes"
        );
    }
}

#[tokio::test]
async fn a_commit_ends_at_its_limits_and_never_splits_a_submission() {
    let (log, watch) = probe(true);
    let options = WriterOptions {
        max_batch_events: 4,
        ..WriterOptions::default()
    };
    let writer = spawn(log, options);
    let mut pending = vec![writer.enqueue(entries([1])).await.unwrap()];
    assert_eq!(watch.batches.recv(), Ok(1));
    for sequences in [2..5, 5..8, 8..20, 20..21, 21..22] {
        pending.push(writer.enqueue(entries(sequences)).await.unwrap());
    }
    for _ in 0..4 {
        watch.gate.send(Word::Go).unwrap();
    }
    for pending in pending {
        pending.await.unwrap();
    }
    let sizes: Vec<_> = watch.batches.try_iter().collect();
    assert_eq!(sizes, [6, 12, 2]);
}

#[tokio::test]
async fn a_commit_ends_at_its_bytes() {
    let (log, watch) = probe(true);
    let weight = entry("p", 1).weight();
    let options = WriterOptions {
        max_batch_bytes: 2 * weight,
        ..WriterOptions::default()
    };
    let writer = spawn(log, options);
    let mut pending = Vec::new();
    for sequence in 1..=6 {
        pending.push(writer.enqueue(entries([sequence])).await.unwrap());
        if sequence == 1 {
            assert_eq!(watch.batches.recv(), Ok(1));
        }
    }
    for _ in 0..4 {
        watch.gate.send(Word::Go).unwrap();
    }
    for pending in pending {
        pending.await.unwrap();
    }
    assert_eq!(watch.batches.try_iter().collect::<Vec<_>>(), [2, 2, 1]);
}

#[tokio::test]
async fn a_commit_waits_for_company_as_long_as_it_may() {
    let (log, watch) = probe(false);
    let options = WriterOptions {
        max_wait: Duration::from_secs(3_600),
        max_batch_events: 3,
        ..WriterOptions::default()
    };
    let writer = spawn(log, options);
    let first = writer.enqueue(entries([1])).await.unwrap();
    let second = writer.enqueue(entries([2])).await.unwrap();
    let third = writer.enqueue(entries([3])).await.unwrap();
    for pending in [first, second, third] {
        pending.await.unwrap();
    }
    assert_eq!(watch.batches.recv(), Ok(3));

    // A shutdown does not wait for company.
    let lonely = writer.enqueue(entries([4])).await.unwrap();
    writer.shutdown(LONG).await.unwrap();
    assert_eq!(lonely.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_queue_lets_submitters_wait_until_a_commit_makes_room() {
    let (log, watch) = probe(true);
    let options = WriterOptions {
        queue_events: 3,
        ..WriterOptions::default()
    };
    let writer = spawn(log, options);
    let first = writer.enqueue(entries([1, 2])).await.unwrap();
    let _second = writer.enqueue(entries([3])).await.unwrap();
    let mut third = Box::pin(writer.enqueue(entries([4])));
    let mut dropped = Box::pin(writer.enqueue(entries([5])));
    assert!(waits(&mut third).await);
    assert!(waits(&mut dropped).await);
    drop(dropped);
    watch.gate.send(Word::Go).unwrap();
    first.await.unwrap();
    let third = third.await.unwrap();
    watch.gate.send(Word::Go).unwrap();
    watch.gate.send(Word::Go).unwrap();
    third.await.unwrap();
    writer.shutdown(LONG).await.unwrap();
    assert_eq!(
        watch.reader.bounds().head,
        4,
        "what was dropped in the wait is not there"
    );
}

#[tokio::test]
async fn a_queue_is_bounded_in_bytes_and_takes_what_never_fits_when_it_is_empty() {
    let (log, watch) = probe(true);
    let options = WriterOptions {
        queue_bytes: 10,
        ..WriterOptions::default()
    };
    let writer = spawn(log, options);
    let mut large = entries([1]);
    large[0].data = Bytes::from(format!("{{\"a\":\"{}\"}}", "x".repeat(100)));
    let large = writer.enqueue(large).await.unwrap();
    let mut next = Box::pin(writer.enqueue(entries([2])));
    assert!(waits(&mut next).await);
    watch.gate.send(Word::Go).unwrap();
    large.await.unwrap();
    watch.gate.send(Word::Go).unwrap();
    next.await.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_failed_log_fails_everybody_who_waits_and_who_comes_later() {
    let (log, watch) = probe(true);
    let options = WriterOptions {
        queue_events: 2,
        ..WriterOptions::default()
    };
    let writer = spawn(log, options);
    let committing = writer.enqueue(entries([1])).await.unwrap();
    assert_eq!(watch.batches.recv(), Ok(1));
    let queued = writer.enqueue(entries([2])).await.unwrap();
    let without_room = tokio::spawn({
        let writer = writer.clone();
        async move { writer.submit(entries([3])).await }
    });
    tokio::task::yield_now().await;
    watch.gate.send(Word::Fail).unwrap();
    for result in [
        committing.await,
        queued.await,
        without_room.await.unwrap(),
        writer.submit(entries([4])).await,
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, WriteError::Failed(cause) if matches!(**cause, LogError::Storage(_))),
            "{error:?}"
        );
    }
    assert!(matches!(
        writer.shutdown(LONG).await,
        Err(WriteError::Failed(_))
    ));
    assert!(
        watch.alive.upgrade().is_none(),
        "the log is closed and can be opened anew"
    );
}

#[tokio::test]
async fn a_full_disk_refuses_what_waits_and_takes_it_when_there_is_room() {
    let (log, watch) = probe(true);
    let writer = spawn(log, WriterOptions::default());
    watch.gate.send(Word::Full).unwrap();
    let refused = writer.submit(entries([1])).await;
    assert!(
        matches!(&refused, Err(WriteError::Full(cause)) if matches!(**cause, LogError::Full { .. })),
        "{refused:?}"
    );
    watch.gate.send(Word::Go).unwrap();
    let outcomes = writer.submit(entries([1])).await.unwrap();
    assert!(matches!(outcomes[..], [Outcome::Appended(_)]));
    writer.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn a_panic_on_the_thread_leaves_nobody_waiting() {
    let (log, watch) = probe(true);
    let options = WriterOptions {
        queue_events: 2,
        ..WriterOptions::default()
    };
    let writer = LogWriter::spawn(log, options, |_| panic!("a fault of the callback")).unwrap();
    let committing = writer.enqueue(entries([1])).await.unwrap();
    assert_eq!(watch.batches.recv(), Ok(1));
    let queued = writer.enqueue(entries([2])).await.unwrap();
    let without_room = tokio::spawn({
        let writer = writer.clone();
        async move { writer.submit(entries([3])).await }
    });
    tokio::task::yield_now().await;
    watch.gate.send(Word::Go).unwrap();
    for result in [
        committing.await,
        queued.await,
        without_room.await.unwrap(),
        writer.submit(entries([4])).await,
    ] {
        assert!(matches!(result, Err(WriteError::Stopped)), "{result:?}");
    }
    assert!(matches!(
        writer.shutdown(LONG).await,
        Err(WriteError::Stopped)
    ));
}

#[tokio::test]
async fn a_shutdown_commits_what_is_queued_and_takes_no_more() {
    let (log, watch) = probe(true);
    let writer = spawn(log, WriterOptions::default());
    let mut pending = Vec::new();
    for sequence in 1..=5 {
        pending.push(writer.enqueue(entries([sequence])).await.unwrap());
    }
    for _ in 0..5 {
        watch.gate.send(Word::Go).unwrap();
    }
    writer.shutdown(LONG).await.unwrap();
    assert!(watch.alive.upgrade().is_none(), "the log is closed");
    for pending in pending {
        assert_eq!(pending.await.unwrap().len(), 1);
    }
    let refused = writer.submit(entries([6])).await;
    assert!(matches!(refused, Err(WriteError::Closed)), "{refused:?}");
    assert_eq!(watch.reader.bounds().head, 5);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_up_at_its_deadline_and_can_be_asked_again() {
    let (log, watch) = probe(true);
    let writer = spawn(log, WriterOptions::default());
    let pending = writer.enqueue(entries([1])).await.unwrap();
    assert_eq!(watch.batches.recv(), Ok(1));
    let busy = writer.shutdown(Duration::from_secs(5)).await;
    assert!(matches!(busy, Err(WriteError::Busy(_))), "{busy:?}");
    watch.gate.send(Word::Go).unwrap();
    // Virtual time would run ahead of the thread.
    tokio::time::resume();
    writer.shutdown(LONG).await.unwrap();
    assert_eq!(pending.await.unwrap().len(), 1);
}

#[tokio::test]
async fn dropping_the_last_handle_commits_what_is_queued_and_ends_the_thread() {
    let (log, watch) = probe(false);
    let writer = spawn(log, WriterOptions::default());
    let clone = writer.clone();
    let pending = writer.enqueue(entries([1])).await.unwrap();
    drop((writer, clone));
    assert_eq!(pending.await.unwrap().len(), 1);
    // Its end of the channel goes with the log.
    while watch.maintained.recv_timeout(LONG).is_ok() {}
    assert!(watch.alive.upgrade().is_none());
}

#[tokio::test]
async fn the_log_is_looked_after_at_the_beginning_and_between_commits() {
    let (log, watch) = probe(false);
    let writer = spawn(log, WriterOptions::default());
    watch.maintained.recv_timeout(LONG).unwrap();
    for sequence in 1..=3 {
        writer.submit(entries([sequence])).await.unwrap();
    }
    writer.shutdown(LONG).await.unwrap();
    let times = watch.maintained.try_iter().count();
    // Once after each commit, and once more each time the queue was found empty.
    assert!((3..=7).contains(&times), "{times}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_submitters_at_once_lose_nothing_and_mix_nothing_up() {
    const SUBMITTERS: u64 = 20;
    const EACH: u64 = 50;
    let (log, watch) = probe(false);
    let (committed, commits) = mpsc::channel();
    let options = WriterOptions {
        queue_events: 7,
        max_batch_events: 5,
        ..WriterOptions::default()
    };
    let writer = LogWriter::spawn(log, options, move |events| {
        committed.send(events.to_vec()).unwrap();
    })
    .unwrap();
    let mut tasks = JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let writer = writer.clone();
        tasks.spawn(async move {
            let producer = format!("p{submitter}");
            for sequence in 1..=EACH {
                let mut submission = entry(&producer, sequence);
                submission.document_id = producer.as_str().into();
                let outcomes = writer.submit(vec![submission]).await.unwrap();
                let [Outcome::Appended(event)] = &outcomes[..] else {
                    panic!("{outcomes:?}");
                };
                assert_eq!(&*event.document_id, producer);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    writer.shutdown(LONG).await.unwrap();
    let told: Vec<u64> = commits.iter().flatten().map(|event| event.offset).collect();
    assert_eq!(told, (1..=SUBMITTERS * EACH).collect::<Vec<_>>());
    assert_eq!(watch.reader.bounds().head, SUBMITTERS * EACH);
}

#[test]
fn a_writer_belongs_to_no_runtime() {
    let (log, _watch) = probe(false);
    let writer = spawn(log, WriterOptions::default());
    let submitting = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(writer.submit(entries([1]))).unwrap()
    });
    assert_eq!(submitting.join().unwrap().len(), 1);
}
