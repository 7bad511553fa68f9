//! The test oracle: judges a run from payloads and a naive filter, never from positions that the
//! machines under test compute.

use crate::{
    client::Client,
    publisher::Publisher,
    subscription::{Consumed, Payload, Subscription},
};

/// The events of the log at the end of the run; the first has offset 1.
pub(crate) type Events = [Payload];

/// Checks that every acknowledged entry is in the log, once, in the order of its publisher.
pub(crate) fn check_log(events: &Events, publishers: &[Publisher], violations: &mut Vec<String>) {
    for publisher in publishers {
        let logged: Vec<u64> = events
            .iter()
            .filter(|payload| payload.publisher == publisher.number)
            .map(|payload| payload.sequence)
            .collect();
        if !logged.is_sorted_by(|before, after| before < after) {
            violations.push(format!(
                "publisher {}: out of order or twice in the log",
                publisher.number
            ));
        }
        for payload in &publisher.acknowledged {
            if logged.binary_search(&payload.sequence).is_err() {
                violations.push(format!(
                    "{payload:?} was acknowledged and is not in the log"
                ));
            }
        }
    }
}

/// Returns true if the subscription has received everything that it can receive by now.
pub(crate) fn is_caught_up(events: &Events, client: &Client, subscription: &Subscription) -> bool {
    if subscription.unsubscribed || subscription.refused.is_some() {
        return true;
    }
    if !client.profile {
        let wanted = events
            .iter()
            .rfind(|payload| subscription.selection.matches(**payload));
        let last = subscription
            .consumed
            .iter()
            .rev()
            .find_map(|item| match item {
                Consumed::Change(payload) => Some(payload),
                Consumed::Gap | Consumed::Resync => None,
            });
        // A plain peer gets no replay: after a gap there may be nothing more to receive.
        let gap_last = matches!(subscription.consumed.last(), Some(Consumed::Gap) | None);
        return gap_last || last == wanted;
    }
    let Some(start) = subscription.start else {
        return false;
    };
    let expected = expected(events, subscription, start).count();
    subscription.consumed.len() >= expected
}

/// Checks one subscription.
pub(crate) fn check(
    events: &Events,
    client: &Client,
    subscription: &Subscription,
    violations: &mut Vec<String>,
) {
    let name = format!(
        "subscription {} ({:?})",
        subscription.id, subscription.selection
    );
    if let Some(refused) = &subscription.refused {
        violations.push(format!("{name}: refused: {refused}"));
    } else if client.profile {
        check_profile(events, subscription, &name, violations);
    } else {
        check_plain(events, subscription, &name, violations);
    }
}

fn check_profile(
    events: &Events,
    subscription: &Subscription,
    name: &str,
    violations: &mut Vec<String>,
) {
    let Some(start) = subscription.start else {
        if !subscription.unsubscribed {
            violations.push(format!("{name}: never acknowledged"));
        }
        return;
    };
    let mut expected = expected(events, subscription, start);
    for item in &subscription.consumed {
        match item {
            Consumed::Gap => return violations.push(format!("{name}: a gap with the profile")),
            Consumed::Resync => {
                return violations.push(format!("{name}: a resync within retention"));
            }
            Consumed::Change(payload) => match expected.next() {
                Some(wanted) if wanted == *payload => {}
                wanted => {
                    return violations
                        .push(format!("{name}: expected {wanted:?}, got {payload:?}"));
                }
            },
        }
    }
    let missing = expected.count();
    if missing > 0 && !subscription.unsubscribed {
        violations.push(format!("{name}: {missing} changes are missing"));
    }
}

/// Checks that events are in order and unique, and that a gap stands where some are missing.
fn check_plain(
    events: &Events,
    subscription: &Subscription,
    name: &str,
    violations: &mut Vec<String>,
) {
    let wanted: Vec<Payload> = events
        .iter()
        .copied()
        .filter(|payload| subscription.selection.matches(*payload))
        .collect();
    // The index of the next expected event, and true if a gap allows a later one. The first event is
    // free: a plain subscription starts wherever the server is.
    let mut next = None;
    for item in &subscription.consumed {
        match item {
            Consumed::Resync => {
                return violations.push(format!("{name}: a resync without the profile"));
            }
            Consumed::Gap => next = next.map(|(at, _)| (at, true)),
            Consumed::Change(payload) => {
                let Some(at) = wanted.iter().position(|wanted| wanted == payload) else {
                    return violations.push(format!("{name}: {payload:?} does not match"));
                };
                match next {
                    Some((least, _)) if at < least => {
                        return violations
                            .push(format!("{name}: {payload:?} twice or out of order"));
                    }
                    Some((least, false)) if at > least => {
                        let lost = at - least;
                        return violations
                            .push(format!("{name}: {lost} changes lost without a gap"));
                    }
                    Some(_) | None => {}
                }
                next = Some((at + 1, false));
            }
        }
    }
    if let Some((least, false)) = next
        && least < wanted.len()
        && !subscription.unsubscribed
    {
        violations.push(format!(
            "{name}: {} changes are missing without a gap",
            wanted.len() - least
        ));
    }
}

fn expected<'a>(
    events: &'a Events,
    subscription: &'a Subscription,
    start: u64,
) -> impl Iterator<Item = Payload> + 'a {
    events
        .iter()
        .skip(usize::try_from(start).unwrap_or(usize::MAX))
        .copied()
        .filter(|payload| subscription.selection.matches(*payload))
}
