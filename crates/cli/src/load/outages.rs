//! Outages of clients: from a fault until the session is connected again.

use std::time::Duration;

use tokio::time::Instant;

use super::fault::Kind;

/// The faults and the recoveries so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outages {
    faults: Vec<(Instant, Kind)>,
    recoveries: Vec<(Option<Kind>, Duration)>,
    cuts: u64,
}

/// Median, 99th percentile and maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Percentiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Outages {
    /// Notes the start of a fault.
    pub(crate) fn fault(&mut self, kind: Kind, at: Instant) {
        self.faults.push((at, kind));
    }

    /// Notes the loss of a session.
    pub(crate) fn lost(&mut self) {
        self.cuts += 1;
    }

    /// Notes that a session lost at `lost` is connected again. The outage starts at the last fault
    /// before the loss, which includes the time until the loss was noticed. Without such a fault it
    /// starts at the loss.
    pub(crate) fn recovered(&mut self, lost: Instant, connected: Instant) {
        let fault = self.faults.iter().rfind(|(at, _)| *at <= lost);
        let (since, kind) = fault.map_or((lost, None), |(at, kind)| (*at, Some(*kind)));
        self.recoveries
            .push((kind, connected.duration_since(since)));
    }

    /// Returns the number of sessions lost so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Returns the percentiles of all recoveries so far.
    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles::of(self.recoveries.iter().map(|(_, took)| *took))
    }

    /// Returns the percentiles of the recoveries from one kind of fault; `None` if there are none.
    pub(crate) fn percentiles_of(&self, kind: Kind) -> Option<Percentiles> {
        let mut those = self
            .recoveries
            .iter()
            .filter(|(from, _)| *from == Some(kind))
            .peekable();
        those.peek()?;
        Some(Percentiles::of(those.map(|(_, took)| *took)))
    }
}

impl Percentiles {
    /// Returns zeros if there are no durations.
    fn of(durations: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<Duration> = durations.collect();
        sorted.sort_unstable();
        // The nearest-rank method: no interpolation, so each figure is a measured value.
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or_default()
        };
        Self {
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_counts_from_the_fault_before_the_loss() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut outages = Outages::default();
        outages.fault(Kind::Reset, at(1_000));
        outages.fault(Kind::Kill, at(3_000));
        outages.recovered(at(2_000), at(2_500));
        outages.recovered(at(3_000), at(3_200));
        outages.recovered(at(500), at(600));
        let longest = |kind| {
            outages
                .percentiles_of(kind)
                .map(|percentiles| percentiles.max.as_millis())
        };
        assert_eq!(longest(Kind::Reset), Some(1_500));
        assert_eq!(longest(Kind::Kill), Some(200));
        assert_eq!(longest(Kind::Freeze), None);
        assert_eq!(
            outages.recoveries.last(),
            Some(&(None, Duration::from_millis(100)))
        );
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut outages = Outages::default();
        assert_eq!(outages.percentiles(), Percentiles::default());
        outages.recoveries = (1..=200)
            .map(|at| (None, Duration::from_millis(at)))
            .collect();
        let [p50, p99, max] = [100, 198, 200].map(Duration::from_millis);
        assert_eq!(outages.percentiles(), Percentiles { p50, p99, max });
    }
}
