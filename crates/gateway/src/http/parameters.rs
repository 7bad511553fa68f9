//! The parameters of a query.

use std::{str::FromStr, time::Duration};

use axum::http::request::Parts;
use steadfast_streamer::{Filter, Position, client::Projection};

use super::error::ApiError;
use crate::{
    metrics::Refused,
    rights::Peer,
    shared::Shared,
    subscription::Request,
    v1::{conditions_of_text, projection_of_text},
};

/// The longest wait, in seconds.
const MAX_WAIT: u64 = 60;
const DEFAULT_WAIT: u64 = 25;

/// The parameters that were not read yet.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Returns the parameters of a request, and its client.
    pub(super) fn read(
        shared: &Shared,
        parameters: Vec<(String, String)>,
        head: &Parts,
    ) -> Result<(Self, Peer), ApiError> {
        let peer = shared.rights.identify(&head.headers, &head.extensions);
        let peer = peer.inspect_err(|_| shared.metrics.refuse(Refused::Credentials))?;
        Ok((Self(parameters), peer))
    }

    /// Removes a parameter.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.take_all(name);
        let value = values.next();
        if values.next().is_some() {
            return Err(ApiError::invalid(format!("`{name}` is given twice")));
        }
        Ok(value)
    }

    fn take_all(&mut self, name: &str) -> std::vec::IntoIter<String> {
        let (taken, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition::<Vec<_>, _>(|(key, _)| key == name);
        self.0 = rest;
        let values: Vec<_> = taken.into_iter().map(|(_, value)| value).collect();
        values.into_iter()
    }

    /// Removes a parameter that is `true` or `false`, which is what it is if absent.
    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::invalid(format!("`{name}` is true or false"))),
        }
    }

    /// Removes a parameter that is a number within a range.
    pub(super) fn take_number<T>(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<T>,
        default: T,
    ) -> Result<T, ApiError>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.take(name)? else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|it| range.contains(it));
        number.ok_or_else(|| {
            let (min, max) = (range.start(), range.end());
            ApiError::invalid(format!("`{name}` is a number from {min} to {max}"))
        })
    }

    /// Removes the parameter that limits a wait.
    pub(super) fn take_wait(&mut self) -> Result<Duration, ApiError> {
        let seconds = self.take_number("wait", 0..=MAX_WAIT, DEFAULT_WAIT)?;
        Ok(Duration::from_secs(seconds))
    }

    /// Removes a parameter that is a position.
    pub(super) fn take_position(&mut self, name: &str) -> Result<Option<Position>, ApiError> {
        self.take(name)?.as_deref().map(position).transpose()
    }

    /// Removes the parameters of every request for documents: a request for changes from now on, and the
    /// fields to show.
    pub(super) fn take_request(
        &mut self,
        (database, collection): (String, String),
    ) -> Result<(Request, Option<Projection>), ApiError> {
        let mut conditions = Vec::new();
        for text in self.take_all("filter") {
            conditions.extend(conditions_of_text(&text).map_err(ApiError::invalid)?);
        }
        let filter = Filter::new(conditions).map_err(|it| ApiError::invalid(it.to_string()))?;
        let fields = self.take("fields")?;
        let fields = fields.as_deref().map(projection_of_text).transpose();
        let request = Request::changes(database.into(), collection.into(), filter);
        Ok((request, fields.map_err(ApiError::invalid)?))
    }

    /// Refuses parameters that nobody has read: a filter with a wrong name would show everything.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("unknown parameter {name:?}");
                Err(ApiError::invalid(message))
            }
        }
    }
}

/// Reads a position.
pub(super) fn position(text: &str) -> Result<Position, ApiError> {
    text.parse()
        .map_err(|error: steadfast_streamer::InvalidPosition| ApiError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(query: &[(&str, &str)]) -> Parameters {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Parameters(query.iter().map(own).collect())
    }

    #[test]
    fn parameters_are_read_once_and_completely() {
        let mut read = parameters(&[
            ("filter", "a > 1"),
            ("left", "true"),
            ("filter", "b == x"),
            ("limit", "7"),
            ("fields", "a,b.c"),
        ]);
        let (request, fields) = read.take_request(("d".into(), "c".into())).unwrap();
        assert_eq!(request.filter.to_string(), "a > 1, b == \"x\"");
        assert!(fields.is_some());
        assert!(read.take_flag("left").unwrap());
        assert!(!read.take_flag("snapshot").unwrap());
        assert_eq!(read.take_number("limit", 1..=9, 3).unwrap(), 7);
        assert_eq!(read.take_number("wait", 1..=9, 3).unwrap(), 3);
        assert_eq!(read.take_position("from").unwrap(), None);
        read.finish().unwrap();
    }

    #[test]
    fn faults_of_parameters_are_refused_with_a_reason() {
        type Take = fn(&mut Parameters) -> Result<(), ApiError>;
        type Row<'a> = (&'a [(&'a str, &'a str)], Take, &'a str);
        let rows: [Row<'_>; 8] = [
            (
                &[("a", "1"), ("a", "1")],
                |it| it.take("a").map(drop),
                "`a` is given twice",
            ),
            (
                &[("a", "yes")],
                |it| it.take_flag("a").map(drop),
                "`a` is true or false",
            ),
            (
                &[("a", "10")],
                |it| it.take_number("a", 1..=9, 3).map(drop),
                "from 1 to 9",
            ),
            (
                &[("a", "x")],
                |it| it.take_number("a", 1..=9, 3).map(drop),
                "from 1 to 9",
            ),
            (
                &[("a", "7")],
                |it| it.take_position("a").map(drop),
                "is not a position",
            ),
            (&[("filter", "a >")], read_request, "column 4"),
            (&[("fields", "a b")], read_request, "field \"a b\""),
            (
                &[("filters", "a > 1")],
                |it| std::mem::replace(it, parameters(&[])).finish(),
                "unknown parameter",
            ),
        ];
        for (query, take, expected) in rows {
            let error = take(&mut parameters(query)).unwrap_err();
            let error = format!("{error:?}");
            assert!(
                error.contains(&expected.escape_debug().to_string()),
                "{query:?}: {error}"
            );
        }
    }

    fn read_request(parameters: &mut Parameters) -> Result<(), ApiError> {
        parameters.take_request(("d".into(), "c".into())).map(drop)
    }
}
