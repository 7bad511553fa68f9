//! Responses to the proxy's queries for crashes.

use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use steadfast_wire::fodc::{StreamCrashDiagnosticsRequest, StreamCrashDiagnosticsResponse};

use super::CrashSources;
use crate::{
    clock::Clock,
    sources::send_all,
    uplink::source::{self, Responses, Source},
};

/// Answers with the crashes that the files tell of at the time of the query.
pub(crate) struct CrashSource {
    sources: Arc<CrashSources>,
    clock: Arc<dyn Clock>,
}

impl CrashSource {
    pub(crate) fn new(sources: CrashSources, clock: Arc<dyn Clock>) -> Self {
        Self {
            sources: Arc::new(sources),
            clock,
        }
    }
}

impl Source<source::Crashes> for CrashSource {
    fn respond(
        &self,
        query: StreamCrashDiagnosticsResponse,
        responses: Responses<source::Crashes>,
    ) -> BoxFuture<'_, ()> {
        let (sources, now) = (Arc::clone(&self.sources), self.clock.now_ms());
        // A plain proxy would list it as a crash without a name.
        let end = responses
            .has_profile
            .then(|| StreamCrashDiagnosticsRequest {
                complete: true,
                ..Default::default()
            });
        let messages = move || {
            // Any other message asks for nothing.
            let found = query.request_diagnostics.then(|| sources.find());
            let found = found.into_iter().flatten();
            found.filter_map(move |crash| crash.read(now)).chain(end)
        };
        send_all(messages, responses).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use prost::Message as _;
    use tokio::sync::mpsc;

    use super::*;
    use crate::clock::SystemClock;

    /// Returns the artifacts and end markers of a response.
    async fn response(
        sources: &CrashSources,
        asked: bool,
        has_profile: bool,
    ) -> Vec<(String, bool)> {
        let source = CrashSource::new(sources.clone(), Arc::new(SystemClock));
        let (sender, mut messages) = mpsc::channel(64);
        let query = StreamCrashDiagnosticsResponse {
            request_diagnostics: asked,
        };
        let responses = Responses::new(sender, 4 << 20, has_profile);
        source.respond(query, responses).await;
        let mut seen = Vec::new();
        while let Some(message) = messages.recv().await {
            let message = StreamCrashDiagnosticsRequest::decode(message).unwrap();
            seen.push((message.artifact_dir, message.complete));
        }
        seen
    }

    #[tokio::test]
    async fn only_proxies_with_the_profile_get_an_end_marker() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("a")).unwrap();
        fs::write(temp.path().join("a/panic.json"), "{}").unwrap();
        let sources = CrashSources {
            directory: Some(temp.path().to_owned()),
            files: Vec::new(),
        };
        let crash = ("a".to_owned(), false);
        let end = (String::new(), true);
        assert_eq!(
            response(&sources, true, true).await,
            [crash.clone(), end.clone()]
        );
        assert_eq!(response(&sources, true, false).await, [crash]);
        assert_eq!(response(&CrashSources::default(), true, true).await, [end]);
        assert_eq!(response(&sources, false, false).await, []);
    }
}
