//! One reading of one endpoint.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Request, Response, StatusCode, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
        USER_AGENT,
    },
};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use steadfast_exposition::Format;
use tokio::{task::yield_now, time::Instant};

use super::{
    Endpoint, FetchLimits, Intake, Miss,
    address::connect,
    body::Body,
    connection::{Connection, Failure, told},
};

/// Redirects that are followed, on the endpoint's own host and port.
const REDIRECTS: usize = 3;

/// Bytes of an unwanted answer that are read so that its connection can be used again.
const RELEASED_BYTES: usize = 64 << 10;

/// Bytes that are handed on at once.
const PIECE_BYTES: usize = 32 << 10;

/// Reads one endpoint, again and again, over one connection.
#[derive(Debug)]
pub(super) struct Fetcher {
    endpoint: Endpoint,
    limits: FetchLimits,
    connection: Option<Connection>,
    /// Since when a piece of the page has waited for room in front of the record.
    waits_since: Option<Instant>,
}

impl Fetcher {
    pub(super) fn new(endpoint: Endpoint, limits: FetchLimits) -> Self {
        Self {
            endpoint,
            limits,
            connection: None,
            waits_since: None,
        }
    }

    /// Reads the page into `intake` and returns its bytes. The pieces that were handed over mean
    /// nothing unless this succeeds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub(super) async fn fetch(&mut self, intake: &mut impl Intake) -> Result<u64, Miss> {
        self.waits_since = None;
        let mut uri = self.endpoint.uri().clone();
        for _ in 0..=REDIRECTS {
            let (connection, answer) = self.ask(&uri).await?;
            if answer.status() == StatusCode::OK {
                return self.read(connection, answer, intake).await;
            }
            let status = answer.status();
            let location = answer.headers().get(LOCATION).cloned();
            self.release(connection, answer).await;
            match location {
                Some(location) if status.is_redirection() => {
                    uri = self.follow(&String::from_utf8_lossy(location.as_bytes()))?;
                }
                Some(_) | None => return Err(Miss::Status(status.as_u16())),
            }
        }
        Err(Miss::Redirect(format!("{uri}, after {REDIRECTS} others")))
    }

    /// What to call a reading that was cut off by its deadline.
    pub(super) fn late(&self, intake: &impl Intake) -> Miss {
        let limit = self.limits.timeout;
        match self.waits_since {
            Some(since) => Miss::RecordBusy {
                limit,
                waited: Duration::from_millis(since.elapsed().as_millis() as u64),
                bytes: intake.waiting(),
            },
            None => Miss::Timeout(limit),
        }
    }

    async fn ask(&mut self, uri: &Uri) -> Result<(Connection, Response<Incoming>), Miss> {
        if let Some(mut connection) = self.connection.take()
            && connection.is_ready().await
        {
            match connection.send(self.request(uri)).await {
                Ok(answer) => return Ok((connection, answer)),
                Err(Failure::Stale) => {}
                Err(Failure::Broken(miss)) => return Err(miss),
            }
        }
        let (host, port) = self.endpoint.host_and_port();
        let stream = connect(host, port, self.limits.timeout).await?;
        let mut connection = Connection::handshake(stream).await?;
        match connection.send(self.request(uri)).await {
            Ok(answer) => Ok((connection, answer)),
            Err(Failure::Stale) => unreachable!("a new connection has not been used before"),
            Err(Failure::Broken(miss)) => Err(miss),
        }
    }

    fn request(&self, uri: &Uri) -> Request<Empty<Bytes>> {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Request::get(target)
            .header(HOST, self.endpoint.host_header())
            .header(USER_AGENT, concat!("steadfast/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, Format::ACCEPT)
            .header(ACCEPT_ENCODING, "gzip")
            .header(
                "x-prometheus-scrape-timeout-seconds",
                self.limits.timeout.as_secs_f64().to_string(),
            )
            .body(Empty::new())
            .expect("the parts of a request were checked with the endpoint")
    }

    async fn read(
        &mut self,
        connection: Connection,
        answer: Response<Incoming>,
        intake: &mut impl Intake,
    ) -> Result<u64, Miss> {
        let format = format(answer.headers())?;
        let encoding = text(answer.headers(), CONTENT_ENCODING);
        let mut body = Body::new(encoding.as_deref(), self.limits.body_bytes)?;
        let announced = text(answer.headers(), CONTENT_LENGTH).and_then(|text| text.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > self.limits.body_bytes) {
            return Err(Miss::BodyTooLarge(self.limits.body_bytes));
        }
        intake.begin(format);
        let mut incoming = answer.into_body();
        let mut ready = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| Miss::HalfBody(told(&error)))?;
            let Ok(arrived) = frame.into_data() else {
                continue; // trailers
            };
            for piece in body.receive(arrived)? {
                body.unpack(&piece, &mut ready)?;
                if ready.len() >= PIECE_BYTES {
                    self.hand_over(&mut ready, intake).await;
                }
            }
        }
        body.finish(&mut ready)?;
        self.hand_over(&mut ready, intake).await;
        self.connection = Some(connection);
        Ok(body.bytes())
    }

    async fn hand_over(&mut self, ready: &mut BytesMut, intake: &mut impl Intake) {
        if !ready.is_empty() {
            self.waits_since = Some(Instant::now());
            intake.piece(ready.split().freeze()).await;
            self.waits_since = None;
            // Unpacking is work between two arrivals; others have endpoints too.
            yield_now().await;
        }
    }

    /// Reads an answer that is not wanted to its end, if that is near, and keeps the connection.
    async fn release(&mut self, connection: Connection, answer: Response<Incoming>) {
        let mut body = answer.into_body();
        let mut left = RELEASED_BYTES;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
        self.connection = Some(connection);
    }

    /// Where an answer sends us, if that is on the endpoint's own host and port: what another host
    /// says is not what this source says.
    fn follow(&self, location: &str) -> Result<Uri, Miss> {
        let shown: String = location.escape_debug().take(200).collect();
        let refused = || Miss::Redirect(shown.clone());
        let uri: Uri = location.parse().map_err(|_| refused())?;
        let own = self.endpoint.uri();
        let port = |uri: &Uri| uri.port_u16().unwrap_or(80);
        let same_place = match (uri.scheme(), uri.host()) {
            (None, None) => uri.path().starts_with('/'),
            (scheme, host) => {
                scheme == own.scheme() && host == own.host() && port(&uri) == port(own)
            }
        };
        if same_place { Ok(uri) } else { Err(refused()) }
    }
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The format that the answer's type names. Exporters that state none, or a wrong one, write the
/// Prometheus text format; only what is surely not text is not tried.
fn format(headers: &HeaderMap) -> Result<Format, Miss> {
    let stated = text(headers, CONTENT_TYPE).unwrap_or_default();
    let media_type = stated.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/vnd.google.protobuf") {
        return Err(Miss::ContentType(media_type.to_owned()));
    }
    Ok(Format::from_content_type(&stated))
}
