//! Reads the parameters of a query, and says of each that is not valid what is wrong.

use super::validate::PLUS_IS_BLANK;
use crate::ledger::Millis;
use axum::extract::Query;
use axum::http::Uri;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A message for each parameter that is not valid.
pub type Wrong = BTreeMap<&'static str, [&'static str; 1]>;

/// The parameters of a query, in their order.
pub fn parameters(uri: &Uri) -> Vec<(String, String)> {
    Query::try_from_uri(uri).map(|Query(parameters)| parameters).unwrap_or_default()
}

/// Reads parameters one by one, and collects what is wrong. Those that nobody reads are ignored.
pub struct Reading<'a> {
    parameters: &'a [(String, String)],
    wrong: Wrong,
}

impl<'a> Reading<'a> {
    /// Nothing is read yet.
    pub fn new(parameters: &'a [(String, String)]) -> Self {
        Self { parameters, wrong: Wrong::new() }
    }

    /// The value of a parameter; `None` if it is missing or not valid. A parameter that is given twice is refused:
    /// ignoring one value would show more than was asked for.
    pub fn one<T>(&mut self, name: &'static str, read: impl FnOnce(&str) -> Result<T, &'static str>) -> Option<T> {
        let mut values = self.parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let value = values.next()?;
        let read = if values.next().is_some() { Err("Each parameter may be given once.") } else { read(value) };
        read.map_err(|message| self.wrong.insert(name, [message])).ok()
    }

    /// What was wrong, if anything was.
    pub fn end(self) -> Result<(), Wrong> {
        if self.wrong.is_empty() { Ok(()) } else { Err(self.wrong) }
    }
}

/// Reads a time by RFC 3339, in whole milliseconds. `wrong` is the message if it is not a time.
pub fn check_time(text: &str, wrong: &'static str) -> Result<Millis, &'static str> {
    let is_plus = || read_time(&text.replace(' ', "+")).is_some();
    read_time(text).ok_or_else(|| if is_plus() { PLUS_IS_BLANK } else { wrong })
}

fn read_time(text: &str) -> Option<Millis> {
    let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    Millis::try_from(nanos.div_euclid(1_000_000)).ok()
}
