//! Invariants that hold between any two steps.

use super::super::*;

impl Hub {
    /// Checks everything that is stored in two places.
    pub(super) fn audit(&self) {
        let (mut subscriptions, mut refused, mut profiles, mut armed) = (0, 0, 0, 0);
        for stream in self.streams.iter() {
            let id = stream.id();
            subscriptions += stream.subscriptions().len();
            for key in stream.subscriptions() {
                let subscription = self.subscriptions.get(key).expect("a subscription");
                assert_eq!((subscription.stream(), subscription.key()), (id, key));
                let name = subscription.id();
                let found = self.subscriptions.find(stream.namespace(), name);
                assert_eq!(
                    found.map(subscription::Subscription::key),
                    Some(key),
                    "{name}"
                );
                assert_eq!(subscription.is_plain(), !stream.is_profile(), "{name}");
            }
            self.audit_backlog(stream);
            match stream.peer() {
                Peer::Profile(profile) => {
                    profiles += 1;
                    let holder = self.streams.holder(profile.key);
                    assert_eq!(holder.map(|it| it.stream), Some(id));
                }
                Peer::Refused { .. } => {
                    refused += 1;
                    assert_eq!(stream.subscriptions().len(), 0);
                }
                Peer::Unknown => assert_eq!(stream.subscriptions().len(), 0),
                Peer::Plain => {}
            }
            armed += usize::from(stream.armed.is_some());
            if let Some(due) = stream.deadline(&self.cx) {
                let armed = stream.armed.expect("a deadline without a timer");
                assert!(armed <= due, "a timer after its deadline");
            }
        }
        let keys = self.streams.iter().flat_map(Stream::subscriptions);
        let all = keys.filter_map(|key| self.subscriptions.get(key));
        self.subscriptions.audit(all);
        self.documents.audit(&self.streams);
        assert_eq!(subscriptions, self.subscriptions.len());
        assert_eq!(subscriptions, self.subscriptions.ids());
        assert_eq!(refused, self.streams.refused());
        assert_eq!(profiles, self.streams.sessions());
        assert_eq!(armed, self.streams.timers());
        assert_eq!(self.cx.actions, [], "actions are left");
        self.audit_survey();
    }

    fn audit_survey(&self) {
        let mut survey = Survey::new(2);
        while !self.survey(&mut survey, 2) {}
        let Stats { gauges, counters } = self.stats();
        assert_eq!((survey.gauges, survey.counters), (gauges, counters));
        let kinds = gauges.document_subscriptions
            + gauges.collection_subscriptions
            + gauges.filter_subscriptions;
        assert_eq!(kinds, gauges.subscriptions);
        assert!(gauges.left_subscriptions.max(gauges.snapshot_subscriptions) <= kinds);
        assert_eq!(survey.lags.iter().sum::<u64>(), gauges.streams as u64);
    }

    fn audit_backlog(&self, stream: &Stream) {
        for key in stream.backlog.keys() {
            let subscription = self.subscriptions.get(key).expect("a subscription");
            assert_eq!(subscription.stream(), stream.id());
            if subscription.is_reading_documents() {
                assert!(
                    !stream.backlog.is_ready(key),
                    "changes before the documents"
                );
            } else if subscription.has_credit() {
                assert!(stream.backlog.is_ready(key), "credit without a reader");
            }
        }
        if let Some(lowest) = stream.backlog.lowest_ready() {
            assert!(lowest < self.cx.log.head(), "behind nothing");
        }
        if stream.backlog.ready_count() > 0 && !stream.outbox.is_full() {
            assert_ne!(
                stream.read_state,
                ReadState::Idle,
                "nobody reads for stream {:?}",
                stream.id()
            );
        }
    }
}
