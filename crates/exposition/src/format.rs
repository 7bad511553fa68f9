//! The formats and their metric types.

/// The format of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// The Prometheus text format: 0.0.4, and 1.0.0 with names in quotes.
    #[default]
    Prometheus,
    /// `OpenMetrics` text 1.0: timestamps are seconds, and the page ends with `# EOF`.
    OpenMetrics,
}

impl Format {
    /// The `Accept` header of a scrape. It names both formats.
    pub const ACCEPT: &'static str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";

    /// Returns the format that a `Content-Type` names. Everything except `OpenMetrics` is read as
    /// Prometheus text, because exporters that send no type, or a wrong one, write that.
    ///
    /// ```
    /// use steadfast_exposition::Format;
    ///
    /// assert_eq!(Format::from_content_type("text/plain; version=0.0.4"), Format::Prometheus);
    /// ```
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Self {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Returns the `Content-Type` of a page in this format.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The type of a metric family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A family without `TYPE`, or `untyped` in the Prometheus format and `unknown` in `OpenMetrics`.
    #[default]
    Unknown,
    /// A value that goes up and down.
    Gauge,
    /// A value that only goes up, except at restarts.
    Counter,
    /// Counts per bucket, the sum and the total count.
    Histogram,
    /// Quantiles, the sum and the total count.
    Summary,
    /// Descriptive text, as labels of a constant 1.
    Info,
    /// States that are each on or off.
    StateSet,
    /// A histogram whose counts go up and down.
    GaugeHistogram,
}

/// All suffixes by which a sample's name may differ from its family's.
const SUFFIXES: [&str; 8] = [
    "_total", "_created", "_bucket", "_sum", "_count", "_info", "_gsum", "_gcount",
];

impl Kind {
    /// Parses the word of a `TYPE` line. The words of both formats are accepted in either.
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

    /// Returns the word for it in `OpenMetrics`.
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

    /// Returns the word for it in the Prometheus format. That format has none for the last three
    /// types: an info and a state set are gauges there, a gauge histogram is untyped.
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

    /// Returns the family's name for a sample of this type in the Prometheus format, where only the
    /// samples of histograms and summaries have suffixes.
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
        // A sample whose name is a bare suffix is its own family.
        base.filter(|base| !base.is_empty()).unwrap_or(sample)
    }

    /// Returns the suffixes that samples of this type may have.
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

    /// Returns true if a sample of this name can belong to a family of this type and name. A family
    /// with exactly the sample's name takes precedence; the caller checks that.
    #[must_use]
    pub fn owns(self, family: &str, sample: &str) -> bool {
        sample
            .strip_prefix(family)
            .is_some_and(|rest| rest.is_empty() || self.suffixes().contains(&rest))
    }
}

/// Splits a sample's name into its base and one of [`SUFFIXES`].
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
    fn every_suffix_of_a_kind_is_split_off() {
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
