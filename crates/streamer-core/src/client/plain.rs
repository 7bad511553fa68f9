//! Peers without the resume profile: how they spell, how they refuse, and how one finds out that
//! they dropped a subscription.

use std::time::Duration;

use steadfast_session::{End, Initiator, Reason, Time};
use steadfast_wire::streamer as wire;

use super::{
    Core, Cx, GapReason, SubscriptionId,
    subscription::{Claim, Question, Standing},
};
use crate::filter::{Filter, Op, Spelling};

/// The spelling to try when a peer refuses one.
fn other(spelling: Spelling) -> Spelling {
    match spelling {
        Spelling::Symbols => Spelling::Words,
        Spelling::Words => Spelling::Symbols,
    }
}

/// Whether the filter looks different in the two spellings.
fn has_two_spellings(filter: &Filter) -> bool {
    let differs = |op: Op| op.spelled(Spelling::Symbols) != op.spelled(Spelling::Words);
    filter
        .conditions()
        .iter()
        .any(|condition| differs(condition.op))
}

/// What a plain peer's refusal means. It is known by its text only (wire/streamer.md §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Some stream, perhaps a dead one, holds the id.
    IdTaken,
    /// An operator is not known, at least not in this spelling.
    UnknownOperator,
    /// The filters are wrong and stay wrong.
    Permanent,
    /// Anything else may pass.
    Temporary,
}

impl Verdict {
    pub(super) fn read(error: &str) -> Self {
        if error.contains("subscription ID already exists") {
            Self::IdTaken
        } else if error.contains("unsupported operator") {
            Self::UnknownOperator
        } else if PERMANENT.iter().any(|text| error.contains(text)) {
            Self::Permanent
        } else {
            Self::Temporary
        }
    }
}

const PERMANENT: [&str; 5] = [
    "failed to compile filters",
    "value is nil",
    "filter is nil",
    "unsupported proto value type",
    "CEL compile error",
];

/// Repeats one subscription per interval: a server that still has it says that it exists.
///
/// A success proves an eviction only with a server that refuses known ids at all, so the first
/// repetition follows the first acknowledgement at once, while nothing can have been evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Probing {
    /// When the next repetition is due.
    pub(super) next: Option<Time>,
    /// Which subscription was repeated last.
    last: Option<SubscriptionId>,
    /// Whether a success proves anything; `None` until the first answer.
    telling: Option<bool>,
}

impl Core {
    /// A plain peer answered a subscribe request.
    pub(super) fn on_plain_response(
        &mut self,
        now: Time,
        response: &wire::SubscribeResponse,
        cx: &mut Cx,
    ) {
        let Some(id) = self.known(&response.subscription_id) else {
            return;
        };
        match self.subscription(id).standing.clone() {
            Standing::Unasked | Standing::Active { probed: false, .. } => {
                self.counters.stray_answers += 1;
            }
            Standing::Asked(question) if response.success => {
                self.on_plain_success(now, id, question, cx);
            }
            Standing::Asked(question) => {
                self.on_plain_refusal(id, question, &response.error, cx);
            }
            Standing::Active {
                request, spelling, ..
            } => {
                self.subscription_mut(id).standing = Standing::Active {
                    request,
                    spelling,
                    probed: false,
                };
                self.on_probe_answered(response, cx);
            }
        }
    }

    fn on_plain_success(&mut self, now: Time, id: SubscriptionId, question: Question, cx: &mut Cx) {
        let spelling = question.spelling;
        if has_two_spellings(&self.subscription(id).filter) {
            self.spelling = spelling;
        }
        self.on_acknowledged(id, question, None, false, cx);
        if let Some(interval) = self.config.activity_timeout
            && self.probing == Probing::default()
        {
            self.probing.next = Some(now + interval.max(PROBE_INTERVAL_MIN));
            self.probe(id, cx);
        }
    }

    fn on_plain_refusal(
        &mut self,
        id: SubscriptionId,
        question: Question,
        error: &str,
        cx: &mut Cx,
    ) {
        match Verdict::read(error) {
            Verdict::IdTaken => match question.claim {
                Claim::Plain => {
                    self.counters.reclaimed += 1;
                    self.send_unsubscribe(id, cx);
                    let claim = Claim::Reclaimed;
                    self.ask_again(id, Question { claim, ..question }, cx);
                }
                Claim::Reclaimed => {
                    self.counters.renamed += 1;
                    self.rename(id);
                    let claim = Claim::Renamed;
                    self.ask_again(id, Question { claim, ..question }, cx);
                }
                Claim::Renamed => self.on_temporary_refusal(id, error, cx),
            },
            Verdict::UnknownOperator => {
                let has_other = has_two_spellings(&self.subscription(id).filter);
                if question.respelled || !has_other {
                    self.refuse(id, true, error, cx);
                    return;
                }
                self.counters.respelled += 1;
                let question = Question {
                    spelling: other(question.spelling),
                    respelled: true,
                    ..question
                };
                self.ask_again(id, question, cx);
            }
            Verdict::Permanent => self.refuse(id, true, error, cx),
            Verdict::Temporary => self.on_temporary_refusal(id, error, cx),
        }
    }

    /// A repetition of a known id was answered.
    fn on_probe_answered(&mut self, response: &wire::SubscribeResponse, cx: &mut Cx) {
        if !response.success {
            if Verdict::read(&response.error) == Verdict::IdTaken {
                self.probing.telling = Some(true);
            }
            return;
        }
        match self.probing.telling {
            None | Some(false) => {
                // It takes a known id for a replacement, so a repetition tells nothing.
                self.probing.telling = Some(false);
                self.probing.next = None;
            }
            Some(true) => {
                // A Go server evicts the whole stream and goes on acknowledging on it, but delivers
                // nothing any more (S1), so the stream is of no use.
                self.counters.evictions += 1;
                for subscription in self.subscriptions.values_mut() {
                    if subscription.acknowledged {
                        subscription.owe(GapReason::Evicted);
                    }
                }
                let what = "it dropped subscriptions of a living stream without a word";
                cx.fail(End::retry(Initiator::Peer, Reason::Protocol(what.into())));
            }
        }
    }

    /// The next repetition is due.
    pub(super) fn on_probe_due(&mut self, now: Time, interval: Duration, cx: &mut Cx) {
        self.probing.next = Some(now + interval.max(PROBE_INTERVAL_MIN));
        let can_be_probed = |id: &SubscriptionId| {
            matches!(
                self.subscription(*id).standing,
                Standing::Active { probed: false, .. }
            )
        };
        let ids = || self.subscriptions.keys().copied();
        let after = |last| ids().find(|id| Some(*id) > last && can_be_probed(id));
        if let Some(id) = after(self.probing.last).or_else(|| after(None)) {
            self.probe(id, cx);
        }
    }

    fn probe(&mut self, id: SubscriptionId, cx: &mut Cx) {
        let Standing::Active {
            request: accepted,
            spelling,
            ..
        } = self.subscription(id).standing
        else {
            return;
        };
        self.counters.probes += 1;
        self.probing.last = Some(id);
        let request = self.subscription(id).request(spelling);
        self.subscription_mut(id).standing = Standing::Active {
            request: accepted,
            spelling,
            probed: true,
        };
        super::say(cx, super::subscribe(request));
    }
}

/// However short the activity timeout is.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_refusal_is_classified() {
        for (error, verdict) in [
            ("subscription ID already exists", Verdict::IdTaken),
            (
                "failed to compile filters: unsupported operator: ==",
                Verdict::UnknownOperator,
            ),
            (
                "failed to compile filters: value is nil",
                Verdict::Permanent,
            ),
            (
                "failed to compile filters: CEL compile error: ERROR",
                Verdict::Permanent,
            ),
            ("too many subscriptions", Verdict::Temporary),
            ("", Verdict::Temporary),
        ] {
            assert_eq!(Verdict::read(error), verdict, "{error}");
        }
    }
}
