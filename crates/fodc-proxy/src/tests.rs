use std::fs;

use ::http::{Extensions, HeaderMap};
use steadfast_access::NewToken;
use tokio::time::{sleep, timeout};

use super::*;

#[tokio::test]
async fn policy_is_followed_until_the_drain_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    let token = NewToken::generate().unwrap();
    fs::write(&path, token.entry("reader")).unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let proxy = Proxy::start(Config {
        grpc_listen: loopback,
        http_listen: loopback,
        access: Some(path.clone()),
        ..Config::default()
    });
    let proxy = proxy.await.unwrap();
    let state = Arc::clone(&proxy.state);
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {}", token.reveal());
    headers.insert("authorization", bearer.parse().unwrap());
    let known = || state.access.identify(&headers, &Extensions::new()).is_ok();
    // A response that is never finished keeps the drain waiting.
    state.tasks.spawn(std::future::pending::<()>());
    let draining = tokio::spawn(proxy.drain(Duration::from_secs(30)));
    state.tasks.draining().await;
    assert!(known());
    fs::write(&path, "").unwrap();
    let withdrawn = async {
        while known() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), withdrawn).await.unwrap();
    assert!(!draining.is_finished());
    draining.abort();
}
