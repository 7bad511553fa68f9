//! The two formats, and the types of metrics they know.

/// How a page is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// The Prometheus text format: 0.0.4, and 1.0.0 with names in quotes.
    #[default]
    Prometheus,
    /// `OpenMetrics` text 1.0: timestamps are seconds, and the page ends with `# EOF`.
    OpenMetrics,
}

impl Format {
    /// What to ask an endpoint for: an `Accept` header that names both formats.
    pub const ACCEPT: &'static str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";

    /// The format that a `Content-Type` names. Everything that is not `OpenMetrics` is read as
    /// Prometheus text: exporters that state no type, or a wrong one, write that.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Self {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The `Content-Type` of a page in this format.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a metric family's `TYPE` says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `untyped` in the Prometheus format, `unknown` in `OpenMetrics`; also a family without `TYPE`.
    #[default]
    Unknown,
    /// A value that goes up and down.
    Gauge,
    /// A value that only goes up, but for restarts.
    Counter,
    /// Counts per bucket, their sum and number.
    Histogram,
    /// Quantiles, their sum and number.
    Summary,
    /// Text that describes, as labels of a constant 1.
    Info,
    /// A set of states, each on or off.
    StateSet,
    /// A histogram whose counts go up and down.
    GaugeHistogram,
}

/// Every suffix by which a sample's name may differ from that of its family.
const SUFFIXES: [&str; 8] = [
    "_total", "_created", "_bucket", "_sum", "_count", "_info", "_gsum", "_gcount",
];

impl Kind {
    /// The word of a `TYPE` line, of either format: a page with the other format's word for
    /// *unknown* means the same.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "untyped" | "unknown" => Self::Unknown,
            "gauge" => Self::Gauge,
            "counter" => Self::Counter,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "info" => Self::Info,
            "stateset" => Self::StateSet,
            "gaugehistogram" => Self::GaugeHistogram,
            _ => return None,
        })
    }

    /// Its word in `OpenMetrics`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
            Self::GaugeHistogram => "gaugehistogram",
        }
    }

    /// Its word in the Prometheus format, which has no word for the last three: an info and a state
    /// set are written as gauges, a gauge histogram untyped.
    #[must_use]
    pub fn prometheus_word(self) -> &'static str {
        match self {
            Self::Unknown | Self::GaugeHistogram => "untyped",
            Self::Gauge | Self::Info | Self::StateSet => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }

    /// The family of a sample of this kind in the Prometheus format, where only histograms and
    /// summaries have parts with names of their own.
    #[must_use]
    pub fn prometheus_family(self, sample: &str) -> &str {
        let suffixes: &[&str] = match self {
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["_sum", "_count"],
            Self::Unknown
            | Self::Gauge
            | Self::Counter
            | Self::Info
            | Self::StateSet
            | Self::GaugeHistogram => &[],
        };
        let mut suffixes = suffixes.iter();
        let base = suffixes.find_map(|suffix| sample.strip_suffix(suffix));
        base.filter(|base| !base.is_empty()).unwrap_or(sample)
    }

    /// Suffixes that samples of such a family have beside the family's bare name.
    #[must_use]
    pub fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Unknown | Self::Gauge | Self::StateSet => &[],
            Self::Counter => &["_total", "_created"],
            Self::Histogram => &["_bucket", "_sum", "_count", "_created"],
            Self::Summary => &["_sum", "_count", "_created"],
            Self::Info => &["_info"],
            Self::GaugeHistogram => &["_bucket", "_gsum", "_gcount", "_created"],
        }
    }

    /// Whether a sample of this name belongs to such a family of that name. A family that is named
    /// exactly like the sample comes first.
    #[must_use]
    pub fn owns(self, family: &str, sample: &str) -> bool {
        sample
            .strip_prefix(family)
            .is_some_and(|rest| rest.is_empty() || self.suffixes().contains(&rest))
    }
}

/// A sample's name without its suffix, and the suffix, if it has one that a family could add.
pub(crate) fn split_suffix(sample: &str) -> Option<(&str, &'static str)> {
    SUFFIXES.iter().find_map(|suffix| {
        let base = sample.strip_suffix(suffix)?;
        (!base.is_empty()).then_some((base, *suffix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_names_the_format() {
        for (content_type, format) in [
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                Format::OpenMetrics,
            ),
            ("Application/OpenMetrics-Text", Format::OpenMetrics),
            (
                "text/plain; version=0.0.4; charset=utf-8",
                Format::Prometheus,
            ),
            ("text/html", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(
                Format::from_content_type(content_type),
                format,
                "{content_type}"
            );
        }
        for format in [Format::Prometheus, Format::OpenMetrics] {
            assert_eq!(Format::from_content_type(format.content_type()), format);
        }
    }

    #[test]
    fn every_suffix_of_a_kind_is_one_that_is_looked_for() {
        for kind in [
            Kind::Unknown,
            Kind::Gauge,
            Kind::Counter,
            Kind::Histogram,
            Kind::Summary,
            Kind::Info,
            Kind::StateSet,
            Kind::GaugeHistogram,
        ] {
            assert_eq!(Kind::from_word(kind.word()), Some(kind));
            assert!(Kind::from_word(kind.prometheus_word()).is_some());
            for suffix in kind.suffixes() {
                let sample = format!("family{suffix}");
                assert_eq!(split_suffix(&sample), Some(("family", *suffix)));
                assert!(kind.owns("family", &sample));
            }
            assert!(kind.owns("family", "family"));
            assert!(!kind.owns("family", "family_other"));
        }
    }
}
