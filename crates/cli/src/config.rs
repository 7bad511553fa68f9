//! Settings from flags, environment, file and defaults, in falling priority; all faults at once.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use crate::units;

/// One setting and its three names. The flag is the one of the command line, without a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) flag: &'static str,
    pub(crate) env: &'static str,
    /// Table and name in the file.
    pub(crate) file: (&'static str, &'static str),
}

/// Every setting a file may have.
pub(crate) mod keys {
    use super::Key;

    macro_rules! keys {
        ($($name:ident = $flag:literal, $env:literal, $table:literal . $key:literal;)*) => {
            $(pub(crate) const $name: Key = Key { flag: $flag, env: $env, file: ($table, $key) };)*
            pub(super) const ALL: &[Key] = &[$($name),*];
        };
    }

    keys! {
        LOG = "--log", "STEADFAST_LOG", "" . "log";
        LISTEN = "--listen", "STEADFAST_LISTEN", "server" . "listen";
        DATA = "--data", "STEADFAST_DATA", "server" . "data";
        RETAIN_AGE = "--retain-age", "STEADFAST_RETAIN_AGE", "server" . "retain_age";
        RETAIN_SIZE = "--retain-size", "STEADFAST_RETAIN_SIZE", "server" . "retain_size";
        DRAIN = "--drain", "STEADFAST_DRAIN", "server" . "drain";
        ADDR = "--addr", "STEADFAST_ADDR", "client" . "addr";
        HEARTBEAT = "--heartbeat", "STEADFAST_HEARTBEAT", "client" . "heartbeat";
        ACTIVITY_TIMEOUT = "--activity-timeout", "STEADFAST_ACTIVITY_TIMEOUT",
            "client" . "activity_timeout";
        INITIAL_BACKOFF = "--initial-backoff", "STEADFAST_INITIAL_BACKOFF",
            "client" . "initial_backoff";
        MAX_BACKOFF = "--max-backoff", "STEADFAST_MAX_BACKOFF", "client" . "max_backoff";
        MAX_RETRIES = "--max-retries", "STEADFAST_MAX_RETRIES", "client" . "max_retries";
        POLL_INTERVAL = "--poll-metrics-interval", "STEADFAST_POLL_METRICS_INTERVAL",
            "agent" . "poll_metrics_interval";
        POLL_PORTS = "--poll-metrics-ports", "STEADFAST_POLL_METRICS_PORTS",
            "agent" . "poll_metrics_ports";
        ENDPOINTS = "--metrics-endpoint", "STEADFAST_METRICS_ENDPOINT", "agent" . "metrics_endpoint";
        CONTAINERS = "--container-names", "STEADFAST_CONTAINER_NAMES", "agent" . "container_names";
        SCRAPE_TIMEOUT = "--scrape-timeout", "STEADFAST_SCRAPE_TIMEOUT", "agent" . "scrape_timeout";
        PAGE_SIZE = "--max-page-size", "STEADFAST_MAX_PAGE_SIZE", "agent" . "max_page_size";
        PAGE_SAMPLES = "--max-page-samples", "STEADFAST_MAX_PAGE_SAMPLES",
            "agent" . "max_page_samples";
        PAGE_MEMORY = "--page-memory", "STEADFAST_PAGE_MEMORY", "agent" . "page_memory";
        HONOR_TIMESTAMPS = "--honor-timestamps", "STEADFAST_HONOR_TIMESTAMPS",
            "agent" . "honor_timestamps";
        RECORD = "--data", "STEADFAST_RECORD", "agent" . "data";
        IN_MEMORY = "--in-memory", "STEADFAST_IN_MEMORY", "agent" . "in_memory";
        BUDGET = "--budget", "STEADFAST_BUDGET", "agent" . "budget";
        SYNC_EVERY = "--sync-every", "STEADFAST_SYNC_EVERY", "agent" . "sync_every";
        AGENT_LISTEN = "--prometheus-listen-addr", "STEADFAST_PROMETHEUS_LISTEN_ADDR",
            "agent" . "prometheus_listen_addr";
        PROXY_ADDR = "--proxy-addr", "STEADFAST_PROXY_ADDR", "agent" . "proxy_addr";
        NODE_ROLE = "--node-role", "STEADFAST_NODE_ROLE", "agent" . "node_role";
        NODE_LABELS = "--node-labels", "STEADFAST_NODE_LABELS", "agent" . "node_labels";
        NODE_IP = "--node-ip", "STEADFAST_NODE_IP", "agent" . "node_ip";
        NODE_PORT = "--node-port", "STEADFAST_NODE_PORT", "agent" . "node_port";
        POD_NAME = "--pod-name", "STEADFAST_POD_NAME", "agent" . "pod_name";
        AGENT_HEARTBEAT = "--heartbeat-interval", "STEADFAST_AGENT_HEARTBEAT_INTERVAL",
            "agent" . "heartbeat_interval";
        RECONNECT = "--reconnect-interval", "STEADFAST_RECONNECT_INTERVAL",
            "agent" . "reconnect_interval";
        GRPC_LISTEN = "--grpc-listen-addr", "STEADFAST_GRPC_LISTEN_ADDR", "proxy" . "grpc_listen_addr";
        HTTP_LISTEN = "--http-listen-addr", "STEADFAST_HTTP_LISTEN_ADDR", "proxy" . "http_listen_addr";
        PROXY_HEARTBEAT = "--heartbeat-interval", "STEADFAST_PROXY_HEARTBEAT_INTERVAL",
            "proxy" . "heartbeat_interval";
        HEARTBEAT_TIMEOUT = "--agent-heartbeat-timeout", "STEADFAST_AGENT_HEARTBEAT_TIMEOUT",
            "proxy" . "agent_heartbeat_timeout";
        CLEANUP_TIMEOUT = "--agent-cleanup-timeout", "STEADFAST_AGENT_CLEANUP_TIMEOUT",
            "proxy" . "agent_cleanup_timeout";
        MAX_AGENTS = "--max-agents", "STEADFAST_MAX_AGENTS", "proxy" . "max_agents";
        MAX_MESSAGE = "--grpc-max-msg-size", "STEADFAST_GRPC_MAX_MSG_SIZE",
            "proxy" . "grpc_max_msg_size";
        HTTP_READ_TIMEOUT = "--http-read-timeout", "STEADFAST_HTTP_READ_TIMEOUT",
            "proxy" . "http_read_timeout";
        HTTP_WRITE_TIMEOUT = "--http-write-timeout", "STEADFAST_HTTP_WRITE_TIMEOUT",
            "proxy" . "http_write_timeout";
        AGENT_DEADLINE = "--agent-deadline", "STEADFAST_AGENT_DEADLINE", "proxy" . "agent_deadline";
        WINDOW_DEADLINE = "--window-deadline", "STEADFAST_WINDOW_DEADLINE",
            "proxy" . "window_deadline";
    }
}

/// Where settings come from, and what was wrong with them so far.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    env: BTreeMap<String, String>,
    file: BTreeMap<(String, String), Entry>,
    /// Where each setting that was asked for stood, by its flag.
    found: BTreeMap<&'static str, String>,
    faults: Vec<Fault>,
}

/// A file of settings is not longer; what is, is not one.
const FILE_MAX: u64 = 1 << 20;

/// A value of the file and where it stands.
#[derive(Debug)]
struct Entry {
    place: String,
    /// The value, or what kind of thing stands there instead.
    value: Result<Value, &'static str>,
}

/// What stands somewhere for a setting.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    /// A list of the file, item by item.
    List(Vec<String>),
}

/// One thing wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Flag, variable, or place in the file.
    pub(crate) place: String,
    /// What is wrong and what to do.
    pub(crate) what: String,
}

/// Everything wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            let end = if at + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{}: {}{end}", fault.place, fault.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Something that can be a setting.
pub(crate) trait Setting: Sized {
    /// Reads it, or says what is wrong and what to write.
    fn from_text(text: &str) -> Result<Self, String>;

    /// The same of a list in the file.
    fn from_list(_items: &[String]) -> Result<Self, String> {
        Err("it is a list; write one value".to_owned())
    }
}

impl Setting for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        units::duration(text)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl Setting for Size {
    fn from_text(text: &str) -> Result<Self, String> {
        units::size(text).map(Self)
    }
}

impl Setting for String {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("it is empty; give a value".into())
        } else {
            Ok(text.to_owned())
        }
    }
}

impl Setting for u32 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a whole number; write one, like 5"))
    }
}

/// Several values, with commas between them or as a list in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Several<T>(pub(crate) Vec<T>);

impl<T: Setting> Setting for Several<T> {
    fn from_text(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim);
        let items = items.filter(|item| !item.is_empty()).map(T::from_text);
        items.collect::<Result<_, _>>().map(Self)
    }

    fn from_list(items: &[String]) -> Result<Self, String> {
        let items = items.iter().map(|item| T::from_text(item));
        items.collect::<Result<_, _>>().map(Self)
    }
}

impl Setting for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a truth value; write true or false"))
    }
}

impl Setting for u16 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a port; write a number up to 65535"))
    }
}

/// Where to listen. Without a host, like `:9090`, it is every IPv4 address of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) std::net::SocketAddr);

impl Setting for Listen {
    fn from_text(text: &str) -> Result<Self, String> {
        if let Some(port) = text.strip_prefix(':') {
            let address = |port: u16| Self((std::net::Ipv4Addr::UNSPECIFIED, port).into());
            return u16::from_text(port).map(address);
        }
        let text = text.replacen("localhost:", "127.0.0.1:", 1);
        std::net::SocketAddr::from_text(&text).map(Self)
    }
}

impl Setting for std::net::SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            let host_and_port = text.rsplit_once(':');
            let digits = |port: &str| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
            let wrong = host_and_port.filter(|(host, port)| {
                let is_address = host
                    .trim_matches(['[', ']'])
                    .parse::<std::net::IpAddr>()
                    .is_ok();
                is_address && digits(port)
            });
            // A host that is right but for its port is told about its port.
            wrong
                .and_then(|(_, port)| u16::from_text(port).err())
                .unwrap_or_else(|| {
                    format!("{text:?} is not an address; write IP:PORT, like 127.0.0.1:9000")
                })
        })
    }
}

impl Settings {
    /// Takes the environment of the process and the file, if one is named.
    pub(crate) fn load(file: Option<&Path>) -> Self {
        let mut settings = Self::default();
        settings.read_env(std::env::vars_os());
        let from_env = settings
            .env
            .get("STEADFAST_CONFIG")
            .map(std::path::PathBuf::from);
        if let Some(path) = file.map(Path::to_owned).or(from_env) {
            match text_of(&path) {
                Ok(text) => settings.read_file(&path.display().to_string(), &text),
                Err(error) => settings.fault(path.display(), format!("can not be read: {error}")),
            }
        }
        settings
    }

    fn read_env(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with("STEADFAST_")) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    self.env.insert(name.to_owned(), value);
                }
                Err(_) => self.fault(name, "it is not UTF-8; write it anew".to_owned()),
            }
        }
    }

    fn read_file(&mut self, path: &str, text: &str) {
        let place = |at: usize| {
            let line = text[..at.min(text.len())].matches('\n').count() + 1;
            format!("{path}:{line}")
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.fault(place(at), error.message().to_owned());
        }
        let known_table = |name: &str| keys::ALL.iter().any(|key| key.file.0 == name);
        for (name, value) in table.get_ref() {
            match value.get_ref() {
                DeValue::Table(inner) if known_table(name.get_ref()) => {
                    for (key, value) in inner {
                        self.take(name.get_ref(), key, value, &place);
                    }
                }
                _ => self.take("", name, value, &place),
            }
        }
    }

    fn take(
        &mut self,
        table: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        place: &dyn Fn(usize) -> String,
    ) {
        let at = place(name.span().start);
        let file = (table, name.get_ref().as_ref());
        if !keys::ALL.iter().any(|key| key.file == file) {
            let known: Vec<_> = keys::ALL.iter().map(|key| dotted(key.file)).collect();
            let known = known.join(", ");
            self.fault(
                at,
                format!("{} is not a setting; there are {known}", dotted(file)),
            );
            return;
        }
        let value = match value.get_ref() {
            DeValue::String(text) => Ok(Value::Text(text.to_string())),
            DeValue::Integer(number) => Ok(Value::Text(number.to_string())),
            DeValue::Float(_) => Err("a fraction"),
            DeValue::Boolean(value) => Ok(Value::Text(value.to_string())),
            DeValue::Datetime(_) => Err("a date"),
            DeValue::Array(items) => list(items),
            DeValue::Table(_) => Err("a table"),
        };
        let place = format!("{at} ({})", dotted(file));
        self.file.insert(
            (file.0.to_owned(), file.1.to_owned()),
            Entry { place, value },
        );
    }

    /// The setting, or nothing where no source has it or its value is a fault.
    pub(crate) fn get<T: Setting>(&mut self, key: Key, flag: Option<&str>) -> Option<T> {
        let (place, value) = self.find(key, flag)?;
        self.found.insert(key.flag, place.clone());
        let value = value
            .map_err(|kind| format!("it is {kind}; write a text in quotes or a whole number"))
            .and_then(|value| match value {
                Value::Text(text) => T::from_text(&text),
                Value::List(items) => T::from_list(&items),
            });
        value.map_err(|what| self.fault(place, what)).ok()
    }

    /// Where the setting stands and what stands there, in the source with the highest priority.
    fn find(&self, key: Key, flag: Option<&str>) -> Option<(String, Result<Value, &'static str>)> {
        if let Some(text) = flag {
            return Some((key.flag.to_owned(), Ok(Value::Text(text.to_owned()))));
        }
        if let Some(text) = self.env.get(key.env) {
            return Some((key.env.to_owned(), Ok(Value::Text(text.clone()))));
        }
        let (table, name) = key.file;
        let entry = self.file.get(&(table.to_owned(), name.to_owned()))?;
        Some((entry.place.clone(), entry.value.clone()))
    }

    /// The setting, or the default.
    pub(crate) fn get_or<T: Setting>(&mut self, key: Key, flag: Option<&str>, default: T) -> T {
        self.get(key, flag).unwrap_or(default)
    }

    /// The setting, whose absence is a fault.
    pub(crate) fn require<T: Setting>(&mut self, key: Key, flag: Option<&str>) -> Option<T> {
        let before = self.faults.len();
        let value = self.get(key, flag);
        if value.is_none() && self.faults.len() == before {
            let file = dotted(key.file);
            let what = format!(
                "is missing; give it, set {}, or write {file} into a file",
                key.env
            );
            self.fault(key.flag, what);
        }
        value
    }

    /// Notes something wrong that was found elsewhere, to be told with the rest.
    pub(crate) fn fault(&mut self, place: impl fmt::Display, what: String) {
        self.faults.push(Fault {
            place: place.to_string(),
            what,
        });
    }

    /// Notes that the value of a setting can not be used. Its place is where the value stands; the
    /// flag's, if it is the default.
    pub(crate) fn unusable(&mut self, key: Key, what: String) {
        let place = self.found.get(key.flag).cloned();
        self.fault(place.as_deref().unwrap_or(key.flag), what);
    }

    /// All faults, if there is one.
    pub(crate) fn finish(self) -> Result<(), Faults> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Faults(self.faults))
        }
    }
}

/// What a file of settings says.
fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?
        .take(FILE_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_MAX {
        let what = "it is longer than 1 MiB, which settings are not; name another file";
        return Err(io::Error::other(what));
    }
    Ok(text)
}

/// The texts and whole numbers of a list.
fn list(items: &DeArray<'_>) -> Result<Value, &'static str> {
    let items: Option<Vec<String>> = items
        .iter()
        .map(|item| match item.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            _ => None,
        })
        .collect();
    let items = items.ok_or("a list of other things than texts and whole numbers")?;
    Ok(Value::List(items))
}

fn dotted((table, name): (&str, &str)) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(env: &[(&str, &str)], file: &str) -> Settings {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut settings = Settings {
            env: env.collect(),
            ..Settings::default()
        };
        settings.read_file("s.toml", file);
        settings
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let file = "[server]\ndrain = \"4s\"\n";
        let env = [("STEADFAST_DRAIN", "3s")];
        let default = Duration::from_secs(1);
        let get = |env: &[(&str, &str)], file, flag| {
            let mut settings = settings(env, file);
            let value = settings.get_or(keys::DRAIN, flag, default).as_secs();
            settings.finish().map(|()| value)
        };
        assert_eq!(get(&env, file, Some("2s")), Ok(2));
        assert_eq!(get(&env, file, None), Ok(3));
        assert_eq!(get(&[], file, None), Ok(4));
        assert_eq!(get(&[], "", None), Ok(1));
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_place() {
        let mut settings = settings(
            &[("STEADFAST_HEARTBEAT", "often")],
            "log = \"info\"\nport = 1\n\n[server]\nretain_size = 1.5\nretian_age = \"1d\"\n",
        );
        settings.get::<Duration>(keys::HEARTBEAT, None);
        settings.get::<Size>(keys::RETAIN_SIZE, None);
        settings.get::<Duration>(keys::DRAIN, Some("10"));
        settings.require::<String>(keys::DATA, None);
        let faults = settings.finish().unwrap_err();
        let places: Vec<_> = faults.0.iter().map(|fault| fault.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "s.toml:2",
                "s.toml:6",
                "STEADFAST_HEARTBEAT",
                "s.toml:5 (server.retain_size)",
                "--drain",
                "--data",
            ]
        );
        let text = faults.to_string();
        assert_eq!(text.lines().count(), 6);
        assert!(
            text.contains("server.retian_age is not a setting"),
            "{text}"
        );
        assert!(
            text.contains("set STEADFAST_DATA, or write server.data"),
            "{text}"
        );
    }

    #[test]
    fn a_value_that_turns_out_unusable_is_told_where_it_stands() {
        let place = |env: &[(&str, &str)], flag| {
            let mut settings = settings(env, "[agent]\nbudget = 1\n");
            settings.get::<Size>(keys::BUDGET, flag);
            settings.unusable(keys::BUDGET, "too small".to_owned());
            settings.finish().unwrap_err().0[0].place.clone()
        };
        assert_eq!(place(&[], None), "s.toml:2 (agent.budget)");
        assert_eq!(
            place(&[("STEADFAST_BUDGET", "1")], None),
            "STEADFAST_BUDGET"
        );
        assert_eq!(place(&[], Some("1")), "--budget");
        let mut silent = settings(&[], "");
        silent.unusable(keys::BUDGET, "the default is wrong".to_owned());
        assert_eq!(silent.finish().unwrap_err().0[0].place, "--budget");
    }

    #[test]
    fn a_list_of_the_file_is_taken_item_by_item_and_only_where_several_are_wanted() {
        let mut settings = settings(
            &[],
            "[agent]\nmetrics_endpoint = [\"http://a/?x=1,2\", \"http://b/\"]\nbudget = [65536]\n",
        );
        let urls: Option<Several<String>> = settings.get(keys::ENDPOINTS, None);
        let wanted = ["http://a/?x=1,2", "http://b/"].map(str::to_owned);
        assert_eq!(urls, Some(Several(wanted.to_vec())));
        assert_eq!(settings.get::<Size>(keys::BUDGET, None), None);
        let faults = settings.finish().unwrap_err();
        assert_eq!(faults.0[0].place, "s.toml:3 (agent.budget)");
        assert!(faults.0[0].what.contains("write one value"), "{faults}");
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let faults = Settings::load(Some(Path::new("/dev/zero")))
            .finish()
            .unwrap_err();
        assert_eq!(faults.0[0].place, "/dev/zero");
        assert!(faults.0[0].what.contains("longer than 1 MiB"), "{faults}");
    }

    #[test]
    fn a_variable_that_is_no_text_is_a_fault_if_it_is_ours() {
        use std::os::unix::ffi::OsStringExt as _;
        let variable = |name: &str| (OsString::from(name), OsString::from_vec(vec![0xff]));
        let mut settings = Settings::default();
        settings.read_env([variable("STEADFAST_BUDGET"), variable("LS_COLORS")].into_iter());
        let faults = settings.finish().unwrap_err();
        let places: Vec<_> = faults.0.iter().map(|fault| &*fault.place).collect();
        assert_eq!(places, ["STEADFAST_BUDGET"]);
    }

    #[test]
    fn a_file_that_is_not_toml_names_the_line() {
        let faults = settings(&[], "log = \"info\"\n[server\n")
            .finish()
            .unwrap_err();
        assert_eq!(faults.0[0].place, "s.toml:2");
    }

    #[test]
    fn a_missing_file_is_a_fault() {
        let faults = Settings::load(Some(Path::new("/nowhere/s.toml")))
            .finish()
            .unwrap_err();
        assert_eq!(faults.0[0].place, "/nowhere/s.toml");
    }
}
