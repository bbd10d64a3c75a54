//! Brings the spellings that people use for one email address to a single one, by the tables of Unicode.
//!
//! This is the only part of the ledger that needs more than `std`. The libraries are functions over constant tables:
//! they wait for nothing and read nothing.

use icu_normalizer::ComposingNormalizerBorrowed as Normalizer;
use icu_normalizer::properties::{CanonicalDecompositionBorrowed, Decomposed};
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use std::borrow::Cow;

/// How a label in Punycode begins.
const PUNYCODE: &str = "xn--";

/// The text with each letter and its marks in one character, where there is one (NFC). ASCII stays as it is.
pub(super) fn compose(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { Cow::Borrowed(text) } else { Normalizer::new_nfc().normalize(text) }
}

/// Whether a character only stands in for another one, which normalisation would put in its place: the Kelvin sign for
/// `K`, the long `ſ`, a ligature, letters of full width.
pub(super) fn has_stand_in(text: &str) -> bool {
    let decomposition = CanonicalDecompositionBorrowed::new();
    let is_another = |c| matches!(decomposition.decompose(c), Decomposed::Singleton(_));
    !text.is_ascii() && (text.chars().any(is_another) || Normalizer::new_nfkc().normalize(text) != compose(text))
}

/// The one spelling of an address that is composed and has no stand-ins: lower case, its domain in ASCII without a dot
/// at the end. `None` if there is no such spelling. The rules for ASCII are not checked here.
pub(super) fn settle(address: &str) -> Option<String> {
    let (local, domain) = address.rsplit_once('@')?;
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if address.is_ascii() && !has_punycode(domain) {
        // Nearly all addresses end here.
        return Some(format!("{local}@{domain}").to_ascii_lowercase());
    }
    Some(format!("{}@{}", fold_local(local)?, domain_to_ascii(domain)?))
}

fn has_punycode(domain: &str) -> bool {
    domain.split('.').any(|label| label.get(..PUNYCODE.len()).is_some_and(|start| start.eq_ignore_ascii_case(PUNYCODE)))
}

/// The local part in lower case, letter by letter. Both small sigmas become `σ`, because capitals do not show which one
/// is meant. `None` if a character is not allowed, or could stand for two.
fn fold_local(local: &str) -> Option<String> {
    let lower = local.chars().flat_map(char::to_lowercase).map(|c| if c == 'ς' { 'σ' } else { c });
    let folded = compose(&lower.collect::<String>()).into_owned();
    is_legible(&folded, |c| is_letter(c) && has_one_case(c)).then_some(folded)
}

/// The domain in ASCII, by UTS 46, which browsers and mail programs follow: `ß` is not `ss`, and `ς` is not `σ`. A
/// capital sigma could therefore stand for two domains, and is refused. `None` if the domain is not valid.
fn domain_to_ascii(domain: &str) -> Option<String> {
    const RULES: (AsciiDenyList, Hyphens) = (AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    // UTS 46 drops invisible characters, and replaces some letters by others. Both are refused here, before it runs.
    let is_itself = |c| is_of_a_word(c) && (c == 'ı' || c == 'ς' || has_one_case(c));
    let lower: String = domain.chars().flat_map(char::to_lowercase).collect();
    if domain.contains('Σ') || !is_legible(&compose(&lower), |c| c == '。' || is_itself(c)) {
        return None;
    }
    let ascii = Uts46::new().to_ascii(domain.as_bytes(), RULES.0, RULES.1, DnsLength::Verify).ok()?;
    let (letters, _) = Uts46::new().to_unicode(ascii.as_bytes(), RULES.0, RULES.1);
    is_legible(&letters, is_of_a_word).then(|| ascii.into_owned())
}

/// Whether a label may have this character beyond ASCII: a letter, or punctuation that belongs into words, such as the
/// dot of the Catalan `l·l` (RFC 5892, appendix A).
fn is_of_a_word(c: char) -> bool {
    is_letter(c) || matches!(c, '\u{B7}' | '\u{375}' | '\u{5F3}' | '\u{5F4}' | '\u{F0B}' | '\u{30FB}')
}

/// Whether all characters beyond ASCII are allowed and can be seen. A dot above an `i` cannot be seen, nor a mark upon
/// the same mark.
fn is_legible(composed: &str, is_allowed: impl Fn(char) -> bool) -> bool {
    const DOT_ABOVE: char = '\u{307}';
    let mut before = None;
    composed.chars().all(|c| {
        let is_doubled = before.replace(c) == Some(c) && in_group(c, GeneralCategoryGroup::Mark);
        c.is_ascii() || (is_allowed(c) && c != DOT_ABOVE && !is_doubled)
    })
}

/// Whether it is a letter, a mark or a digit, and not invisible by design.
fn is_letter(c: char) -> bool {
    const GROUP: GeneralCategoryGroup =
        GeneralCategoryGroup::Letter.union(GeneralCategoryGroup::Mark).union(GeneralCategoryGroup::Number);
    in_group(c, GROUP) && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

fn in_group(c: char, group: GeneralCategoryGroup) -> bool {
    group.contains(CodePointMapData::<GeneralCategory>::new().get(c))
}

/// Whether a letter that was put in lower case is lower case, and is what its capital becomes in lower case. Capitals
/// remain if the compiler's tables are older than the libraries'. A dotless `ı` fails, because its capital is that of
/// `i`. `ß` passes, because it has a capital of its own (`ẞ`) beside `SS`.
fn has_one_case(c: char) -> bool {
    let back: String = c.to_uppercase().flat_map(char::to_lowercase).collect();
    const CAPITALS: GeneralCategoryGroup =
        GeneralCategoryGroup::UppercaseLetter.union(GeneralCategoryGroup::TitlecaseLetter);
    !in_group(c, CAPITALS) && (c == 'ß' || compose(&back).chars().eq([c]))
}
