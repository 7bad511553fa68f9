//! The reading of policy files. All faults of a file are found at once.

mod grants;

use std::{
    io,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde_json::Value as Json;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    Access, CertificateName, Condition, Fault, FaultKind, Faults, Method, Pattern,
    access::CertificateRules,
    jwt::{Algorithm, JwtRules, Keys},
    policy::{Member, Policy, Principals},
    token::{StaticToken, from_hex},
};

/// The longest JWT by default. Longer ones do not fit into headers with some proxies.
const MAX_JWT_BYTES: usize = 8 << 10;

impl Access {
    /// Reads the text of a policy file. A byte order mark at its beginning is passed over. `read_keys` returns the
    /// text of a key set by its name in the policy, and `understands` checks a condition of a filter.
    ///
    /// # Errors
    ///
    /// Returns all faults of the file.
    pub fn parse(
        file: &str,
        text: &str,
        read_keys: impl FnMut(&str) -> io::Result<String>,
        understands: impl Fn(&Condition) -> Result<(), String>,
    ) -> Result<Self, Faults> {
        // Some editors write it. Columns are counted without it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader {
            file,
            text,
            faults: Vec::new(),
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let kind = FaultKind::Syntax(error.message().to_owned());
            reader.fault(error.span().unwrap_or_default(), kind);
        }
        let access = reader.access(Table::of(&table), read_keys, understands);
        let mut faults = reader.faults;
        if faults.is_empty() {
            Ok(access)
        } else {
            faults.sort_by_key(|fault| (fault.line, fault.column));
            Err(Faults(faults))
        }
    }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    faults: Vec<Fault>,
}

/// A table and its place.
#[derive(Clone, Copy)]
struct Table<'t> {
    entries: &'t DeTable<'t>,
    span: (usize, usize),
}

type Value<'t> = Spanned<DeValue<'t>>;

impl<'t> Table<'t> {
    fn of(table: &'t Spanned<DeTable<'t>>) -> Self {
        let span = (table.span().start, table.span().end);
        Self {
            entries: table.get_ref(),
            span,
        }
    }

    fn get(self, key: &str) -> Option<&'t Value<'t>> {
        self.entries.get(key)
    }

    fn span(self) -> Range<usize> {
        self.span.0..self.span.1
    }
}

impl Reader<'_> {
    fn access(
        &mut self,
        table: Table<'_>,
        read_keys: impl FnMut(&str) -> io::Result<String>,
        understands: impl Fn(&Condition) -> Result<(), String>,
    ) -> Access {
        self.check_keys(
            table,
            &["tokens", "jwt", "certificates", "grants", "members"],
        );
        let mut access = Access::default();
        for token in self.tables(table, "tokens") {
            if let Some((token, span)) = self.token(token) {
                if access
                    .tokens
                    .iter()
                    .any(|other| other.sha256 == token.sha256)
                {
                    self.fault(span, FaultKind::SameToken);
                }
                access.tokens.push(token);
            }
        }
        if let Some(jwt) = self.table(table, "jwt") {
            access.jwt = self.jwt(jwt, read_keys);
        }
        if let Some(certificates) = self.table(table, "certificates") {
            access.certificates = self.certificates(certificates);
        }
        let mut policy = Policy::default();
        for grant in self.tables(table, "grants") {
            policy.grants.extend(self.grant(grant, &understands));
        }
        // A role whose grant has a fault is not unknown.
        let roles: Vec<Arc<str>> = self
            .tables(table, "grants")
            .into_iter()
            .filter_map(|grant| Some(grant.get("role")?.get_ref().as_str()?.into()))
            .collect();
        for member in self.tables(table, "members") {
            policy.members.extend(self.member(member, &roles));
        }
        access.policy = policy;
        access
    }

    fn token(&mut self, table: Table<'_>) -> Option<(StaticToken, Range<usize>)> {
        self.check_keys(table, &["principal", "sha256", "expires"]);
        let principal = self.required(table, "principal");
        let expires_at = table.get("expires").and_then(|value| self.time(value));
        let hash = self.required(table, "sha256")?;
        let span = table.get("sha256")?.span();
        let Some(sha256) = from_hex(hash) else {
            self.wrong(
                span,
                "sha256",
                "64 hexadecimal digits, as `steadfast token new` prints them",
            );
            return None;
        };
        let principal = principal?.into();
        Some((
            StaticToken {
                sha256,
                principal,
                expires_at,
            },
            span,
        ))
    }

    fn jwt(
        &mut self,
        table: Table<'_>,
        mut read_keys: impl FnMut(&str) -> io::Result<String>,
    ) -> Option<JwtRules> {
        let known = [
            "keys",
            "issuer",
            "audience",
            "algorithms",
            "leeway_seconds",
            "max_bytes",
        ];
        self.check_keys(table, &known);
        let issuer = self.required(table, "issuer");
        let audience = self.required(table, "audience");
        let algorithms = self.words(table, "algorithms", &Algorithm::ALL);
        let leeway = self.number(table, "leeway_seconds", 0, 0..=600);
        let max_bytes = self.number(table, "max_bytes", MAX_JWT_BYTES as u64, 256..=65_536);
        let path = self.required(table, "keys")?;
        let span = table.get("keys")?.span();
        let keys = match read_keys(path) {
            Ok(text) => Keys::parse(text.as_bytes()).map_err(|fault| FaultKind::Keys {
                path: path.to_owned(),
                fault,
            }),
            Err(error) => Err(FaultKind::KeyFile {
                path: path.to_owned(),
                error: error.to_string(),
            }),
        };
        let keys = keys.map_err(|kind| self.fault(span, kind)).ok()?;
        Some(JwtRules {
            keys,
            algorithms: algorithms.unwrap_or_else(|| Algorithm::ALL.map(|(_, it)| it).to_vec()),
            issuer: issuer?.to_owned(),
            audience: audience?.to_owned(),
            leeway: Duration::from_secs(leeway),
            max_bytes: max_bytes as usize,
        })
    }

    fn certificates(&mut self, table: Table<'_>) -> Option<CertificateRules> {
        self.check_keys(table, &["name", "revoked"]);
        let mut revoked = Vec::new();
        for (text, span) in self.texts(table, "revoked").unwrap_or_default() {
            match from_hex(text) {
                Some(fingerprint) => revoked.push(fingerprint),
                None => self.wrong(
                    span,
                    "revoked",
                    "SHA-256 fingerprints of 64 hexadecimal digits",
                ),
            }
        }
        let Some(names) = self.words(table, "name", &CertificateName::ALL) else {
            self.missing(table, "name");
            return None;
        };
        Some(CertificateRules { names, revoked })
    }

    fn member(&mut self, table: Table<'_>, known: &[Arc<str>]) -> Option<Member> {
        self.check_keys(table, &["roles", "principals", "claims"]);
        let mut principals = Vec::new();
        for (text, span) in self.texts(table, "principals").unwrap_or_default() {
            principals.extend(self.principal(text, span));
        }
        let claims = self.claims(table);
        // Without either, everybody would be meant.
        if table.get("principals").is_none() && table.get("claims").is_none() {
            self.missing(table, "principals");
        }
        let Some(texts) = self.texts(table, "roles") else {
            self.missing(table, "roles");
            return None;
        };
        let mut roles = Vec::new();
        for (role, span) in texts {
            match known.iter().find(|it| ***it == *role) {
                Some(role) => roles.push(Arc::clone(role)),
                None => self.fault(span, FaultKind::UnknownRole(role.to_owned())),
            }
        }
        Some(Member {
            roles,
            principals,
            claims,
        })
    }

    fn principal(&mut self, text: &str, span: Range<usize>) -> Option<Principals> {
        if text == Method::Anonymous.as_str() {
            return Some(Principals {
                method: Method::Anonymous,
                name: None,
            });
        }
        let methods = [Method::Token, Method::Jwt, Method::Certificate];
        let named = text.split_once(':').and_then(|(method, name)| {
            let method = methods.into_iter().find(|it| it.as_str() == method)?;
            Some((method, name))
        });
        let Some((method, name)) = named else {
            self.fault(span, FaultKind::Principal(text.to_owned()));
            return None;
        };
        let name = Some(self.pattern(name, span)?);
        Some(Principals { method, name })
    }

    fn claims(&mut self, table: Table<'_>) -> Vec<(String, Json)> {
        let Some(claims) = self.table(table, "claims") else {
            return Vec::new();
        };
        let mut read = Vec::new();
        for (name, value) in claims.entries {
            let json = match value.get_ref() {
                DeValue::String(text) => Some(Json::from(&**text)),
                DeValue::Boolean(value) => Some(Json::from(*value)),
                DeValue::Integer(number) => number.to_string().parse::<i64>().ok().map(Json::from),
                _ => None,
            };
            match json {
                Some(json) => read.push((name.get_ref().to_string(), json)),
                None => self.wrong(
                    value.span(),
                    name.get_ref(),
                    "a text, a whole number or a boolean",
                ),
            }
        }
        if read.is_empty() {
            self.wrong(claims.span(), "claims", "a table with at least one claim");
        }
        read
    }

    fn patterns(&mut self, table: Table<'_>, key: &'static str) -> Option<Vec<Pattern>> {
        let texts = self.texts(table, key)?;
        let patterns = texts
            .into_iter()
            .filter_map(|(text, span)| self.pattern(text, span));
        Some(patterns.collect())
    }

    fn pattern(&mut self, text: &str, span: Range<usize>) -> Option<Pattern> {
        let text = text.to_owned();
        let parsed = text.parse();
        parsed
            .map_err(|fault| self.fault(span, FaultKind::Pattern { text, fault }))
            .ok()
    }

    /// Returns the values that words stand for; `None` if the key is missing.
    fn words<T: Copy>(
        &mut self,
        table: Table<'_>,
        key: &'static str,
        known: &[(&'static str, T)],
    ) -> Option<Vec<T>> {
        let mut values = Vec::new();
        for (text, span) in self.texts(table, key)? {
            if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
                values.push(*value);
            } else {
                let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
                self.wrong(span, key, &format!("some of {}", words.join(", ")));
            }
        }
        Some(values)
    }

    /// Returns the texts of a list that is not empty, or of a single text; `None` if the key is missing.
    fn texts<'t>(
        &mut self,
        table: Table<'t>,
        key: &'static str,
    ) -> Option<Vec<(&'t str, Range<usize>)>> {
        let value = table.get(key)?;
        Some(self.texts_of(value, key))
    }

    fn texts_of<'t>(&mut self, value: &'t Value<'_>, key: &str) -> Vec<(&'t str, Range<usize>)> {
        let mut texts = Vec::new();
        match value.get_ref() {
            DeValue::String(text) => texts.push((&**text, value.span())),
            DeValue::Array(items) if !items.is_empty() => {
                for item in items {
                    match item.get_ref() {
                        DeValue::String(text) => texts.push((&**text, item.span())),
                        _ => self.wrong(item.span(), key, "a list of texts"),
                    }
                }
            }
            _ => self.wrong(value.span(), key, "a list of texts, with at least one"),
        }
        texts
    }

    fn required<'t>(&mut self, table: Table<'t>, key: &'static str) -> Option<&'t str> {
        let Some(value) = table.get(key) else {
            self.missing(table, key);
            return None;
        };
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.wrong(value.span(), key, "a text that is not empty");
                None
            }
        }
    }

    fn number(
        &mut self,
        table: Table<'_>,
        key: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = table.get(key) else {
            return default;
        };
        let number = match value.get_ref() {
            DeValue::Integer(number) => number.to_string().parse().ok(),
            _ => None,
        };
        number.filter(|it| range.contains(it)).unwrap_or_else(|| {
            let wanted = format!("a whole number from {} to {}", range.start(), range.end());
            self.wrong(value.span(), key, &wanted);
            default
        })
    }

    fn time(&mut self, value: &Value<'_>) -> Option<SystemTime> {
        let time = match value.get_ref() {
            DeValue::Datetime(time) => time.to_string().parse::<Timestamp>().ok(),
            _ => None,
        };
        if time.is_none() {
            self.wrong(
                value.span(),
                "expires",
                "a time with its zone and without quotes, as in 2027-01-01T00:00:00Z",
            );
        }
        time.map(SystemTime::from)
    }

    fn table<'t>(&mut self, table: Table<'t>, key: &'static str) -> Option<Table<'t>> {
        let value = table.get(key)?;
        let DeValue::Table(entries) = value.get_ref() else {
            self.wrong(value.span(), key, "a table");
            return None;
        };
        let span = (value.span().start, value.span().end);
        Some(Table { entries, span })
    }

    /// Returns the tables of `[[key]]`.
    fn tables<'t>(&mut self, table: Table<'t>, key: &'static str) -> Vec<Table<'t>> {
        let Some(value) = table.get(key) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        for item in items {
            match item.get_ref() {
                DeValue::Table(entries) if value.get_ref().is_array() => {
                    let span = (item.span().start, item.span().end);
                    tables.push(Table { entries, span });
                }
                _ => self.wrong(
                    item.span(),
                    key,
                    &format!("a list of tables, each begun by [[{key}]]"),
                ),
            }
        }
        tables
    }

    fn check_keys(&mut self, table: Table<'_>, known: &[&str]) {
        for key in table.entries.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let (key_name, known) = (name.to_owned(), known.join(", "));
                self.fault(
                    key.span(),
                    FaultKind::UnknownKey {
                        key: key_name,
                        known,
                    },
                );
            }
        }
    }

    fn missing(&mut self, table: Table<'_>, key: &'static str) {
        self.fault(table.span(), FaultKind::Missing(key));
    }

    fn wrong(&mut self, span: Range<usize>, key: &str, wanted: &str) {
        let (key, wanted) = (key.to_owned(), wanted.to_owned());
        self.fault(span, FaultKind::Value { key, wanted });
    }

    fn fault(&mut self, span: Range<usize>, kind: FaultKind) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let fault = Fault {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            // Characters and not bytes: people count what they see.
            column: before[line_start..].chars().count() + 1,
            kind,
        };
        // A list of tables is read twice, for the roles.
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

#[cfg(test)]
mod tests;
