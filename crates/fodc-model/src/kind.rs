//! The kind of a metric on the wire.
//!
//! Agent and proxy hold the [`Kind`] that pages of metrics are parsed to. `MetricType` is only what
//! is sent.

use steadfast_exposition::Kind;
use steadfast_wire::fodc::MetricType;

/// Returns the type that stands for a kind. The protocol has fewer than pages have.
#[must_use]
pub fn to_wire(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge | Kind::Info | Kind::StateSet => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
        Kind::Summary => MetricType::Summary,
        Kind::Unknown | Kind::GaugeHistogram => MetricType::Untyped,
    }
}

/// Returns the kind that a peer stated. Agents before 0.10.3 state none, and a type of a later
/// version counts as none.
#[must_use]
pub fn from_wire(number: i32) -> Option<Kind> {
    match MetricType::try_from(number).unwrap_or_default() {
        MetricType::Unspecified => None,
        MetricType::Counter => Some(Kind::Counter),
        MetricType::Gauge => Some(Kind::Gauge),
        MetricType::Histogram => Some(Kind::Histogram),
        MetricType::Summary => Some(Kind::Summary),
        MetricType::Untyped => Some(Kind::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_type_is_sent_as_it_was_received() {
        for number in 1..=5 {
            let kind = from_wire(number).expect("the protocol has five types");
            assert_eq!(i32::from(to_wire(kind)), number);
        }
    }

    #[test]
    fn unspecified_and_unknown_wire_types_are_no_kind() {
        assert_eq!([0, 17, -1].map(from_wire), [None; 3]);
    }

    #[test]
    fn kinds_without_a_wire_type_are_sent_as_in_prometheus_pages() {
        for kind in [Kind::Info, Kind::StateSet, Kind::GaugeHistogram] {
            let sent = from_wire(to_wire(kind).into()).expect("a type is sent");
            assert_eq!(sent.prometheus_word(), kind.prometheus_word());
        }
    }
}
