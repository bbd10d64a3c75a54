//! JSON read to the letter: an object is an object, a name stands in it once, and what is skipped is checked as well.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// An object's members as they stand in the text, no name twice. A derived struct would also take an array, and keep one of two values under the
/// same name.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

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

/// Finds what is wrong inside a value that was only skimmed: a broken escape, a duplicate key, nesting too deep.
pub fn check_nested(value: &str, depth: usize) -> Result<(), serde_json::Error> {
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
