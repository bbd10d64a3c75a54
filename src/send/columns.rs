//! Finds the columns by a header, and picks the fields of a line from the cells of a row.

use crate::ledger::Kind;

/// A cell of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// A text as a person wrote it.
    Text(String),
    /// A number as a program wrote it: digits, with a point before decimals.
    Number(String),
}

impl Cell {
    /// What the cell says.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(text) => text,
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Number(text) => text,
        }
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// The fields of a row, unchecked. What has no column is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) kind: String,
    pub(super) email: String,
    pub(super) amount: Cell,
    pub(super) target: String,
    pub(super) reference: String,
    /// The cells of the other columns, in order. They are only kept for the results.
    pub(super) kept: Vec<String>,
}

/// Where the columns are.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    count: usize,
    kind: Option<usize>,
    email: Option<usize>,
    amount: Option<usize>,
    target: Option<usize>,
    reference: Option<usize>,
    kept: Vec<usize>,
    names: Vec<String>,
}

/// Most digits of a number that a spreadsheet does not round.
const EXACT_DIGITS: usize = 15;

impl Columns {
    /// Finds the columns by a header. Names count in any case and order. Other columns are kept. Empty cells at the end
    /// are no columns. Without a column `kind`, a column `target` is any other: it may be a sales target.
    pub(super) fn of_header(header: &[String]) -> Result<Self, String> {
        let names: Vec<String> = header.iter().map(|name| name.trim().to_lowercase()).collect();
        let count = count_filled(&names, |name| name.is_empty());
        let at = |name: &str| names.iter().position(|column| column == name);
        let (kind, reference) = (at("kind"), at("reference"));
        let target = kind.and_then(|_| at("target"));
        // A file of reversals alone needs neither.
        let needed = |name: &str| match at(name) {
            None if target.is_none() => {
                Err(format!("the header has no column `{name}`: it has {}", list(&header[..count])))
            }
            found => Ok(found),
        };
        let (email, amount) = (needed("email")?, needed("amount")?);
        let used = [kind, email, amount, target, reference];
        let kept: Vec<usize> = (0..count).filter(|place| !used.contains(&Some(*place))).collect();
        for place in &kept {
            let (shown, name) = (header[*place].trim(), names[*place].as_str());
            if used.iter().flatten().any(|used| names[*used] == name) {
                return Err(format!("the column `{name}` is there twice: remove one"));
            }
            // A misspelt `reference` must not be ignored, or lines would be sent without their references.
            if reference.is_none() && name.starts_with("ref") {
                return Err(format!(
                    "is the column `{shown}` the `reference`? Name it so, or so that it does not begin with `ref`"
                ));
            }
        }
        let shown = kept.iter().map(|place| header[*place].trim().to_owned()).collect();
        Ok(Self { count, kind, email, amount, target, reference, kept, names: shown })
    }

    /// The names of the columns that are only kept.
    pub(super) fn kept_names(&self) -> &[String] {
        &self.names
    }

    /// Picks the fields of a row. `None` for a row without any text. Empty cells beyond the header are ignored, and
    /// cells at the end may be missing if their columns are only kept.
    pub(super) fn pick(&self, mut cells: Vec<Cell>) -> Result<Option<Fields>, String> {
        let filled = count_filled(&cells, |cell| cell.text().trim().is_empty());
        if filled == 0 {
            return Ok(None);
        }
        let used = [self.kind, self.email, self.amount, self.target, self.reference];
        let needed = used.into_iter().flatten().max().map_or(0, |last| last + 1);
        if filled > self.count || cells.len() < needed {
            return Err(format!("has {} fields, the header has {}", cells.len(), self.count));
        }
        self.see_that_no_kind_is_overlooked(&cells)?;
        let mut take =
            |place: Option<usize>| place.and_then(|place| cells.get_mut(place)).map(std::mem::take).unwrap_or_default();
        let reference = take(self.reference);
        if matches!(&reference, Cell::Number(digits) if digits.len() > EXACT_DIGITS) {
            return Err(
                "the reference is a number of more than 15 digits, which spreadsheets round: make it text".to_owned()
            );
        }
        Ok(Some(Fields {
            kind: take(self.kind).into_text(),
            email: take(self.email).into_text(),
            amount: take(self.amount),
            target: take(self.target).into_text(),
            reference: reference.into_text(),
            kept: self.kept.iter().map(|place| take(Some(*place)).into_text()).collect(),
        }))
    }

    /// Without a column `kind` every line pays. A column that is named otherwise must not turn a reversal into a payment.
    fn see_that_no_kind_is_overlooked(&self, cells: &[Cell]) -> Result<(), String> {
        let is_kind = |place: &&usize| {
            let text = cells.get(**place).map_or("", |cell| cell.text().trim());
            [Kind::Reverse, Kind::Settle].iter().any(|kind| text.eq_ignore_ascii_case(kind.as_str()))
        };
        match self.kept.iter().zip(&self.names).find(|(place, _)| self.kind.is_none() && is_kind(place)) {
            Some((_, name)) => {
                Err(format!("is the column `{name}` the `kind`? Name it so, or write other words into it"))
            }
            None => Ok(()),
        }
    }
}

/// The number of items without the empty ones at the end.
fn count_filled<T>(items: &[T], is_empty: impl Fn(&T) -> bool) -> usize {
    items.iter().rposition(|item| !is_empty(item)).map_or(0, |last| last + 1)
}

/// The first few names of a header. What could be an address is left out: the header may be missing.
fn list(names: &[String]) -> String {
    const MOST: usize = 10;
    let shorten = |name: &String| match name.contains('@') {
        true => "an address".to_owned(),
        false => format!("`{}`", name.trim().chars().filter(|c| !c.is_control()).take(40).collect::<String>()),
    };
    match names {
        [] => "none".to_owned(),
        names => names.iter().take(MOST).map(shorten).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    fn picked(header: &[&str], row: &[&str]) -> Result<Option<Fields>, String> {
        let columns = Columns::of_header(&texts(header)).unwrap();
        columns.pick(texts(row).into_iter().map(Cell::Text).collect())
    }

    fn fields(email: &str, amount: &str, reference: &str, kept: &[&str]) -> Result<Option<Fields>, String> {
        let (email, amount, reference) = (email.to_owned(), Cell::Text(amount.to_owned()), reference.to_owned());
        Ok(Some(Fields { email, amount, reference, kept: texts(kept), ..Fields::default() }))
    }

    #[test]
    fn columns_are_found_in_any_case_and_order_and_others_are_kept() {
        assert_eq!(picked(&["email", "amount"], &["a", "1"]), fields("a", "1", "", &[]));
        let header = ["Note", " REFERENCE ", "Amount", "", "eMail", "", ""];
        assert_eq!(picked(&header, &["n", "r", "1", "x", "a"]), fields("a", "1", "r", &["n", "x"]));
        let columns = Columns::of_header(&texts(&header)).unwrap();
        assert_eq!(columns.kept_names(), ["Note", ""]);
        assert_eq!(picked(&["email", "amount", "Note"], &["a", "1"]), fields("a", "1", "", &[""]));
    }

    #[test]
    fn empty_cells_at_the_end_and_empty_rows_are_none() {
        assert_eq!(picked(&["email", "amount", ""], &["a", "1", "", ""]), fields("a", "1", "", &[]));
        for row in [&[""] as &[&str], &["", " ", "\t"]] {
            assert_eq!(picked(&["email", "amount"], row), Ok(None));
        }
        for (row, said) in [
            (&["a", "1", "", "x"] as &[&str], "has 4 fields, the header has 3"),
            (&["a", "1"], "has 2 fields, the header has 3"),
        ] {
            assert_eq!(picked(&["email", "amount", "reference"], row), Err(said.to_owned()));
        }
    }

    #[test]
    fn a_header_that_is_not_understood_is_refused() {
        for (header, said) in [
            (&["e-mail", "Betrag"] as &[&str], "the header has no column `email`: it has `e-mail`, `Betrag`"),
            (&["email", "x"], "the header has no column `amount`: it has `email`, `x`"),
            (&["email", "amount", "Email"], "the column `email` is there twice"),
            (&["email", "amount", "reference", "Reference"], "the column `reference` is there twice"),
            (&["email", "amount", "Referense"], "is the column `Referense` the `reference`?"),
            (&["email", "amount", "Ref."], "is the column `Ref.` the `reference`?"),
            (&["", ""], "the header has no column `email`: it has none"),
            (&["ann@example.com", "5"], "the header has no column `email`: it has an address, `5`"),
        ] {
            let wrong = Columns::of_header(&texts(header)).unwrap_err();
            assert!(wrong.starts_with(said), "{wrong}");
        }
        assert!(Columns::of_header(&texts(&["email", "amount", "reference", "Ref. of the bank"])).is_ok());
    }

    #[test]
    fn a_target_counts_beside_a_kind_and_a_file_of_reversals_needs_nothing_else() {
        let (kind, target, kept) = ("reverse".to_owned(), "t".to_owned(), vec![]);
        let reversal = Fields { kind, target, kept, ..Fields::default() };
        assert_eq!(picked(&["Target", "Kind"], &["t", "reverse"]), Ok(Some(reversal)));
        assert_eq!(picked(&["email", "amount", "target"], &["a", "1", "t"]), fields("a", "1", "", &["t"]));
        for (header, said) in [
            (&["kind", "email"] as &[&str], "the header has no column `amount`"),
            (&["target"], "the header has no column `email`"),
            (&["kind", "target", "Kind"], "the column `kind` is there twice"),
            (&["kind", "target", "target"], "the column `target` is there twice"),
        ] {
            let wrong = Columns::of_header(&texts(header)).unwrap_err();
            assert!(wrong.starts_with(said), "{wrong}");
        }
    }

    #[test]
    fn a_kind_under_another_name_is_not_taken_for_a_payment() {
        for word in ["reverse", " Settle "] {
            let said = picked(&["email", "amount", "Type"], &["a", "1", word]).unwrap_err();
            assert!(said.starts_with("is the column `Type` the `kind`?"), "{said}");
        }
        let both = picked(&["email", "amount", "kind", "Type"], &["a", "1", "", "settle"]);
        assert_eq!(both, fields("a", "1", "", &["settle"]));
        assert_eq!(picked(&["email", "amount", "Type"], &["a", "1", "settled"]), fields("a", "1", "", &["settled"]));
    }

    #[test]
    fn a_long_number_is_no_reference() {
        let columns = Columns::of_header(&texts(&["email", "amount", "reference"])).unwrap();
        let row = |digits: &str| vec![Cell::Text("a".into()), Cell::Number("1".into()), Cell::Number(digits.into())];
        assert_eq!(columns.pick(row("123456789012345")).unwrap().unwrap().reference, "123456789012345");
        assert!(columns.pick(row("1234567890123456")).unwrap_err().contains("make it text"));
    }
}
