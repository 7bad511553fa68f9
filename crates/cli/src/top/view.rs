//! The screen of `steadfast top`, drawn from its model.

use std::time::Duration;

use ratatui::{
    buffer::Buffer,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{
        Block, Cell, Clear, Paragraph, Row, Sparkline, StatefulWidget, Table, TableState, Widget,
        Wrap,
    },
};

use super::{
    lists::List,
    model::{Mode, Model},
    summary,
};
use crate::{output::shown, units::readable};

/// The width of the names of the summary.
const NAME_WIDTH: u16 = 10;
/// The width of the rates of the last minute.
const HISTORY_WIDTH: u16 = 30;

const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

const KEYS: [(&str, &str); 10] = [
    ("j k ↑ ↓", "next and previous row"),
    ("g G", "first and last row"),
    (
        "1 2 3 4 tab",
        "another list; the fourth is that of a gateway's sockets",
    ),
    ("enter", "all about the selected row"),
    (
        "/",
        "show only rows with a text; enter keeps it, esc clears it",
    ),
    (
        "s",
        "sort by the next column, then in the order of the server",
    ),
    ("esc", "back, or clear the filter"),
    ("?", "this list"),
    ("q ctrl-c", "quit"),
    ("", "figures are read once a second"),
];

/// Draws everything.
pub(super) fn draw(model: &Model, now: Duration, area: Rect, buf: &mut Buffer) {
    let lines = wrapped(summary::lines(model), area.width);
    let head = lines.len() as u16;
    let areas = [
        Constraint::Length(head),
        Constraint::Length(2),
        Constraint::Min(2),
        Constraint::Length(1),
    ];
    let [summary, tabs, list, foot] = Layout::vertical(areas).areas(area);
    // Old figures stay readable while the server is away, and look like old ones.
    let style = if model.away.is_some() {
        FAINT
    } else {
        Style::new()
    };
    draw_history(model, &lines, summary, buf);
    draw_summary(lines, style, summary, buf);
    draw_tabs(model, tabs, buf);
    draw_list(model, style, list, buf);
    draw_foot(model, now, foot, buf);
    match model.mode {
        Mode::Details => draw_details(model, area, buf),
        Mode::Help => {
            let keys = KEYS.map(|(keys, what)| (keys, what.to_owned()));
            draw_over("keys", &keys, area, buf);
        }
        Mode::Browse | Mode::Filter => {}
    }
}

/// Draws what stands on the screen without a person: the figures, and the lists one below another.
pub(super) fn draw_report(model: &mut Model, area: Rect, buf: &mut Buffer) {
    let mut lines = summary::lines(model);
    // In place of the last line of a screen.
    lines.extend(
        model
            .away
            .iter()
            .map(|away| ("problem", shown(&away.reason))),
    );
    let lines = wrapped(lines, area.width);
    let mut rest = area;
    let mut take = |height: usize| {
        let height = (height as u16).min(rest.height);
        let taken = Rect { height, ..rest };
        (rest.y, rest.height) = (rest.y + height, rest.height - height);
        taken
    };
    let head = take(lines.len());
    draw_summary(lines, Style::new(), head, buf);
    for list in model.lists() {
        model.list = *list;
        take(1);
        Line::from(list.title()).render(take(1), buf);
        // Rows have a heading, and the sentence in their place has none.
        let rows = model.rows().len();
        draw_list(model, Style::new(), take(rows + 1), buf);
    }
}

/// Returns the screen as text without trailing blanks.
pub(super) fn text(buf: &Buffer) -> String {
    let width = usize::from(buf.area.width.max(1));
    let lines = buf.content.chunks(width).map(|cells| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    let lines: Vec<String> = lines.collect();
    format!("{}\n", lines.join("\n").trim_end())
}

/// A line of the summary: its name, which continued lines do not repeat, and its text.
type SummaryLine = (&'static str, bool, String);

/// Returns the lines with long ones continued on the next.
fn wrapped(lines: Vec<(&'static str, String)>, width: u16) -> Vec<SummaryLine> {
    let columns = usize::from(width.saturating_sub(NAME_WIDTH)).max(20);
    let mut wrapped: Vec<SummaryLine> = Vec::new();
    for (name, text) in lines {
        wrapped.push((name, true, String::new()));
        for word in text.split(' ') {
            let (_, _, line) = wrapped.last_mut().expect("the first part is there");
            if line.is_empty() {
                line.push_str(word);
            } else if line.chars().count() + 1 + word.chars().count() <= columns {
                line.push(' ');
                line.push_str(word);
            } else {
                wrapped.push((name, false, word.to_owned()));
            }
        }
    }
    wrapped
}

fn draw_summary(lines: Vec<SummaryLine>, style: Style, area: Rect, buf: &mut Buffer) {
    let lines = lines.into_iter().map(|(name, is_first, text)| {
        let style = if name == "problem" { BAD } else { style };
        let (name, width) = (if is_first { name } else { "" }, usize::from(NAME_WIDTH));
        let name = Span::styled(format!("{name:<width$}"), STRONG);
        Line::from(vec![name, Span::styled(text, style)])
    });
    Paragraph::new(lines.collect::<Text>()).render(area, buf);
}

/// Returns the columns behind the line of rates.
fn free_columns(lines: &[SummaryLine], width: u16) -> u16 {
    let text = lines.get(1).map_or(0, |(_, _, text)| text.chars().count());
    width.saturating_sub(NAME_WIDTH).saturating_sub(text as u16)
}

/// Draws the events of the last minute into the upper right corner, if that is free.
fn draw_history(model: &Model, lines: &[SummaryLine], area: Rect, buf: &mut Buffer) {
    let history = model.rates.history("events");
    let most = history.iter().max().copied().unwrap_or(0);
    let is_free = free_columns(lines, area.width) > HISTORY_WIDTH;
    if most == 0 || !is_free || area.height < 3 {
        return;
    }
    let corner = Rect {
        x: area.right() - HISTORY_WIDTH,
        width: HISTORY_WIDTH,
        y: area.y + 1,
        height: 1,
    };
    let newest = history.len().saturating_sub(usize::from(HISTORY_WIDTH));
    Sparkline::default()
        .data(&history[newest..])
        .render(corner, buf);
}

fn draw_tabs(model: &Model, area: Rect, buf: &mut Buffer) {
    let mut spans = Vec::new();
    for (number, list) in model.lists().iter().copied().enumerate() {
        let style = if list == model.list { STRONG } else { FAINT };
        let mark = if list == model.list { "▸" } else { " " };
        let title = format!("{mark}{} {}   ", number + 1, list.title());
        spans.push(Span::styled(title, style));
    }
    if !model.filter.is_empty() || model.mode == Mode::Filter {
        let cursor = if model.mode == Mode::Filter {
            "▏"
        } else {
            ""
        };
        spans.push(Span::raw(format!("/{}{cursor}", model.filter)));
    }
    let area = Rect {
        y: area.bottom().saturating_sub(1),
        height: 1,
        ..area
    };
    Paragraph::new(Line::from(spans)).render(area, buf);
}

fn draw_list(model: &Model, style: Style, area: Rect, buf: &mut Buffer) {
    let rows = model.rows();
    if rows.is_empty() {
        let is_known = model.report.is_some() || model.list == List::Sockets;
        let text = match (is_known, model.filter.is_empty()) {
            (false, _) => "no status yet",
            (true, true) => model.list.empty(),
            (true, false) => "no row has this text; esc shows all rows",
        };
        return Paragraph::new(text).style(FAINT).render(area, buf);
    }
    let columns = model.list.columns();
    let widths = columns.iter().map(|column| {
        if column.is_figure {
            Constraint::Length(column.width)
        } else {
            // Figures keep their width, and texts share the rest.
            Constraint::Fill(column.width)
        }
    });
    let header = columns.iter().enumerate().map(|(number, column)| {
        let mark = if model.sort_column() == Some(number) {
            "▾"
        } else {
            ""
        };
        aligned(format!("{mark}{}", column.title), column.is_figure)
    });
    let cells = rows.into_iter().map(|row| {
        let cells = row.cells.into_iter().zip(columns);
        Row::new(cells.map(|(cell, column)| aligned(cell.text, column.is_figure)))
    });
    let table = Table::new(cells, widths)
        .header(Row::new(header).style(STRONG))
        .column_spacing(1)
        .style(style)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(Some(model.selection()));
    StatefulWidget::render(table, area, buf, &mut state);
}

fn aligned(text: String, is_figure: bool) -> Cell<'static> {
    let alignment = if is_figure {
        Alignment::Right
    } else {
        Alignment::Left
    };
    Cell::from(Text::from(text).alignment(alignment))
}

fn draw_foot(model: &Model, now: Duration, area: Rect, buf: &mut Buffer) {
    let line = match (&model.away, model.mode) {
        (Some(away), _) => {
            let since = readable(now.saturating_sub(away.since));
            let text = format!("no figures for {since}: {}; still trying", away.reason);
            Line::styled(text, BAD)
        }
        (None, Mode::Filter) => Line::styled("type a text, enter keeps it, esc clears it", FAINT),
        (None, _) => Line::styled("? help  / filter  s sort  enter details  q quit", FAINT),
    };
    Paragraph::new(line).render(area, buf);
}

fn draw_details(model: &Model, area: Rect, buf: &mut Buffer) {
    let Some(row) = model.selected_row() else {
        return;
    };
    let title = match model.list {
        List::Streams => "stream",
        List::Filters => "filter",
        List::Lags => "streams",
        List::Sockets => "socket",
    };
    draw_over(title, &row.details, area, buf);
}

/// Draws names and texts in a frame over the rest.
fn draw_over(title: &str, lines: &[(&str, String)], area: Rect, buf: &mut Buffer) {
    let width = area.width.saturating_sub(4).min(90);
    let inner = usize::from(width.saturating_sub(2)).max(1);
    let names = lines.iter().map(|(name, _)| name.chars().count()).max();
    let names = names.unwrap_or(0) + 2;
    let text: Vec<Line> = lines
        .iter()
        .map(|(name, text)| {
            let name = Span::styled(format!("{name:<names$}"), STRONG);
            Line::from(vec![name, Span::raw(text.clone())])
        })
        .collect();
    let rows: usize = text
        .iter()
        .map(|line| line.width().div_ceil(inner).max(1))
        .sum();
    let height = (rows as u16 + 2).min(area.height);
    let frame = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(frame, buf);
    Paragraph::new(text)
        .wrap(Wrap { trim: false })
        .block(Block::bordered().title(format!(" {title} ")))
        .render(frame, buf);
}
