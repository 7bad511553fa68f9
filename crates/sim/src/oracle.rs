//! What must be true at the end: judged from payloads and a naive filter, never from positions that
//! the machines under test compute.

use crate::{
    client::Client,
    publisher::Publisher,
    subscription::{Payload, Subscription, Taken},
};

/// The log as it is at the end: offsets from 1.
pub(crate) type Events = [Payload];

/// Every acknowledged entry is in the log, once, in the order of its publisher.
pub(crate) fn judge_log(events: &Events, publishers: &[Publisher], found: &mut Vec<String>) {
    for publisher in publishers {
        let logged: Vec<u64> = events
            .iter()
            .filter(|payload| payload.publisher == publisher.number)
            .map(|payload| payload.sequence)
            .collect();
        if !logged.is_sorted_by(|before, after| before < after) {
            found.push(format!(
                "publisher {}: out of order or twice in the log",
                publisher.number
            ));
        }
        for payload in &publisher.acknowledged {
            if logged.binary_search(&payload.sequence).is_err() {
                found.push(format!(
                    "{payload:?} was acknowledged and is not in the log"
                ));
            }
        }
    }
}

/// Whether a subscription has everything it can have by now.
pub(crate) fn is_caught_up(events: &Events, client: &Client, subscription: &Subscription) -> bool {
    if subscription.unsubscribed || subscription.refused.is_some() {
        return true;
    }
    if !client.profile {
        let wanted = events
            .iter()
            .rfind(|payload| subscription.wish.wants(**payload));
        let last = subscription
            .taken
            .iter()
            .rev()
            .find_map(|taken| match taken {
                Taken::Change(payload) => Some(payload),
                Taken::Gap | Taken::Resync => None,
            });
        let gap_last = matches!(subscription.taken.last(), Some(Taken::Gap) | None);
        return gap_last || last == wanted;
    }
    let Some(start) = subscription.start else {
        return false;
    };
    let expected = expected(events, subscription, start).count();
    subscription.taken.len() >= expected
}

/// Judges one subscription.
pub(crate) fn judge(
    events: &Events,
    client: &Client,
    subscription: &Subscription,
    found: &mut Vec<String>,
) {
    let name = format!("subscription {} ({:?})", subscription.id, subscription.wish);
    if let Some(refused) = &subscription.refused {
        found.push(format!("{name}: refused: {refused}"));
    } else if client.profile {
        judge_profile(events, subscription, &name, found);
    } else {
        judge_plain(events, subscription, &name, found);
    }
}

fn judge_profile(
    events: &Events,
    subscription: &Subscription,
    name: &str,
    found: &mut Vec<String>,
) {
    let Some(start) = subscription.start else {
        if !subscription.unsubscribed {
            found.push(format!("{name}: never acknowledged"));
        }
        return;
    };
    let mut expected = expected(events, subscription, start);
    for taken in &subscription.taken {
        match taken {
            Taken::Gap => return found.push(format!("{name}: a gap towards a profile peer")),
            Taken::Resync => return found.push(format!("{name}: a resync within retention")),
            Taken::Change(payload) => match expected.next() {
                Some(wanted) if wanted == *payload => {}
                wanted => {
                    return found.push(format!("{name}: expected {wanted:?}, got {payload:?}"));
                }
            },
        }
    }
    let missing = expected.count();
    if missing > 0 && !subscription.unsubscribed {
        found.push(format!("{name}: {missing} changes never came"));
    }
}

/// In order, nothing twice, and where something is missing there is a gap.
fn judge_plain(events: &Events, subscription: &Subscription, name: &str, found: &mut Vec<String>) {
    let wanted: Vec<Payload> = events
        .iter()
        .copied()
        .filter(|payload| subscription.wish.wants(*payload))
        .collect();
    let mut next = None;
    for taken in &subscription.taken {
        match taken {
            Taken::Resync => return found.push(format!("{name}: a resync from a plain peer")),
            Taken::Gap => next = next.map(|(at, _)| (at, true)),
            Taken::Change(payload) => {
                let Some(at) = wanted.iter().position(|wanted| wanted == payload) else {
                    return found.push(format!("{name}: {payload:?} was not asked for"));
                };
                match next {
                    Some((least, _)) if at < least => {
                        return found.push(format!("{name}: {payload:?} twice or out of order"));
                    }
                    Some((least, false)) if at > least => {
                        let lost = at - least;
                        return found.push(format!("{name}: {lost} changes lost without a gap"));
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
        found.push(format!(
            "{name}: {} changes never came, without a gap",
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
        .filter(|payload| subscription.wish.wants(*payload))
}
