//! The rules for the sources, checked by reading them: which way imports run, and which file may contain what.

mod circles;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file: its path below `src/`, and its lines of code. Comments do not count.
fn sources() -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![source_root()], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                let text = std::fs::read_to_string(&entry).expect("text");
                let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                let name = entry.strip_prefix(source_root()).expect("below src").to_string_lossy().into_owned();
                found.push((name, code.join("\n")));
            }
        }
    }
    assert!(found.len() > 30, "too few sources were found");
    found
}

/// The module of a file: its top folder below `src/`, or its own name.
fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// The modules that a text names after `crate::`, alone or in braces.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or(rest, |(list, _)| list);
        let count = if rest.starts_with('{') { usize::MAX } else { 1 };
        for item in list.split(',').take(count) {
            let word: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            named.insert(word);
        }
    }
    named.remove("");
    named
}

/// The modules that each module may import.
fn allowed(module: &str) -> &'static [&'static str] {
    match module {
        "ledger" | "connections" | "https" | "retry" | "failpoint" | "shutdown" | "telemetry" | "api_key"
        | "server_url" | "lib" | "main" => &[],
        "clock" | "wire" | "metrics" => &["ledger"],
        "feed" => &["ledger", "postgres", "wire"],
        "webhook" => &["ledger", "secret"],
        "relay" => {
            &["clock", "feed", "https", "ledger", "metrics", "postgres", "rabbit", "retry", "secret", "webhook", "wire"]
        }
        "postgres" => &["ledger", "metrics", "server_url"],
        "rabbit" => &["https", "metrics", "server_url"],
        "secret" => &["clock", "ledger"],
        "ops" => &["clock", "connections", "ledger", "metrics", "postgres", "rabbit", "retry", "secret", "wire"],
        "worker" => {
            &["clock", "failpoint", "ledger", "metrics", "postgres", "rabbit", "retry", "secret", "trace", "wire"]
        }
        "intake" => &[
            "api_key",
            "clock",
            "connections",
            "failpoint",
            "feed",
            "ledger",
            "metrics",
            "postgres",
            "rabbit",
            "retry",
            "secret",
            "trace",
            "webhook",
            "wire",
        ],
        "send" => &["clock", "https", "ledger", "retry", "wire"],
        "trace" => &["clock", "https"],
        "config" => &[
            "connections",
            "intake",
            "ledger",
            "ops",
            "postgres",
            "rabbit",
            "relay",
            "secret",
            "webhook",
            "wire",
            "worker",
        ],
        "cli" => &[
            "api_key",
            "clock",
            "config",
            "connections",
            "failpoint",
            "intake",
            "ledger",
            "ops",
            "postgres",
            "rabbit",
            "relay",
            "retry",
            "send",
            "shutdown",
            "telemetry",
            "trace",
            "wire",
            "worker",
        ],
        other => panic!("{other} is a new module: say here what it may know"),
    }
}

#[test]
fn imports_run_one_way() {
    for (file, code) in sources() {
        let module = module_of(&file);
        for named in modules_named(&code) {
            assert!(named == module || allowed(module).contains(&named.as_str()), "{file} must not know {named}");
        }
    }
}

#[test]
fn each_library_stays_in_its_modules() {
    let homes: [(&str, &[&str]); 18] = [
        ("sqlx", &["postgres"]),
        ("lapin", &["rabbit"]),
        ("axum", &["connections", "intake", "ops"]),
        ("hyper", &["connections"]),
        ("backoff", &["retry"]),
        ("moka", &["intake"]),
        ("prometheus", &["metrics", "ops"]),
        ("reqwest", &["https", "rabbit", "relay", "send", "trace"]),
        ("calamine", &["send"]),
        ("csv", &["send", "wire"]),
        ("indicatif", &["send"]),
        ("schemars", &["wire", "intake"]),
        ("httpdate", &["retry"]),
        ("icu_normalizer", &["ledger"]),
        ("icu_properties", &["ledger"]),
        ("idna", &["ledger"]),
        ("tracing_subscriber", &["postgres", "telemetry"]),
        ("clap", &["cli", "config", "telemetry", "main", "api_key"]),
    ];
    for (library, modules) in homes {
        let users: BTreeSet<String> = sources()
            .iter()
            .filter(|(_, code)| code.contains(&format!("{library}::")))
            .map(|(file, _)| module_of(file).to_owned())
            .collect();
        assert!(!users.is_empty(), "nobody uses {library}");
        for user in users {
            assert!(modules.contains(&user.as_str()), "{user} must not use {library}");
        }
    }
}

/// The files outside `wire` that derive Serialize or Deserialize. The list may only become shorter: what others see is said in
/// `wire`, and a row of the database is never what others see.
const DERIVE_SERDE: [&str; 9] = [
    "ops/console/businesses.rs",
    "ops/console/dead_letters.rs",
    "ops/console/requests.rs",
    "ops/console/samples.rs",
    "ops/console/sign_in.rs",
    "ops/console/snapshot.rs",
    "send/client.rs",
    "send/file.rs",
    "send/journal.rs",
];

#[test]
fn what_others_see_is_written_in_wire_and_in_the_files_listed() {
    let derives_serde = |code: &str| {
        let mut derives = code.split("derive(").skip(1).filter_map(|rest| rest.split(')').next());
        derives.any(|traits| traits.contains("Serialize") || traits.contains("Deserialize"))
    };
    let mut users = files_where(derives_serde);
    users.retain(|file| module_of(file) != "wire");
    assert_eq!(users, DERIVE_SERDE);
}

/// `ledger/spelling.rs` alone looks into Unicode's tables: what one address is cannot be known without them. These libraries
/// are functions over constants, as pure as `std`.
const TABLES: [&str; 3] = ["icu_normalizer", "icu_properties", "idna"];

#[test]
fn the_ledger_uses_the_standard_library_and_itself() {
    for (file, code) in sources().iter().filter(|(file, _)| file.starts_with("ledger/")) {
        // Tests may use more.
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in
            code.lines().filter_map(|line| line.trim().strip_prefix("use ").or(line.trim().strip_prefix("pub use ")))
        {
            let first = line.split("::").next().unwrap_or_default();
            let own = [
                "std",
                "super",
                "crate",
                "amount",
                "decide",
                "email",
                "ids",
                "money",
                "movement",
                "dead_letters",
                "outcome",
                "reasons",
                "reference",
                "request",
                "shards",
                "spelling",
                "webhooks",
            ];
            let is_table = file == "ledger/spelling.rs" && TABLES.contains(&first);
            assert!(own.contains(&first) || is_table || file.ends_with("tests.rs"), "{file} uses {first}");
        }
        for word in ["async ", "await", "tracing::", "Instant", "SystemTime", "std::fs", "std::net", "std::env"] {
            assert!(!code.contains(word), "{file} has {word}");
        }
    }
}

/// The files whose code has this text.
fn files_with(text: &str) -> Vec<String> {
    files_where(|code| code.contains(text))
}

fn files_where(holds: impl Fn(&str) -> bool) -> Vec<String> {
    let mut files: Vec<String> = sources().into_iter().filter(|(_, code)| holds(code)).map(|(file, _)| file).collect();
    files.sort();
    files
}

#[test]
fn an_address_is_parsed_unless_a_row_has_it() {
    assert_eq!(files_with("Email::stored("), ["postgres/types.rs"]);
}

#[test]
fn only_a_proof_makes_an_answer_that_says_no_funds_were_debited() {
    // The answers are built in one file, from private parts.
    assert_eq!(files_with("INTERNAL_SERVER_ERROR"), ["intake/problem.rs"]);
    assert_eq!(files_with("No funds were debited"), ["intake/problem.rs"]);
    assert_eq!(files_with("SERVICE_UNAVAILABLE"), ["intake/problem.rs", "ops/mod.rs"]);
    assert_eq!(files_with("StatusCode::from_u16"), Vec::<String>::new());
    assert_eq!(files_with("catch_panic"), Vec::<String>::new());
    let problem = std::fs::read_to_string(source_root().join("intake/problem.rs")).expect("the answers");
    assert_eq!(problem.matches("StatusCode::INTERNAL_SERVER_ERROR").count(), 1);
    assert_eq!(problem.matches("StatusCode::SERVICE_UNAVAILABLE").count(), 1);
    assert!(problem.contains("pub fn unexpected(proof: Voided) -> Answer"));
    assert!(problem.contains("pub fn unavailable(proof: NeverPublished) -> Answer"));
    assert!(problem.contains("pub fn superseded(_proof: VoidedAttempt) -> Answer"));
    assert!(problem.contains("\nfn try_again(why: Refusal) -> Answer"), "it is private");
    // Each proof is built only where its fact is known.
    let publication = std::fs::read_to_string(source_root().join("intake/publication.rs")).expect("the publication");
    assert_eq!(files_with("NeverPublished("), ["intake/publication.rs"]);
    assert_eq!(publication.matches("NeverPublished(").count(), 3, "the type; given up unpublished; died unpublished");
    assert!(publication.contains("pub struct NeverPublished(Refusal);"), "its field is private");
    let allocations = std::fs::read_to_string(source_root().join("postgres/allocations.rs")).expect("the rows");
    assert!(allocations.contains("pub struct Voided(Proof);"), "its field is private");
    assert!(allocations.contains("pub struct VoidedAttempt(Proof);"), "its field is private");
    assert_eq!(files_with("Voided(Voided("), ["postgres/allocations.rs"]);
    assert_eq!(files_with("VoidedAttempt("), ["postgres/allocations.rs"]);
    // The intake notes the raises that it knows of when a request comes in, before it does anything else.
    assert_eq!(files_with("Receipt::new("), ["intake/raises.rs", "ledger/request.rs"]);
    assert_eq!(files_with("raises().receive()"), ["intake/routes.rs"]);
    assert_eq!(files_with(".raises()"), ["intake/mod.rs", "intake/routes.rs"]);
    let routes = std::fs::read_to_string(source_root().join("intake/routes.rs")).expect("the routes");
    for handler in ["async fn create(", "async fn create_bulk(", "async fn reverse(", "async fn settle("] {
        let (_, body) = routes.split_once(handler).expect(handler);
        let first = body.lines().nth(1).unwrap_or_default().trim();
        assert_eq!(first, "let received = intake.raises().receive();", "{handler}");
    }
}

#[test]
fn every_statement_that_decides_names_the_schema_that_it_means() {
    let mut deciding = 0;
    for (file, _) in sources() {
        let whole = std::fs::read_to_string(source_root().join(&file)).expect("a source");
        // Each statement begins with a comment that names it.
        for statement in whole.split("/* ").skip(1).filter(|statement| statement.contains("INSERT INTO allocations")) {
            let (name, _) = statement.split_once(" */").expect("a name");
            assert!(statement.contains("in_schema($"), "{name} in {file} may write into another shard");
            deciding += 1;
        }
    }
    assert_eq!(deciding, 4, "by a batch in two ways, by those who give up, and by a look-up");
}

#[test]
fn nothing_is_left_for_later() {
    for (file, code) in sources() {
        for word in ["todo!", "unimplemented!", "dbg!", "println!(\"DEBUG", "#[allow(dead_code", "#[allow(unused"] {
            assert!(!code.contains(word), "{file} has {word}");
        }
    }
}

#[test]
fn every_mutant_still_changes_the_program() {
    let patches = std::fs::read_dir("tests/mutants").expect("mutants").map(|entry| entry.expect("an entry").path());
    let mut count = 0;
    for patch in patches.filter(|path| path.extension().is_some_and(|kind| kind == "patch")) {
        let checked = std::process::Command::new("git").args(["apply", "--check"]).arg(&patch).output().expect("git");
        assert!(checked.status.success(), "{}: {}", patch.display(), String::from_utf8_lossy(&checked.stderr));
        count += 1;
    }
    assert!(count > 10, "{count}");
}
