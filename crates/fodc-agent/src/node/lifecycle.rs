//! The lifecycle of the node's groups: their data, their schema in memory, and the reports of the last
//! moves between stages.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join3},
};
use steadfast_fodc_model::identity::Identity;
use steadfast_wire::fodc::{
    ConsistencyStatus, GroupLifecycleInfo, InspectAllRequest, InspectAllResponse, LifecycleData,
    LifecycleReport, SchemaConsistency, StreamLifecycleRequest, StreamLifecycleResponse,
};
use tokio::{sync::watch, task::spawn_blocking, time::Instant};
use tracing::warn;

use super::{
    call::{self, NodeError, NodeMessage},
    schema_state::{self, GroupState},
};
use crate::{
    clock::Clock,
    sources::folder::Folder,
    uplink::{
        self,
        source::{Lifecycle, NotSent, Responses, Source},
    },
};

/// Answers with the groups of the node and its reports.
pub(crate) struct LifecycleSource {
    /// The node's service for groups and their schema.
    pub(crate) node: Option<SocketAddr>,
    pub(crate) reports: Option<PathBuf>,
    /// The time for which the groups are not asked for again.
    pub(crate) cache_ttl: Duration,
    pub(crate) identity: watch::Receiver<Identity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cache: Mutex<Option<CachedGroups>>,
}

/// Groups, and the time at which they were asked for.
#[derive(Debug)]
pub(crate) struct CachedGroups(Instant, Vec<GroupLifecycleInfo>);

/// Time limit of each question to the node, as in the original. They are asked together, so that the
/// proxy does not give up before (O46).
const TIMEOUT: Duration = Duration::from_secs(40);

/// The number of reports, as in the original: the newest by name.
const REPORTS_MAX: usize = 5;

/// The size of the largest report, as in the original.
const REPORT_BYTES_MAX: u64 = 5 << 20;

impl Source<Lifecycle> for LifecycleSource {
    fn respond(
        &self,
        query: StreamLifecycleResponse,
        responses: Responses<Lifecycle>,
    ) -> BoxFuture<'_, ()> {
        async move {
            // Any other message asks for nothing.
            if query.request_lifecycle {
                self.answer(responses).await;
            }
        }
        .boxed()
    }
}

impl LifecycleSource {
    async fn answer(&self, responses: Responses<Lifecycle>) {
        let mut errors = Vec::new();
        let (groups, schema, reports) = join3(self.groups(), self.schema(), self.reports()).await;
        let mut data = LifecycleData {
            groups: taken(groups, &mut errors),
            reports: taken(reports, &mut errors),
        };
        add_schema(&mut data.groups, taken(schema, &mut errors));
        let error = errors.join("; ");
        if !error.is_empty() {
            warn!(error, "lifecycle data is incomplete");
        }
        let message = StreamLifecycleRequest {
            timestamp: Some(uplink::timestamp(self.clock.now_ms())),
            pod_name: self.identity.borrow().pod(),
            lifecycle_data: Some(data),
            error: responses.error_text(error),
        };
        send(message, responses).await;
    }

    /// Returns the groups with their data, from the cache while it is fresh.
    async fn groups(&self) -> Result<Vec<GroupLifecycleInfo>, String> {
        let Some(node) = self.node else {
            return Ok(Vec::new());
        };
        let now = Instant::now();
        if let Some(CachedGroups(asked, groups)) = &*self.cache()
            && now.duration_since(*asked) < self.cache_ttl
        {
            return Ok(groups.clone());
        }
        let groups = inspect_all(node).await.map_err(|error| error.to_string())?;
        // A failure is not kept: the next query asks again.
        *self.cache() = Some(CachedGroups(now, groups.clone()));
        Ok(groups)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Option<CachedGroups>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the schema objects in memory. It is never cached, or one answer would count as two
    /// observations (O47).
    async fn schema(&self) -> Result<BTreeMap<String, GroupState>, String> {
        let Some(node) = self.node else {
            return Ok(BTreeMap::new());
        };
        match schema_state::read(node, TIMEOUT).await {
            Ok(groups) => Ok(groups),
            // An older node.
            Err(error) if error.is_unimplemented() => Ok(BTreeMap::new()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn reports(&self) -> Result<Vec<LifecycleReport>, String> {
        let Some(directory) = self.reports.clone() else {
            return Ok(Vec::new());
        };
        let read = spawn_blocking(move || {
            read_reports(&directory)
                .map_err(|error| format!("cannot read {}: {error}", directory.display()))
        });
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// Sends a message, without its oldest reports if the proxy does not accept all of it.
async fn send(mut message: StreamLifecycleRequest, responses: Responses<Lifecycle>) {
    while let Err(error) = responses.send(&message).await {
        if error == NotSent::StreamGone {
            return;
        }
        let data = message.lifecycle_data.get_or_insert_default();
        if data.reports.pop().is_none() && std::mem::take(&mut data.groups).is_empty() {
            return;
        }
        warn!(%error, "lifecycle data is cut");
        message.error = responses.error_text(format!("cut: {error}"));
    }
}

fn taken<T: Default>(result: Result<T, String>, errors: &mut Vec<String>) -> T {
    result.unwrap_or_else(|error| {
        // Both services of one node fail alike.
        if !errors.contains(&error) {
            errors.push(error);
        }
        T::default()
    })
}

impl NodeMessage for InspectAllResponse {
    const NAME: &'static str = "banyandb.fodc.v1.InspectAllResponse";
}

async fn inspect_all(node: SocketAddr) -> Result<Vec<GroupLifecycleInfo>, NodeError> {
    let response = call::call(node, TIMEOUT, |mut connection| async move {
        let path = "/banyandb.fodc.v1.GroupLifecycleService/InspectAll";
        connection.unary(path, InspectAllRequest {}).await
    });
    let InspectAllResponse { groups } = response.await?;
    Ok(groups)
}

/// Adds the schema of each group, whose status the proxy decides.
fn add_schema(groups: &mut [GroupLifecycleInfo], mut schema: BTreeMap<String, GroupState>) {
    for group in groups {
        if let Some(state) = schema.remove(&group.name) {
            group.errors.extend(state.errors);
            group.schema_consistency = (!state.objects.is_empty()).then(|| SchemaConsistency {
                status: ConsistencyStatus::Unspecified.into(),
                objects: state.objects,
                issues: Vec::new(),
            });
        }
    }
}

/// Reads the newest reports of a directory. One that does not exist has none.
fn read_reports(directory: &Path) -> io::Result<Vec<LifecycleReport>> {
    let folder = match Folder::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut names = folder.names(false)?;
    names.retain(|name| Path::new(name).extension().is_some_and(|of| of == "json"));
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.truncate(REPORTS_MAX);
    let reports = names.into_iter().filter_map(|filename| {
        // A report may be moved away meanwhile, and one that is too long is left out.
        let file = folder.file(&filename).ok()?;
        let mut bytes = Vec::new();
        file.take(REPORT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .ok()?;
        (bytes.len() as u64 <= REPORT_BYTES_MAX).then(|| LifecycleReport {
            filename,
            report_json: String::from_utf8_lossy(&bytes).into_owned(),
        })
    });
    Ok(reports.collect())
}

#[cfg(test)]
mod tests;
