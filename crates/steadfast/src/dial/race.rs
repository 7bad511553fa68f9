//! Attempts that start one after the other and run beside each other, until one succeeds (RFC 8305).

use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// Starts an attempt per candidate: the next one when `stagger` has passed or an attempt has failed.
/// Returns the first success and drops the other attempts, or else all errors. None starts after
/// `deadline`; those that run then must end by themselves.
///
/// # Cancel safety
///
/// Dropping the future drops every attempt.
pub(super) async fn race<C, T, E, F>(
    candidates: impl IntoIterator<Item = C>,
    stagger: Duration,
    deadline: Instant,
    mut attempt: impl FnMut(C) -> F,
) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut candidates = candidates.into_iter();
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    let mut next_start = Instant::now();
    let mut next = candidates.next();
    loop {
        if Instant::now() >= deadline {
            next = None;
        }
        if Instant::now() >= next_start
            && let Some(candidate) = next.take()
        {
            running.push(attempt(candidate));
            next = candidates.next();
            next_start = Instant::now() + stagger;
        }
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                Some(Ok(success)) => return Ok(success),
                Some(Err(error)) => {
                    errors.push(error);
                    next_start = Instant::now();
                }
                None if next.is_none() => return Err(errors),
                // Nothing runs, so that there is nothing to wait for.
                None => next_start = Instant::now(),
            },
            () = sleep_until(next_start), if next.is_some() => {}
        }
    }
}

/// Orders addresses so that the two families alternate, beginning with the family of the first.
pub(super) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return ordered;
        }
        ordered.extend(pair.0);
        ordered.extend(pair.1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const STAGGER: Duration = Duration::from_millis(250);

    /// Races attempts that end after a number of milliseconds, well or not. Returns the outcome, its
    /// time, and the time at which each attempt started.
    async fn run(script: &[(u64, bool)]) -> (Result<usize, Vec<usize>>, u128, Vec<u128>) {
        let begin = Instant::now();
        let deadline = begin + Duration::from_secs(1);
        let mut starts = Vec::new();
        let outcome = race(0..script.len(), STAGGER, deadline, |number| {
            starts.push(begin.elapsed().as_millis());
            let (millis, good) = script[number];
            async move {
                sleep(Duration::from_millis(millis)).await;
                if good { Ok(number) } else { Err(number) }
            }
        })
        .await;
        (outcome, begin.elapsed().as_millis(), starts)
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_staggered_and_failures_start_the_next() {
        const NEVER: u64 = 1 << 40;
        for (case, script, outcome, at, starts) in [
            (
                "first is good",
                &[(10, true), (10, true)][..],
                Ok(0),
                10,
                &[0][..],
            ),
            (
                "black hole first",
                &[(NEVER, true), (10, true)],
                Ok(1),
                260,
                &[0, 250],
            ),
            (
                "refused first",
                &[(5, false), (10, true)],
                Ok(1),
                15,
                &[0, 5],
            ),
            (
                "slow first wins over the second",
                &[(300, true), (100, true)],
                Ok(0),
                300,
                &[0, 250],
            ),
            (
                "late refusal starts the third",
                &[(400, false), (NEVER, true), (10, true)],
                Ok(2),
                410,
                &[0, 250, 400],
            ),
            (
                "all refuse",
                &[(1, false), (2, false)],
                Err(vec![0, 1]),
                3,
                &[0, 1],
            ),
            ("none", &[], Err(vec![]), 0, &[]),
            (
                "none starts after the deadline",
                &[(5_000, false); 6],
                Err(vec![0, 1, 2, 3]),
                5_750,
                &[0, 250, 500, 750],
            ),
        ] {
            let result = run(script).await;
            assert_eq!(result, (outcome, at, starts.to_vec()), "{case}");
        }
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        let addresses = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|text| text.parse().unwrap()).collect()
        };
        let [one, two, three] = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
        let [six, seven] = ["[::6]:1", "[::7]:1"];
        for (given, expected) in [
            (
                &[six, seven, one, two, three][..],
                &[six, one, seven, two, three][..],
            ),
            (&[one, two, six], &[one, six, two]),
            (&[one, two], &[one, two]),
            (&[], &[]),
        ] {
            assert_eq!(interleave(addresses(given)), addresses(expected));
        }
    }
}
