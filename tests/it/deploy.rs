//! The files for deployment, checked against the program: they must follow when a command or a setting is renamed.

use crate::harness::process::Run;
use crate::manifests::{help, is_setting, items, load, text};
use std::collections::BTreeSet;
use std::path::Path;
use yaml_rust2::Yaml;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The compose file as paths and their values, such as `services.intake.ports` and a list. What is merged into a map is
/// below its `<<`.
fn compose() -> Vec<(String, Yaml)> {
    let mut settings = vec![];
    for document in load("docker-compose.yml") {
        collect("", &document, &mut settings);
    }
    settings
}

fn collect(path: &str, value: &Yaml, settings: &mut Vec<(String, Yaml)>) {
    settings.push((path.to_owned(), value.clone()));
    for (key, value) in value.as_hash().into_iter().flatten() {
        collect(&format!("{path}.{}", text(key)), value, settings);
    }
}

/// The values of all paths with this ending. There must be at least one.
fn values<'a>(settings: &'a [(String, Yaml)], ending: &str) -> Vec<&'a Yaml> {
    let matching = settings.iter().filter(|(path, _)| path.ends_with(ending));
    let values: Vec<&Yaml> = matching.map(|(_, value)| value).collect();
    assert!(!values.is_empty(), "nothing ends with {ending}");
    values
}

fn texts(list: &Yaml) -> Vec<String> {
    items(list).iter().map(|item| text(item).to_owned()).collect()
}

/// The arguments of an instruction on all of its lines in the Dockerfile. There must be at least one.
fn instructions(name: &str) -> Vec<String> {
    let text = file("Dockerfile");
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let found: Vec<String> = lines.map(str::to_owned).collect();
    assert!(!found.is_empty(), "no {name} in the Dockerfile");
    found
}

/// The arguments of every call of the program: commands and health checks.
fn calls() -> Vec<Vec<String>> {
    let settings = compose();
    // The containers of the program have its image from the map that they merge.
    let has_image = |service: &str| settings.iter().any(|(path, _)| *path == format!("{service}.image"));
    let own = |(path, _): &&(String, Yaml)| path.strip_suffix(".command").is_some_and(|service| !has_image(service));
    let mut calls: Vec<Vec<String>> = settings.iter().filter(own).map(|(_, command)| texts(command)).collect();
    let list = |json: &String| serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    calls.extend(instructions("CMD").iter().map(list));
    let checks = values(&settings, ".healthcheck.test").into_iter().map(texts);
    let own: Vec<Vec<String>> = checks.filter(|check| check[1] == "earmark").map(|check| check[2..].to_vec()).collect();
    assert!(!own.is_empty(), "no health check calls the program");
    calls.extend(own);
    calls
}

/// The names that the compose file demands: `${NAME:?message}`.
fn required() -> BTreeSet<String> {
    let text = file("docker-compose.yml");
    let names = text.split("${").skip(1).filter_map(|rest| rest.split_once(":?"));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// The password in `postgres://user:password@host`.
fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user_and_password, _) = rest.rsplit_once('@')?;
    user_and_password.split_once(':').map(|(_, password)| password)
}

fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("not in seconds: {text}"))
}

#[test]
fn every_call_in_the_deployment_files_is_a_command_of_the_program_with_its_flags() {
    assert_eq!(instructions("ENTRYPOINT"), [r#"["earmark"]"#]);
    let commands = Run::new(&["--help"], vec![]).expect_success().stdout();
    for call in calls() {
        let name = call[0].as_str();
        let is_listed = |line: &str| line.strip_prefix("  ").is_some_and(|rest| rest.split(' ').next() == Some(name));
        assert!(commands.lines().any(is_listed), "there is no command {name}");
        let help = help(name);
        for flag in call.iter().filter_map(|argument| argument.strip_prefix("--")?.split('=').next()) {
            assert!(help.contains(&format!("--{flag} ")) || help.contains(&format!("--{flag}\n")), "{name} --{flag}");
        }
    }
}

#[test]
fn every_variable_in_the_deployment_files_is_a_setting_of_the_program() {
    let help = ["serve", "intake", "worker", "relay", "migrate", "ready"].map(help).concat();
    for name in ["docker-compose.yml", "Dockerfile", ".env.example"] {
        let text = file(name);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let is_ours = |word: &&str| word.starts_with("EARMARK_") || ["DATABASE_URL", "AMQP_URL"].contains(word);
        let variables: BTreeSet<&str> = words.filter(is_ours).collect();
        assert!(!variables.is_empty(), "{name} sets nothing");
        for variable in variables {
            assert!(is_setting(&help, variable), "{name}: the program does not read {variable}");
        }
    }
}

#[test]
fn every_published_port_is_on_loopback() {
    for port in values(&compose(), ".ports").into_iter().flat_map(items).map(text) {
        assert!(port.starts_with("127.0.0.1:"), "{port}");
    }
}

#[test]
fn every_image_has_a_pinned_tag() {
    let settings = compose();
    let bases = instructions("FROM");
    let bases = bases.iter().map(|base| base.split(' ').next().unwrap_or_default());
    for image in values(&settings, ".image").into_iter().map(text).chain(bases) {
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert!(!tag.contains("latest") && tag.contains(|c: char| c.is_ascii_digit()), "{image}");
    }
}

#[test]
fn every_password_comes_from_outside() {
    let settings = compose();
    let mut passwords: Vec<&str> =
        values(&settings, "_URL").into_iter().flat_map(|urls| text(urls).split(',')).filter_map(password_of).collect();
    assert!(!passwords.is_empty(), "no URL has a password");
    for ending in ["_PASSWORD", "_PASS", "_SECRET", "_TOKEN"] {
        passwords.extend(values(&settings, ending).into_iter().map(text));
    }
    for password in passwords {
        let inside = password.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        assert!(inside.is_some_and(|inside| inside.contains(":?") && !inside.contains('}')), "{password}");
    }
}

#[test]
fn the_example_of_an_env_file_names_what_is_required_and_gives_no_values() {
    let text = file(".env.example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: BTreeSet<String> =
        lines.map(|line| line.strip_suffix('=').unwrap_or_else(|| panic!("not empty: {line}")).to_owned()).collect();
    assert!(!names.is_empty());
    assert_eq!(names, required());
}

#[test]
fn a_container_is_given_longer_to_stop_than_the_program_takes() {
    let help = help("intake");
    let (_, after) = help.split_once("[env: EARMARK_SHUTDOWN_GRACE").expect("the setting is in the help");
    let (_, after) = after.split_once("[default: ").expect("the setting has a default");
    let grace = seconds(after.split(']').next().unwrap_or_default());
    let settings = compose();
    for service in ["intake", "worker", "relay"] {
        for period in values(&settings, &format!("services.{service}.<<.stop_grace_period")).into_iter().map(text) {
            assert!(seconds(period) > grace, "{service}: {period} is not longer than {grace}s");
        }
    }
}

#[test]
fn the_cluster_is_made_of_the_servers_that_it_names() {
    let settings = compose();
    let service = |name: &str| settings.iter().any(|(path, _)| *path == format!(".services.{name}"));
    let profile = |name: &str| {
        let [own, merged] = ["", ".<<"].map(|merged| format!(".services.{name}{merged}.profiles"));
        settings.iter().find(|(path, _)| *path == own || *path == merged).map(|(_, profiles)| texts(profiles))
    };
    let value = |ending: &str| text(values(&settings, ending)[0]).to_owned();
    let hosts = |urls: &str| -> Vec<String> {
        let hosts = urls.split('@').skip(1).map(|rest| rest.split(':').next().unwrap_or_default().to_owned());
        hosts.collect()
    };
    let intake = ".services.cluster-intake.environment";
    let (database, brokers) = (value(&format!("{intake}.DATABASE_URL")), value(&format!("{intake}.AMQP_URL")));
    assert_eq!(hosts(&database), ["coordinator"]);
    let brokers = hosts(&brokers);
    assert_eq!(brokers.len(), 3);
    // Each node of Citus is added under its name, and each node of RabbitMQ has the name that the others look for.
    let joining = texts(values(&settings, "services.cluster-nodes.command")[0]).join(" ");
    let quoted: Vec<&str> = joining.split('\'').skip(1).step_by(2).collect();
    assert_eq!(quoted, ["coordinator", "node-1", "node-2"]);
    let conf = file("deploy/rabbitmq/cluster.conf");
    let listed: Vec<&str> =
        conf.lines().filter_map(|line| line.split_once("= rabbit@").map(|(_, node)| node)).collect();
    assert_eq!(listed, brokers);
    for broker in &brokers {
        assert_eq!(value(&format!(".services.{broker}.hostname")), *broker);
    }
    for name in quoted.into_iter().chain(brokers.iter().map(String::as_str)) {
        assert!(service(name), "there is no service {name}");
        assert_eq!(profile(name), Some(vec!["cluster".to_owned()]), "{name}");
    }
}

#[test]
fn prometheus_and_grafana_come_up_when_asked_for_and_find_what_they_need() {
    let settings = compose();
    for service in ["prometheus", "grafana"] {
        let [profiles] = values(&settings, &format!("services.{service}.profiles"))[..] else { panic!("{service}") };
        assert_eq!(texts(profiles), ["observability"]);
        for volume in values(&settings, &format!("services.{service}.volumes")).into_iter().flat_map(texts) {
            let outside = volume.split(':').next().unwrap_or_default();
            let is_there = !outside.starts_with("./") || Path::new(env!("CARGO_MANIFEST_DIR")).join(outside).exists();
            assert!(is_there, "{service} mounts {outside}, which is not there");
        }
    }
    let prometheus = &load("deploy/prometheus/prometheus.yml")[0];
    let scraping = &prometheus["scrape_configs"][0]["dns_sd_configs"][0];
    assert_eq!(texts(&scraping["names"]), ["intake", "worker", "relay"]);
    for address in values(&settings, "x-process.environment.EARMARK_OPS_LISTEN").into_iter().map(text) {
        let (host, port) = address.rsplit_once(':').expect("an address");
        assert_eq!(host, "0.0.0.0", "other containers must be able to reach it");
        assert_eq!(scraping["port"].as_i64(), port.parse().ok());
    }
}
