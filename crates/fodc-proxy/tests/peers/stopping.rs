//! Starting on a port in use, and stopping with agents attached.

use std::time::Duration;

use steadfast_fodc_proxy::{Proxy, StartError};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tonic::Code;

use crate::{
    agent::{Action, Agent, TIMEOUT, end_of, metric, pod},
    complete, config, metrics_stream_opens, start,
};

#[tokio::test]
async fn either_port_in_use_is_a_start_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for is_http in [false, true] {
        let mut config = config();
        let place = if is_http {
            &mut config.http_listen
        } else {
            &mut config.grpc_listen
        };
        *place = taken.local_addr().unwrap();
        let error = Proxy::start(config).await.unwrap_err();
        let StartError::Bind {
            address, purpose, ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(address, taken.local_addr().unwrap());
        assert_eq!(purpose, if is_http { "HTTP" } else { "agents" });
    }
}

#[tokio::test]
async fn drain_ends_the_streams_of_attached_agents() {
    let proxy = start().await;
    let mut agents = Vec::new();
    for number in 0..5 {
        let agent = Agent::register(&proxy, pod(&format!("db-{number}"), "r")).await;
        let metrics = agent.responding(vec![metric("up", &[], 1.0)]).await;
        agents.push((agent, metrics));
    }
    complete(&proxy, "/metrics").await;
    let mut silent = TcpStream::connect(proxy.grpc_address()).await.unwrap();
    let (grpc, http) = (proxy.grpc_address(), proxy.http_address());
    let started = Instant::now();
    timeout(TIMEOUT, proxy.drain(Duration::from_secs(2)))
        .await
        .unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    for (agent, metrics) in &mut agents {
        assert_eq!(
            end_of(&mut agent.registration).await.code(),
            Code::Unavailable
        );
        let end = metrics.end().await;
        assert_eq!(end.code(), Code::Unavailable);
    }
    let mut rest = Vec::new();
    timeout(TIMEOUT, silent.read_to_end(&mut rest))
        .await
        .unwrap()
        .ok();
    for address in [grpc, http] {
        assert!(
            TcpStream::connect(address).await.is_err(),
            "nobody listens any more"
        );
    }
}

#[tokio::test]
async fn drain_finishes_an_http_response_under_way() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let metrics = agent.metrics(|_| Action::Ignore).await;
    metrics_stream_opens(&proxy).await;
    let address = proxy.http_address();
    let request = tokio::spawn(async move { crate::http::get(address, "/metrics").await });
    let until = Instant::now() + TIMEOUT;
    while metrics.query_count() == 0 {
        assert!(Instant::now() < until, "no query arrived");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.drain(Duration::from_secs(20)).await;
    let response = request.await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.missing(), Some("1; db-0=stream ended"));
}

#[tokio::test]
async fn dropping_the_proxy_closes_every_socket() {
    let proxy = start().await;
    let mut agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let mut reader = TcpStream::connect(proxy.http_address()).await.unwrap();
    drop(proxy);
    assert_ne!(end_of(&mut agent.registration).await.code(), Code::Ok);
    let mut rest = Vec::new();
    timeout(TIMEOUT, reader.read_to_end(&mut rest))
        .await
        .unwrap()
        .ok();
    assert_eq!(rest, b"");
}
