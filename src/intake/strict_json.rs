//! Reads JSON strictly: only an object is taken for an object, a name may stand in it once, and values that are skipped
//! are checked as well.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The members of an object, in order, with their values as text. A name that stands there twice is an error. A derived
/// struct would also take an array, and would not notice an unknown name that stands there twice.
pub(super) struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = vec![];
        while let Some(member) = map.next_entry::<String, &RawValue>()? {
            members.push(member);
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(A::Error::custom("duplicate key"));
        }
        Ok(Members(members))
    }
}

/// Checks the inside of a value that was kept as text: a broken escape, a name twice, or nesting that is too deep is an
/// error. `depth`: how deep the value itself is nested.
pub(super) fn check_nested(value: &str, depth: usize) -> Result<(), serde_json::Error> {
    const DEEPEST: usize = 64;
    if depth > DEEPEST {
        return Err(serde_json::Error::custom("too deep"));
    }
    match value.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(value).map(drop),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(value)?
            .iter()
            .try_for_each(|item| check_nested(item.get(), depth + 1)),
        Some(b'{') => {
            let Members(members) = serde_json::from_str(value)?;
            members.iter().try_for_each(|(_, value)| check_nested(value.get(), depth + 1))
        }
        _ => Ok(()),
    }
}
