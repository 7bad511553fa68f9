//! The query parameters of requests for metrics.

use std::borrow::Cow;

use jiff::{civil, fmt::temporal::Pieces};

use crate::{
    filter::Filter,
    query::MetricNames,
    time::{UnixNanos, Window},
};

/// The error of a request that is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    Parameter(#[from] ParameterFault),
    #[error("too many requests are being served; try again")]
    Busy,
    #[error("cannot build the response")]
    Failed,
}

/// A query parameter that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParameterFault {
    #[error("{0} names; at most {MAX_NAMES} are allowed")]
    TooManyNames(usize),
    #[error("parameter {0} is not percent-encoded correctly")]
    Encoding(String),
    #[error("{0} is not an RFC 3339 time such as 2026-03-01T08:00:00Z")]
    NotATime(&'static str),
    #[error(
        "{0} is not an RFC 3339 time such as 2026-03-01T08:00:00Z; a + in a query string means a \
         space: write %2B before the offset"
    )]
    PlusInTime(&'static str),
    #[error("start_time is after end_time")]
    Reversed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) filter: Filter,
    pub(super) window: Option<Window>,
    start: Option<String>,
    end: Option<String>,
    ignored: Vec<String>,
}

impl Parameters {
    /// Parses a query string. Unknown parameters are ignored, as the original does, but remembered; empty
    /// values are ignored. Of several values of one parameter the first counts, except that all metric names
    /// do.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ParameterFault> {
        let mut parameters = Self::default();
        let mut names = Vec::new();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let parameter = match name {
                "role" => &mut parameters.filter.role,
                "pod_name" => &mut parameters.filter.pod,
                "address" => &mut parameters.filter.address,
                "start_time" => &mut parameters.start,
                "end_time" => &mut parameters.end,
                "name" => {
                    names.push(decode_parameter(name, value)?);
                    continue;
                }
                "" => continue,
                unknown => {
                    parameters.ignore(unknown);
                    continue;
                }
            };
            let value = decode_parameter(name, value)?;
            // The first one, as Go's `url.Values.Get` has it for the original.
            if parameter.is_none() && !value.is_empty() {
                *parameter = Some(value);
            }
        }
        // In one order, so that requests for the same names share a query.
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        if names.len() > MAX_NAMES {
            return Err(ParameterFault::TooManyNames(names.len()));
        }
        parameters.filter.names = MetricNames::new(names);
        Ok(parameters)
    }

    /// Parses the query string of a page that has no times.
    pub(super) fn parse_without_times(query: Option<&str>) -> Result<Self, ParameterFault> {
        let mut parameters = Self::parse(query)?;
        if parameters.start.is_some() {
            parameters.ignore("start_time");
        }
        if parameters.end.is_some() {
            parameters.ignore("end_time");
        }
        Ok(parameters)
    }

    /// Parses the times. Each must be valid even if the other is missing; only both make a window.
    pub(super) fn parse_window(&mut self) -> Result<(), ParameterFault> {
        let start = time("start_time", self.start.as_deref())?;
        let end = time("end_time", self.end.as_deref())?;
        match (start, end) {
            (Some(start), Some(end)) => {
                self.window = Some(Window::new(start, end).ok_or(ParameterFault::Reversed)?);
            }
            (Some(_), None) => self.ignore("start_time (without end_time)"),
            (None, Some(_)) => self.ignore("end_time (without start_time)"),
            (None, None) => {}
        }
        Ok(())
    }

    fn ignore(&mut self, name: &str) {
        // A query string is ASCII; anything else could not be part of a header.
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .take(IGNORED_NAME_MAX)
            .collect();
        if self.ignored.len() < IGNORED_MAX && !self.ignored.contains(&name) {
            self.ignored.push(name);
        }
    }

    /// Returns the text of the `x-steadfast-ignored` header: the parameters that have no effect.
    pub(super) fn ignored(&self) -> Option<String> {
        (!self.ignored.is_empty()).then(|| self.ignored.join(", "))
    }
}

/// The number of ignored parameters that a response names.
const IGNORED_MAX: usize = 16;
/// The length from which such a name is cut.
const IGNORED_NAME_MAX: usize = 64;

/// The number of metric names in one request.
const MAX_NAMES: usize = 64;

fn decode_parameter(name: &str, value: &str) -> Result<String, ParameterFault> {
    percent_decoded(value).ok_or_else(|| ParameterFault::Encoding(name.to_owned()))
}

fn time(name: &'static str, text: Option<&str>) -> Result<Option<UnixNanos>, ParameterFault> {
    let Some(text) = text else { return Ok(None) };
    if let Some(time) = rfc3339(text) {
        return Ok(Some(time));
    }
    // The usual mistake in a URL, which a general error would not explain.
    let plus_would_do = rfc3339(&text.replace(' ', "+")).is_some();
    Err(if plus_would_do {
        ParameterFault::PlusInTime(name)
    } else {
        ParameterFault::NotATime(name)
    })
}

/// Parses any time of the standard, from year 0 to the end of 9999 with any offset. A time outside the
/// range of samples becomes the nearest inside it.
fn rfc3339(text: &str) -> Option<UnixNanos> {
    let text = without_picoseconds(text);
    // Not as a `Timestamp`, whose range ends a day before the year 9999 does.
    let pieces = Pieces::parse(&*text).ok()?;
    let local = pieces.date().to_datetime(pieces.time()?);
    let offset = pieces.to_numeric_offset()?;
    let local = local.duration_since(civil::date(1970, 1, 1).at(0, 0, 0, 0));
    let seconds = local.as_secs() - i64::from(offset.seconds());
    Some(UnixNanos::from_parts(
        seconds,
        i64::from(local.subsec_nanos()),
    ))
}

/// Returns the time without the digits behind its nanoseconds: the standard allows any number, and the parser
/// nine.
fn without_picoseconds(text: &str) -> Cow<'_, str> {
    const NANOSECOND_DIGITS: usize = 9;
    let Some(point) = text.find(['.', ',']) else {
        return Cow::Borrowed(text);
    };
    let (whole, fraction) = text.split_at(point + 1);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits <= NANOSECOND_DIGITS {
        return Cow::Borrowed(text);
    }
    let (kept, rest) = (&fraction[..NANOSECOND_DIGITS], &fraction[digits..]);
    Cow::Owned(format!("{whole}{kept}{rest}"))
}

/// Decodes percent escapes, and `+` as a space.
fn percent_decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(16 * digit(digits[0])? + digit(digits[1])?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(query: &str) -> Result<Option<(i64, i64)>, ParameterFault> {
        let mut parameters = Parameters::parse(Some(query))?;
        parameters.parse_window()?;
        let edges = |window: Window| (window.start().nanos(), window.end().nanos());
        Ok(parameters.window.map(edges))
    }

    #[test]
    fn times_may_have_fractions_and_offsets() {
        let both =
            "start_time=1970-01-01T00:00:01.000000001Z&end_time=1970-01-01T01%3A00%3A02%2B01:00";
        assert_eq!(window(both), Ok(Some((1_000_000_001, 2_000_000_000))));
        assert_eq!(window("start_time=1970-01-01T00:00:01Z"), Ok(None));
        assert_eq!(window("start_time=&end_time="), Ok(None));
    }

    #[test]
    fn malformed_and_reversed_times_are_rejected() {
        for query in [
            "start_time=yesterday",
            "end_time=1970-01-01&start_time=1970-01-01T00:00:00Z",
            "start_time=1970-01-01T00:00:02Z&end_time=1970-01-01T00:00:01Z",
            "start_time=%GG",
        ] {
            assert!(window(query).is_err(), "{query}");
        }
    }

    #[test]
    fn every_rfc_3339_time_is_accepted() {
        let ends = |start: &str, end: &str| {
            let query = format!("start_time={start}&end_time={end}");
            window(&query).unwrap().unwrap()
        };
        assert_eq!(
            ends("0000-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"),
            (i64::MIN, i64::MAX)
        );
        assert_eq!(
            ends("1969-12-31t23:59:58.5z", "1970-01-01T05:30:01%2B05:30"),
            (-1_500_000_000, 1_000_000_000)
        );
        assert_eq!(
            ends("1970-01-01%2000:00:01-00:00", "1970-01-01T00:00:59Z"),
            (1_000_000_000, 59_000_000_000)
        );
        assert_eq!(
            ends(
                "1970-01-01T00:00:00.1234567890123456Z",
                "1970-01-01T00:00:00.9999999999999-00:00"
            ),
            (123_456_789, 999_999_999)
        );
    }

    #[test]
    fn parameters_without_effect_are_named() {
        let ignored = |query: &str| {
            let mut read = Parameters::parse(Some(query)).unwrap();
            read.parse_window().unwrap();
            read.ignored()
        };
        assert_eq!(ignored("role=r&&pod_name=&name=m"), None);
        let misspelt = "start=1&end=2&role=r&start=3&pod";
        assert_eq!(ignored(misspelt).as_deref(), Some("start, end, pod"));
        let half = "end_time=1970-01-01T00:00:01Z";
        assert_eq!(
            ignored(half).as_deref(),
            Some("end_time (without start_time)")
        );
        let read = Parameters::parse_without_times(Some(half)).unwrap();
        assert_eq!(read.ignored().as_deref(), Some("end_time"));
        let many: Vec<String> = (0..99).map(|n| format!("{n}{}", "x".repeat(999))).collect();
        let text = ignored(&many.join("&")).unwrap();
        assert_eq!((text.matches(", ").count(), text.len()), (15, 16 * 64 + 30));
    }

    #[test]
    fn error_explains_a_plus_that_became_a_space() {
        let fault = window("end_time=1970-01-01T01:00:00+01:00").unwrap_err();
        assert!(fault.to_string().contains("%2B"), "{fault}");
        let other = window("end_time=1970-01-01").unwrap_err();
        assert!(!other.to_string().contains("%2B"), "{other}");
    }

    #[test]
    fn repeated_names_are_accepted_once() {
        let names = |query: &str| {
            let read = Parameters::parse(Some(query));
            read.map(|read| read.filter.names.list().to_vec())
        };
        assert_eq!(names("name=b&name=&name=a&name=b").unwrap(), ["a", "b"]);
        let many: Vec<String> = (0..65).map(|n| format!("name=m{n}")).collect();
        assert!(names(&many[1..].join("&")).is_ok());
        let fault = names(&many.join("&")).unwrap_err();
        assert!(fault.to_string().contains("at most 64"), "{fault}");
    }

    #[test]
    fn filters_are_decoded_and_empty_ones_ignored() {
        let read = Parameters::parse(Some(
            "role=a%20b&pod_name=&role=c&address=10.0.0.1%3a80&x=1",
        ));
        let filter = read.unwrap().filter;
        assert_eq!(filter.role.as_deref(), Some("a b"));
        assert_eq!(filter.pod, None);
        assert_eq!(filter.address.as_deref(), Some("10.0.0.1:80"));
    }
}
