//! The address and labels of a page of metrics.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::{HeaderValue, Uri, uri::Scheme};
use steadfast::dial::{Address, BoxFuture, Dialer, Lookup as _, Proxies, SystemLookup};
use steadfast_exposition::Format;

use super::{Access, AccessFault, ScrapeError};

/// The page of metrics at one URL, with the labels that its series get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    address: Address,
    /// The Unix socket to connect to, instead of the host.
    socket: Option<PathBuf>,
    host: HeaderValue,
    labels: BTreeMap<String, String>,
    container_name: Option<String>,
    protocol: Protocol,
    access: Access,
}

/// The formats that an endpoint is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// `OpenMetrics` or the text format of Prometheus, whichever the endpoint prefers.
    #[default]
    Any,
    /// The text format of Prometheus, for exporters whose `OpenMetrics` is faulty.
    Prometheus,
    /// `OpenMetrics`.
    OpenMetrics,
}

impl Protocol {
    /// Returns the `Accept` header of a scrape.
    pub(crate) fn accept(self) -> &'static str {
        match self {
            Self::Any => Format::ACCEPT,
            Self::Prometheus => {
                "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,\
                 */*;q=0.1"
            }
            Self::OpenMetrics => {
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8,\
                 application/openmetrics-text;version=0.0.1;q=0.5,*/*;q=0.1"
            }
        }
    }
}

/// The reason why a text is not the URL of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointFault {
    /// The text is not a URL.
    #[error("`{0}` is not a URL: write it like http://localhost:9100/metrics")]
    Malformed(String),
    /// The port is out of range.
    #[error("`{0}` has a port that is not a number from 1 to 65535")]
    Port(String),
    /// The scheme is neither `http` nor `https`.
    #[error("`{0}` is not HTTP: only http:// and https:// can be scraped")]
    Scheme(String),
    /// The URL contains a user or password, which the error does not repeat.
    #[error(
        "URL contains credentials: remove the part before `@`, and give a user and the file of its \
         password, or the file of a token, in the file of settings"
    )]
    Credentials,
}

/// The prefix of sources that hold the health of scrapes.
pub(crate) const HEALTH_PREFIX: &str = "health:";

impl Endpoint {
    /// Creates the endpoint at `url`, like `https://db.example:9100/metrics`, or on a Unix socket, like
    /// `http://unix:/run/exporter.sock:/metrics`.
    ///
    /// Its labels are those that Prometheus adds by default: `instance`, which is host and port, and
    /// `job`, which is `steadfast`.
    ///
    /// # Errors
    ///
    /// If `url` is not the URL of an endpoint.
    pub fn new(url: &str) -> Result<Self, EndpointFault> {
        match Self::parse(url) {
            // Other faults quote the URL, and what stands before the `@` may be a password.
            Err(_) if url.contains('@') => Err(EndpointFault::Credentials),
            parsed => parsed,
        }
    }

    fn parse(url: &str) -> Result<Self, EndpointFault> {
        let malformed = || EndpointFault::Malformed(url.to_owned());
        if let Some((scheme, socket, target)) = split_socket(url) {
            let mut endpoint = Self::parse(&format!("{scheme}://localhost{target}"))?;
            let instance = format!("unix:{socket}");
            endpoint.labels.insert("instance".to_owned(), instance);
            endpoint.address = format!("unix:{socket}").parse().map_err(|_| malformed())?;
            endpoint.socket = Some(socket.into());
            return Ok(endpoint);
        }
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {}
            Some(_) => return Err(EndpointFault::Scheme(url.to_owned())),
            None => return Err(malformed()),
        }
        let authority = uri.authority().ok_or_else(malformed)?;
        if authority.as_str().contains('@') {
            return Err(EndpointFault::Credentials);
        }
        if authority.host().is_empty() {
            return Err(malformed());
        }
        // `http` parses a port that is out of range as no port.
        let behind = &authority.as_str()[authority.host().len()..];
        if !behind.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(EndpointFault::Port(url.to_owned()));
        }
        let instance = format!("{}:{}", authority.host(), port(&uri));
        let scheme = uri.scheme_str().unwrap_or("http");
        let address = format!("{scheme}://{instance}");
        let address = address.parse().map_err(|_| malformed())?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| malformed())?;
        let labels = BTreeMap::from([
            ("instance".to_owned(), instance),
            ("job".to_owned(), "steadfast".to_owned()),
        ]);
        Ok(Self {
            uri,
            address,
            socket: None,
            host,
            labels,
            container_name: None,
            protocol: Protocol::default(),
            access: Access::default(),
        })
    }

    /// Creates the endpoint `/metrics` on a port of this machine, as the original's
    /// `--poll-metrics-ports` does.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn local(port: u16) -> Self {
        Self::new(&format!("http://localhost:{port}/metrics"))
            .expect("a constant with a port is a URL")
    }

    /// Sets a label; an empty value removes it.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        if value.is_empty() {
            self.labels.remove(&name);
        } else {
            self.labels.insert(name, value);
        }
        self
    }

    /// Sets the name of the container that serves the page, as `--container-names` does.
    #[must_use]
    pub fn container_name(mut self, name: impl Into<String>) -> Self {
        self.container_name = Some(name.into());
        self
    }

    /// Sets the formats that the endpoint is asked for. By default it may choose.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sets what the endpoint demands of a client.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Adds the label `metrics_path` to endpoints that would have the same labels otherwise: several pages
    /// of one port.
    pub fn distinguish(endpoints: &mut [Self]) {
        let mut counts: BTreeMap<BTreeMap<String, String>, usize> = BTreeMap::new();
        for endpoint in &*endpoints {
            *counts.entry(endpoint.labels.clone()).or_default() += 1;
        }
        for endpoint in endpoints {
            if counts[&endpoint.labels] > 1 {
                let target = endpoint
                    .uri
                    .path_and_query()
                    .map_or("/", |target| target.as_str());
                let path = ("metrics_path".to_owned(), target.to_owned());
                endpoint.labels.extend([path]);
            }
        }
    }

    /// Returns the name of its source in the record: the URL.
    #[must_use]
    pub fn source(&self) -> String {
        self.to_string()
    }

    /// Returns the labels, sorted by name.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Returns the name of the container that serves the page, if it was set.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        self.container_name.as_deref()
    }

    /// Returns the name of the source that holds the health of its scrapes.
    pub(crate) fn health_source(&self) -> String {
        format!("{HEALTH_PREFIX}{self}")
    }

    /// Checks the demands of the endpoint, and reads the files of TLS.
    pub(crate) fn check_access(&self) -> Result<(), AccessFault> {
        self.access.check(self.is_encrypted())
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    pub(super) fn demands(&self) -> &Access {
        &self.access
    }

    /// Returns the way to the endpoint. A dial ends before a scrape of that length, so that a step which
    /// hangs is named.
    pub(super) async fn dialer(&self, scrape: Duration) -> Result<Dialer, ScrapeError> {
        let dialer = Dialer::new([self.address.clone()])
            .lookup(lookup)
            // As in Prometheus: metrics are near, and a proxy of the environment is for the internet.
            .proxies(Proxies::none())
            .timeout(scrape.mul_f64(0.9));
        if self.is_encrypted() {
            return Ok(dialer.tls(self.access.load_tls().await?));
        }
        Ok(dialer)
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(crate) fn accept(&self) -> &'static str {
        self.protocol.accept()
    }

    pub(crate) fn host_header(&self) -> HeaderValue {
        self.host.clone()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(socket) = &self.socket else {
            return self.uri.fmt(f);
        };
        let target = self.uri.path_and_query();
        let target = target.map_or("/", |target| target.as_str());
        let scheme = self.uri.scheme_str().unwrap_or("http");
        write!(f, "{scheme}://unix:{}:{target}", socket.display())
    }
}

/// Returns the port of a URL, or that of its scheme.
pub(super) fn port(uri: &Uri) -> u16 {
    let default = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(default)
}

/// Resolves a host. In a pod, a lookup often returns `::1` although nobody listens there or the interface
/// is missing, so 127.0.0.1 comes first and nothing is looked up.
fn lookup(host: &str, port: u16) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
    if !host.eq_ignore_ascii_case("localhost") {
        return SystemLookup.lookup(host, port);
    }
    let addresses = vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    Box::pin(std::future::ready(Ok(addresses)))
}

/// Splits a URL of a Unix socket into its scheme, the path of the socket, and the target of the request.
fn split_socket(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://unix:")?;
    match rest.split_once(":/") {
        Some((socket, _)) => Some((scheme, socket, &rest[socket.len() + 1..])),
        None => Some((scheme, rest, "/")),
    }
    .filter(|(_, socket, _)| socket.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_url_names_source_instance_and_address() {
        let endpoint = Endpoint::new("http://[::1]:9100/metrics?collect=cpu").unwrap();
        assert_eq!(endpoint.source(), "http://[::1]:9100/metrics?collect=cpu");
        assert_eq!(endpoint.address.to_string(), "http://[::1]:9100");
        assert_eq!(endpoint.labels()["instance"], "[::1]:9100");
        let endpoint = Endpoint::new("http://node.example").unwrap();
        assert_eq!(endpoint.address.to_string(), "http://node.example:80");
        assert_eq!(endpoint.labels()["instance"], "node.example:80");
        let endpoint = Endpoint::new("https://node.example/metrics").unwrap();
        assert_eq!(endpoint.address.to_string(), "https://node.example:443");
        assert_eq!(endpoint.labels()["instance"], "node.example:443");
        let url = "https://unix:/run/a.sock:/metrics?x=:/1";
        let endpoint = Endpoint::new(url).unwrap();
        assert_eq!(endpoint.source(), url);
        assert_eq!(endpoint.labels()["instance"], "unix:/run/a.sock");
        assert_eq!(endpoint.uri().path_and_query().unwrap(), "/metrics?x=:/1");
        Endpoint::new("http://node.example/probe?target=me@db").unwrap();
        assert_eq!(
            Endpoint::local(2121).source(),
            "http://localhost:2121/metrics"
        );
    }

    #[test]
    fn invalid_endpoint_url_names_the_fault() {
        for (url, fault) in [
            ("", "not a URL"),
            ("localhost:9100", "not a URL"),
            ("https://user:secret@localhost/metrics", "credentials"),
            ("user:secret@localhost", "credentials"),
            ("/metrics", "not a URL"),
            ("http://db:99999/metrics", "not a number from 1 to 65535"),
            ("http://[::1]:99999/metrics", "not a number from 1 to 65535"),
            ("http://db:0/metrics", "not a number from 1 to 65535"),
            ("ftp://localhost/metrics", "only http:// and https://"),
            ("http://unix:relative:/metrics", "not a URL"),
            ("http://user:secret@localhost/metrics", "credentials"),
            ("http://user:secret/x@localhost/metrics", "credentials"),
            ("http:/user:secret@localhost/metrics", "credentials"),
            ("http:user:secret@localhost/metrics", "credentials"),
            ("http//user:secret@localhost/metrics", "credentials"),
            ("ftp://user:secret@localhost/metrics", "credentials"),
            ("user:secret/x@localhost", "credentials"),
        ] {
            let told = Endpoint::new(url).unwrap_err().to_string();
            assert!(
                told.contains(fault) && !told.contains("secret"),
                "{url}: {told}"
            );
        }
    }

    #[test]
    fn pages_of_one_port_are_told_apart() {
        let endpoint = |path| Endpoint::new(&format!("http://db:9100{path}")).unwrap();
        let mut endpoints = [
            endpoint("/metrics"),
            endpoint("/probe?target=a"),
            endpoint("/own").label("job", "other"),
            endpoint("/metrics"),
        ];
        Endpoint::distinguish(&mut endpoints);
        let path = |at: usize| endpoints[at].labels().get("metrics_path");
        assert_eq!(path(0), Some(&"/metrics".to_owned()));
        assert_eq!(path(1), Some(&"/probe?target=a".to_owned()));
        assert_eq!(path(2), None, "its labels differ already");
        assert_eq!(
            endpoints[0], endpoints[3],
            "a page that is named twice is a fault"
        );
    }

    #[test]
    fn labels_are_set_and_removed() {
        let endpoint = Endpoint::local(1)
            .label("job", "node")
            .label("instance", "");
        assert_eq!(
            endpoint.labels().iter().collect::<Vec<_>>(),
            [(&"job".to_owned(), &"node".to_owned())]
        );
    }

    async fn reached(port: u16) -> Result<(), String> {
        let dialer = Endpoint::local(port).dialer(Duration::from_secs(10)).await;
        let dialled = dialer.unwrap().connect().await;
        dialled
            .map(|_| ())
            .map_err(|error| ScrapeError::Unreachable(error).to_string())
    }

    #[tokio::test]
    async fn localhost_is_reached_on_either_family_and_failures_name_both() {
        for ip in [
            Ipv4Addr::LOCALHOST.into(),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let Ok(listener) = TcpListener::bind((ip, 0)).await else {
                // The machine has no IPv6: there is nothing to reach.
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            reached(port).await.unwrap();
            drop(listener);
            let text = reached(port).await.unwrap_err();
            let url =
                format!("cannot connect: http://localhost:{port} (127.0.0.1:{port}): connecting: ");
            assert!(text.starts_with(&url), "{text}");
            assert!(
                text.contains(&format!(" ([::1]:{port}): connecting: ")),
                "{text}"
            );
        }
    }
}
