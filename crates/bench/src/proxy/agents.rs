//! A thousand agents as the releases are: each on a connection of its own, its labels stamped on each
//! of its metrics, in an order of its own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
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
};
use tokio::{net::TcpStream, task::JoinSet, time::interval};

use super::{AGENTS, METRICS};

pub(super) struct Agents {
    sample: Bytes,
    silent: Arc<AtomicBool>,
    _tasks: JoinSet<Result<()>>,
}

/// What the newest agents hold beside their registration and their metrics.
pub(super) const OTHERS: &[&str] = &[
    "StreamClusterTopology",
    "StreamLifecycle",
    "StreamCrashDiagnostics",
    "StreamPressureProfiles",
    "StreamSchemaRegistry",
];

const HEARTBEAT: Duration = Duration::from_secs(10);

impl Agents {
    /// All of them, registered and ready to answer, each holding these further streams.
    pub(super) async fn connect(proxy: SocketAddr, held: &'static [&'static str]) -> Result<Self> {
        let silent = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..AGENTS {
            let may_fall_silent = (number == 0).then(|| Arc::clone(&silent));
            let answer = framed(&answer(number));
            connect(proxy, number, answer, may_fall_silent, held, &mut tasks).await?;
        }
        Ok(Self {
            sample: answer(1).encode_to_vec().into(),
            silent,
            _tasks: tasks,
        })
    }

    /// One answer.
    pub(super) fn sample(&self) -> &[u8] {
        &self.sample
    }

    /// From now on one of them does not answer.
    pub(super) fn silence_one(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

async fn connect(
    proxy: SocketAddr,
    number: usize,
    answer: Bytes,
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
    let (mut heartbeats, mut answers) =
        call(&mut client, "RegisterAgent", "", &registration).await?;
    let answered = answers
        .data()
        .await
        .context("no answer to a registration")??;
    let registered = RegisterAgentResponse::decode(answered.slice(5..))?;
    let (sender, questions) = call(&mut client, "StreamMetrics", &registered.agent_id, &[]).await?;
    let mut others = Vec::new();
    for method in held {
        others.push(call(&mut client, method, &registered.agent_id, &[]).await?);
    }
    tasks.spawn(async move {
        // Holds the connection open, and reads nothing more of the registration.
        let _held = (client, answers, others);
        let mut ticks = interval(HEARTBEAT);
        loop {
            ticks.tick().await;
            heartbeats.send_data(registration.clone(), false)?;
        }
    });
    tasks.spawn(respond(questions, sender, answer, silent));
    Ok(())
}

/// Answers every question.
async fn respond(
    mut questions: RecvStream,
    mut sender: SendStream<Bytes>,
    answer: Bytes,
    silent: Option<Arc<AtomicBool>>,
) -> Result<()> {
    while let Some(question) = questions.data().await {
        let question = question?;
        questions.flow_control().release_capacity(question.len())?;
        if silent
            .as_ref()
            .is_some_and(|silent| silent.load(Ordering::Relaxed))
        {
            continue;
        }
        let mut rest = answer.clone();
        while !rest.is_empty() {
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
    message.encode(&mut frame).expect("there is room");
    frame.freeze()
}

fn pod(number: usize) -> String {
    format!("banyandb-data-hot-{number}")
}

/// About as long as the metrics of a node are, 136 bytes each.
fn answer(number: usize) -> StreamMetricsRequest {
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
    // A step that has no factor in common with the number of metrics visits each of them once.
    let step = 2 * number + 1;
    let step = if step.is_multiple_of(5) {
        step + 2
    } else {
        step
    };
    StreamMetricsRequest {
        metrics: (0..METRICS)
            .map(|place| metric(place * step % METRICS))
            .collect(),
        timestamp: Some(prost_types::Timestamp {
            seconds: 1_767_225_600,
            nanos: 0,
        }),
        ..StreamMetricsRequest::default()
    }
}
