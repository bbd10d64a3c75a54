//! An email address: checked, in one spelling, and certainly a single address.

use super::spelling;

/// A payout user's address in the one form that is stored and compared.
///
/// Spellings that people take for one address give the same `Email`: blanks around it and a dot at its end, case,
/// letters with their marks composed or not, the domain in letters or in Punycode (it is kept in Punycode). The local
/// part is at most 64 octets, the domain has at least two labels. Letters of other scripts are allowed (RFC 6531).
/// Refused are characters that are invisible or stand in for others, symbols beyond ASCII, quoted local parts, display
/// names and IP literals.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Email(String);

/// Why a text is not an [`Email`], in the order in which the checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailError {
    /// There is nothing but blanks.
    Empty,
    /// Longer than [`Email::MAX_CHARS`].
    TooLong,
    /// Not one plain address.
    Invalid,
}

impl Email {
    /// Longest address, in characters.
    pub const MAX_CHARS: usize = 255;
    const MAX_LOCAL_OCTETS: usize = 64;
    const MAX_LABEL_OCTETS: usize = 63;

    /// Trims a text, finds its one spelling, and checks that. The limit of its length holds for the text as it was
    /// sent, and for the form that is stored.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let text = text.trim();
        let composed = spelling::compose(text);
        if composed.is_empty() {
            return Err(EmailError::Empty);
        }
        if is_too_long(&composed) {
            return Err(EmailError::TooLong);
        }
        // This comes before letters are folded: folding would make one user of two addresses.
        if spelling::has_stand_in(text) {
            return Err(EmailError::Invalid);
        }
        let settled = spelling::settle(&composed).ok_or(EmailError::Invalid)?;
        if is_too_long(&settled) {
            return Err(EmailError::TooLong);
        }
        let (local, domain) = settled.rsplit_once('@').ok_or(EmailError::Invalid)?;
        if !is_local_part(local) || !is_domain(domain) {
            return Err(EmailError::Invalid);
        }
        Ok(Self(settled))
    }

    /// An address from a row. It is not checked again: it was checked when it was written, maybe by an earlier release
    /// with other rules.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The address as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address as shown to people who need not know whose it is: `a***@example.com`.
    pub fn masked(&self) -> String {
        let (local, domain) = self.0.rsplit_once('@').unwrap_or_default();
        format!("{}***@{domain}", local.chars().take(1).collect::<String>())
    }
}

fn is_too_long(text: &str) -> bool {
    text.len() > Email::MAX_CHARS && text.chars().count() > Email::MAX_CHARS
}

fn is_local_part(local: &str) -> bool {
    local.len() <= Email::MAX_LOCAL_OCTETS && local.split('.').all(is_atom)
}

/// RFC 5322 `atom`. Characters beyond ASCII are letters: they were checked when the spelling was settled.
fn is_atom(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| !byte.is_ascii() || is_allowed(byte))
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
        && label.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn parsed(text: &str) -> Result<String, EmailError> {
        Email::parse(text).map(|email| email.0)
    }

    fn decomposed(text: &str) -> String {
        DecomposingNormalizerBorrowed::new_nfd().normalize(text).into_owned()
    }

    #[test]
    fn a_masked_address_keeps_one_letter_and_the_domain() {
        assert_eq!(Email::parse("ann.private@example.com").unwrap().masked(), "a***@example.com");
        assert_eq!(Email::parse("é@bücher.example").unwrap().masked(), "é***@xn--bcher-kva.example");
        assert_eq!(Email("no address".to_owned()).masked(), "***@");
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
            "אבא@דוגמה.example",
            "नमस्ते@example.com",
            "ann@col·lecció.example",
            "ann@1and1.com",
            "ann@ab--cd.com",
            longest_local.as_str(),
        ] {
            assert!(Email::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn none_of_these_is_one_address() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_label = format!("a@{}.com", "b".repeat(64));
        let long_in_punycode = format!("a@{}.com", "ü".repeat(63));
        for text in [
            "nope",
            "@example.com",
            "ann@",
            "ann@example",
            "ann@.com",
            "ann@example..com",
            "ann@example.com..",
            "ann@.",
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
            "a\u{34f}nn@example.com",
            "a\u{fe0f}nn@example.com",
            "a\u{3164}nn@example.com",
            "a\u{e000}nn@example.com",
            "a\u{378}nn@example.com",
            "ann@exam\u{00ad}ple.com",
            "ann@نامه\u{200c}ای.example",
            "ann\u{feff}@example.com",
            "ann(comment)@example.com",
            "o’neil@example.com",
            "a‐b@example.com",
            "a。b@example.com",
            "😀@example.com",
            "ann@a‐b.example",
            "ann@☃.example",
            // Punycode of nothing, Punycode of ASCII, and what is no Punycode.
            "ann@xn--.example",
            "ann@xn--abc-.example",
            "ann@xn--a.example",
            "ann@xn--bcher-kva-.example",
            "ann@xn--99999999.example",
            long_local.as_str(),
            long_label.as_str(),
            long_in_punycode.as_str(),
        ] {
            assert_eq!(Email::parse(text), Err(EmailError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn punycode_hides_nothing_that_is_refused_in_letters() {
        for label in [
            "Übel",
            "bu\u{308}cher",
            "ﬁnn",
            "\u{212a}ate",
            "a\u{ad}b",
            "i\u{307}x",
            "☃",
            "ᲀ",
            "a\u{338}\u{338}",
            "\u{301}a",
        ] {
            let label = idna::punycode::encode_str(label).unwrap();
            assert_eq!(Email::parse(&format!("ann@xn--{label}.example")), Err(EmailError::Invalid), "{label}");
        }
    }

    #[test]
    fn emptiness_comes_before_length_and_length_before_form() {
        assert_eq!(Email::parse(" \t "), Err(EmailError::Empty));
        assert_eq!(Email::parse(&"x".repeat(256)), Err(EmailError::TooLong));
        assert_eq!(Email::parse(&"ﬁ".repeat(256)), Err(EmailError::TooLong));
        assert_eq!(Email::parse(&"x".repeat(255)), Err(EmailError::Invalid));
        // 253 characters as sent, too many in Punycode.
        let domain = ["ü".repeat(55).as_str(), &"x".repeat(60), &"y".repeat(63), "example"].join(".");
        assert_eq!(Email::parse(&format!("{}@{domain}", "é".repeat(32))).map(drop), Ok(()));
        assert_eq!(Email::parse(&format!("{}@{domain}", "a".repeat(64))).map(drop), Err(EmailError::TooLong));
    }

    #[test]
    fn spellings_of_one_address_are_one_user() {
        for (spellings, stored) in [
            (
                vec!["ann@example.com", "  Ann@Example.COM \n", "ann@example.com.", "ANN@EXAMPLE.COM."],
                "ann@example.com",
            ),
            (
                vec!["josé@example.com", "jose\u{301}@example.com", "JOSÉ@example.com", "JOSE\u{301}@example.com"],
                "josé@example.com",
            ),
            // Two marks, in either order.
            (
                vec!["a\u{323}\u{302}@example.com", "a\u{302}\u{323}@example.com", "\u{1ead}@example.com"],
                "\u{1ead}@example.com",
            ),
            (vec!["한@example.com", "\u{1112}\u{1161}\u{11ab}@example.com"], "한@example.com"),
            // A capital without a composed form, whose small letter has one.
            (vec!["J\u{30c}@example.com", "\u{1f0}@example.com"], "\u{1f0}@example.com"),
            (vec!["νικος@example.com", "ΝΙΚΟΣ@example.com", "νικοσ@example.com"], "νικοσ@example.com"),
            (vec!["groß@example.com", "GROẞ@example.com"], "groß@example.com"),
            (
                vec![
                    "ann@bücher.example",
                    "ann@bu\u{308}cher.example",
                    "ann@BÜCHER.example",
                    "ann@xn--bcher-kva.example",
                    "Ann@XN--BCHER-KVA.Example.",
                    "ann@bücher.example.",
                ],
                "ann@xn--bcher-kva.example",
            ),
            (vec!["ann@例子.广告", "ann@例子。广告"], "ann@xn--fsqu00a.xn--4rr70v"),
            (vec!["ann@straße.example", "ann@xn--strae-oqa.example"], "ann@xn--strae-oqa.example"),
        ] {
            for text in spellings {
                assert_eq!(parsed(text).as_deref(), Ok(stored), "{text:?}");
            }
        }
    }

    #[test]
    fn two_addresses_are_never_one_user() {
        for (one, other) in [
            ("groß@example.com", "gross@example.com"),
            ("ann@straße.example", "ann@strasse.example"),
            ("ann@νικος.example", "ann@νικοσ.example"),
            ("ann@ırmak.example", "ann@irmak.example"),
            ("josé@example.com", "jose@example.com"),
            // The first letter is Cyrillic, and looks the same.
            ("аnn@example.com", "ann@example.com"),
        ] {
            assert_ne!(parsed(one).unwrap(), parsed(other).unwrap());
        }
    }

    #[test]
    fn what_stands_in_for_another_character_is_no_address() {
        for text in [
            "\u{212a}ate@example.com",
            "ann@\u{212a}ate.example",
            "ſteve@example.com",
            "ann@ſteve.example",
            "\u{212b}sa@example.com",
            "\u{2126}@example.com",
            "ａｎｎ@example.com",
            "ann@ｅxample.com",
            "ann＠example.com",
            "ann@example．com",
            "ﬁnn@example.com",
            "ann@ﬁnn.example",
            "²@example.com",
            "\u{1f71}@example.com",
            "\u{fa19}@example.com",
            "e\u{341}@example.com",
        ] {
            assert_eq!(Email::parse(text), Err(EmailError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn what_could_be_either_of_two_addresses_is_none() {
        for text in [
            // In lower case either `i` with an invisible dot or `i`, depending on the rules.
            "İstanbul@example.com",
            "i\u{307}stanbul@example.com",
            "ann@İstanbul.example",
            "ann@xn--istanbul-o0e.example",
            // Its capitals are `IRMAK`, as are those of `irmak`.
            "ırmak@example.com",
            "ᾳ@example.com",
            // A mark upon the same mark.
            "a\u{338}\u{338}@example.com",
            // The last letter could be either small sigma.
            "ann@ΝΙΚΟΣ.example",
        ] {
            assert_eq!(Email::parse(text), Err(EmailError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn every_character_is_itself_or_one_case_of_a_letter_or_refused() {
        let mut users: HashMap<String, Vec<char>> = HashMap::new();
        // Between the two ranges no character is assigned.
        for c in ('\0'..='\u{3ffff}').chain('\u{e0000}'..='\u{e0fff}') {
            for text in [format!("x{c}@example.com"), format!("ann@x{c}.example")] {
                let Ok(email) = Email::parse(&text) else { continue };
                assert_eq!(Email::parse(email.as_str()).as_ref(), Ok(&email), "{text:?}");
                users.entry(email.0).or_default().push(c);
            }
        }
        assert!(users.len() > 100_000, "letters of all scripts");
        for (user, characters) in users.iter().filter(|(_, characters)| characters.len() > 1) {
            let is_small = |c: &&char| c.to_lowercase().eq([**c]);
            let small: Vec<&char> = characters.iter().filter(is_small).collect();
            let is_capital = |c: &char| small.iter().any(|small| small.to_uppercase().eq([*c]));
            let others = characters.iter().filter(|c| !small.contains(c) && !is_capital(c));
            let pair = (small.iter().copied().collect::<String>(), others.collect::<String>());
            let known = match pair.0.as_str() {
                // The small letter, and its capital.
                text if text.chars().count() == 1 => pair.1.is_empty() || pair == ("ß".to_owned(), "ẞ".to_owned()),
                // A sigma, and the dots of a domain.
                other => ["σς", "ςσ", ".。"].contains(&other),
            };
            assert!(known, "{user:?} is {characters:?}");
        }
    }

    /// Addresses as people, their keyboards and attackers type them.
    fn nasty() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[a-zA-Z0-9.+-]{1,8}",
            1 => prop::sample::select(vec![
                "@", ".", "。", "xn--", "XN--", "bcher-kva", "ü", "u\u{308}", "Ü", "ß", "ẞ", "Σ", "ς", "σ", "İ", "ı", "i\u{307}", "\u{212a}",
                "ſ", "ﬁ", "ａ", "\u{301}", "\u{323}", "\u{345}", "\u{338}", "\u{200d}", "\u{200c}", "\u{202e}", "\u{feff}", "\u{ad}",
                "例子", "한", "\u{1112}\u{1161}", "ا", "א", "é", "E\u{301}", " ", "'", "=", "\0", "J\u{30c}", "\u{e33}",
            ]).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        let part = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat());
        prop_oneof![
            4 => (part.clone(), part.clone()).prop_map(|(local, domain)| format!("{local}@{domain}.example")),
            1 => part,
            1 => any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_typed_every_spelling_of_it_is_the_same_user_or_none(text in nasty()) {
            let Ok(email) = Email::parse(&text) else { return Ok(()) };
            let same = Ok(email.clone());
            prop_assert_eq!(&Email::parse(email.as_str()), &same, "read again");
            prop_assert_eq!(&Email::parse(&decomposed(&text)), &same, "NFD");
            let composed = ComposingNormalizerBorrowed::new_nfc().normalize(&text).into_owned();
            prop_assert_eq!(&Email::parse(&composed), &same, "NFC");
            prop_assert_eq!(&Email::parse(&text.to_ascii_uppercase()), &same, "capitals");
            let (local, domain) = email.as_str().rsplit_once('@').unwrap();
            let in_letters = format!("{local}@{}", idna::domain_to_unicode(domain).0);
            prop_assert_eq!(&Email::parse(&in_letters), &same, "in letters");
            // In capitals it is the same user or refused, except where a domain has other letters then, by the rules of
            // DNS.
            if !text.contains(['ß', 'ẞ', 'ı']) && !in_letters.contains(['ß', 'ı']) {
                prop_assert!(Email::parse(&text.to_uppercase()).is_ok_and(|upper| upper == email)
                    || Email::parse(&text.to_uppercase()).is_err());
            }
            prop_assert!(domain.is_ascii() && !email.as_str().contains(|c: char| c.is_control() || c.is_whitespace()));
            prop_assert!(email.as_str().chars().count() <= Email::MAX_CHARS && local.len() <= Email::MAX_LOCAL_OCTETS);
        }
    }
}
