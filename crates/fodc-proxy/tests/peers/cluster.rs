//! `/cluster/topology` and `/cluster/lifecycle`, with agents of the releases.

use std::time::Duration;

use serde_json::json;
use steadfast_wire::{
    banyandb::{
        common::v1::Metadata,
        database::v1::{Node, Role},
    },
    fodc::{
        Call, StreamClusterTopologyRequest, StreamClusterTopologyResponse, StreamLifecycleRequest,
        Topology,
    },
};
use tokio::{
    runtime::Handle,
    task::block_in_place,
    time::{Instant, sleep},
};

use crate::{
    agent::{Agent, answer, labels, pod},
    agents_online, config, containing, eventually, get, start, start_with,
};

fn node(name: &str, pairs: &[(&str, &str)]) -> Node {
    Node {
        metadata: Some(Metadata {
            name: name.to_owned(),
            ..Metadata::default()
        }),
        roles: vec![Role::Data.into()],
        grpc_address: name.to_owned(),
        labels: labels(pairs),
        ..Node::default()
    }
}

fn topology(nodes: Vec<Node>, calls: Vec<Call>) -> StreamClusterTopologyRequest {
    StreamClusterTopologyRequest {
        topology: Some(Topology { nodes, calls }),
        ..StreamClusterTopologyRequest::default()
    }
}

fn call(source: &str, target: &str) -> Call {
    Call {
        id: format!("{source}-{target}"),
        target: target.to_owned(),
        source: source.to_owned(),
    }
}

#[tokio::test]
async fn topologies_of_all_agents_are_merged() {
    let proxy = start().await;
    let first = Agent::register(&proxy, pod("db-0", "r")).await;
    let second = Agent::register(&proxy, pod("db-1", "r")).await;
    let mine = |name: &str, pod: &str| node(name, &[("pod_name", pod)]);
    let from_first = topology(
        vec![mine("a", "db-0"), node("b", &[])],
        vec![call("a", "b")],
    );
    let from_second = topology(
        vec![node("a", &[]), mine("b", "db-1")],
        vec![call("b", "a")],
    );
    let _first = answer!(first, stream_cluster_topology, move |query| {
        assert!(query.request_topology);
        vec![from_first.clone()]
    });
    let _second = answer!(second, stream_cluster_topology, move |_| vec![
        from_second.clone()
    ]);
    let page = eventually(&proxy, "/cluster/topology", |page| page.missing().is_none()).await;
    assert_eq!(page.header("content-type"), Some("application/json"));
    let page = page.json();
    assert_eq!(page["nodes"].as_array().unwrap().len(), 2);
    for (index, pod) in ["db-0", "db-1"].iter().enumerate() {
        let node = &page["nodes"][index];
        assert_eq!(node["labels"], json!({"pod_name": pod}));
        assert_eq!(node["status"], "online");
        assert!(node["last_heartbeat"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(
        page["calls"],
        json!([
            {"id": "a-b", "target": "b", "source": "a"},
            {"id": "b-a", "target": "a", "source": "b"},
        ])
    );
}

#[tokio::test]
async fn agents_without_the_stream_are_no_empty_cluster() {
    let proxy = start().await;
    let empty = get(&proxy, "/cluster/topology").await;
    assert_eq!(
        empty.body, "{\"nodes\":[],\"calls\":[]}\n",
        "no agent at all"
    );
    let _agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let page = get(&proxy, "/cluster/topology").await;
    assert_eq!(page.status, 501);
    assert!(page.body.contains("--cluster-state-ports"), "{}", page.body);
}

#[tokio::test]
async fn page_waits_for_streams_of_an_agent_that_just_registered() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let opening = async {
        sleep(Duration::from_millis(300)).await;
        answer!(agent, stream_cluster_topology, |_| vec![topology(
            vec![node("a", &[])],
            vec![]
        )])
    };
    let (page, _stream) = tokio::join!(get(&proxy, "/cluster/topology"), opening);
    assert_eq!(page.json()["nodes"][0]["metadata"]["name"], "a");
    assert_eq!(page.missing(), None);
}

#[tokio::test]
async fn agent_that_leaves_ends_the_wait_for_its_topology() {
    let proxy = start().await;
    let stays = Agent::register(&proxy, pod("db-0", "r")).await;
    let leaves = Agent::register(&proxy, pod("db-1", "r")).await;
    let _stays = answer!(stays, stream_cluster_topology, |_| vec![topology(
        vec![],
        vec![]
    )]);
    let silent = answer!(leaves, stream_cluster_topology, |_| vec![]);
    let asked = || containing(&proxy, "/self-metrics", "stream=\"topology\"} 2");
    let leaving = async {
        asked().await;
        drop((silent, leaves));
    };
    let begun = Instant::now();
    let (page, ()) = tokio::join!(get(&proxy, "/cluster/topology"), leaving);
    let missing = page.missing().unwrap();
    assert!(missing.starts_with("1; db-1=stream ended"), "{missing}");
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "nobody waits for the time limit"
    );
}

#[tokio::test]
async fn silent_topology_stream_delays_no_other_page() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let _metrics = agent.responding(vec![]).await;
    let _silent = answer!(
        agent,
        stream_cluster_topology,
        |_: StreamClusterTopologyResponse| { Vec::<StreamClusterTopologyRequest>::new() }
    );
    agents_online(&proxy, 1).await;
    let begun = Instant::now();
    let others = async {
        for _ in 0..5 {
            let page = get(&proxy, "/metrics").await;
            assert_eq!(page.status, 200);
        }
        begun.elapsed()
    };
    let (page, others) = tokio::join!(get(&proxy, "/cluster/topology"), others);
    assert_eq!(page.missing(), Some("1; db-0=late"));
    assert!(others < Duration::from_secs(5), "{others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_agent_is_part_of_the_lifecycle_page() {
    let mut config = config();
    config.http_write_timeout = Duration::from_millis(500);
    let proxy = start_with(config).await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let _slow = answer!(agent, stream_lifecycle, |_| {
        // Longer than a client may accept nothing: the page is not written yet.
        let late = sleep(Duration::from_millis(1_500));
        block_in_place(|| Handle::current().block_on(late));
        vec![StreamLifecycleRequest::default()]
    });
    let page = get(&proxy, "/cluster/lifecycle").await;
    assert_eq!(page.missing(), None);
    let page = page.json();
    assert_eq!(page["agent_summary"]["responded"], 1);
    assert_eq!(
        page["lifecycle_statuses"],
        json!([{"pod_name": "db-0", "reports": []}])
    );
}

#[tokio::test]
async fn node_of_a_reconnected_agent_is_online() {
    let proxy = start().await;
    // Of another role, so that both registrations are remembered.
    drop(Agent::register(&proxy, pod("db-0", "before")).await);
    agents_online(&proxy, 0).await;
    let agent = Agent::register(&proxy, pod("db-0", "after")).await;
    let _stream = answer!(agent, stream_cluster_topology, |_| {
        vec![topology(vec![node("a", &[("pod_name", "db-0")])], vec![])]
    });
    let page = eventually(&proxy, "/cluster/topology", |page| page.missing().is_none()).await;
    let agents = get(&proxy, "/agents").await.json();
    assert_eq!(agents.as_array().unwrap().len(), 2);
    assert_eq!(page.json()["nodes"][0]["status"], "online");
}
