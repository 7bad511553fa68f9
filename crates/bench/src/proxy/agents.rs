//! A thousand agents like the released ones: each has its own connection, adds its labels to each
//! metric, and sends the metrics in its own order.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::Request;
use prost::Message as _;
use steadfast_wire::fodc::{
    Metric, MetricType, RegisterAgentRequest, RegisterAgentResponse, StreamMetricsRequest,
    StreamMetricsResponse,
};
use tokio::{net::TcpStream, task::JoinSet, time::interval};

use super::{AGENTS, METRICS};

/// What agents respond with.
#[derive(Clone)]
pub(super) enum Content {
    /// The same newest values to every request, in an order of the agent's own.
    Newest,
    /// The samples of the time that is asked for.
    History(Arc<History>),
}

/// The samples of an agent, encoded beforehand: the values of each scrape, and the time of it.
pub(super) struct History {
    scrapes: Vec<(u64, Vec<u8>)>,
    newest: Vec<u8>,
}

pub(super) struct Agents {
    sample: Bytes,
    silent: Arc<AtomicBool>,
    _tasks: JoinSet<Result<()>>,
}

/// The streams that the newest agents hold besides their registration and their metrics.
pub(super) const OTHERS: &[&str] = &[
    "StreamClusterTopology",
    "StreamLifecycle",
    "StreamCrashDiagnostics",
    "StreamPressureProfiles",
    "StreamSchemaRegistry",
];

/// The number of series of an agent with a history.
pub(super) const SERIES: usize = 300;

const HEARTBEAT: Duration = Duration::from_secs(10);

impl Agents {
    /// Registers a thousand agents. Each of them also opens the streams in `held`.
    pub(super) async fn connect(proxy: SocketAddr, held: &'static [&'static str]) -> Result<Self> {
        Self::connect_all(proxy, AGENTS, &Content::Newest, held).await
    }

    pub(super) async fn connect_all(
        proxy: SocketAddr,
        count: usize,
        content: &Content,
        held: &'static [&'static str],
    ) -> Result<Self> {
        let silent = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let may_fall_silent = (number == 0).then(|| Arc::clone(&silent));
            let responder = match content {
                Content::Newest => Responder::Same(framed(&metrics(number))),
                Content::History(history) => Responder::History(Arc::clone(history)),
            };
            connect(proxy, number, responder, may_fall_silent, held, &mut tasks).await?;
        }
        Ok(Self {
            sample: metrics(1).encode_to_vec().into(),
            silent,
            _tasks: tasks,
        })
    }

    /// Returns one response.
    pub(super) fn sample(&self) -> &[u8] {
        &self.sample
    }

    /// Makes one agent ignore all further requests.
    pub(super) fn silence_one(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

/// The responses of one agent.
enum Responder {
    Same(Bytes),
    History(Arc<History>),
}

impl Responder {
    fn to(&self, request: &[u8]) -> Result<Bytes> {
        match self {
            Self::Same(response) => Ok(response.clone()),
            Self::History(history) => {
                // The proxy's requests are so short that each is one frame.
                let request = request.get(5..).context("a part of a request")?;
                history.to(&StreamMetricsResponse::decode(request)?)
            }
        }
    }
}

impl History {
    /// A scrape of some series every `step` seconds.
    pub(super) fn new(times: RangeInclusive<u64>, step: u64) -> Self {
        let times = times.step_by(usize::try_from(step).unwrap_or(usize::MAX));
        Self {
            scrapes: times
                .map(|time| (time, series(Some(time)).encode_to_vec()))
                .collect(),
            newest: series(None).encode_to_vec(),
        }
    }

    fn to(&self, request: &StreamMetricsResponse) -> Result<Bytes> {
        let nanos = |time: &prost_types::Timestamp| {
            i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
        };
        let (from, to) = (request.start_time.as_ref(), request.end_time.as_ref());
        let within = |time: &u64| {
            let time = i128::from(*time) * 1_000_000_000;
            from.is_none_or(|from| nanos(from) <= time) && to.is_none_or(|to| time <= nanos(to))
        };
        // Messages are concatenated by concatenating their bytes.
        let parts: Vec<&Vec<u8>> = if from.is_none() && to.is_none() {
            vec![&self.newest]
        } else {
            let scrapes = self.scrapes.iter();
            scrapes
                .filter(|(time, _)| within(time))
                .map(|(_, part)| part)
                .collect()
        };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut frame = BytesMut::with_capacity(5 + length);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(length)?);
        for part in parts {
            frame.put_slice(part);
        }
        Ok(frame.freeze())
    }
}

/// Returns the values of one scrape, without a time for the newest.
fn series(time: Option<u64>) -> StreamMetricsRequest {
    let metric = |index: usize| Metric {
        name: format!("m_banyandb_measure_total_{}", index / 50),
        labels: BTreeMap::from([("group".to_owned(), format!("group-{}", index % 50))]),
        value: (index * 7_919) as f64 + time.unwrap_or_default() as f64,
        timestamp: time.map(|time| prost_types::Timestamp {
            seconds: time.cast_signed(),
            nanos: 0,
        }),
        r#type: MetricType::Counter.into(),
        ..Metric::default()
    };
    StreamMetricsRequest {
        metrics: (0..SERIES).map(metric).collect(),
        ..StreamMetricsRequest::default()
    }
}

async fn connect(
    proxy: SocketAddr,
    number: usize,
    responder: Responder,
    silent: Option<Arc<AtomicBool>>,
    held: &[&str],
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let socket = TcpStream::connect(proxy).await?;
    socket.set_nodelay(true)?;
    let (mut client, connection) = h2::client::handshake(socket).await?;
    tasks.spawn(async move { Ok(connection.await?) });
    let registration = RegisterAgentRequest {
        node_role: "ROLE_DATA".to_owned(),
        pod_name: pod(number),
        container_names: vec!["data".to_owned()],
        ..RegisterAgentRequest::default()
    };
    let registration = framed(&registration);
    let (mut heartbeats, mut responses) =
        call(&mut client, "RegisterAgent", "", &registration).await?;
    let registered = responses
        .data()
        .await
        .context("no response to a registration")??;
    let registered = RegisterAgentResponse::decode(registered.slice(5..))?;
    let (sender, requests) = call(&mut client, "StreamMetrics", &registered.agent_id, &[]).await?;
    let mut others = Vec::new();
    for method in held {
        others.push(call(&mut client, method, &registered.agent_id, &[]).await?);
    }
    tasks.spawn(async move {
        // Dropping these would close the connection. The registration is not read any further.
        let _held = (client, responses, others);
        let mut ticks = interval(HEARTBEAT);
        loop {
            ticks.tick().await;
            heartbeats.send_data(registration.clone(), false)?;
        }
    });
    tasks.spawn(respond(requests, sender, responder, silent));
    Ok(())
}

/// Responds to every request.
async fn respond(
    mut requests: RecvStream,
    mut sender: SendStream<Bytes>,
    responder: Responder,
    silent: Option<Arc<AtomicBool>>,
) -> Result<()> {
    while let Some(request) = requests.data().await {
        let request = request?;
        requests.flow_control().release_capacity(request.len())?;
        if silent
            .as_ref()
            .is_some_and(|silent| silent.load(Ordering::Relaxed))
        {
            continue;
        }
        let mut rest = responder.to(&request)?;
        while !rest.is_empty() {
            // A response exceeds the usual window of 64 KiB and goes out in parts.
            sender.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
            let room = room.context("the stream is closed")??;
            sender.send_data(rest.split_to(room.min(rest.len())), false)?;
        }
    }
    Ok(())
}

async fn call(
    client: &mut SendRequest<Bytes>,
    method: &str,
    id: &str,
    first: &[u8],
) -> Result<(SendStream<Bytes>, RecvStream)> {
    let mut request = Request::post(format!(
        "http://proxy/banyandb.fodc.v1.FODCService/{method}"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers");
    if !id.is_empty() {
        // The proxy finds the registration of a further stream by this header.
        request = request.header("agent_id", id);
    }
    std::future::poll_fn(|cx| client.poll_ready(cx)).await?;
    let (response, mut sender) = client.send_request(request.body(())?, false)?;
    if !first.is_empty() {
        sender.send_data(Bytes::copy_from_slice(first), false)?;
    }
    Ok((sender, response.await?.into_body()))
}

fn framed(message: &impl prost::Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).expect("a message of some kilobytes"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

fn pod(number: usize) -> String {
    format!("banyandb-data-hot-{number}")
}

/// Returns a response as long as a real node's, about 136 bytes per metric.
fn metrics(number: usize) -> StreamMetricsRequest {
    let metric = |index: usize| {
        let labels = [
            ("pod_name".to_owned(), pod(number)),
            ("node_role".to_owned(), "ROLE_DATA".to_owned()),
            ("container_name".to_owned(), "data".to_owned()),
            ("group".to_owned(), format!("group-{}", index % 50)),
        ];
        Metric {
            name: format!("m_banyandb_measure_total_{}", index / 50),
            labels: BTreeMap::from(labels),
            value: (index * 7_919 + number) as f64 / 8.0,
            description: String::new(),
            timestamp: None,
            r#type: MetricType::Counter.into(),
        }
    };
    // A step coprime to the number of metrics visits each of them once.
    let step = 2 * number + 1;
    let step = if step.is_multiple_of(5) {
        step + 2
    } else {
        step
    };
    StreamMetricsRequest {
        metrics: (0..METRICS)
            .map(|index| metric(index * step % METRICS))
            .collect(),
        timestamp: Some(prost_types::Timestamp {
            seconds: 1_767_225_600,
            nanos: 0,
        }),
        ..StreamMetricsRequest::default()
    }
}
