//! The reading of grants.

use super::{Reader, Table, Value};
use crate::{
    Action, Condition, FaultKind, FilterTemplate,
    node::{NameRule, NodeRule},
    policy::Grant,
};

impl Reader<'_> {
    pub(super) fn grant(
        &mut self,
        table: Table<'_>,
        understands: &impl Fn(&Condition) -> Result<(), String>,
    ) -> Option<Grant> {
        let known = [
            "role",
            "databases",
            "collections",
            "actions",
            "filter",
            "pods",
            "node_roles",
            "node_labels",
        ];
        self.check_keys(table, &known);
        let role = self.required(table, "role");
        let actions = self.words(table, "actions", &Action::ALL);
        if actions.is_none() {
            self.missing(table, "actions");
        }
        let actions = actions.unwrap_or_default();
        let filter = match table.get("filter") {
            Some(value) => self.filter(table, value, &actions, understands),
            None => None,
        };
        let mut databases = self.patterns(table, "databases");
        let mut collections = self.patterns(table, "collections");
        if actions.is_empty() || actions.iter().any(|it| it.is_on_collections()) {
            for (key, patterns) in [
                ("databases", &mut databases),
                ("collections", &mut collections),
            ] {
                if patterns.is_none() {
                    self.missing(table, key);
                }
            }
        }
        let nodes = self.nodes(table, &actions);
        Some(Grant {
            role: role?.into(),
            databases: databases.unwrap_or_default(),
            collections: collections.unwrap_or_default(),
            actions,
            filter,
            nodes,
        })
    }

    /// Reads the nodes that agents may register as.
    fn nodes(&mut self, table: Table<'_>, actions: &[Action]) -> Option<NodeRule> {
        let pods = self.name_rules(table, "pods");
        let roles = self.name_rules(table, "node_roles");
        let mut labels = Vec::new();
        for (name, value) in self
            .table(table, "node_labels")
            .iter()
            .flat_map(|it| it.entries)
        {
            labels.push((name.get_ref().to_string(), self.names(value, "node_labels")));
        }
        if !actions.contains(&Action::Register) {
            for key in ["pods", "node_roles", "node_labels"] {
                if let Some(value) = table.get(key) {
                    self.fault(value.span(), FaultKind::NodesOfAction);
                }
            }
            return None;
        }
        if pods.is_none() {
            self.missing(table, "pods");
        }
        Some(NodeRule {
            pods: pods?,
            roles: roles.unwrap_or_default(),
            labels,
        })
    }

    fn name_rules(&mut self, table: Table<'_>, key: &'static str) -> Option<Vec<NameRule>> {
        table.get(key).map(|value| self.names(value, key))
    }

    fn names(&mut self, value: &Value<'_>, key: &str) -> Vec<NameRule> {
        let texts = self.texts_of(value, key).into_iter();
        let rules = texts.filter_map(|(text, span)| {
            let parsed = NameRule::parse(text);
            parsed.map_err(|kind| self.fault(span, kind)).ok()
        });
        rules.collect()
    }

    fn filter(
        &mut self,
        table: Table<'_>,
        value: &Value<'_>,
        actions: &[Action],
        understands: &impl Fn(&Condition) -> Result<(), String>,
    ) -> Option<FilterTemplate> {
        if actions.iter().any(|action| *action != Action::Subscribe) {
            self.fault(value.span(), FaultKind::FilterOfAction);
        }
        let texts = self.texts(table, "filter")?;
        // Each alone first, so that a fault has the place of its condition.
        for (text, span) in &texts {
            let checked = FilterTemplate::parse([*text]).map_err(FaultKind::Template);
            let checked = checked.and_then(|it| {
                it.check(understands)
                    .map_err(|(_, fault)| FaultKind::Filter(fault))
            });
            if let Err(kind) = checked {
                self.fault(span.clone(), kind);
            }
        }
        FilterTemplate::parse(texts.iter().map(|(text, _)| *text)).ok()
    }
}
