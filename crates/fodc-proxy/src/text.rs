//! The text of `/metrics`: the latest values of all agents in Prometheus' format.
//!
//! Everything that can fail is done before the first byte. The text itself is written while it is sent,
//! because that of a thousand agents exceeds the memory that the proxy may take.

mod families;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use steadfast_exposition::Numbers;

use self::families::Families;
use super::{
    catalog::{Layout, RenderedLabels, Series, metric_name},
    filter::Filter,
    gather::{AgentResponse, Gathered},
    labels::{Duplicates, OriginLabels, admits, has_agent_labels},
    samples::Samples,
};

/// The text, in pieces of about [`PIECE`] bytes.
#[derive(Debug)]
pub(super) struct Text {
    responses: Vec<AgentResponse>,
    rows: Rows,
    headings: Vec<String>,
    agents: Vec<AgentText>,
    /// The family that is written.
    family: usize,
    /// The agent that is written next.
    agent: usize,
    /// The beginning of the page, until it is written: missing agents, and the proxy's own metrics.
    beginning: String,
}

/// A row of the output, before the agents' labels. Series that look the same share a row.
#[derive(Debug)]
struct Row {
    family: u32,
    name: Arc<str>,
    series: Arc<Series>,
    has_agent_labels: bool,
}

/// All rows in the order of the output.
#[derive(Debug, Default)]
struct Rows {
    list: Vec<Row>,
    /// The row of each series, by its id; or [`EXCLUDED`] or [`UNSEEN`].
    by_id: Vec<u32>,
}

/// The order in which the samples of an agent are written.
#[derive(Debug, Default)]
struct SampleOrder {
    /// The samples' numbers, counted through all parts, those of a row in the order of the response.
    numbers: Vec<u32>,
    /// Some rows have several samples, which may have the same labels.
    has_repetitions: bool,
    /// Some samples have rows with agent labels.
    has_agent_labels: bool,
}

/// The orders of the layouts that agents share.
type Orders = HashMap<*const Layout, Arc<SampleOrder>>;

/// The text of one agent's samples.
#[derive(Debug)]
struct AgentText {
    order: Arc<SampleOrder>,
    next: usize,
    /// The labels to add to a row, by part and origin.
    labels: Vec<Vec<RenderedLabels>>,
    /// The labels to add to rows with agent labels, by row, part and origin.
    row_labels: BTreeMap<(u32, usize, u16), RenderedLabels>,
    /// The row that was written last, and the labels that its lines have.
    written: (u32, BTreeSet<RenderedLabels>),
}

/// The length from which a piece is sent.
const PIECE: usize = 64 << 10;

/// The gauge of a response that is incomplete.
pub(super) const INCOMPLETE: &str = "steadfast_proxy_page_agents_missing";

/// The row of a series that the filter excludes.
const EXCLUDED: u32 = u32::MAX;

/// The row of a series that is in no response.
const UNSEEN: u32 = u32::MAX - 1;

impl Text {
    /// Creates the text of the responses, and of the proxy's `own` metrics.
    pub(super) fn new(gathered: Gathered, filter: &Filter, own: &str) -> Self {
        let beginning = incomplete(&gathered).unwrap_or_default() + own;
        let responses = gathered.responses;
        let (rows, headings) = arrange(&responses, filter, &families_of(&beginning));
        let mut orders = Orders::new();
        let duplicates = Duplicates::among(responses.iter().map(|response| &*response.identity));
        let agents = responses
            .iter()
            .map(|response| {
                let is_duplicate = duplicates.contain(&response.identity);
                AgentText::new(response, is_duplicate, &rows, &mut orders)
            })
            .collect();
        Self {
            responses,
            rows,
            headings,
            agents,
            family: 0,
            agent: 0,
            beginning,
        }
    }

    /// Returns the row of each series, by its id.
    pub(super) fn ranks(&self) -> &[u32] {
        &self.rows.by_id
    }

    /// Writes the samples that the next agent has of the family.
    fn write_agent(&mut self, out: &mut String) {
        let agent = &mut self.agents[self.agent];
        let parts = &self.responses[self.agent].parts;
        while let Some(number) = agent.order.numbers.get(agent.next) {
            let (part, index) = locate(parts, *number);
            let samples = &parts[part];
            let at = self.rows.by_id[samples.layout.series[index].id as usize];
            // The samples are sorted by row, and rows by family: the rest belongs to later families.
            let row = &self.rows.list[at as usize];
            if row.family as usize != self.family {
                break;
            }
            let origin = samples.layout.origins[index];
            let labels = if row.has_agent_labels {
                &agent.row_labels[&(at, part, origin)]
            } else {
                &agent.labels[part][origin as usize]
            };
            agent.next += 1;
            if agent.order.has_repetitions {
                if agent.written.0 != at {
                    agent.written = (at, BTreeSet::new());
                }
                // A series that an agent reports twice keeps its first value.
                if !agent.written.1.insert(labels.clone()) {
                    continue;
                }
            }
            write_line(row, labels, samples.values[index], out);
        }
    }
}

impl Iterator for Text {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = std::mem::take(&mut self.beginning);
        out.reserve(PIECE + PIECE / 8);
        while self.family < self.headings.len() && out.len() < PIECE {
            if self.agent == 0 {
                out.push_str(&self.headings[self.family]);
            }
            // At least one agent, or a heading longer than a piece would be written again and again.
            loop {
                self.write_agent(&mut out);
                self.agent += 1;
                if self.agent == self.agents.len() || out.len() >= PIECE {
                    break;
                }
            }
            if self.agent == self.agents.len() {
                self.agent = 0;
                self.family += 1;
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}

impl AgentText {
    fn new(response: &AgentResponse, is_duplicate: bool, rows: &Rows, orders: &mut Orders) -> Self {
        let (origin_labels, parts) = (OriginLabels::new(response, is_duplicate), &**response.parts);
        let no_series = Series::default();
        let labels = parts.iter().map(|samples| {
            let origins = samples.origins.iter();
            origins
                .map(|origin| origin_labels.rendered(origin, &no_series))
                .collect()
        });
        let order = || Arc::new(SampleOrder::new(parts, rows));
        let order = match parts {
            // Nearly every response has one part, and equal agents share its layout: one order
            // serves them all.
            [samples] => {
                // The responses hold the layouts for as long as this map exists: no address is used
                // twice.
                let shared = orders.entry(Arc::as_ptr(&samples.layout));
                Arc::clone(shared.or_insert_with(order))
            }
            [..] => order(),
        };
        Self {
            labels: labels.collect(),
            row_labels: row_labels(parts, rows, &order, &origin_labels),
            order,
            next: 0,
            written: (EXCLUDED, BTreeSet::new()),
        }
    }
}

/// Returns a comment and a gauge that say what is missing. A Prometheus shows nobody the header.
fn incomplete(gathered: &Gathered) -> Option<String> {
    let (missing, count) = (gathered.missing_text()?, gathered.missing.len());
    Some(format!(
        "# Agents are missing on this page: {missing}\n\
         # HELP {INCOMPLETE} Agents whose samples are missing on this page, all or a part of them.\n\
         # TYPE {INCOMPLETE} gauge\n\
         {INCOMPLETE} {count}\n"
    ))
}

/// Returns the labels to add to rows that have some of them already.
fn row_labels(
    parts: &[Samples],
    rows: &Rows,
    order: &SampleOrder,
    origin_labels: &OriginLabels<'_>,
) -> BTreeMap<(u32, usize, u16), RenderedLabels> {
    let mut row_labels = BTreeMap::new();
    let numbers = if order.has_agent_labels {
        &*order.numbers
    } else {
        &[]
    };
    for number in numbers {
        let (part, index) = locate(parts, *number);
        let layout = &parts[part].layout;
        let (series, origin) = (&layout.series[index], layout.origins[index]);
        let at = rows.by_id[series.id as usize];
        if rows.list[at as usize].has_agent_labels {
            let origins = &parts[part].origins;
            let labels = || origin_labels.rendered(&origins[origin as usize], series);
            row_labels.entry((at, part, origin)).or_insert_with(labels);
        }
    }
    row_labels
}

impl SampleOrder {
    fn new(parts: &[Samples], rows: &Rows) -> Self {
        let series = parts.iter().flat_map(|samples| &samples.layout.series);
        let row_of = series.map(|series| rows.by_id[series.id as usize]);
        let mut sorting: Vec<(u32, u32)> = row_of
            .zip(0u32..)
            .filter(|(at, _)| *at != EXCLUDED)
            .collect();
        sorting.sort_unstable();
        Self {
            has_repetitions: !sorting.is_sorted_by(|one, next| one.0 < next.0),
            has_agent_labels: sorting
                .iter()
                .any(|(at, _)| rows.list[*at as usize].has_agent_labels),
            numbers: sorting.into_iter().map(|(_, number)| number).collect(),
        }
    }
}

/// Returns the part that a sample is in, and its index there.
fn locate(parts: &[Samples], number: u32) -> (usize, usize) {
    let mut index = number as usize;
    for (part, samples) in parts.iter().enumerate() {
        if index < samples.len() {
            return (part, index);
        }
        index -= samples.len();
    }
    unreachable!("only existing samples are numbered")
}

/// Returns the names of the families of a page.
fn families_of(page: &str) -> BTreeSet<&str> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).collect()
}

/// Assigns a row to every series that the filter admits, and writes the heading of every family. Agents
/// may scrape another proxy: series of the proxy's `own` families are left out, because a page with two
/// families of one name is refused whole.
fn arrange(
    responses: &[AgentResponse],
    filter: &Filter,
    own: &BTreeSet<&str>,
) -> (Rows, Vec<String>) {
    let mut rows = Rows::default();
    let mut distinct: Vec<&Arc<Series>> = Vec::new();
    for series in responses
        .iter()
        .flat_map(|response| response.parts.iter())
        .flat_map(|samples| &samples.layout.series)
    {
        let id = series.id as usize;
        if rows.by_id.len() <= id {
            // Ids are dense, so that a vector takes less than a map and needs no hashing.
            rows.by_id.resize(id + 1, UNSEEN);
        }
        if rows.by_id[id] == UNSEEN {
            // Until the filter has admitted it and it has a row.
            rows.by_id[id] = EXCLUDED;
            distinct.push(series);
        }
    }
    distinct.retain(|series| admits(filter, series));
    let (distinct, names): (Vec<_>, Vec<Arc<str>>) = distinct
        .into_iter()
        .map(|series| (series, metric_name(&series.name).into()))
        .filter(|(_, name): &(_, Arc<str>)| !own.contains(&**name))
        .unzip();
    let families = Families::of(distinct.iter().copied().zip(&names));
    let mut order: Vec<(u32, usize)> = names
        .iter()
        .map(|name| families.index(name))
        .zip(0..)
        .collect();
    let key = |(family, index): (u32, usize)| (family, &names[index], &distinct[index].rendered);
    order.sort_by(|a, b| key(*a).cmp(&key(*b)));
    for (family, index) in order {
        let (name, series) = (&names[index], distinct[index]);
        let same = |last: &Row| last.name == *name && last.series.rendered == series.rendered;
        if !rows.list.last().is_some_and(same) {
            rows.list.push(Row {
                family,
                name: Arc::clone(name),
                series: Arc::clone(series),
                has_agent_labels: has_agent_labels(series),
            });
        }
        let row = u32::try_from(rows.list.len() - 1).expect("ids are 32 bits");
        rows.by_id[series.id as usize] = row;
    }
    (rows, families.headings())
}

/// Returns true if `a` does not sort after `b`. Comparing the first bytes decides most cases.
fn precedes(a: &str, b: &str) -> bool {
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(a), Some(b)) if a != b => a < b,
        _ => a <= b,
    }
}

fn write_line(row: &Row, labels: &RenderedLabels, value: f64, out: &mut String) {
    out.push_str(&row.name);
    // Both lists are sorted. As in the original, labels are ordered by their rendered text.
    let mut own = row.series.rendered.iter();
    let mut added = labels.iter();
    let (mut one, mut other) = (own.next(), added.next());
    let mut open = '{';
    loop {
        let own_first = match (one, other) {
            (Some(a), Some(b)) => precedes(a, b),
            (one, _) => one.is_some(),
        };
        let label = if own_first {
            std::mem::replace(&mut one, own.next())
        } else {
            std::mem::replace(&mut other, added.next())
        };
        let Some(label) = label else { break };
        out.push(open);
        out.push_str(label);
        open = ',';
    }
    out.push_str(if open == ',' { "} " } else { " " });
    Numbers::Plain.write(value, out);
    out.push('\n');
}
