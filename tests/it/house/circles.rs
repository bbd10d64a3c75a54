//! Files that import each other, directly or through others, can only be understood together. The test here allows no
//! such circle.
//!
//! What a file imports is read from the names in it. A name is followed through re-exports to the file that defines it. So a
//! `mod.rs` that only declares and re-exports imports nothing, and what a `mod.rs` takes from its own modules does not
//! count. Calls of methods are not seen, and tests do not count.

use super::sources;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

type Name<'a> = Vec<&'a str>;

/// What the source of a module says.
#[derive(Default)]
struct Module<'a> {
    file: &'a str,
    /// The names that its imports introduce, each with the full name that it stands for.
    imports: BTreeMap<&'a str, Name<'a>>,
    /// The names that it uses, as they are written.
    names: Vec<Name<'a>>,
}

/// The words of a source in order: names, punctuation and brackets. Literals are left empty.
fn words(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                found.push(open.to_owned());
                words(group.stream(), found);
                found.push(close.to_owned());
            }
            TokenTree::Punct(sign) if sign.as_char() == ':' && found.last().is_some_and(|last| last == ":") => {
                *found.last_mut().expect("a colon") = "::".to_owned();
            }
            TokenTree::Literal(_) => found.push("\"\"".to_owned()),
            other => found.push(other.to_string()),
        }
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The number of words before the brace that closes a block. The words begin after the opening brace.
fn inside(words: &[&str]) -> usize {
    let mut depth = 0;
    let end = words.iter().position(|word| {
        depth += i32::from(*word == "{") - i32::from(*word == "}");
        depth < 0
    });
    end.unwrap_or(words.len())
}

/// Splits the inside of a pair of braces at its outer commas.
fn parts<'w, 'a>(words: &'w [&'a str]) -> Vec<&'w [&'a str]> {
    let mut depth = 0;
    let split = words.split(|word| {
        depth += i32::from(*word == "{") - i32::from(*word == "}");
        depth == 0 && *word == ","
    });
    split.collect()
}

/// The names that an import such as `a::{b, c as d}` introduces, each with its full name.
fn imported<'a>(words: &[&'a str], before: &[&'a str]) -> Vec<(&'a str, Name<'a>)> {
    match words {
        [first, "::", rest @ ..] => imported(rest, &[before, &[*first]].concat()),
        ["{", list @ .., "}"] => parts(list).into_iter().flat_map(|part| imported(part, before)).collect(),
        ["self"] => vec![(before[before.len() - 1], before.to_vec())],
        [name] if is_name(name) => vec![(*name, [before, &[*name]].concat())],
        [name, "as", alias] => vec![(*alias, [before, &[*name]].concat())],
        [] => vec![],
        other => panic!("import by name, so that one sees what is used: {before:?} {other:?}"),
    }
}

impl<'a> Module<'a> {
    /// Notes the import that follows `use`, and returns how many words it has.
    fn note_import(&mut self, words: &[&'a str], is_public: bool) -> usize {
        let count = words.iter().position(|word| *word == ";").unwrap_or(words.len());
        for (alias, name) in imported(&words[..count], &[]) {
            // A public import only passes a name on. The file does not need it.
            self.names.extend((!is_public).then(|| name.clone()));
            self.imports.insert(alias, name);
        }
        count
    }

    /// Notes a name such as `a::b`, and returns how many words it has.
    fn note_name(&mut self, words: &[&'a str]) -> usize {
        let more = words[1..].chunks_exact(2).take_while(|pair| pair[0] == "::" && is_name(pair[1]));
        let name: Name = words.iter().copied().take(1).chain(more.map(|pair| pair[1])).collect();
        let count = 2 * name.len() - 1;
        self.names.push(name);
        count
    }
}

type Modules<'a> = BTreeMap<Name<'a>, Module<'a>>;

/// Reads the source of a module, and of the modules that are written inside it.
fn read<'a>(words: &[&'a str], at: &[&'a str], file: &'a str, modules: &mut Modules<'a>) {
    let mut module = Module { file, ..Module::default() };
    let (mut rest, mut last) = (words, "");
    while let [word, after @ ..] = rest {
        let count = match (*word, after) {
            ("use", [first, ..]) if *first != "<" => 1 + module.note_import(after, matches!(last, "pub" | ")")),
            ("mod", [name, "{", inner @ ..]) => {
                let inner = &inner[..inside(inner)];
                if *name != "tests" {
                    read(inner, &[at, &[*name]].concat(), file, modules);
                }
                3 + inner.len()
            }
            (name, _) if is_name(name) && last != "::" && last != "." => module.note_name(rest),
            _ => 1,
        };
        last = rest[count - 1];
        rest = &rest[count..];
    }
    modules.insert(at.to_vec(), module);
}

/// The file that defines `name`, as seen from inside the module `at`. `None` if that module itself or a library defines
/// it.
fn home<'a>(modules: &Modules<'a>, at: &[&'a str], name: &[&'a str]) -> Option<&'a str> {
    let (first, rest) = name.split_first()?;
    let child = [at, &[*first]].concat();
    match *first {
        "crate" | "earmark" => below(modules, &[], rest),
        "self" => below(modules, at, rest),
        "super" => below(modules, &at[..at.len().checked_sub(1)?], rest),
        _ => match modules.get(at)?.imports.get(first) {
            Some(import) if import[0] != *first => home(modules, at, &[import, rest].concat()),
            _ if modules.contains_key(&child) => below(modules, &child, rest),
            _ => None,
        },
    }
}

/// The file that defines `name`, as seen from outside the module `at`. `None` if `name` is a module.
fn below<'a>(modules: &Modules<'a>, at: &[&'a str], name: &[&'a str]) -> Option<&'a str> {
    let first = name.first()?;
    match home(modules, at, name) {
        Some(file) => Some(file),
        None if modules.get(at)?.imports.contains_key(first) => None,
        None if modules.contains_key(&[at, &[*first]].concat()) => None,
        None => Some(modules.get(at)?.file),
    }
}

/// Which files each file needs.
fn needs(sources: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: Vec<(Vec<&str>, &str, Vec<String>)> = vec![];
    for (file, code) in sources.iter().filter(|(file, _)| file.ends_with(".rs") && !file.ends_with("tests.rs")) {
        let name = file.trim_end_matches(".rs").trim_end_matches("/mod");
        let at = if name == "lib" { vec![] } else { name.split('/').collect() };
        let mut found = vec![];
        words(code.parse().unwrap_or_else(|error| panic!("{file}: {error}")), &mut found);
        all.push((at, file, found));
    }
    let mut modules = Modules::new();
    for (at, file, words) in &all {
        read(&words.iter().map(String::as_str).collect::<Vec<_>>(), at, file, &mut modules);
    }
    let mut needs = BTreeMap::<String, BTreeSet<String>>::new();
    for (at, module) in &modules {
        let files = module.names.iter().filter_map(|name| home(&modules, at, name));
        let own = module.file.strip_suffix("mod.rs").filter(|folder| !folder.is_empty());
        let is_own = |file: &&str| own.is_some_and(|folder| file.starts_with(folder));
        let others = files.filter(|file| *file != module.file && !is_own(file)).map(str::to_owned);
        needs.entry(module.file.to_owned()).or_default().extend(others);
    }
    needs
}

/// The shortest way from one file to another.
fn way<'a>(needs: &'a BTreeMap<String, BTreeSet<String>>, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let (mut ways, mut seen) = (VecDeque::from([vec![from]]), BTreeSet::from([from]));
    while let Some(way) = ways.pop_front() {
        let last = way[way.len() - 1];
        if last == to {
            return Some(way);
        }
        for next in needs.get(last).into_iter().flatten().filter(|next| seen.insert(next)) {
            ways.push_back([way.as_slice(), &[next]].concat());
        }
    }
    None
}

/// For each file and each file that it needs, the shortest circle through both. A circle that contains all files of a
/// shorter one is left out.
fn circles(sources: &[(String, String)]) -> BTreeSet<String> {
    let needs = needs(sources);
    let mut all = BTreeSet::new();
    for (file, others) in &needs {
        for mut circle in others.iter().filter_map(|other| way(&needs, other, file)) {
            let first = circle.iter().enumerate().min_by_key(|(_, file)| **file).map_or(0, |(place, _)| place);
            circle.rotate_left(first);
            all.insert(circle);
        }
    }
    let is_in =
        |one: &Vec<&str>, other: &Vec<&str>| one.len() < other.len() && one.iter().all(|file| other.contains(file));
    let shortest = all.iter().filter(|circle| !all.iter().any(|one| is_in(one, circle)));
    shortest.map(|circle| circle.join(" > ")).collect()
}

#[test]
fn no_files_need_each_other() {
    let found = circles(&sources());
    assert!(found.is_empty(), "each file needs the next one, and the last one the first: {found:#?}");
}

#[test]
fn a_circle_is_found_through_imports_full_names_and_re_exports() {
    let circles_of = |files: &[(&str, &str)]| {
        let sources: Vec<_> = files.iter().map(|(file, code)| (file.to_string(), code.to_string())).collect();
        circles(&sources).into_iter().collect::<Vec<_>>()
    };
    let root = ("lib.rs", "pub mod a;");
    let parent = ("a/mod.rs", "mod b; mod c; mod d; pub use b::B; pub struct A;");
    let d = ("a/d.rs", "use super::c; fn d() { c::c(); }");
    let back = ("a/b.rs", "use super::d::{self, Other as Same}; pub struct B(super::A); fn b() { d::d(); }");
    let through = ("a/c.rs", "use crate::a::B; pub fn c(_: B) {}");
    assert_eq!(circles_of(&[root, parent, d, back, through]), ["a/b.rs > a/d.rs > a/c.rs"]);
    let tests = ("a/b.rs", "pub struct B(super::A); mod tests { use super::super::d; fn b() { d::d(); } }");
    assert_eq!(circles_of(&[root, parent, d, tests, through]), Vec::<String>::new());
    let uses = ("a/mod.rs", "mod b; mod c; mod d; pub use b::B; pub struct A(B);");
    assert_eq!(circles_of(&[root, uses, d, tests, through]), Vec::<String>::new(), "a `mod.rs` and its own modules");
}
