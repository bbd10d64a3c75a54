//! A client's own name for what it pays: an invoice, a line of its payroll.

/// A reference is stored with a request and can be searched by; it is never interpreted. 1 to 255 characters without a
/// control character, and without blanks around them. Case counts. Several requests may have the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference(Box<str>);

/// Why a text is not a [`Reference`], in the order in which the checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceError {
    /// Longer than [`Reference::MAX_CHARS`].
    TooLong,
    /// It has control characters.
    Invalid,
}

impl Reference {
    /// Longest reference, in characters.
    pub const MAX_CHARS: usize = 255;

    /// Checks and trims. A text of blanks alone is no reference (`None`): it may be an empty cell of a table.
    pub fn parse(text: &str) -> Result<Option<Self>, ReferenceError> {
        if text.chars().count() > Self::MAX_CHARS {
            return Err(ReferenceError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(ReferenceError::Invalid);
        }
        let trimmed = text.trim();
        Ok((!trimmed.is_empty()).then(|| Self(trimmed.into())))
    }

    /// A reference from a row. It is not checked again: it was checked when it was written, maybe by an earlier release
    /// with other rules.
    pub fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The reference as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_one_to_255_characters_that_control_nothing() {
        let parsed = |text: &str| {
            Reference::parse(text).map(|reference| reference.map(|reference| reference.as_str().to_owned()))
        };
        assert_eq!(parsed("  Invoice 7/ä "), Ok(Some("Invoice 7/ä".to_owned())));
        assert_eq!(parsed(""), Ok(None));
        assert_eq!(parsed("   "), Ok(None));
        assert!(parsed(&"ä".repeat(255)).is_ok());
        assert_eq!(parsed(&"ä".repeat(256)), Err(ReferenceError::TooLong));
        for text in ["a\0b", "a\n", "a\u{85}b", "a\u{7f}b"] {
            assert_eq!(parsed(text), Err(ReferenceError::Invalid), "{text:?}");
        }
    }
}
