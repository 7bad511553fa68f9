//! Requests the page of one endpoint.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{
    HeaderMap, Request, Response, StatusCode, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
        USER_AGENT,
    },
};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use steadfast::{CallCredentials, dial::Dialer};
use steadfast_exposition::Format;
use tokio::{task::yield_now, time::Instant};

use super::{
    Endpoint, ScrapeError, ScrapeLimits,
    body::Body,
    connection::{Connection, Failure},
    endpoint::port,
    redirect::resolve,
    sink::PageSink,
};

/// The most redirects that are followed, on the endpoint's own host and port.
const REDIRECTS: usize = 3;

/// The most bytes of an unwanted body that are read to keep the connection.
const DRAINED_BYTES: usize = 64 << 10;

/// The bytes from which a piece is handed on.
const PIECE_BYTES: usize = 32 << 10;

/// Requests the page of one endpoint again and again, over one connection where possible.
#[derive(Debug)]
pub(crate) struct Fetcher {
    endpoint: Endpoint,
    credentials: CallCredentials,
    limits: ScrapeLimits,
    connection: Option<Connection>,
    /// Made at the first scrape: it reads the files of TLS.
    dialer: Option<Dialer>,
    /// The time since which the sink has not taken a piece of the page.
    blocked_since: Option<Instant>,
    /// Nothing of the page has been passed on.
    is_at_start: bool,
}

/// The byte order mark that some Windows programs put in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Fetcher {
    pub(crate) fn new(endpoint: Endpoint, limits: ScrapeLimits) -> Self {
        Self {
            credentials: endpoint.demands().credentials(),
            endpoint,
            limits,
            connection: None,
            dialer: None,
            blocked_since: None,
            is_at_start: true,
        }
    }

    /// Writes the page to `sink` and returns its unpacked bytes. The written pieces are void unless
    /// this succeeds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub(crate) async fn fetch(&mut self, sink: &mut impl PageSink) -> Result<u64, ScrapeError> {
        // The scrape before may have been cut off while it waited, and left this set.
        self.blocked_since = None;
        // Read once: redirects stay on the endpoint.
        let demands = self.endpoint.demands();
        let headers = demands.headers(&self.credentials).await?;
        let mut uri = self.endpoint.uri().clone();
        for _ in 0..=REDIRECTS {
            let (connection, response) = self.request(&uri, &headers).await?;
            if response.status() == StatusCode::OK {
                return self.read_page(connection, response, sink).await;
            }
            let status = response.status();
            let location = response.headers().get(LOCATION).cloned();
            // The next request of this scrape, or the next scrape, can then use the connection.
            self.drain(connection, response).await;
            match location {
                Some(location) if status.is_redirection() => {
                    uri = self.follow(&uri, &String::from_utf8_lossy(location.as_bytes()))?;
                }
                Some(_) | None => return Err(ScrapeError::Status(status.as_u16())),
            }
        }
        Err(ScrapeError::Redirect(format!(
            "{uri}, after {REDIRECTS} others"
        )))
    }

    /// Returns the error of a scrape that was cut off by its timeout.
    pub(crate) fn timeout_error(&self, sink: &impl PageSink) -> ScrapeError {
        let limit = self.limits.timeout;
        match self.blocked_since {
            Some(since) => ScrapeError::RecordBusy {
                limit,
                waited: Duration::from_millis(since.elapsed().as_millis() as u64),
                bytes: sink.waiting_bytes(),
            },
            None => ScrapeError::Timeout(limit),
        }
    }

    async fn request(
        &mut self,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(Connection, Response<Incoming>), ScrapeError> {
        // Taken out: a scrape that is cut off inside a response must not leave it to the next.
        if let Some(mut connection) = self.connection.take()
            && connection.is_ready().await
        {
            match connection.send(self.get(uri, headers)).await {
                Ok(response) => return Ok((connection, response)),
                // The endpoint closed it while it was idle: a new one is needed.
                Err(Failure::Stale) => {}
                Err(Failure::Broken(error)) => return Err(error),
            }
        }
        let mut connection = self.connect().await?;
        match connection.send(self.get(uri, headers)).await {
            Ok(response) => Ok((connection, response)),
            Err(Failure::Stale) => unreachable!("a new connection has not been used before"),
            Err(Failure::Broken(error)) => Err(error),
        }
    }

    async fn connect(&mut self) -> Result<Connection, ScrapeError> {
        let dialer = if let Some(dialer) = self.dialer.take() {
            dialer
        } else {
            self.endpoint.dialer(self.limits.timeout).await?
        };
        // Kept, whatever the dial says: changed files of TLS are read by the handshake.
        let dialer = self.dialer.insert(dialer);
        // A clone tries the addresses in the order of the resolver. The dialer itself would go from one
        // to the next, and each may be another process with the same name.
        let dialled = dialer.clone().connect().await;
        let stream = dialled.map_err(ScrapeError::Unreachable)?.stream;
        Connection::handshake(stream).await
    }

    fn get(&self, uri: &Uri, headers: &HeaderMap) -> Request<Empty<Bytes>> {
        // A server expects the path only: the absolute form is for HTTP proxies.
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::get(target)
            .header(HOST, self.endpoint.host_header())
            .header(USER_AGENT, concat!("steadfast/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, self.endpoint.accept())
            .header(ACCEPT_ENCODING, "gzip")
            .header(
                // The header of Prometheus, by which some exporters shorten their work.
                "x-prometheus-scrape-timeout-seconds",
                self.limits.timeout.as_secs_f64().to_string(),
            )
            .body(Empty::new())
            .expect("the parts of a request were checked with the endpoint");
        request.headers_mut().extend(headers.clone());
        request
    }

    async fn read_page(
        &mut self,
        connection: Connection,
        response: Response<Incoming>,
        sink: &mut impl PageSink,
    ) -> Result<u64, ScrapeError> {
        let format = format(response.headers())?;
        let encoding = text(response.headers(), CONTENT_ENCODING);
        let mut body = Body::new(encoding.as_deref(), self.limits.body_bytes)?;
        let announced = text(response.headers(), CONTENT_LENGTH).and_then(|text| text.parse().ok());
        // Nothing is read of a page that cannot fit; the decoder checks the same for chunked bodies.
        if announced.is_some_and(|bytes: u64| bytes > self.limits.body_bytes) {
            return Err(ScrapeError::BodyTooLarge(self.limits.body_bytes));
        }
        // Only now: a response that is refused for its headers leaves the parser alone.
        sink.begin(format);
        self.is_at_start = true;
        let mut incoming = response.into_body();
        let mut ready = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| ScrapeError::HalfBody(error.into()))?;
            let Ok(arrived) = frame.into_data() else {
                continue; // Trailers.
            };
            for piece in body.receive(arrived)? {
                body.unpack(&piece, &mut ready)?;
                if ready.len() >= PIECE_BYTES {
                    self.flush(&mut ready, sink).await;
                }
            }
        }
        body.finish(&mut ready)?;
        self.flush(&mut ready, sink).await;
        // Kept only behind a whole body: the rest of one would be taken for the next response.
        self.connection = Some(connection);
        Ok(body.bytes())
    }

    async fn flush(&mut self, ready: &mut BytesMut, sink: &mut impl PageSink) {
        // The first piece is longer than the mark, or the whole page.
        if std::mem::take(&mut self.is_at_start) && ready.starts_with(BYTE_ORDER_MARK) {
            ready.advance(BYTE_ORDER_MARK.len());
        }
        if !ready.is_empty() {
            // A timeout during this wait is the fault of the recording thread, not of the endpoint.
            self.blocked_since = Some(Instant::now());
            sink.piece(ready.split().freeze()).await;
            self.blocked_since = None;
            // Data that is always ready would otherwise keep other endpoints from being scraped.
            yield_now().await;
        }
    }

    /// Reads a body that is not wanted, and keeps the connection if the body is short.
    async fn drain(&mut self, connection: Connection, response: Response<Incoming>) {
        let mut body = response.into_body();
        let mut left = DRAINED_BYTES;
        while let Some(frame) = body.frame().await {
            // A connection that is dropped here closes; the status of the response is the error.
            let Ok(frame) = frame else { return };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
        self.connection = Some(connection);
    }

    /// Returns the target of a redirect if it is on the endpoint's own host and port. The page of
    /// another host would be recorded as the wrong source.
    fn follow(&self, from: &Uri, location: &str) -> Result<Uri, ScrapeError> {
        // The text goes to logs and to `/endpoints`, and the endpoint chooses it.
        let shown: String = location.escape_debug().take(200).collect();
        let refused = || ScrapeError::Redirect(shown.clone());
        let uri: Uri = resolve(from, location).parse().map_err(|_| refused())?;
        let own = self.endpoint.uri();
        let same_origin = match (uri.scheme(), uri.host()) {
            // `resolve` leaves a path on the same host without a scheme.
            (None, None) => uri.path().starts_with('/'),
            (scheme, host) => {
                let is_own_host =
                    |host: &str| own.host().is_some_and(|own| host.eq_ignore_ascii_case(own));
                scheme == own.scheme() && host.is_some_and(is_own_host) && port(&uri) == port(own)
            }
        };
        if same_origin { Ok(uri) } else { Err(refused()) }
    }
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Returns the format of the content type. Exporters that send none, or a wrong one, write the
/// Prometheus text format, so only a type that is certainly not text is refused.
fn format(headers: &HeaderMap) -> Result<Format, ScrapeError> {
    let stated = text(headers, CONTENT_TYPE).unwrap_or_default();
    let media_type = stated.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/vnd.google.protobuf") {
        return Err(ScrapeError::ContentType(media_type.to_owned()));
    }
    Ok(Format::from_content_type(&stated))
}
