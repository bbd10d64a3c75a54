//! An email address: trimmed, without regard to case, and certain to be one address.

/// A payout user's address in the one form that is stored and compared.
///
/// Two spellings that differ in surrounding blanks or in case are one `Email`. The local part is at most 64 octets, the
/// domain has at least two labels. Letters of other scripts are allowed (RFC 6531); control characters, characters that
/// nobody can see, quoted local parts, display names and IP literals are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Email(String);

/// Why a text is not an [`Email`], in the order in which the checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailError {
    Empty,
    TooLong,
    Invalid,
}

impl Email {
    pub const MAX_CHARS: usize = 255;
    const MAX_LOCAL_OCTETS: usize = 64;
    const MAX_LABEL_OCTETS: usize = 63;

    /// Trims, folds to lower case, and checks.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        // Folded before it is checked, as folding may make it longer. Letter by letter: a whole-text fold gives a Greek
        // final sigma another form than the same letter elsewhere.
        let folded: String = text.trim().chars().flat_map(char::to_lowercase).collect();
        if folded.is_empty() {
            return Err(EmailError::Empty);
        }
        if folded.chars().count() > Self::MAX_CHARS {
            return Err(EmailError::TooLong);
        }
        let (local, domain) = folded.rsplit_once('@').ok_or(EmailError::Invalid)?;
        if !is_local_part(local) || !is_domain(domain) {
            return Err(EmailError::Invalid);
        }
        Ok(Self(folded))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For those who need not know whose it is: `a***@example.com`.
    pub fn masked(&self) -> String {
        let (local, domain) = self.0.rsplit_once('@').unwrap_or_default();
        format!("{}***@{domain}", local.chars().next().unwrap_or_default())
    }
}

fn is_local_part(local: &str) -> bool {
    local.len() <= Email::MAX_LOCAL_OCTETS && local.split('.').all(is_atom)
}

/// RFC 5322 `atom`, with the letters of RFC 6531.
fn is_atom(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => true,
            _ if c.is_ascii() => "!#$%&'*+-/=?^_`{|}~".contains(c),
            _ => is_visible(c),
        })
}

fn is_domain(domain: &str) -> bool {
    let mut labels = domain.split('.');
    let top = domain.rsplit('.').next().unwrap_or_default();
    domain.contains('.') && labels.all(is_label) && !top.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    (1..=Email::MAX_LABEL_OCTETS).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(|c| match c {
            '-' => true,
            _ if c.is_ascii() => c.is_ascii_alphanumeric(),
            _ => is_visible(c),
        })
}

/// Whether a character beyond ASCII leaves a mark that a reader can see. Two addresses that look alike because one hides
/// such a character would be two payout users, so all of Unicode's controls, blanks, format characters, fillers,
/// variation selectors, private-use characters and noncharacters are refused (Unicode 16, `DerivedCoreProperties.txt`,
/// `Default_Ignorable_Code_Point`, and general categories Cc, Cf, Co, Z).
fn is_visible(c: char) -> bool {
    const HIDDEN: &[(char, char)] = &[
        ('\u{00AD}', '\u{00AD}'),
        ('\u{034F}', '\u{034F}'),
        ('\u{0600}', '\u{0605}'),
        ('\u{061C}', '\u{061C}'),
        ('\u{06DD}', '\u{06DD}'),
        ('\u{070F}', '\u{070F}'),
        ('\u{0890}', '\u{0891}'),
        ('\u{08E2}', '\u{08E2}'),
        ('\u{115F}', '\u{1160}'),
        ('\u{17B4}', '\u{17B5}'),
        ('\u{180B}', '\u{180F}'),
        ('\u{200B}', '\u{200F}'),
        ('\u{202A}', '\u{202E}'),
        ('\u{2060}', '\u{206F}'),
        ('\u{2800}', '\u{2800}'),
        ('\u{3164}', '\u{3164}'),
        ('\u{E000}', '\u{F8FF}'),
        ('\u{FDD0}', '\u{FDEF}'),
        ('\u{FE00}', '\u{FE0F}'),
        ('\u{FEFF}', '\u{FEFF}'),
        ('\u{FFA0}', '\u{FFA0}'),
        ('\u{FFF0}', '\u{FFFF}'),
        ('\u{110BD}', '\u{110BD}'),
        ('\u{110CD}', '\u{110CD}'),
        ('\u{13430}', '\u{1345F}'),
        ('\u{1BCA0}', '\u{1BCA3}'),
        ('\u{1D173}', '\u{1D17A}'),
        ('\u{E0000}', '\u{10FFFF}'),
    ];
    let hidden = HIDDEN.iter().any(|&(first, last)| (first..=last).contains(&c));
    let noncharacter = (c as u32) & 0xFFFE == 0xFFFE;
    !hidden && !noncharacter && !c.is_control() && !c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_address_keeps_one_letter_and_the_domain() {
        assert_eq!(Email::parse("ann.private@example.com").unwrap().masked(), "a***@example.com");
        assert_eq!(Email::parse("é@example.com").unwrap().masked(), "é***@example.com");
    }

    #[test]
    fn blanks_around_and_case_make_no_difference() {
        let ann = Email::parse("ann@example.com").unwrap();
        assert_eq!(Email::parse("  Ann@Example.COM \n").unwrap(), ann);
        assert_eq!(ann.as_str(), "ann@example.com");
        assert_eq!(
            Email::parse("ΑΣ@example.com").unwrap(),
            Email::parse("ας@example.com".to_uppercase().as_str()).unwrap()
        );
    }

    #[test]
    fn folding_twice_is_folding_once() {
        for text in ["Ann@Example.com", "İstanbul@example.com", "ΑΣ@example.com", "straße@example.com"] {
            let once = Email::parse(text).unwrap();
            assert_eq!(Email::parse(once.as_str()).unwrap(), once, "{text}");
        }
        // 64 octets before folding, 96 after it.
        assert_eq!(Email::parse(&format!("{}@example.com", "İ".repeat(32))), Err(EmailError::Invalid));
    }

    #[test]
    fn each_of_these_is_one_address() {
        let longest_local = format!("{}@example.com", "a".repeat(64));
        for text in [
            "a@b.co",
            "ann+tag@example.com",
            "o'neil@example.co.uk",
            "ann@xn--bcher-kva.example",
            "用户@例子.广告",
            "ann@1and1.com",
            longest_local.as_str(),
        ] {
            assert!(Email::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn none_of_these_is_one_address() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_label = format!("a@{}.com", "b".repeat(64));
        for text in [
            "nope",
            "@example.com",
            "ann@",
            "ann@example",
            "ann@.com",
            "ann@example..com",
            "ann@example.com.",
            ".ann@example.com",
            "ann.@example.com",
            "a..b@example.com",
            "ann@-example.com",
            "ann@example-.com",
            "ann@exa_mple.com",
            "ann@@example.com",
            "a@b@example.com",
            "Ann <ann@example.com>",
            "ann@example.com, bob@example.com",
            "\"ann\"@example.com",
            "ann@[127.0.0.1]",
            "ann@127.0.0.1",
            "a nn@example.com",
            "a\u{0}nn@example.com",
            "a\u{200b}nn@example.com",
            "a\u{202e}nn@example.com",
            "ann@exam\u{00ad}ple.com",
            "ann\u{feff}@example.com",
            "ann(comment)@example.com",
            long_local.as_str(),
            long_label.as_str(),
        ] {
            assert_eq!(Email::parse(text), Err(EmailError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn emptiness_comes_before_length_and_length_before_form() {
        assert_eq!(Email::parse(" \t "), Err(EmailError::Empty));
        assert_eq!(Email::parse(&"x".repeat(256)), Err(EmailError::TooLong));
        assert_eq!(Email::parse(&"x".repeat(255)), Err(EmailError::Invalid));
    }
}
