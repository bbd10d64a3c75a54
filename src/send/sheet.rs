//! Reads a workbook of Excel (.xlsx): its first visible sheet. Unlike text, it is read into memory as a whole: about 100
//! bytes for each cell.

use super::columns::Cell;
use anyhow::{Context, bail, ensure};
use calamine::{DataRef, ExcelDateTime, Reader, SheetType, SheetVisible, Xlsx};
use std::io::{Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A sheet.
pub(super) struct Sheet {
    /// Its name.
    pub(super) name: String,
    /// Its rows that have a cell, with their numbers from 1.
    pub(super) rows: Vec<(u64, Vec<Cell>)>,
}

/// How a workbook begins: it is a ZIP archive.
pub(super) const START: &[u8] = b"PK\x03\x04";

/// Reads the first visible sheet. Rows that a filter hides are read too.
pub(super) fn read(file: impl Read + Seek) -> anyhow::Result<Sheet> {
    // The reader computes with the places that a damaged file names, and panics where that overflows: Cargo.toml has it check.
    let reading = catch_unwind(AssertUnwindSafe(|| read_cells(file)));
    reading.unwrap_or_else(|_| bail!("the workbook is damaged"))
}

fn read_cells(file: impl Read + Seek) -> anyhow::Result<Sheet> {
    let mut workbook = Xlsx::new(file).context("it is no workbook (.xlsx)")?;
    let sheets = workbook.sheets_metadata();
    let first = sheets.iter().find(|sheet| sheet.typ == SheetType::WorkSheet && sheet.visible == SheetVisible::Visible);
    let name = first.context("the workbook has no sheet")?.name.clone();
    let mut cells = workbook.worksheet_cells_reader(&name)?;
    let mut rows: Vec<(u64, Vec<Cell>)> = vec![];
    while let Some(cell) = cells.next_cell()? {
        let ((row, column), number) = (cell.get_position(), u64::from(cell.get_position().0) + 1);
        let Some(value) = show(cell.get_value()) else { continue };
        if rows.last().is_none_or(|(last, _)| *last != number) {
            ensure!(rows.last().is_none_or(|(last, _)| *last < number), "row {} of the sheet is out of order", row + 1);
            rows.push((number, vec![]));
        }
        // What is beyond the header is an error, wherever it is: its place does not matter. The rows stay small.
        let width = if rows.len() > 1 { rows[0].1.len() } else { MOST_COLUMNS };
        if let Some((_, row)) = rows.last_mut() {
            let place = (column as usize).min(width);
            row.resize(row.len().max(place + 1), Cell::default());
            row[place] = value;
        }
    }
    drop(cells);
    Ok(Sheet { name, rows })
}

/// As many as Excel has.
const MOST_COLUMNS: usize = 16_384;

/// A cell's value; `None` if it is empty.
fn show(value: &DataRef<'_>) -> Option<Cell> {
    let text = match value {
        DataRef::Empty => return None,
        DataRef::Int(whole) => return Some(Cell::Number(whole.to_string())),
        DataRef::Float(number) => return Some(Cell::Number(show_number(*number))),
        DataRef::String(text) | DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => text.clone(),
        DataRef::SharedString(text) => (*text).to_owned(),
        DataRef::Bool(is_true) => is_true.to_string(),
        DataRef::DateTime(moment) => show_moment(moment),
        DataRef::Error(error) => error.to_string(),
    };
    Some(Cell::Text(text))
}

/// A number as Excel shows it: Excel computes with 17 digits and shows 15, so that 0.1 + 0.2 is 0.3.
fn show_number(number: f64) -> String {
    format!("{number:.14e}").parse().unwrap_or(number).to_string()
}

fn show_moment(moment: &ExcelDateTime) -> String {
    if moment.is_duration() {
        return show_number(moment.as_f64());
    }
    let (year, month, day, hour, minute, second, _) = moment.to_ymd_hms_milli();
    let time = format!("{hour:02}:{minute:02}:{second:02}");
    match moment.as_f64() {
        value if value < 1.0 => time,
        value if value.fract() == 0.0 => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{year:04}-{month:02}-{day:02} {time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calamine::ExcelDateTimeType;

    #[test]
    fn numbers_are_shown_as_in_the_sheet() {
        for (number, shown) in [
            (1250.0, "1250"),
            (12.5, "12.5"),
            (0.1 + 0.2, "0.3"),
            (1_234_567.89, "1234567.89"),
            (-5.0, "-5"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e21, "1000000000000000000000"),
        ] {
            assert_eq!(show_number(number), shown);
        }
    }

    #[test]
    fn dates_are_shown_as_dates() {
        let moment = |value| show_moment(&ExcelDateTime::new(value, ExcelDateTimeType::DateTime, false));
        assert_eq!(moment(45_943.0), "2025-10-13");
        assert_eq!(moment(45_943.5), "2025-10-13 12:00:00");
        assert_eq!(moment(0.25), "06:00:00");
    }
}
