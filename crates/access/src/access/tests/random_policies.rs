//! Random policies, compared with a naive reading of them.

use std::fmt::Write as _;

use proptest::{collection::vec, prelude::*, sample::subsequence};
use serde_json::json;

use super::{jwt, known};
use crate::{
    Action, Condition, Decision,
    testing::{access, claims},
};

/// The patterns of the policies, each with the names of [`NAMES`] that it stands for.
const PATTERNS: [(&str, &[usize]); 6] = [
    ("shop", &[0]),
    ("shop-*", &[1]),
    ("*", &[0, 1, 2]),
    ("a/*", &[3]),
    ("a/**", &[3, 4]),
    ("**", &[0, 1, 2, 3, 4]),
];

const NAMES: [&str; 5] = ["shop", "shop-1", "Shop", "a/b", "a/b/c"];

/// The filters of the policies. The last one needs a claim that not every peer has.
const FILTERS: [&str; 3] = ["a == 1", "owner == $sub", "team == $claim.team"];

const ACTIONS: [(&str, Action); 2] = [
    ("subscribe", Action::Subscribe),
    ("publish", Action::Publish),
];

#[derive(Clone, Debug)]
struct Grant {
    role: usize,
    databases: Vec<usize>,
    collections: Vec<usize>,
    action: usize,
    filter: Option<usize>,
}

#[derive(Clone, Debug)]
struct Member {
    roles: Vec<usize>,
    /// `None` for whoever has the claims.
    principal: Option<&'static str>,
    team: Option<&'static str>,
}

fn patterns() -> impl Strategy<Value = Vec<usize>> {
    subsequence((0..PATTERNS.len()).collect::<Vec<_>>(), 1..3)
}

fn grant() -> impl Strategy<Value = Grant> {
    let filter = proptest::option::of(0..FILTERS.len());
    (0..3_usize, patterns(), patterns(), 0..2_usize, filter).prop_map(
        |(role, databases, collections, action, filter)| Grant {
            role,
            databases,
            collections,
            action,
            // No grant to publish has a filter.
            filter: filter.filter(|_| action == 0),
        },
    )
}

fn member() -> impl Strategy<Value = Member> {
    let principal = prop_oneof![
        Just(None),
        Just(Some("jwt:alice")),
        Just(Some("jwt:*")),
        Just(Some("token:alice")),
    ];
    let team = prop_oneof![Just(None), Just(Some("red")), Just(Some("blue"))];
    let roles = subsequence(vec![0, 1, 2], 1..3);
    (roles, principal, team)
        .prop_filter("one of both", |(_, principal, team)| {
            principal.is_some() || team.is_some()
        })
        .prop_map(|(roles, principal, team)| Member {
            roles,
            principal,
            team,
        })
}

/// Writes the policy as its file.
fn text(grants: &[Grant], members: &[Member]) -> String {
    let names =
        |indices: &[usize]| -> Vec<_> { indices.iter().map(|index| PATTERNS[*index].0).collect() };
    let mut text = "[jwt]\nkeys = 'k'\nissuer = 'login'\naudience = 'steadfast'\n".to_owned();
    for grant in grants {
        let Grant { role, action, .. } = grant;
        write!(
            text,
            "[[grants]]\nrole = 'r{role}'\ndatabases = {:?}\ncollections = {:?}\nactions = ['{}']\n",
            names(&grant.databases),
            names(&grant.collections),
            ACTIONS[*action].0
        )
        .unwrap();
        if let Some(filter) = grant.filter {
            writeln!(text, "filter = ['{}']", FILTERS[filter]).unwrap();
        }
    }
    // Each role has a grant, if only one that says nothing of collections.
    for role in 0..3 {
        writeln!(text, "[[grants]]\nrole = 'r{role}'\nactions = ['read']").unwrap();
    }
    for member in members {
        let roles: Vec<_> = member.roles.iter().map(|it| format!("r{it}")).collect();
        writeln!(text, "[[members]]\nroles = {roles:?}").unwrap();
        if let Some(principal) = member.principal {
            writeln!(text, "principals = ['{principal}']").unwrap();
        }
        if let Some(team) = member.team {
            writeln!(text, "claims = {{ team = '{team}' }}").unwrap();
        }
    }
    text
}

fn condition(filter: usize, name: &str, team: Option<&str>) -> Option<Condition> {
    let (text, value) = match filter {
        0 => ("a == 1", None),
        1 => ("owner == ", Some(json!(name))),
        _ => ("team == ", Some(json!(team?))),
    };
    let text = text.to_owned();
    Some(Condition { text, value })
}

/// Decides by looking at every grant and every member.
fn naive(
    (grants, members): (&[Grant], &[Member]),
    (name, team): (&str, Option<&str>),
    (action, database, collection): (usize, usize, usize),
) -> Decision {
    let has_role = |role: usize| {
        members.iter().any(|member| {
            let is_named = match member.principal {
                None | Some("jwt:*") => true,
                Some("jwt:alice") => name == "alice",
                // Another kind of credentials.
                Some(_) => false,
            };
            is_named
                && member.team.is_none_or(|wanted| team == Some(wanted))
                && member.roles.contains(&role)
        })
    };
    let stands = |patterns: &[usize], name: usize| {
        patterns
            .iter()
            .any(|index| PATTERNS[*index].1.contains(&name))
    };
    let applies = |grant: &&Grant| {
        has_role(grant.role)
            && grant.action == action
            && stands(&grant.databases, database)
            && stands(&grant.collections, collection)
    };
    let granted: Vec<_> = grants.iter().filter(applies).collect();
    if granted.iter().any(|grant| grant.filter.is_none()) {
        return Decision::Allowed;
    }
    let filters = granted.iter().filter_map(|grant| grant.filter);
    let filters: Vec<_> = filters
        .filter_map(|filter| condition(filter, name, team).map(|it| vec![it]))
        .collect();
    if filters.is_empty() {
        Decision::Denied
    } else {
        Decision::Filtered(filters)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 100 } else { 4_000 }))]

    #[test]
    fn random_policies_decide_as_a_naive_reading_of_them(
        grants in vec(grant(), 0..6),
        members in vec(member(), 0..5),
    ) {
        let access = access(&text(&grants, &members));
        for peer in [("alice", None), ("alice", Some("red")), ("bob", Some("blue"))] {
            let mut of_peer = claims();
            of_peer["sub"] = json!(peer.0);
            if let Some(team) = peer.1 {
                of_peer["team"] = json!(team);
            }
            let identity = known(&access, &jwt(&of_peer)).unwrap();
            for (action, (_, wanted)) in ACTIONS.into_iter().enumerate() {
                for (database, in_database) in NAMES.into_iter().enumerate() {
                    for (collection, name) in NAMES.into_iter().enumerate() {
                        let decided = access.decide(&identity, wanted, in_database, name);
                        let expected =
                            naive((&grants, &members), peer, (action, database, collection));
                        prop_assert_eq!(decided, expected, "{:?} {} {}", peer, in_database, name);
                    }
                }
            }
        }
    }
}
