//! Tables for people: text to the left, figures to the right.

use comfy_table::{Cell, CellAlignment, Table, TableStyle};

/// Returns an empty table.
pub(crate) fn table(style: TableStyle, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(style);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// Adds a row; the cells with `true` are figures.
pub(crate) fn row(table: &mut Table, cells: impl IntoIterator<Item = (String, bool)>) {
    table.add_row(cells.into_iter().map(|(text, is_figure)| {
        let cell = Cell::new(text);
        if is_figure {
            cell.set_alignment(CellAlignment::Right)
        } else {
            cell
        }
    }));
}
