//! The Puller service: the events of the log as changes of a Puller.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use steadfast_streamer_core::puller::feed;
use steadfast_wire::puller::{PullerEvent, SubscribeRequest, puller_service_server::PullerService};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::access::{Admission, CallRights};
use crate::{
    Terms,
    log::{LogError, LogReader, with_sources},
};

/// Maximum number of consumers. Each holds at most one page.
const CONSUMERS: usize = 1_024;

/// Maximum number of events of a page.
const PAGE: usize = 256;

/// Approximate maximum size of a page, in bytes.
const PAGE_BYTES: usize = 1 << 20;

/// Serves consumers. Each has an offset and at most one page: a slow one reads from the log later.
#[derive(Clone)]
pub(super) struct PullerFeed {
    reader: Arc<dyn LogReader>,
    terms: Arc<Terms>,
    head: watch::Receiver<u64>,
    heartbeat: Duration,
    consumers: Arc<Semaphore>,
    /// The consumer id of this server's own intake.
    own_consumer: Arc<str>,
    /// Cancelled when the server drains.
    drain: CancellationToken,
    admission: Admission,
}

/// One consumer's stream.
struct Consumer {
    feed: PullerFeed,
    /// The offset up to which events were read.
    after: u64,
    /// The offset up to which the events of a document are merged.
    merge_upto: u64,
    /// The messages of the page.
    pending: VecDeque<PullerEvent>,
    /// The status that ends the stream after the pending messages.
    end: Option<Status>,
    /// `None` if everybody may read everything.
    rights: Option<CallRights>,
    _permit: OwnedSemaphorePermit,
}

impl PullerFeed {
    /// Creates the service. `head` follows the head of the log.
    pub(super) fn new(
        reader: Arc<dyn LogReader>,
        head: watch::Receiver<u64>,
        heartbeat: Duration,
        own_consumer: &str,
        drain: CancellationToken,
        admission: Admission,
    ) -> Self {
        Self {
            terms: Arc::new(reader.terms()),
            reader,
            head,
            heartbeat,
            consumers: Arc::new(Semaphore::new(CONSUMERS)),
            own_consumer: own_consumer.into(),
            drain,
            admission,
        }
    }

    fn consumer(&self, request: &SubscribeRequest) -> Result<Consumer, Status> {
        // Each change would come back as another one, without end.
        if request.consumer_id.starts_with(&*self.own_consumer) {
            return Err(Status::failed_precondition(
                "this server would take its own changes; name another Puller with --puller",
            ));
        }
        let permit = Arc::clone(&self.consumers).try_acquire_owned();
        let permit = permit.map_err(|_| {
            Status::resource_exhausted(format!("the server has {CONSUMERS} consumers, its limit"))
        })?;
        let bounds = self.reader.bounds();
        let start = feed::start(&request.after, &self.terms, bounds).map_err(refused)?;
        let mut feed = self.clone();
        feed.head.mark_unchanged();
        Ok(Consumer {
            feed,
            after: match start {
                feed::Start::Now => bounds.head,
                feed::Start::Oldest => bounds.first,
                feed::Start::After(offset) => offset,
            },
            merge_upto: if request.coalesce_on_catch_up {
                bounds.head
            } else {
                0
            },
            pending: VecDeque::new(),
            end: None,
            rights: None,
            _permit: permit,
        })
    }
}

#[tonic::async_trait]
impl PullerService for PullerFeed {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<PullerEvent, Status>> + Send>>;

    /// Opens a stream. Two consumers with one id are two.
    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        if self.drain.is_cancelled() {
            return Err(stopping());
        }
        let headers = request.metadata().as_ref();
        let rights = self.admission.call_rights(headers, request.extensions())?;
        if let Some(rights) = &rights {
            rights.check_admin()?;
        }
        let mut consumer = self.consumer(request.get_ref())?;
        consumer.rights = rights;
        // The transport pulls: what it does not take is not even read from the log.
        let messages = futures_util::stream::unfold(Some(consumer), async |consumer| {
            let mut consumer = consumer?;
            match consumer.next().await {
                Ok(event) => Some((Ok(event), Some(consumer))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

impl Consumer {
    /// Returns the next message, or the status that ends the stream.
    async fn next(&mut self) -> Result<PullerEvent, Status> {
        loop {
            if let Some(rights) = &mut self.rights {
                rights.update()?;
                rights.check_admin()?;
            }
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            if let Some(end) = self.end.take() {
                return Err(end);
            }
            if self.feed.drain.is_cancelled() {
                return Err(stopping());
            }
            if *self.feed.head.borrow_and_update() > self.after {
                self.read().await?;
                continue;
            }
            tokio::select! {
                changed = self.feed.head.changed() => {
                    changed.map_err(|_| Status::unavailable("the log has stopped"))?;
                }
                () = self.feed.drain.cancelled() => return Err(stopping()),
                changed = rights_changed(&mut self.rights) => changed?,
                // With a marker also before the first event: a consumer that is cut then resumes.
                () = tokio::time::sleep(self.feed.heartbeat) => {
                    return Ok(feed::heartbeat(self.after, &self.feed.terms));
                }
            }
        }
    }

    /// Reads the next page.
    async fn read(&mut self) -> Result<(), Status> {
        // The log's readers block. Here one could hold up every call of its worker thread.
        let (reader, after) = (Arc::clone(&self.feed.reader), self.after);
        let read = tokio::task::spawn_blocking(move || reader.read(after, PAGE, PAGE_BYTES)).await;
        let page = match read.map_err(|_| Status::internal("the log's reader panicked"))? {
            Ok(page) => page,
            Err(LogError::Damaged { offset, .. }) => {
                self.skip_damaged(offset);
                return Ok(());
            }
            Err(LogError::Trimmed { after, first }) => {
                return Err(refused(feed::RefusedMarker::Trimmed { after, first }));
            }
            Err(error) => return Err(Status::unavailable(with_sources(&error))),
        };
        let Some(last) = page.last() else {
            return Err(Status::unavailable(
                "the log returned no events before its head",
            ));
        };
        self.after = last.offset;
        let changes = if self.after <= self.merge_upto {
            feed::coalesce(page)
        } else {
            feed::unmerged(page)
        };
        let terms = &self.feed.terms;
        self.pending = changes
            .iter()
            .map(|change| feed::message(change, terms))
            .collect();
        Ok(())
    }

    /// Moves the consumer past damaged events, and ends its stream so that it is told.
    fn skip_damaged(&mut self, offset: u64) {
        self.after = offset;
        // Its marker first: it then resumes behind them.
        let moved = feed::heartbeat(offset, &self.feed.terms);
        self.pending.push_back(moved);
        self.end = Some(Status::data_loss(format!(
            "the events up to offset {offset} are damaged; read the state anew"
        )));
    }
}

/// Resolves when rights are to be checked again.
async fn rights_changed(rights: &mut Option<CallRights>) -> Result<(), Status> {
    match rights {
        Some(rights) => rights.changed().await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn refused(reason: feed::RefusedMarker) -> Status {
    match reason {
        feed::RefusedMarker::Unknown(_) | feed::RefusedMarker::Trimmed { .. } => {
            Status::out_of_range(reason.to_string())
        }
        // Of this Puller or not, it is no marker of this one.
        _ => Status::invalid_argument(reason.to_string()),
    }
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}
