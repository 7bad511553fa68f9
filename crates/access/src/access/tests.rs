mod random_policies;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Condition, NewToken,
    testing::{self, NOW, access, at, claims},
};

const POLICY: &str = r#"
[jwt]
keys = "k"
issuer = "login"
audience = "steadfast"
[certificates]
name = ["uri", "common-name"]
[[grants]]
role = "customer"
databases = ["shop"]
collections = ["orders", "rooms/*/messages"]
actions = ["subscribe"]
filter = ["owner == $sub"]
[[grants]]
role = "regional"
databases = ["shop"]
collections = ["orders"]
actions = ["subscribe"]
filter = ["region in $claim.regions", "open == true"]
[[grants]]
role = "writer"
databases = ["shop", "log-*"]
collections = ["**"]
actions = ["publish", "subscribe"]
[[grants]]
role = "operator"
actions = ["admin"]
[[members]]
roles = ["customer"]
principals = ["jwt:*"]
[[members]]
roles = ["regional"]
claims = { groups = "staff" }
[[members]]
roles = ["writer"]
principals = ["token:feeder", "certificate:spiffe://prod/*"]
[[members]]
roles = ["operator"]
principals = ["jwt:root"]
"#;

fn jwt(claims: &serde_json::Value) -> String {
    format!(
        "Bearer {}",
        testing::token(&json!({"alg": "ES256", "kid": "p1"}), claims)
    )
}

fn known(access: &Access, authorization: &str) -> Result<Identity, Refused> {
    let authorization = Some(authorization.as_bytes());
    access.authenticate(
        Presented {
            authorization,
            certificate: None,
        },
        at(NOW),
    )
}

fn filter(conditions: &[(&str, serde_json::Value)]) -> Vec<Condition> {
    let condition = |(text, value): &(&str, serde_json::Value)| Condition {
        text: (*text).to_owned(),
        value: (!value.is_null()).then(|| value.clone()),
    };
    conditions.iter().map(condition).collect()
}

#[test]
fn policy_grants_by_principal_and_claim() {
    let access = access(POLICY);
    let alice = known(&access, &jwt(&claims())).unwrap();
    let owner = filter(&[("owner == ", json!("alice"))]);
    assert_eq!(alice.principal(), "jwt:alice");
    for (action, database, collection, decision) in [
        (
            Action::Subscribe,
            "shop",
            "orders",
            Decision::Filtered(vec![owner.clone()]),
        ),
        (
            Action::Subscribe,
            "shop",
            "rooms/1/messages",
            Decision::Filtered(vec![owner.clone()]),
        ),
        (Action::Subscribe, "shop", "rooms/1", Decision::Denied),
        (Action::Subscribe, "Shop", "orders", Decision::Denied),
        (Action::Subscribe, "", "", Decision::Denied),
        (Action::Publish, "shop", "orders", Decision::Denied),
        (Action::Admin, "", "", Decision::Denied),
    ] {
        let decided = access.decide(&alice, action, database, collection);
        assert_eq!(decided, decision, "{action:?} {database} {collection}");
    }
    // A second role widens the first one, and needs a claim.
    let mut of_staff = claims();
    of_staff["groups"] = json!(["staff", "x"]);
    let decide = |claims| {
        let identity = known(&access, &jwt(&claims)).unwrap();
        access.decide(&identity, Action::Subscribe, "shop", "orders")
    };
    assert_eq!(
        decide(of_staff.clone()),
        Decision::Filtered(vec![owner.clone()])
    );
    of_staff["regions"] = json!(["north"]);
    let regional = filter(&[
        ("region in ", json!(["north"])),
        ("open == true", json!(null)),
    ]);
    assert_eq!(decide(of_staff), Decision::Filtered(vec![owner, regional]));
    let mut root = claims();
    root["sub"] = json!("root");
    let root = known(&access, &jwt(&root)).unwrap();
    assert!(access.allows(&root, Action::Admin) && !access.allows(&alice, Action::Admin));
}

#[test]
fn static_token_is_known_by_its_hash() {
    let (new, other) = (NewToken::generate().unwrap(), NewToken::generate().unwrap());
    let entry = new.entry("feeder");
    assert!(!entry.contains(new.reveal()) && !format!("{new:?}").contains(new.reveal()));
    let with_token = access(&format!(
        "{POLICY}{entry}\nexpires = 2027-01-16T00:00:00Z\n"
    ));
    let feeder = known(&with_token, &format!("bearer {}", new.reveal())).unwrap();
    assert_eq!(feeder.principal(), "token:feeder");
    assert_eq!(
        with_token.decide(&feeder, Action::Publish, "log-1", "a/b"),
        Decision::Allowed
    );
    assert_eq!(
        with_token.decide(&feeder, Action::Publish, "log", "a/b"),
        Decision::Denied
    );
    // The same name by another kind of credentials is another principal.
    let mut named_alike = claims();
    named_alike["sub"] = json!("feeder");
    let named_alike = known(&with_token, &jwt(&named_alike)).unwrap();
    assert_eq!(
        with_token.decide(&named_alike, Action::Publish, "shop", "orders"),
        Decision::Denied
    );
    let unknown = known(&with_token, &format!("Bearer {}", other.reveal()));
    assert_eq!(unknown.unwrap_err(), Refused::UnknownToken);
    let (last, later) = (at(1_800_057_599), at(1_800_057_600));
    assert!(with_token.recheck(&feeder, last).is_ok());
    assert_eq!(
        with_token.recheck(&feeder, later).unwrap_err(),
        Refused::ExpiredToken
    );
    let lasting = access(&format!("{POLICY}{entry}\n"));
    assert!(lasting.recheck(&feeder, later).is_ok(), "it has no end");
    assert_eq!(
        access(POLICY).recheck(&feeder, at(NOW)).unwrap_err(),
        Refused::UnknownToken
    );
}

#[test]
fn nodes_are_granted_by_name_role_and_labels() {
    let access = access(
        r#"
[jwt]
keys = "k"
issuer = "login"
audience = "steadfast"
[[grants]]
role = "agent"
actions = ["register"]
pods = ["$sub", "$claim.pods", "a-*"]
node_roles = ["DATA"]
node_labels = { zone = ["a", "$claim.zone"], rack = "*" }
[[grants]]
role = "reader"
actions = ["read"]
[[members]]
roles = ["agent"]
principals = ["jwt:*"]
[[members]]
roles = ["reader"]
principals = ["jwt:bob"]
"#,
    );
    let mut of_alice = claims();
    of_alice["pods"] = json!(["db-1", 7, "db-2"]);
    of_alice["zone"] = json!({"not": "a name"});
    let alice = known(&access, &jwt(&of_alice)).unwrap();
    let labels = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let here = [("zone", "a"), ("rack", "7")];
    for (name, role, of, allowed) in [
        ("alice", Some("DATA"), &here[..], true),
        ("db-2", Some("DATA"), &here, true),
        ("a-9", Some("DATA"), &here, true),
        // A role that is not resolved is no other role.
        ("alice", None, &here, true),
        ("7", Some("DATA"), &here, false),
        ("a-", Some("DATA"), &here, false),
        ("bob", Some("DATA"), &here, false),
        ("", Some("DATA"), &here, false),
        ("alice", Some("LIAISON"), &here, false),
        ("alice", Some(""), &here, false),
        ("alice", Some("DATA"), &here[..1], false),
        (
            "alice",
            Some("DATA"),
            &[("zone", "b"), ("rack", "7")],
            false,
        ),
        (
            "alice",
            Some("DATA"),
            &[("zone", "not"), ("rack", "7")],
            false,
        ),
        ("alice", Some("DATA"), &[("zone", "a"), ("rack", "")], false),
    ] {
        let labels = labels(of);
        let node = Node {
            name,
            role,
            labels: &labels,
        };
        let decided = access.may_register(&alice, &node);
        assert_eq!(decided, allowed, "{node:?}");
    }
    assert!(access.allows(&alice, Action::Register));
    assert!(!access.allows(&alice, Action::Read) && !access.allows(&alice, Action::Diagnose));
    // Of collections, these actions say nothing.
    let on_collection = access.decide(&alice, Action::Register, "db", "c");
    assert_eq!(on_collection, Decision::Denied);
}

#[test]
fn headers_that_are_no_bearer_tokens_are_refused() {
    let access = access(POLICY);
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "token",
        "Bearer\ttoken",
        "\u{fffd}",
    ] {
        assert_eq!(
            known(&access, header).unwrap_err(),
            Refused::Scheme,
            "{header:?}"
        );
    }
    assert_eq!(
        known(&access, "Bearer  x").unwrap_err(),
        Refused::UnknownToken
    );
    let nothing = access.authenticate(Presented::default(), at(NOW));
    assert_eq!(nothing.unwrap_err(), Refused::Missing);
}

#[test]
fn strangers_are_not_told_what_is_wrong() {
    let access = access(POLICY);
    let mut wrong = claims();
    wrong["aud"] = json!("other");
    let mut expired = claims();
    expired["exp"] = json!(NOW - 1);
    for (token, told) in [
        (jwt(&wrong), "the credentials are not valid"),
        ("Bearer a.b.c".to_owned(), "the credentials are not valid"),
        ("Bearer abc".to_owned(), "the credentials are not valid"),
        (jwt(&expired), "the credentials have expired"),
    ] {
        assert_eq!(known(&access, &token).unwrap_err().public(), told);
    }
}

fn certificate(uris: &[&str], common_names: &[&str]) -> Certificate {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Certificate {
        uris: owned(uris),
        dns_names: vec!["api.example".to_owned()],
        emails: Vec::new(),
        common_names: owned(common_names),
        not_after: at(NOW + 60),
        fingerprint: [0xab; 32],
    }
}

#[test]
fn certificates_name_their_holders() {
    let access = access(POLICY);
    let known = |certificate| {
        let presented = Presented {
            authorization: None,
            certificate: Some(&certificate),
        };
        access.authenticate(presented, at(NOW))
    };
    let identity = known(certificate(&["spiffe://prod/api"], &["other"])).unwrap();
    assert_eq!(identity.principal(), "certificate:spiffe://prod/api");
    assert_eq!(
        access.decide(&identity, Action::Publish, "shop", "a"),
        Decision::Allowed
    );
    assert_eq!(known(certificate(&[], &["ops"])).unwrap().name(), "ops");
    for (certificate, fault) in [
        (certificate(&[], &[]), CertificateFault::Nameless),
        (certificate(&[], &[""]), CertificateFault::Nameless),
        (
            certificate(&["a:1", "a:2"], &["ops"]),
            CertificateFault::Ambiguous(2),
        ),
        (
            certificate(&[], &["a", "b"]),
            CertificateFault::Ambiguous(2),
        ),
    ] {
        assert_eq!(known(certificate).unwrap_err(), Refused::Certificate(fault));
    }
    let long = "a".repeat(257);
    assert_eq!(
        known(certificate(&[&long], &[])).unwrap_err(),
        Refused::LongName(257)
    );
    let later = access.recheck(&identity, at(NOW + 60)).unwrap_err();
    assert_eq!(later, Refused::ExpiredCertificate);
    let list = format!("name = [\"uri\"]\nrevoked = [\"{}\"]", "ab".repeat(32));
    let access = testing::access(&POLICY.replace("name = [\"uri\", \"common-name\"]", &list));
    let refused = access.recheck(&identity, at(NOW)).unwrap_err();
    assert_eq!(refused, Refused::Certificate(CertificateFault::Revoked));
}

#[test]
fn certificate_does_not_replace_a_refused_token() {
    let access = access(POLICY);
    let certificate = certificate(&[], &["ops"]);
    let presented = |authorization| Presented {
        authorization,
        certificate: Some(&certificate),
    };
    assert!(access.authenticate(presented(None), at(NOW)).is_ok());
    let both = access.authenticate(presented(Some(b"Bearer x")), at(NOW));
    assert_eq!(both.unwrap_err(), Refused::UnknownToken);
}

#[test]
fn rotated_key_ends_the_identities_it_verified() {
    let with_keys = access(POLICY);
    let alice = known(&with_keys, &jwt(&claims())).unwrap();
    assert_eq!(
        with_keys.recheck(&alice, at(NOW)).unwrap().expires_at(),
        Some(at(NOW + 60))
    );
    let expired = with_keys.recheck(&alice, at(NOW + 60)).unwrap_err();
    assert_eq!(expired, Refused::Jwt(JwtFault::Expired));
    let narrower = POLICY.replace("[certificates]", "algorithms = ['EdDSA']\n[certificates]");
    assert_eq!(
        access(&narrower).recheck(&alice, at(NOW)).unwrap_err(),
        Refused::Jwt(JwtFault::Algorithm)
    );
    let keys = include_str!("../../tests/data/ed25519.jwks.json");
    let other = Access::parse("p", POLICY, |_| Ok(keys.to_owned()), |_| Ok(())).unwrap();
    assert_eq!(
        other.recheck(&alice, at(NOW)).unwrap_err(),
        Refused::Jwt(JwtFault::UnknownKey)
    );
    let no_audience = access(
        &POLICY
            .replace("'steadfast'", "'x'")
            .replace("\"steadfast\"", "\"x\""),
    );
    assert_eq!(
        no_audience.recheck(&alice, at(NOW)).unwrap_err(),
        Refused::Jwt(JwtFault::Claim("aud"))
    );
}

#[test]
fn peers_without_credentials_need_an_explicit_entry() {
    let member = "\n[[members]]\nroles = ['writer']\nprincipals = ['anonymous']\n";
    let access = access(&format!("{POLICY}{member}"));
    let identity = access.authenticate(Presented::default(), at(NOW)).unwrap();
    assert_eq!(identity.principal(), "anonymous");
    assert_eq!(
        access.decide(&identity, Action::Publish, "shop", "a"),
        Decision::Allowed
    );
    // Wrong credentials do not become none.
    assert!(known(&access, "Bearer x").is_err());
    let refused = testing::access(POLICY)
        .recheck(&identity, at(NOW))
        .unwrap_err();
    assert_eq!(refused, Refused::Missing);
}

#[test]
fn empty_policy_denies_everything() {
    let access = access("");
    assert_eq!(
        access
            .authenticate(Presented::default(), at(NOW))
            .unwrap_err(),
        Refused::Missing
    );
    let alice = known(&self::access(POLICY), &jwt(&claims())).unwrap();
    for action in [Action::Subscribe, Action::Publish, Action::Admin] {
        assert_eq!(
            access.decide(&alice, action, "shop", "orders"),
            Decision::Denied
        );
    }
}

proptest! {
    /// Whatever a subject is called, it is a value: text, filter and number of conditions stay the same.
    #[test]
    fn subject_never_becomes_a_part_of_the_text(subject in "\\PC{1,20}|[\"'\\\\ =$,\\n]{1,10}") {
        static ACCESS: std::sync::LazyLock<Access> =
            std::sync::LazyLock::new(|| access(&POLICY.replace("jwt:*", "jwt:**")));
        let mut claims = claims();
        claims["sub"] = json!(subject);
        let identity = known(&ACCESS, &jwt(&claims)).unwrap();
        let decided = ACCESS.decide(&identity, Action::Subscribe, "shop", "orders");
        let expected = filter(&[("owner == ", json!(subject))]);
        prop_assert_eq!(decided, Decision::Filtered(vec![expected]));
        prop_assert!(!identity.principal().chars().any(char::is_control));
    }
}
