//! The state of `steadfast top`: statuses and keys in, what is shown out. It has no clock and no terminal.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use steadfast_gateway::GatewayStatus;
use steadfast_streamer::server::operations::Report;

use super::{
    lists::{LISTS, List, Row},
    rates::Rates,
};

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) address: String,
    pub(super) report: Option<Report>,
    pub(super) rates: Rates,
    pub(super) gateway: Option<GatewayStatus>,
    pub(super) gateway_rates: Rates,
    pub(super) away: Option<Away>,
    pub(super) list: List,
    pub(super) mode: Mode,
    pub(super) filter: String,
    /// The column of each list that its rows are sorted by; `None` is the order of the server.
    sorted: [Option<usize>; LISTS.len()],
    /// The key of the selected row, and where it was last.
    selected: Option<String>,
    index: usize,
}

/// A server that does not respond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) since: Duration,
    pub(super) reason: String,
}

/// What keys do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Browse,
    /// Keys write the filter.
    Filter,
    /// The selected row with all that is known.
    Details,
    Help,
}

/// Longest filter.
const FILTER_CHARS_MAX: usize = 100;

impl Model {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            report: None,
            rates: Rates::default(),
            gateway: None,
            gateway_rates: Rates::default(),
            away: None,
            list: List::Streams,
            mode: Mode::Browse,
            filter: String::new(),
            sorted: [None; LISTS.len()],
            selected: None,
            index: 0,
        }
    }

    /// Takes the status that arrived at a time, or the reason why there is none, and that of a gateway.
    pub(super) fn on_status(
        &mut self,
        now: Duration,
        status: Result<Report, String>,
        gateway: Option<GatewayStatus>,
    ) {
        if let Some(gateway) = gateway {
            let figures = &gateway.figures;
            self.gateway_rates.add(now, &gateway.server, figures);
            self.gateway = Some(gateway);
        }
        match status {
            Ok(report) => {
                self.away = None;
                self.rates.add(now, &report.server_id, &report.figures);
                self.report = Some(report);
            }
            Err(reason) => {
                let since = self.away.as_ref().map_or(now, |away| away.since);
                self.away = Some(Away { since, reason });
            }
        }
        self.follow_selection();
    }

    /// The lists that can be shown: sockets are those of a gateway.
    pub(super) fn lists(&self) -> &'static [List] {
        if self.gateway.is_some() {
            &LISTS
        } else {
            &LISTS[..LISTS.len() - 1]
        }
    }

    /// Takes a key. Returns false at the end.
    pub(super) fn on_key(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return false;
        }
        match self.mode {
            Mode::Filter => self.on_filter_key(key.code),
            Mode::Details | Mode::Help => {
                if let KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?') = key.code {
                    self.mode = Mode::Browse;
                }
            }
            Mode::Browse => return self.on_browse_key(key.code),
        }
        true
    }

    fn on_filter_key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::Browse,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Browse;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(char) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.push(char);
            }
            _ => {}
        }
        self.follow_selection();
    }

    fn on_browse_key(&mut self, key: KeyCode) -> bool {
        match key {
            KeyCode::Char('q') => return false,
            KeyCode::Char('j') | KeyCode::Down => self.select(self.index.saturating_add(1)),
            KeyCode::Char('k') | KeyCode::Up => self.select(self.index.saturating_sub(1)),
            KeyCode::Char('g') | KeyCode::Home => self.select(0),
            KeyCode::Char('G') | KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Enter if self.selected_row().is_some() => self.mode = Mode::Details,
            KeyCode::Esc => {
                self.filter.clear();
                self.follow_selection();
            }
            KeyCode::Tab | KeyCode::Right => self.show(self.position() + 1),
            KeyCode::BackTab | KeyCode::Left => self.show(self.position() + self.lists().len() - 1),
            KeyCode::Char(digit @ '1'..='9') => {
                let position = digit as usize - '1' as usize;
                if position < self.lists().len() {
                    self.show(position);
                }
            }
            _ => {}
        }
        true
    }

    fn position(&self) -> usize {
        let position = LISTS.iter().position(|list| *list == self.list);
        position.expect("each list is one of them")
    }

    fn show(&mut self, position: usize) {
        let lists = self.lists();
        self.list = lists[position % lists.len()];
        self.select(0);
    }

    fn sort_by_next(&mut self) {
        let (columns, position) = (self.list.columns().len(), self.position());
        let sorted = &mut self.sorted[position];
        *sorted = match *sorted {
            None => Some(0),
            Some(column) => Some(column + 1).filter(|next| *next < columns),
        };
        self.follow_selection();
    }

    /// The column that the rows are sorted by; `None` is the order of the server.
    pub(super) fn sort_column(&self) -> Option<usize> {
        self.sorted[self.position()]
    }

    /// Returns the rows of the list that contain the filter, in their order.
    pub(super) fn rows(&self) -> Vec<Row> {
        let wanted = self.filter.to_lowercase();
        let mut rows = self.list.rows(self.report.as_ref(), self.gateway.as_ref());
        rows.retain(|row| {
            let mut cells = row.cells.iter();
            cells.any(|cell| cell.text.to_lowercase().contains(&wanted))
        });
        if let Some(column) = self.sort_column() {
            rows.sort_by(|a, b| a.cells[column].compare(&b.cells[column]));
        }
        rows
    }

    /// Returns the index of the selected row.
    pub(super) fn selection(&self) -> usize {
        self.index
    }

    pub(super) fn selected_row(&self) -> Option<Row> {
        self.rows().into_iter().nth(self.index)
    }

    fn select(&mut self, index: usize) {
        let rows = self.rows();
        self.index = index.min(rows.len().saturating_sub(1));
        self.selected = rows.get(self.index).map(|row| row.key.clone());
    }

    /// Keeps the selection on its row, or near it once that is gone.
    fn follow_selection(&mut self) {
        let rows = self.rows();
        let place = rows
            .iter()
            .position(|row| Some(&row.key) == self.selected.as_ref());
        if place.is_none() && self.mode == Mode::Details {
            // The details of another row would look like those of this one.
            self.mode = Mode::Browse;
        }
        self.select(place.unwrap_or(self.index));
    }
}
