//! The metrics stream: queries, responses, and what becomes of it when it ends.

use super::*;

#[tokio::test(start_paused = true)]
async fn each_query_has_one_response_in_order() {
    let (proxy, mut streams) = asking();
    let uplink = agent("", Regular::of(3))
        .clock(|| 99_500)
        .build_on(proxy.clone())
        .unwrap();
    uplink.start();
    let (id, mut peer) = someday("a stream", streams.recv()).await.unwrap();
    assert_eq!(id, "agent-1");
    assert!(connected(&uplink.status()));
    for query in [
        latest(),
        window(10, 20),
        window(500, 600),
        window(90, None),
        latest(),
    ] {
        peer.send(&query);
    }
    let mut samples = Vec::new();
    for _ in 0..5 {
        let response: StreamMetricsRequest = someday("a response", peer.receive()).await.unwrap();
        assert_eq!(response.timestamp.unwrap().seconds, 99);
        samples.push(response.metrics.len());
    }
    assert_eq!(samples, [3, 33, 0, 30, 3]);
    let more = timeout(SECOND * 60, peer.receive::<StreamMetricsRequest>()).await;
    assert!(more.is_err(), "nothing that was not asked for");
    assert_eq!(uplink.counters().responses, 5);
}

#[tokio::test(start_paused = true)]
async fn metrics_stream_reopens_with_the_same_agent_id() {
    let (proxy, mut streams) = asking();
    let uplink = on(&proxy);
    uplink.start();
    for _ in 0..10 {
        let (id, mut peer) = someday("a stream", streams.recv()).await.unwrap();
        assert_eq!(id, "agent-1");
        peer.send(&latest());
        let response: Option<StreamMetricsRequest> = someday("a response", peer.receive()).await;
        assert_eq!(response.unwrap().metrics.len(), 3);
        sleep(SECOND * 31).await;
        peer.end(status(13, "gone"));
    }
    assert_eq!((proxy.registered(), proxy.dials().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn both_streams_lost_together_come_back() {
    let (proxy, mut streams) = asking();
    let uplink = on(&proxy);
    uplink.start();
    for registration in 1..=30 {
        let (id, mut peer) = someday("a stream", streams.recv()).await.unwrap();
        assert_eq!(id, format!("agent-{registration}"));
        peer.send(&latest());
        let response: Option<StreamMetricsRequest> = someday("a response", peer.receive()).await;
        assert!(response.is_some());
        // Every other time the stream goes first, and every third one it goes while it is asked.
        if registration % 2 == 0 {
            peer.end(status(14, "stopping"));
        }
        if registration % 3 == 0 {
            peer.send(&latest());
        }
        proxy.connection().cut();
    }
    assert!(proxy.registered() >= 30);
    assert_eq!(
        proxy.opened("StreamMetrics").len() as u64,
        proxy.registered()
    );
}

#[tokio::test(start_paused = true)]
async fn panicking_store_gives_an_empty_response() {
    let (proxy, mut streams) = asking();
    let uplink = agent("", Broken(Regular::of(3)))
        .build_on(proxy.clone())
        .unwrap();
    uplink.start();
    let (_, mut peer) = someday("a stream", streams.recv()).await.unwrap();
    for _ in 0..3 {
        peer.send(&latest());
        peer.send(&window(0, 10));
        let broken: StreamMetricsRequest = someday("a response", peer.receive()).await.unwrap();
        assert_eq!(
            (broken.metrics.len(), broken.timestamp.is_some()),
            (0, true)
        );
        let whole: StreamMetricsRequest = someday("a response", peer.receive()).await.unwrap();
        assert_eq!(whole.metrics.len(), 33);
    }
    assert_eq!(uplink.counters().failed, 3);
    assert_eq!(proxy.opened("StreamMetrics").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn rejected_response_halves_the_next_ones() {
    let accepted = Arc::new(AtomicU64::new(0));
    let took = Arc::clone(&accepted);
    // Its operator lowered the limit, and nobody can know.
    let proxy = Scripted::registering(move |mut peer| {
        let took = Arc::clone(&took);
        async move {
            peer.send(&window(0, None));
            while let Some(response) = peer.receive::<StreamMetricsRequest>().await {
                if prost::Message::encoded_len(&response) > 1 << 20 {
                    return peer.end(status(8, "received message larger than max"));
                }
                took.fetch_add(response.metrics.len() as u64, Ordering::AcqRel);
            }
        }
    });
    let record = Regular {
        padding: 100,
        ..Regular::of(500)
    };
    let uplink = agent("", record).build_on(proxy.clone()).unwrap();
    uplink.start();
    sleep(SECOND * 120).await;
    assert!(accepted.load(Ordering::Acquire) > 2_000);
    assert_eq!(proxy.opened("StreamMetrics").len(), 3, "4 MiB, 2 and 1");
    assert_eq!(proxy.registered(), 1);
}

#[tokio::test(start_paused = true)]
async fn refusal_of_another_limit_shortens_no_message() {
    let (sender, mut lengths) = mpsc::unbounded_channel();
    let proxy = Scripted::registering(move |mut peer| {
        let sender = sender.clone();
        async move {
            peer.send(&window(0, None));
            let response: StreamMetricsRequest = peer.receive().await.unwrap();
            sender.send(prost::Message::encoded_len(&response)).ok();
            peer.end(status(8, "you make more calls than one principal may"));
        }
    });
    let record = Regular {
        padding: 100,
        ..Regular::of(500)
    };
    let uplink = agent("", record).build_on(proxy.clone()).unwrap();
    uplink.start();
    let first = someday("a response", lengths.recv()).await.unwrap();
    let second = someday("a response", lengths.recv()).await.unwrap();
    assert!(first > 2 << 20 && second >= first, "{first} {second}");
}

#[tokio::test(start_paused = true)]
async fn version_is_probed_once_when_needed() {
    // What becomes of a stream that only the newest version has, and how many responses are whole.
    let newest = Some(status(16, "agent ID not found"));
    for (end, whole) in [
        (newest, 3),
        (Some(status(12, "unknown method")), 0),
        (None, 0),
    ] {
        let (sender, mut lengths) = mpsc::unbounded_channel();
        let proxy = Scripted::registering(move |mut peer| {
            let (sender, end) = (sender.clone(), end.clone());
            async move {
                if peer.call().path.ends_with("/StreamSchemaRegistry") {
                    assert_eq!(peer.agent_id(), None, "it leaves no trace of the agent");
                    if let Some(end) = end {
                        peer.end(end);
                    }
                    return peer.hold().await;
                }
                for query in [window(99, None), latest(), latest(), latest()] {
                    peer.send(&query);
                    let response: StreamMetricsRequest = peer.receive().await.unwrap();
                    sender.send(response.metrics.len()).ok();
                    sleep(SECOND).await;
                }
                peer.hold().await;
            }
        });
        let record = Regular {
            padding: 1_000,
            ..Regular::of(6_000)
        };
        let uplink = agent("", record)
            .clock(|| 99_000)
            .build_on(proxy.clone())
            .unwrap();
        uplink.start();
        let mut counts = Vec::new();
        for _ in 0..4 {
            counts.push(someday("a response", lengths.recv()).await.unwrap());
        }
        let complete = counts[1..].iter().filter(|count| **count == 6_000).count();
        assert_eq!(complete, whole, "{counts:?}");
        assert!(counts.iter().all(|count| *count > 3_000), "{counts:?}");
        assert_eq!(proxy.opened("StreamSchemaRegistry").len(), 1);
        assert_eq!((proxy.registered(), proxy.dials().len()), (1, 1));
    }
    let small = Scripted::registering(|mut peer| async move {
        peer.send(&latest());
        peer.receive::<StreamMetricsRequest>().await;
        peer.hold().await;
    });
    let uplink = on(&small);
    uplink.start();
    sleep(SECOND * 60).await;
    assert_eq!(uplink.counters().responses, 1);
    assert_eq!(small.opened("StreamSchemaRegistry").len(), 0);
}
