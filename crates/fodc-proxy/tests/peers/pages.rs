//! `/metrics` and its neighbours.

use steadfast_wire::fodc::{Metric, MetricType, RegisterAgentRequest};

use crate::{
    agent::{Action, Agent, Metrics, labels, metric, pod, seed, typed},
    complete, config, eventually, get, http, metrics_stream_opens, start, start_with,
};

async fn agent(
    proxy: &steadfast_fodc_proxy::Proxy,
    first: RegisterAgentRequest,
    samples: Vec<Metric>,
) -> (Agent, Metrics) {
    let agent = Agent::register(proxy, first).await;
    let metrics = agent.responding(samples).await;
    (agent, metrics)
}

fn type_lines(body: &str) -> Vec<&str> {
    body.lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect()
}

#[tokio::test]
async fn all_dialects_share_one_page_with_their_agents_labels() {
    let proxy = start().await;
    let own = [
        ("node_role", "ROLE_DATA"),
        ("pod_name", "db-0"),
        ("container_name", "data"),
    ];
    let stamped = vec![metric("up", &own, 1.0)];
    let _one = agent(&proxy, pod("db-0", "ROLE_DATA"), stamped).await;
    let plain = vec![metric("up", &[("a", "b\"c\\d\ne")], 1e21)];
    let _two = agent(&proxy, seed("10.0.0.1", 17912, "liaison"), plain).await;
    let response = complete(&proxy, "/metrics").await;
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let lines = [
        "# TYPE up gauge",
        r#"up{a="b\"c\\d\ne",node_role="liaison",pod_name="10.0.0.1:17912"} 1000000000000000000000"#,
        r#"up{container_name="data",node_role="ROLE_DATA",pod_name="db-0"} 1"#,
    ];
    assert_eq!(response.body.lines().collect::<Vec<_>>(), lines);
}

#[tokio::test]
async fn node_label_never_replaces_a_metrics_own() {
    let proxy = start().await;
    let first = RegisterAgentRequest {
        labels: labels(&[("type", "hot"), ("pod_name", "x"), ("empty", "")]),
        ..pod("db-0", "r")
    };
    let samples = vec![
        metric("up", &[("type", "file")], 1.0),
        metric("down", &[("node_type", "own")], 2.0),
    ];
    let _agent = agent(&proxy, first, samples).await;
    let response = complete(&proxy, "/metrics").await;
    let both = r#"up{node_role="r",node_type="hot",pod_name="db-0",type="file"} 1"#;
    assert!(response.has_line(both), "{response:?}");
    let own = r#"down{node_role="r",node_type="own",pod_name="db-0"} 2"#;
    assert!(response.has_line(own), "{response:?}");
}

#[tokio::test]
async fn no_line_has_a_label_twice_after_names_are_changed() {
    let proxy = start().await;
    let first = RegisterAgentRequest {
        labels: labels(&[("type", "hot"), ("zone-a", "z")]),
        ..pod("db-0", "r")
    };
    let samples = vec![
        metric("a", &[("node.type", "own"), ("pod.name", "p")], 1.0),
        metric("b", &[("node_zone_a", "own")], 2.0),
        metric("c", &[("__name__", "up")], 3.0),
    ];
    let _agent = agent(&proxy, first, samples).await;
    let page = complete(&proxy, "/metrics").await;
    let expected = [
        r#"a{exported_node_type="own",exported_pod_name="p",node_role="r",node_type="hot",node_zone_a="z",pod_name="db-0"} 1"#,
        r#"b{node_role="r",node_type="hot",node_zone_a="own",pod_name="db-0"} 2"#,
        r#"c{exported___name__="up",node_role="r",node_type="hot",node_zone_a="z",pod_name="db-0"} 3"#,
    ];
    assert_eq!(page.samples(), expected);
}

#[tokio::test]
async fn misspelt_parameter_is_named_in_a_header() {
    let proxy = start().await;
    let _agent = agent(&proxy, pod("db-0", "r"), vec![metric("up", &[], 1.0)]).await;
    for path in ["/metrics?rôle=r&start=1", "/metrics-windows?rôle=r&start=1"] {
        let path = path.replace('ô', "%C3%B4");
        let page = complete(&proxy, &path).await;
        let ignored = page.header("x-steadfast-ignored");
        assert_eq!(ignored, Some("r%C3%B4le, start"), "{path}");
    }
    let page = complete(&proxy, "/metrics?role=r").await;
    assert_eq!(page.header("x-steadfast-ignored"), None);
}

#[tokio::test]
async fn metric_name_has_one_type_across_agents() {
    let proxy = start().await;
    let knows = vec![
        typed("jobs_count", &[], 1.0, MetricType::Counter),
        typed("wait_bucket", &[("le", "+Inf")], 2.0, MetricType::Histogram),
        typed("wait_sum", &[], 2.0, MetricType::Histogram),
        typed("wait_count", &[], 2.0, MetricType::Histogram),
        typed("lag", &[("quantile", "0.5")], 3.0, MetricType::Summary),
        typed("lag_count", &[], 3.0, MetricType::Summary),
    ];
    let _knows = agent(&proxy, pod("new", "r"), knows).await;
    let guesses = vec![
        metric("jobs_count", &[], 1.0),
        metric("wait_bucket", &[("le", "+Inf")], 2.0),
        metric("wait_count", &[], 2.0),
        metric("lag", &[("quantile", "0.5")], 3.0),
        metric("lag_count", &[], 3.0),
        metric("alone_count", &[], 4.0),
        metric("old_bucket", &[("le", "1")], 5.0),
        metric("old_sum", &[], 5.0),
        metric("temperature", &[], 6.0),
    ];
    let _guesses = agent(&proxy, pod("old", "r"), guesses).await;
    let response = complete(&proxy, "/metrics").await;
    let types = [
        "# TYPE jobs_count counter",
        "# TYPE lag summary",
        "# TYPE wait histogram",
        "# TYPE alone_count gauge",
        "# TYPE old histogram",
        "# TYPE temperature gauge",
    ];
    assert_eq!(type_lines(&response.body), types, "{}", response.body);
    let mut family = "";
    for line in response.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
        } else {
            assert!(line.starts_with(family), "{line} under {family}");
        }
    }
}

#[tokio::test]
async fn filter_by_role_queries_no_other_agent() {
    let proxy = start().await;
    let up = vec![metric("up", &[], 1.0)];
    let _data = agent(&proxy, pod("db-0", "ROLE_DATA"), up).await;
    complete(&proxy, "/metrics").await;
    let silent = Agent::register(&proxy, pod("li-0", "ROLE_LIAISON")).await;
    let silent = silent.metrics(|_| Action::Ignore).await;
    let response = get(&proxy, "/metrics?role=ROLE_DATA").await;
    assert!(
        response.has_line(r#"up{node_role="ROLE_DATA",pod_name="db-0"} 1"#),
        "{response:?}"
    );
    assert_eq!(response.missing(), None);
    assert_eq!(silent.query_count(), 0);
}

#[tokio::test]
async fn filter_selects_agents_and_samples_alike() {
    let proxy = start().await;
    let samples = vec![
        metric("bare", &[], 1.0),
        metric(
            "stamped",
            &[("pod_name", "db-0"), ("node_role", "ROLE_DATA")],
            2.0,
        ),
        metric("foreign", &[("pod_name", "elsewhere")], 3.0),
    ];
    let _one = agent(&proxy, pod("db-0", "ROLE_DATA"), samples.clone()).await;
    let _two = agent(&proxy, pod("db-1", "ROLE_DATA"), samples).await;
    complete(&proxy, "/metrics").await;
    let response = get(&proxy, "/metrics?pod_name=DB-0").await;
    let lines: Vec<&str> = response.samples();
    let identity = r#"{node_role="ROLE_DATA",pod_name="db-0"}"#;
    assert_eq!(
        lines,
        [format!("bare{identity} 1"), format!("stamped{identity} 2")]
    );
    let wrong = get(&proxy, "/metrics?role=role_data").await;
    assert_eq!(wrong.body, "", "roles are compared exactly");
}

#[tokio::test]
async fn equal_series_of_different_nodes_never_collide() {
    let proxy = start().await;
    let foreign = || {
        vec![
            metric("kube_pod_info", &[("pod_name", "x")], 1.0),
            metric("ktm", &[], 1.0),
            // A page with the labels that tell agents apart.
            metric(
                "forged",
                &[
                    ("pod_name", "x"),
                    ("agent_pod_name", "y"),
                    ("agent_id", "z"),
                ],
                1.0,
            ),
        ]
    };
    let _agents = [
        agent(&proxy, seed("10.0.0.1", 1, "r"), foreign()).await,
        agent(&proxy, seed("10.0.0.2", 1, "r"), foreign()).await,
        agent(&proxy, pod("x", "r"), foreign()).await,
        agent(&proxy, pod("x", "r"), foreign()).await,
    ];
    let response = complete(&proxy, "/metrics").await;
    let samples = response.samples().into_iter();
    let mut series: Vec<&str> = samples
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    series.sort_unstable();
    let all = series.len();
    series.dedup();
    assert_eq!((all, series.len()), (12, 12), "{}", response.body);
}

#[tokio::test]
async fn twenty_thousand_long_series_arrive_in_one_response() {
    let proxy = start().await;
    let long = "x".repeat(400);
    let samples = (0..20_000)
        .map(|number| metric("long", &[("n", &number.to_string()), ("text", &long)], 1.0))
        .collect();
    let (agent, _metrics) = agent(&proxy, pod("db-0", "r"), samples).await;
    let response = complete(&proxy, "/metrics").await;
    assert_eq!(response.body.lines().count(), 20_001);
    let agents = get(&proxy, "/agents").await.json();
    assert_eq!(agents[0]["agent_id"], agent.id.as_str());
    assert_eq!(agents[0]["status"], "online");
}

#[tokio::test]
async fn address_filter_matches_a_part_of_ip_and_port() {
    let proxy = start().await;
    let up = |value| vec![metric("up", &[], value)];
    let _one = agent(&proxy, seed("10.0.0.1", 17912, "r"), up(1.0)).await;
    let _two = agent(&proxy, seed("10.0.0.2", 17912, "r"), up(2.0)).await;
    complete(&proxy, "/metrics").await;
    let response = get(&proxy, "/metrics?address=0.2%3A17912").await;
    assert_eq!(response.body.lines().count(), 2, "{response:?}");
    assert!(response.body.contains("10.0.0.2"), "{response:?}");
}

#[tokio::test]
async fn unknown_methods_and_paths_are_rejected_and_head_works() {
    let proxy = start().await;
    let address = proxy.http_address();
    let paths = [
        "/metrics",
        "/metrics-windows",
        "/health",
        "/ready",
        "/readyz",
        "/livez",
        "/agents",
        "/self-metrics",
        "/cluster/topology",
        "/cluster/lifecycle",
        "/diagnostics",
        "/pressure-profiles",
    ];
    for path in paths {
        assert_eq!(http::get(address, path).await.status, 200, "{path}");
        let head = http::request(address, "HEAD", path).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let post = http::request(address, "POST", path).await;
        assert_eq!(post.status, 405, "{path}");
    }
    for path in ["/", "/metrics/", "/nothing", "/pressure-profiles/a/b/heap"] {
        let response = http::get(address, path).await;
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(
            response.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
}

#[tokio::test]
async fn uncollected_pages_say_that_no_agent_was_queried() {
    let proxy = start().await;
    let topology = get(&proxy, "/cluster/topology").await.json();
    assert_eq!(topology, serde_json::json!({"nodes": [], "calls": []}));
    let lifecycle = get(&proxy, "/cluster/lifecycle").await.json();
    assert!(
        lifecycle["error"]
            .as_str()
            .unwrap()
            .contains("no agent is registered")
    );
    assert_eq!(lifecycle["agent_summary"]["requested"], 0);
    for path in ["/diagnostics", "/pressure-profiles"] {
        let response = get(&proxy, path).await;
        assert_eq!(response.json(), serde_json::json!([]));
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn proxy_at_its_request_limit_is_not_ready() {
    let mut config = config();
    config.max_http_requests = 1;
    let proxy = start_with(config).await;
    let silent = Agent::register(&proxy, pod("db-0", "r")).await;
    let _silent = silent.metrics(|_| Action::Ignore).await;
    metrics_stream_opens(&proxy).await;
    assert_eq!(get(&proxy, "/ready").await.status, 200);
    let address = proxy.http_address();
    let request = tokio::spawn(async move { http::get(address, "/metrics").await });
    eventually(&proxy, "/ready", |ready| {
        ready.status == 503 || request.is_finished()
    })
    .await;
    let refused = http::get(address, "/metrics").await;
    assert_eq!(refused.status, 503, "queried: {}", request.is_finished());
    assert_eq!(request.await.unwrap().status, 200);
    eventually(&proxy, "/ready", |ready| ready.status == 200).await;
}

#[tokio::test]
async fn help_text_longer_than_a_piece_is_written_once() {
    let proxy = start().await;
    let mut long = metric("up", &[], 1.0);
    long.description = "help ".repeat(40_000);
    let samples = vec![long.clone(), metric("zz", &[], 3.0)];
    let _one = agent(&proxy, pod("db-0", "r"), samples).await;
    long.value = 2.0;
    let _two = agent(&proxy, pod("db-1", "r"), vec![long]).await;
    let response = complete(&proxy, "/metrics").await;
    assert_eq!(response.body.matches("# HELP up ").count(), 1);
    assert_eq!(
        type_lines(&response.body),
        ["# TYPE up gauge", "# TYPE zz gauge"]
    );
    assert!(response.has_line("up{node_role=\"r\",pod_name=\"db-1\"} 2"));
}

#[tokio::test]
async fn pages_are_compressed_for_clients_that_accept_it() {
    let proxy = start().await;
    let samples: Vec<_> = (0..2_000)
        .map(|n| metric(&format!("m{n}"), &[("label", "value")], f64::from(n)))
        .collect();
    let _agent = agent(&proxy, pod("db-0", "r"), samples).await;
    let plain = complete(&proxy, "/metrics").await;
    let window = "/metrics-windows?start_time=2020-01-01T00:00:00Z";
    for path in ["/metrics", window] {
        let packed = http::get_packed(proxy.http_address(), path).await;
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(packed.header("content-length"), None, "{path}");
        assert!(packed.body.len() > 10_000, "{path}: {}", packed.body.len());
        if path == "/metrics" {
            assert_eq!(packed.body, plain.body);
            assert_eq!(packed.header("content-type"), plain.header("content-type"));
        }
    }
    for path in ["/health", "/nothing"] {
        let short = http::get_packed(proxy.http_address(), path).await;
        assert_eq!(short.header("content-encoding"), None, "{path}");
    }
}

#[tokio::test]
async fn no_two_lines_of_an_agent_have_the_same_labels() {
    let proxy = start().await;
    let of = |container, value| metric("up", &[("container_name", container)], value);
    let named = [("node_role", "r"), ("pod_name", "db-0")];
    let samples = vec![
        of("a", 1.0),
        of("b", 2.0),
        of("a", 3.0),
        // These look the same once the agent's own labels are added.
        metric("down", &named, 4.0),
        metric("down", &[], 4.0),
        metric("down", &named[..1], 4.0),
    ];
    let _agent = agent(&proxy, pod("db-0", "r"), samples).await;
    let page = complete(&proxy, "/metrics").await;
    let expected = [
        r#"down{node_role="r",pod_name="db-0"} 4"#,
        r#"up{container_name="a",node_role="r",pod_name="db-0"} 1"#,
        r#"up{container_name="b",node_role="r",pod_name="db-0"} 2"#,
    ];
    assert_eq!(page.samples(), expected);
}

#[tokio::test]
async fn proxy_on_loopback_refuses_pages_of_other_hosts() {
    let mut config = config();
    config.security.allow_hosts = vec!["metrics.example".to_owned()];
    let proxy = start_with(config).await;
    let address = proxy.http_address();
    for (host, status) in [
        ("evil.example", 421),
        ("localhost:17913", 200),
        ("metrics.example", 200),
    ] {
        let response = http::get_of_host(address, "/metrics", host).await;
        assert_eq!(response.status, status, "{host}");
        let names_setting = response.body.contains("--allow-host");
        assert_eq!(names_setting, status == 421, "{host}: {}", response.body);
    }
    let own = get(&proxy, "/self-metrics").await;
    let line = r#"steadfast_proxy_refused_total{listener="http",reason="host"} 1"#;
    assert!(own.has_line(line), "{}", own.body);
}
