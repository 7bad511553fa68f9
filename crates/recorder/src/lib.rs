//! A flight recorder of metrics.
