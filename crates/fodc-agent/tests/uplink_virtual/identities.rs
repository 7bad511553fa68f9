//! The identity that the proxy is told, before, during and after a registration.

use super::*;

#[tokio::test(start_paused = true)]
async fn later_identity_reaches_the_proxy() {
    let proxy = Scripted::registering(Peer::hold);
    let who = watch::Sender::new(steadfast_fodc_model::identity::Identity {
        role: "ROLE_UNSPECIFIED".to_owned(),
        ..identity()
    });
    let uplink = Uplink::builder("", who.subscribe(), Regular::of(1));
    let uplink = uplink.build_on(proxy.clone()).unwrap();
    uplink.start();
    someday("a registration", until(uplink.watch(), connected)).await;
    sleep(SECOND * 60).await;
    who.send_modify(|who| who.role = "ROLE_LIAISON".to_owned());
    sleep(SECOND).await;
    let beats = proxy.heartbeats();
    assert_eq!(beats.last().unwrap().1.node_role, "ROLE_LIAISON");
    who.send_modify(|who| drop(who.labels.insert("zone".to_owned(), "b".to_owned())));
    sleep(SECOND).await;
    let heartbeat = proxy.heartbeats().last().unwrap().1.clone();
    assert_eq!(heartbeat.labels["zone"], "b");
    // What cannot be registered is not taken over.
    who.send_modify(|who| who.role.clear());
    sleep(SECOND * 60).await;
    assert_eq!(
        proxy.heartbeats().last().unwrap().1.node_role,
        "ROLE_LIAISON"
    );
    assert_eq!((proxy.registered(), proxy.dials().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn registration_has_the_identity_at_the_start() {
    let proxy = Scripted::registering(Peer::hold);
    let who = watch::Sender::new(identity());
    let uplink = Uplink::builder("", who.subscribe(), Regular::of(1));
    let uplink = uplink.build_on(proxy.clone()).unwrap();
    sleep(SECOND).await;
    who.send_modify(|who| who.role = "ROLE_LIAISON".to_owned());
    uplink.start();
    someday("a registration", until(uplink.watch(), connected)).await;
    sleep(SECOND).await;
    assert_eq!(
        proxy.heartbeats(),
        [],
        "no correction after the registration"
    );
    sleep(SECOND * 60).await;
    assert_eq!(proxy.heartbeats()[0].1.node_role, "ROLE_LIAISON");
}

#[tokio::test(start_paused = true)]
async fn role_that_changes_during_a_dial_is_registered() {
    let proxy = Scripted::registering(Peer::hold);
    let who = watch::Sender::new(identity());
    let uplink = Uplink::builder("", who.subscribe(), Regular::of(1));
    let uplink = uplink.build_on(proxy.clone()).unwrap();
    uplink.start();
    someday("a registration", until(uplink.watch(), connected)).await;
    proxy.set_dial_time(SECOND * 5);
    proxy.cut_everything();
    let dialling = |status: &Status| status.activity == Activity::Opening;
    someday("a dial", until(uplink.watch(), dialling)).await;
    sleep(SECOND * 2).await;
    assert_eq!(proxy.registered(), 1, "the dial takes longer");
    who.send_modify(|who| who.role = "ROLE_LIAISON".to_owned());
    sleep(SECOND * 4).await;
    assert_eq!(proxy.registered(), 2);
    assert_eq!(proxy.request().node_role, "ROLE_LIAISON");
    assert_eq!(
        proxy.heartbeats(),
        [],
        "the releases ignore a role that comes with a heartbeat"
    );
}
