//! Settings from flags, environment, file and defaults, in falling priority.
//!
//! A setting is declared once: a field `Option<Given<T>>` with `#[arg(long, env)]`. The flag and the
//! variable have its name, the variable with [`PREFIX`], and so has the key in the file, in the table
//! of its command. clap reads the flag and the variable; a value in the file becomes the default value
//! that clap sees. Parsing never fails for a value: faults are collected, so that one run reports all
//! of them.

mod file;
mod values;

use std::{
    any::TypeId,
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgMatches, Command, Parser,
    builder::{TypedValueParser, ValueParserFactory},
    parser::ValueSource,
};

use self::file::File;
pub(crate) use self::values::{Listen, Setting, Several, Size};

/// The table of the file for each command that has settings. What is not here is in no table.
const TABLES: [(&str, &str); 14] = [
    ("streamer serve", "server"),
    ("streamer log verify", "server"),
    ("streamer log repair", "server"),
    ("streamer log dump", "server"),
    ("streamer log trim", "server"),
    ("streamer subscribe", "client"),
    ("streamer publish", "client"),
    ("streamer status", "client"),
    ("top", "client"),
    ("feed packages", "client"),
    ("feed generator", "client"),
    ("gateway", "gateway"),
    ("fodc agent", "agent"),
    ("fodc proxy", "proxy"),
];

/// The beginning of every variable.
const PREFIX: &str = "STEADFAST_";

/// The text that a flag, a variable or the file gives for a setting, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Given<T> {
    id: String,
    value: Result<T, String>,
}

/// The sources of the command's settings, and the faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    sources: BTreeMap<String, Source>,
    faults: Vec<Fault>,
}

/// The names of one setting.
#[derive(Debug)]
struct Source {
    flag: String,
    env: String,
    /// Table and name in the file.
    key: String,
    /// The name that gave the value; nothing if the default is used.
    location: Option<String>,
}

/// One thing wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Flag, variable, or line of the file.
    pub(crate) location: String,
    /// The problem, and what to write instead.
    pub(crate) what: String,
}

/// Everything wrong with the settings, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

/// Parses the command line with the environment and the file of settings. Exits with usage on an
/// unknown flag, and after `--help`.
pub(crate) fn parse<A: Parser>() -> (A, Settings) {
    parse_with(A::command(), None, Command::get_matches)
}

/// The faults of a file of settings, and the policy files that it names.
pub(crate) struct CheckedFile {
    pub(crate) faults: Option<Faults>,
    pub(crate) access: Vec<String>,
}

/// Reads a file of settings without a command.
pub(crate) fn check_file<A: Parser>(path: &Path) -> CheckedFile {
    let file = File::read(path);
    let faults = file.faults(&keys(&A::command(), ""));
    let named = ["server.access", "gateway.access", "proxy.access"].map(|key| file.get(key));
    let access = named.into_iter().flatten();
    CheckedFile {
        faults: (!faults.is_empty()).then_some(Faults(faults)),
        access: access
            .filter_map(|entry| entry.value.clone().ok())
            .collect(),
    }
}

/// Parses a command line and a file with this text.
#[cfg(test)]
pub(crate) fn parse_line<A: Parser>(line: &[String], file: &str) -> (A, Settings) {
    let matches = |command: Command| match command.try_get_matches_from(line) {
        Ok(matches) => matches,
        // `get_matches` would end the process, and with it the other tests.
        Err(error) => panic!("{error}"),
    };
    parse_with(A::command(), Some(File::parse("s.toml", file)), matches)
}

/// Parses twice, because the first pass finds the file whose values are defaults in the second.
fn parse_with<A: Parser>(
    command: Command,
    file: Option<File>,
    matches: impl Fn(Command) -> ArgMatches,
) -> (A, Settings) {
    let first = matches(with_defaults(command.clone(), "", &File::default()));
    let mut settings = Settings::default();
    let file = file.unwrap_or_else(|| match first.get_one::<PathBuf>("config") {
        Some(path) => File::read(path),
        None => File::default(),
    });
    settings.faults.extend(file.faults(&keys(&command, "")));
    let command = with_defaults(command, "", &file);
    let found = matches(command.clone());
    settings.find_sources(&command, &found, &file);
    let args = A::from_arg_matches(&found).unwrap_or_else(|error| error.exit());
    (args, settings)
}

/// Makes the values of the file the default values of the arguments, here and below.
fn with_defaults(mut command: Command, path: &str, file: &File) -> Command {
    for (id, key) in settings_of(&command, path) {
        let text = file.get(&key).and_then(|entry| entry.value.clone().ok());
        command = command.mut_arg(id, |arg| {
            let arg = named(arg).hide_env_values(true);
            match text {
                None => arg,
                Some(text) => arg.default_value(text).hide_default_value(true),
            }
        });
    }
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        let path = format!("{path} {name}");
        command = command.mut_subcommand(name, |sub| with_defaults(sub, &path, file));
    }
    command
}

/// Completes the declaration of a setting: the prefix of the variable, and what follows from the type.
fn named(arg: Arg) -> Arg {
    let name = arg.get_env().unwrap_or_default().to_string_lossy();
    // The declaration is completed before each pass.
    let variable = format!("{PREFIX}{}", name.strip_prefix(PREFIX).unwrap_or(&name));
    let parsed = arg.get_value_parser().type_id();
    let is_flag = parsed == TypeId::of::<Given<bool>>();
    let usual = arg.get_id().as_str().to_ascii_uppercase();
    let is_usual = arg.get_value_names().is_none_or(|names| names[0] == *usual);
    let value_name = values::NAMES.iter().find(|(kind, _)| parsed == kind());
    let mut arg = arg.env(variable);
    if let Some((_, name)) = value_name
        && is_usual
    {
        arg = arg.value_name(name);
    }
    if is_flag {
        // A switch that the environment and the file can set to false.
        arg = arg
            .num_args(0..=1)
            // Without an equals sign, the argument behind the switch would be its value.
            .require_equals(true)
            .default_missing_value("true");
    }
    arg
}

/// Returns the keys of all settings, here and below.
fn keys(command: &Command, path: &str) -> Vec<String> {
    let own = settings_of(command, path).into_iter().map(|(_, key)| key);
    let below = command
        .get_subcommands()
        .flat_map(|sub| keys(sub, &format!("{path} {}", sub.get_name())));
    let mut keys: Vec<String> = own.chain(below).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Returns the ids and keys of the command's own settings: its arguments with a variable.
fn settings_of(command: &Command, path: &str) -> Vec<(String, String)> {
    let table = TABLES.iter().find(|(of, _)| *of == path.trim_start());
    command
        .get_arguments()
        .filter(|arg| arg.get_env().is_some() && arg.get_id() != "config")
        .map(|arg| {
            let id = arg.get_id().to_string();
            let key = table.map_or_else(|| id.clone(), |(_, table)| format!("{table}.{id}"));
            (id, key)
        })
        .collect()
}

impl Settings {
    /// Follows the command that was given and notes where each of its settings stands.
    fn find_sources(&mut self, command: &Command, matches: &ArgMatches, file: &File) {
        let (mut command, mut matches, mut path) = (command, matches, String::new());
        loop {
            for (id, key) in settings_of(command, &path) {
                let arg = command.get_arguments().find(|arg| *arg.get_id() == *id);
                let arg = arg.expect("the id is of one of its arguments");
                let flag = format!("--{}", arg.get_long().unwrap_or_default());
                let env = arg
                    .get_env()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let entry = file.get(&key);
                let location = match matches.value_source(&id) {
                    Some(ValueSource::CommandLine) => Some(flag.clone()),
                    Some(ValueSource::EnvVariable) => Some(env.clone()),
                    // No setting has a default of its own in clap, so that a default is the file's.
                    _ => entry.map(|entry| entry.location.clone()),
                };
                // Such a value cannot be a default of clap, so that no parser rejects it.
                if let (None, Some(Err(kind)), Some(location)) = (
                    matches.value_source(&id),
                    entry.map(|entry| &entry.value),
                    &location,
                ) {
                    let what = format!("it is {kind}; write a text in quotes or a whole number");
                    self.fault(location, what);
                }
                self.sources.insert(
                    id,
                    Source {
                        flag,
                        env,
                        key,
                        location,
                    },
                );
            }
            let Some((name, below)) = matches.subcommand() else {
                return;
            };
            command = command.find_subcommand(name).expect("clap matched it");
            matches = below;
            path = format!("{path} {name}");
        }
    }

    /// Returns the value, or nothing where it is not given or is a fault.
    pub(crate) fn get<T>(&mut self, given: Option<Given<T>>) -> Option<T> {
        let Given { id, value } = given?;
        value.map_err(|what| self.unusable(&id, what)).ok()
    }

    /// Returns the value, or the default.
    pub(crate) fn get_or<T>(&mut self, given: Option<Given<T>>, default: T) -> T {
        self.get(given).unwrap_or(default)
    }

    /// Overwrites a field with the value, if there is one.
    pub(crate) fn set<T>(&mut self, field: &mut T, given: Option<Given<T>>) {
        if let Some(value) = self.get(given) {
            *field = value;
        }
    }

    /// Returns all values of a setting that may be repeated, or nothing where it is not given.
    pub(crate) fn several<T>(&mut self, given: Vec<Given<Several<T>>>) -> Option<Vec<T>> {
        let mut values = None;
        for given in given {
            // A faulty item makes the list unusable; its fault is noted.
            let Several(more) = self.get(Some(given))?;
            values.get_or_insert_with(Vec::new).extend(more);
        }
        values
    }

    /// Returns the value of the setting with this id; its absence is a fault.
    pub(crate) fn require<T>(&mut self, id: &str, given: Option<Given<T>>) -> Option<T> {
        // A faulty value is not missing: it has a fault of its own.
        if given.is_none() && !self.is_given(id) {
            let Source { flag, env, key, .. } = &self.sources[id];
            let what = format!("is missing; give it, set {env}, or write {key} into a file");
            let flag = flag.clone();
            self.fault(flag, what);
        }
        self.get(given)
    }

    /// Tells whether a flag, a variable or the file has the setting.
    fn is_given(&self, id: &str) -> bool {
        self.sources
            .get(id)
            .is_some_and(|source| source.location.is_some())
    }

    /// Tells whether the command line itself has the setting.
    pub(crate) fn is_flag(&self, id: &str) -> bool {
        self.sources
            .get(id)
            .is_some_and(|source| source.location.as_ref() == Some(&source.flag))
    }

    /// Notes a fault that was found elsewhere.
    pub(crate) fn fault(&mut self, location: impl fmt::Display, what: String) {
        let location = location.to_string();
        self.faults.push(Fault { location, what });
    }

    /// Notes that the value of the setting with this id cannot be used. The location is that of the
    /// value, the flag if it is the default, and the id itself if there is no such setting.
    pub(crate) fn unusable(&mut self, id: &str, what: String) {
        let location = match self.sources.get(id) {
            Some(source) => source.location.as_ref().unwrap_or(&source.flag).clone(),
            None => id.to_owned(),
        };
        self.fault(location, what);
    }

    /// Returns all faults as one error, if there is any.
    pub(crate) fn finish(self) -> Result<(), Faults> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Faults(self.faults))
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            let end = if at + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{}: {}{end}", fault.location, fault.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Reads any text, so that clap reports no fault of its own.
#[derive(Clone, Debug)]
pub(crate) struct GivenParser<T>(PhantomData<fn() -> T>);

impl<T: Setting> ValueParserFactory for Given<T> {
    type Parser = GivenParser<T>;

    fn value_parser() -> Self::Parser {
        GivenParser(PhantomData)
    }
}

impl<T: Setting> TypedValueParser for GivenParser<T> {
    type Value = Given<T>;

    fn parse_ref(
        &self,
        _command: &Command,
        arg: Option<&Arg>,
        text: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let value = match text.to_str() {
            None => Err("it is not UTF-8; write it anew".to_owned()),
            Some(text) => match file::items(text) {
                None => T::from_text(text),
                Some(items) => T::from_list(&items),
            },
        };
        let id = arg.map_or_else(String::new, |arg| arg.get_id().to_string());
        Ok(Given { id, value })
    }
}

#[cfg(test)]
mod tests;
