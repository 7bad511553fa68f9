//! Queries, and the responses of agents to them.

use std::sync::Arc;

use super::time::{UnixNanos, Window};

/// The samples that a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// The latest sample of each series.
    Latest,
    /// All samples of a window.
    Window(Window),
}

/// The names of the metrics that a query asks for; an empty list asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MetricNames(Arc<[String]>);

impl MetricNames {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names.into())
    }

    pub(super) fn list(&self) -> &[String] {
        &self.0
    }

    pub(super) fn admit(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|wanted| wanted == name)
    }
}

/// One message to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) generation: u64,
    pub(super) id: u64,
    pub(super) query: Query,
    /// Only an agent with the profile understands them.
    pub(super) names: MetricNames,
    /// The agent speaks the profile: it may respond in columns and in several parts.
    pub(super) profile: bool,
}

/// One message of the agent: a response, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct ResponsePart<D> {
    /// 0 from an agent without the profile.
    pub(super) request_id: u64,
    pub(super) bytes: usize,
    pub(super) samples: usize,
    /// Another part follows.
    pub(super) more: bool,
    /// The agent left out everything before this time.
    pub(super) from: Option<UnixNanos>,
    pub(super) data: D,
}

/// The result of a query to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome<D> {
    Complete(Arc<Vec<D>>),
    /// The parts that arrived, and the reason for what is missing.
    Partial(Arc<Vec<D>>, Reason),
    Missing(Reason),
}

/// The reason why an agent's response, or a part of it, is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The agent has no metrics stream.
    NoStream,
    /// The agent missed an earlier deadline and has not responded since; nobody waits for it.
    Unresponsive,
    /// The response missed its deadline.
    Late,
    /// The stream ended before the response.
    StreamEnded,
    /// Too many queries wait for this agent.
    Busy,
    /// The agent left something out.
    Truncated,
    /// The memory budget for responses was exhausted.
    MemoryExhausted,
}

impl Reason {
    /// Returns the text of the `x-steadfast-missing` header.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NoStream => "no stream",
            Self::Unresponsive => "silent",
            Self::Late => "late",
            Self::StreamEnded => "stream ended",
            Self::Busy => "busy",
            Self::Truncated => "truncated",
            Self::MemoryExhausted => "no room",
        }
    }
}
