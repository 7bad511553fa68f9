//! Reads and writes the text formats of Prometheus and `OpenMetrics`.
