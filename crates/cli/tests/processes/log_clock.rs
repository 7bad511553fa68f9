//! Jumps of the system's clock under the built binary, and while it is stopped.

use std::{env, fs, path::Path, time::Duration};

use tokio::{io::AsyncWriteExt as _, time::sleep};

use crate::process::{Server, Subscription, next, run, steadfast, words};

/// Where Debian's package `libfaketime` has its library, which answers for the system's clock.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Starts a server whose clock differs from the system's by what the file `clock` says. Its monotonic clock
/// is that of the system, as it is when an operator or NTP sets the time.
async fn serve(data: &Path, clock: &Path, listen: &str) -> Server {
    let library = env::var("STEADFAST_FAKETIME").unwrap_or_else(|_| LIBRARY.to_owned());
    assert!(
        fs::exists(&library).unwrap(),
        "install libfaketime: no {library}"
    );
    let mut command = steadfast(&[
        "streamer",
        "serve",
        "--retain-age",
        "1h",
        "--operations",
        "off",
    ]);
    command.arg("--listen").arg(listen).arg("--data").arg(data);
    command.env("LD_PRELOAD", library);
    command.env("FAKETIME_TIMESTAMP_FILE", clock);
    command.env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Server::spawn(command).await
}

#[tokio::test]
#[ignore = "needs libfaketime, of Debian's package of this name or where STEADFAST_FAKETIME says"]
async fn jumps_of_the_clock_lose_and_forget_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (data, clock) = (dir.path().join("data"), dir.path().join("clock"));
    fs::write(&clock, "+0").unwrap();
    let mut server = serve(&data, &clock, "127.0.0.1:0").await;
    let addr = server.addr.to_string();
    let quick = "--initial-backoff 100ms --max-backoff 200ms";
    let subscribe = format!("streamer subscribe -d db -c c --addr {addr} {quick}");
    let mut subscription = Subscription::start(&words(&subscribe)).await;
    // Idle between its lines, across the jumps.
    let publish = format!("streamer publish -d db -c c --addr {addr} {quick}");
    let mut publisher = steadfast(&words(&publish));
    let mut publisher = publisher
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = publisher.stdin.take().unwrap();
    let jumps = [
        "+0", "+30d", "-400d", "+3650d", "-3650d", "+0", "-2d", "+90d",
    ];
    for (n, jump) in jumps.into_iter().enumerate() {
        fs::write(&clock, jump).unwrap();
        if n >= 6 {
            // The last ones while the server is stopped.
            server.child.kill().await.unwrap();
            server = serve(&data, &clock, &addr).await;
        }
        // Longer than the interval of retention.
        sleep(Duration::from_secs(2)).await;
        let line = format!("{{\"id\":\"d{n}\",\"n\":{n}}}\n");
        input.write_all(line.as_bytes()).await.unwrap();
        let told = next(&mut subscription.out).await.expect("a change");
        assert!(told.contains(&format!("\"n\":{n}")), "{n}: {told}");
    }
    drop(input);
    assert!(publisher.wait().await.unwrap().success());
    server.child.kill().await.unwrap();
    // An hour did not pass, whatever the clock said.
    let dump = run(
        &words(&format!("streamer log dump --data {}", data.display())),
        None,
    )
    .await;
    assert_eq!(dump.stdout.lines().count(), jumps.len(), "{dump:?}");
}
