//! The JSON of `/metrics-windows`: samples with their times.
//!
//! The elements of an agent are written when its response is complete, whoever else is still
//! sending. JSON has no number for NaN and infinities: they are the strings `"NaN"`, `"+Inf"` and
//! `"-Inf"`.

mod agent;

use std::{time::Duration, vec};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    task::yield_now,
};

use self::agent::{AgentJson, PIECE, write_missing};
use super::{
    agents::QueriedAgent,
    filter::Filter,
    gather::{AgentResponse, Gathered, Gathering},
    labels::Duplicates,
    state::State,
};

/// The JSON array, in pieces of about [`PIECE`] bytes.
#[derive(Debug)]
pub(super) struct Windows {
    filter: Filter,
    duplicates: Duplicates,
    /// The responses that are not written yet.
    complete: vec::IntoIter<AgentResponse>,
    /// The agents that had not responded when the first bytes were sent.
    outstanding: Outstanding,
    writing: Option<AgentJson>,
    begun: bool,
    /// An element has been written.
    has_elements: bool,
    finished: bool,
}

#[derive(Debug)]
struct Outstanding {
    responses: mpsc::Receiver<QueriedAgent>,
    count: usize,
    /// The missing responses that are not in the header.
    missing: Gathered,
}

/// The error of a response whose agents are no longer waited for.
#[derive(Debug, thiserror::Error)]
#[error("the proxy stopped before all agents had responded")]
pub(super) struct Interrupted;

/// The time for which the first bytes wait for the slowest agent. What is missing by then is in the
/// header; clients of a long window give up if nothing arrives.
const FIRST_BYTES: Duration = Duration::from_secs(1);

impl Windows {
    /// Collects responses until all have arrived, or until the first bytes are due. Also returns the
    /// text about the agents that are missing by then.
    pub(super) async fn start(
        state: &State,
        mut gathering: Gathering,
        filter: Filter,
    ) -> (Self, Option<String>) {
        gathering.collect_for(FIRST_BYTES).await;
        let gathered = gathering.take_gathered();
        let missing = gathered.missing_text();
        // Agents that have not responded count, because later elements must not change earlier ones.
        let responses = gathered.responses.iter();
        let identities = responses.map(|response| &*response.identity);
        let duplicates = Duplicates::among(identities.chain(gathering.outstanding()));
        let windows = Self {
            filter,
            duplicates,
            complete: gathered.responses.into_iter(),
            outstanding: Outstanding::new(state, gathering),
            writing: None,
            begun: false,
            has_elements: false,
            finished: false,
        };
        (windows, missing)
    }

    /// Returns the next piece, or `None` after the last. Each step of the work is short, and lets other
    /// tasks run before the next.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Interrupted> {
        let mut out = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            out.push('[');
        }
        while out.len() < PIECE && !self.finished {
            if let Some(agent) = &mut self.writing {
                if !agent.step(&self.filter, &mut self.has_elements, &mut out) {
                    self.writing = None;
                }
                yield_now().await;
            } else if let Some(response) = self.complete.next() {
                let is_duplicate = self.duplicates.contain(&response.identity);
                self.writing = Some(AgentJson::new(response, is_duplicate));
            } else if self.outstanding.count == 0 {
                write_missing(&self.outstanding.missing, self.has_elements, &mut out);
                out.push_str("]\n");
                self.finished = true;
            } else if !self.outstanding.receive(!out.is_empty()).await? {
                // What is written goes out before anything is waited for.
                break;
            } else {
                self.complete = self.outstanding.take_complete();
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }
}

impl Outstanding {
    fn new(state: &State, mut gathering: Gathering) -> Self {
        let count = gathering.outstanding().len();
        // Collected by a task, because a client that reads slowly must not hold the permit.
        let (sender, responses) = mpsc::channel(count.max(1));
        if count > 0 {
            state.tasks.spawn(async move {
                loop {
                    tokio::select! {
                        biased;
                        () = sender.closed() => return,
                        next = gathering.next() => match next {
                            // There is capacity for all.
                            Some(queried) => drop(sender.try_send(queried)),
                            None => return,
                        },
                    }
                }
            });
        }
        Self {
            responses,
            count,
            missing: Gathered::default(),
        }
    }

    /// Receives one response. Returns false if none has arrived and the caller does not want to wait.
    async fn receive(&mut self, only_arrived: bool) -> Result<bool, Interrupted> {
        let queried = match self.responses.try_recv() {
            Ok(queried) => queried,
            Err(TryRecvError::Empty) if only_arrived => return Ok(false),
            Err(_) => self.responses.recv().await.ok_or(Interrupted)?,
        };
        self.count -= 1;
        self.missing.add(queried);
        Ok(true)
    }

    fn take_complete(&mut self) -> vec::IntoIter<AgentResponse> {
        std::mem::take(&mut self.missing.responses).into_iter()
    }
}

#[cfg(test)]
mod tests;
