//! The state that HTTP handlers share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use steadfast_net::{
    Refusals, Tls,
    access::{AccessControl, PageRights, PrincipalLimits},
};
use tokio::sync::Semaphore;

use super::{
    config::{Config, ReadLimits},
    recording::SnapshotHandle,
    source_views::SourceViews,
    status::AgentStatus,
    unread::UnreadMemory,
};
use crate::{
    clock::Clock,
    scrape::Endpoint,
    sources::{crash::CrashSources, pressure::PressureCounters},
    uplink::Uplink,
};

/// The number of open connections.
pub(super) const MAX_CONNECTIONS: usize = 128;

/// Pages of metrics that are built at once; further requests wait.
const PAGES: usize = 2;

/// The state that HTTP handlers share.
#[derive(Debug)]
pub(super) struct AppState {
    pub(super) record: SnapshotHandle,
    pub(super) status: Arc<AgentStatus>,
    /// The connection to the proxy, if one is configured.
    pub(super) uplink: Option<Uplink>,
    pub(super) crashes: Arc<CrashSources>,
    /// TLS of the listener.
    pub(super) tls: Option<Tls>,
    /// The counters of the pressure profiler, if it runs.
    pub(super) pressure: Option<Arc<PressureCounters>>,
    pub(super) views: Arc<SourceViews>,
    /// The labels of each endpoint.
    pub(super) labels: Vec<BTreeMap<String, String>>,
    pub(super) read: ReadLimits,
    /// What the listener has refused.
    pub(super) refused: Refusals,
    /// The rights of those who read pages.
    pub(super) rights: PageRights,
    /// The bytes of a response to a remote read.
    pub(super) read_bytes: usize,
    pub(super) scrape_timeout: Duration,
    pub(super) interval: Duration,
    pub(super) clock: Arc<dyn Clock>,
    /// The permits to build a page of metrics.
    pub(super) pages: Arc<Semaphore>,
    /// The permits to run a remote read.
    pub(super) reads: Arc<Semaphore>,
    /// The memory for responses to remote reads that are not sent yet.
    pub(super) unread: UnreadMemory,
}

impl AppState {
    pub(super) fn new(
        config: &Config,
        views: Arc<SourceViews>,
        record: SnapshotHandle,
        status: Arc<AgentStatus>,
        uplink: Option<Uplink>,
        pressure: Option<Arc<PressureCounters>>,
        access: AccessControl,
    ) -> Self {
        let refused = Refusals::default();
        let limits = PrincipalLimits {
            // As one address: its connections have one request each.
            calls: MAX_CONNECTIONS / 2,
            ..PrincipalLimits::default()
        };
        let labels = config.endpoints.iter().map(Endpoint::labels).cloned();
        Self {
            record,
            status,
            uplink,
            crashes: Arc::new(config.crashes.clone()),
            tls: config.security.tls.clone(),
            pressure,
            views,
            labels: labels.collect(),
            read: config.read,
            rights: PageRights::new(access, limits, refused.clone()),
            refused,
            read_bytes: config.read_bytes(),
            scrape_timeout: config.scrape_limits().timeout,
            interval: config.interval,
            clock: Arc::clone(&config.clock),
            pages: Arc::new(Semaphore::new(PAGES)),
            reads: Arc::new(Semaphore::new(config.read.concurrent)),
            unread: UnreadMemory::new(config.read_bytes()),
        }
    }
}
