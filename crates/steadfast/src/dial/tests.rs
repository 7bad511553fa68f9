use std::future::pending;

use tokio::time::advance;

use super::*;

fn addresses(list: &[&str]) -> Vec<Address> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// Returns a dialer whose attempts end as the names of the servers say.
fn scripted(servers: &[&str]) -> Dialer {
    let connector = |server: &Address| -> BoxFuture<io::Result<Box<dyn Io>>> {
        let server = server.to_string();
        Box::pin(async move {
            match server.split('.').next() {
                Some("good") => Ok(Box::new(tokio::io::duplex(1).0) as Box<dyn Io>),
                Some("refuses") => Err(io::ErrorKind::ConnectionRefused.into()),
                _ => pending().await,
            }
        })
    };
    Dialer::new(addresses(servers)).connector(connector)
}

#[tokio::test(start_paused = true)]
async fn only_servers_that_failed_or_won_count_as_tried() {
    let servers = [
        "slow.test:1",
        "refuses.test:1",
        "good.test:1",
        "later.test:1",
    ];
    let dialer = scripted(&servers);
    let dialled = dialer.connect().await.unwrap();
    assert_eq!(dialled.server.to_string(), servers[2]);
    // What had no attempt yet comes before what was slow.
    assert_eq!(dialled.untried, addresses(&[servers[3], servers[0]]));
}

#[tokio::test(start_paused = true)]
async fn rest_of_a_round_is_dropped_when_it_is_old() {
    let servers = ["good.one:1", "good.two:1"];
    let dialer = scripted(&servers);
    for (age, expected) in [
        (Duration::ZERO, &servers[1..]),
        (REST_MAX_AGE, &servers[1..]),
        (REST_MAX_AGE + Duration::from_millis(1), &servers[..]),
    ] {
        dialer.continue_round(addresses(&servers[1..]));
        advance(age).await;
        for expected in [expected, &servers] {
            let round = dialer.servers_of_round(dialer.deadline()).await.unwrap();
            assert_eq!(round, addresses(expected), "{age:?}");
        }
    }
}
