//! The manifests for Kubernetes, and other YAML for deployment, against the program.

use crate::harness::process::Run;
use std::collections::BTreeSet;
use std::path::Path;
use yaml_rust2::{Yaml, YamlLoader};

const MANIFESTS: [&str; 7] = ["intake", "keda", "migrate", "network", "relay", "secret.example", "worker"];

pub fn load(name: &str) -> Vec<Yaml> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    let text = text.unwrap_or_else(|error| panic!("{name}: {error}"));
    YamlLoader::load_from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All documents of a kind in all manifests.
fn all(kind: &str) -> Vec<Yaml> {
    let documents = MANIFESTS.into_iter().flat_map(|name| load(&format!("deploy/kubernetes/{name}.yaml")));
    let found: Vec<Yaml> = documents.filter(|document| document["kind"].as_str() == Some(kind)).collect();
    assert!(!found.is_empty(), "no {kind}");
    found
}

pub fn items(list: &Yaml) -> &[Yaml] {
    list.as_vec().map(Vec::as_slice).unwrap_or_default()
}

pub fn text(value: &Yaml) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value:?}"))
}

/// The one container of a Deployment or a Job.
fn container(workload: &Yaml) -> &Yaml {
    match items(&workload["spec"]["template"]["spec"]["containers"]) {
        [one] => one,
        others => panic!("{} containers", others.len()),
    }
}

fn workloads() -> Vec<Yaml> {
    [all("Deployment"), all("Job")].concat()
}

/// The value of a variable that is written in the manifest itself.
fn variable<'a>(container: &'a Yaml, name: &str) -> Option<&'a str> {
    items(&container["env"]).iter().find(|variable| variable["name"].as_str() == Some(name))?["value"].as_str()
}

pub fn help(command: &str) -> String {
    Run::new(&[command, "--help"], vec![]).expect_success().stdout()
}

pub fn is_setting(help: &str, name: &str) -> bool {
    help.contains(&format!("[env: {name}]")) || help.contains(&format!("[env: {name}="))
}

/// The port that a probe or a Service refers to by name.
fn port(container: &Yaml, name: &str) -> i64 {
    let ports = items(&container["ports"]);
    let named =
        ports.iter().find(|port| port["name"].as_str() == Some(name)).unwrap_or_else(|| panic!("no port {name}"));
    named["containerPort"].as_i64().expect("a number")
}

#[test]
fn every_manifest_is_in_the_list_and_every_file_for_deployment_is_yaml() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
    let there: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().trim_end_matches(".yaml").to_owned())
        .collect();
    assert_eq!(there, MANIFESTS.map(str::to_owned).into());
    for name in MANIFESTS {
        for document in load(&format!("deploy/kubernetes/{name}.yaml")) {
            assert!(document["apiVersion"].as_str().is_some() && document["metadata"]["name"].as_str().is_some());
        }
    }
    let others = ["docker-compose.yml", "deploy/prometheus/prometheus.yml", "deploy/prometheus/alerts.yml"];
    let provisioning = ["dashboards/earmark.yml", "datasources/prometheus.yml"];
    let provisioning = provisioning.map(|name| format!("deploy/grafana/provisioning/{name}"));
    for name in others.map(str::to_owned).into_iter().chain(provisioning) {
        assert_eq!(load(&name).len(), 1, "{name}");
    }
}

/// The names and values of a secret.
fn secret(name: &str) -> Vec<(String, String)> {
    let found = all("Secret").into_iter().find(|secret| secret["metadata"]["name"].as_str() == Some(name));
    let found = found.unwrap_or_else(|| panic!("no secret {name}"));
    let values = found["stringData"].as_hash().expect("values");
    values.iter().map(|(name, value)| (text(name).to_owned(), text(value).to_owned())).collect()
}

#[test]
fn every_container_runs_a_command_of_the_program_with_settings_that_it_reads() {
    for workload in workloads() {
        let container = container(&workload);
        let command = text(&container["args"][0]);
        let help = help(command);
        let own = items(&container["env"]).iter().map(|variable| text(&variable["name"]).to_owned());
        let secrets: Vec<&str> =
            items(&container["envFrom"]).iter().map(|from| text(&from["secretRef"]["name"])).collect();
        let names: BTreeSet<String> =
            own.chain(secrets.iter().flat_map(|name| secret(name)).map(|(name, _)| name)).collect();
        for name in &names {
            assert!(is_setting(&help, name), "{command} does not read {name}");
        }
        // Probes come from outside the pod. So the side listener listens beyond loopback, which needs a token.
        let serving = ["EARMARK_HASH_SECRET", "EARMARK_ENVELOPE_KEYS", "EARMARK_OPS_TOKEN", "EARMARK_DECLARE"];
        let is_job = command == "migrate";
        for name in ["DATABASE_URL", "AMQP_URL"].into_iter().chain(serving.into_iter().filter(|_| !is_job)) {
            assert!(names.contains(name), "{command} needs {name}");
        }
        // The users of one kind of process are for no other.
        let of_users = format!("earmark-{command}");
        let shared: &[&str] = if is_job { &[] } else { &["earmark"] };
        assert_eq!(secrets, [shared, &[of_users.as_str()]].concat());
        assert!(shared.iter().flat_map(|name| secret(name)).all(|(name, _)| !name.ends_with("_URL")));
        if !is_job {
            assert_eq!(variable(container, "EARMARK_DECLARE"), Some("false"), "its user may not declare");
        }
    }
    for trigger in all("TriggerAuthentication") {
        for reference in items(&trigger["spec"]["secretTargetRef"]) {
            assert!(secret(text(&reference["name"])).iter().any(|(name, _)| name == text(&reference["key"])));
        }
    }
    for example in all("Secret") {
        let values = secret(text(&example["metadata"]["name"]));
        assert!(!values.is_empty() && values.iter().all(|(_, value)| value.is_empty()), "an example has no secrets");
    }
}

#[test]
fn network_policies_let_in_and_out_what_each_process_needs_and_nothing_else() {
    let policies = all("NetworkPolicy");
    let ports = |rules: &Yaml| -> BTreeSet<i64> {
        items(rules).iter().flat_map(|rule| items(&rule["ports"])).filter_map(|port| port["port"].as_i64()).collect()
    };
    for deployment in workloads() {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let is_selected = |policy: &&Yaml| {
            let wanted = policy["spec"]["podSelector"]["matchLabels"].as_hash().expect("labels");
            wanted.iter().all(|(name, value)| labels.as_hash().and_then(|labels| labels.get(name)) == Some(value))
        };
        let of_pod: Vec<&Yaml> = policies.iter().filter(is_selected).collect();
        let all_of = |direction: &str| {
            of_pod.iter().flat_map(|policy| ports(&policy["spec"][direction])).collect::<BTreeSet<_>>()
        };
        let component = text(&labels["app.kubernetes.io/component"]);
        let (mut inward, mut outward) = (vec![9090], vec![53, 5432, 5671, 5672]);
        if component == "intake" {
            inward.push(8080);
        }
        if component == "relay" {
            outward.push(443);
        }
        assert_eq!(all_of("ingress"), inward.into_iter().collect(), "{component}");
        assert_eq!(all_of("egress"), outward.into_iter().collect(), "{component}");
        let kinds: BTreeSet<&str> =
            of_pod.iter().flat_map(|policy| items(&policy["spec"]["policyTypes"])).map(text).collect();
        assert_eq!(kinds, ["Egress", "Ingress"].into(), "what no rule allows is refused, both ways");
    }
}

#[test]
fn every_probe_asks_the_side_listener_where_it_listens() {
    for deployment in all("Deployment") {
        let container = container(&deployment);
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            assert_eq!(text(&container[probe]["httpGet"]["path"]), path);
            assert_eq!(text(&container[probe]["httpGet"]["port"]), "ops");
        }
        let listens = |name: &str, setting: &str| {
            let expected = format!("0.0.0.0:{}", port(container, name));
            assert_eq!(variable(container, setting), Some(expected.as_str()));
        };
        listens("ops", "EARMARK_OPS_LISTEN");
        if variable(container, "EARMARK_LISTEN").is_some() {
            listens("http", "EARMARK_LISTEN");
        }
        let scraped = &deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"];
        assert_eq!(text(scraped), port(container, "ops").to_string());
    }
    for service in all("Service") {
        assert_eq!(text(&service["spec"]["ports"][0]["targetPort"]), "http");
    }
}

#[test]
fn every_pod_is_given_longer_to_stop_than_the_program_takes() {
    let help = help("intake");
    let (_, after) = help.split_once("[env: EARMARK_SHUTDOWN_GRACE").expect("the setting is in the help");
    let (_, after) = after.split_once("[default: ").expect("the setting has a default");
    let grace: i64 = after.split("s]").next().unwrap_or_default().parse().expect("whole seconds");
    for deployment in all("Deployment") {
        let container = container(&deployment);
        assert_eq!(variable(container, "EARMARK_SHUTDOWN_GRACE"), None, "the default holds");
        let before = items(&container["lifecycle"]["preStop"]["exec"]["command"]);
        let before: i64 = before.get(1).map_or(0, |seconds| text(seconds).parse().expect("seconds"));
        let given = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_i64().expect("seconds");
        assert!(given > before + grace, "{given}s for {before}s and {grace}s");
    }
}

#[test]
fn there_are_always_two_workers_and_a_budget_that_keeps_one() {
    let deployments = all("Deployment");
    let mut budgets = all("PodDisruptionBudget").into_iter();
    for deployment in &deployments {
        assert!(deployment["spec"]["replicas"].as_i64() >= Some(2), "{:?}", deployment["metadata"]["name"]);
        let labels = &deployment["spec"]["selector"]["matchLabels"];
        assert_eq!(&deployment["spec"]["template"]["metadata"]["labels"], labels);
        let budget = budgets.find(|budget| &budget["spec"]["selector"]["matchLabels"] == labels).expect("a budget");
        assert_eq!(budget["spec"]["minAvailable"].as_i64(), Some(1));
    }
    for scaled in all("ScaledObject") {
        let name = text(&scaled["spec"]["scaleTargetRef"]["name"]);
        assert!(deployments.iter().any(|deployment| deployment["metadata"]["name"].as_str() == Some(name)));
        assert!(scaled["spec"]["minReplicaCount"].as_i64() >= Some(2));
        let triggers = items(&scaled["spec"]["triggers"]);
        assert_eq!(scaled["spec"]["maxReplicaCount"].as_i64(), Some(triggers.len() as i64 + 1), "more would stand by");
        for (trigger, shard) in triggers.iter().zip(0..) {
            let queue = earmark::rabbit::topology::Topology::new("earmark").work_queue(shard);
            assert_eq!(text(&trigger["metadata"]["queueName"]), queue, "a trigger for each shard");
        }
    }
}

#[test]
fn every_image_is_of_this_version_and_every_container_without_privileges() {
    let image = format!("earmark:{}", env!("CARGO_PKG_VERSION"));
    for workload in workloads() {
        let container = container(&workload);
        assert_eq!(text(&container["image"]), image);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"].as_bool(), Some(false));
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"].as_bool(), Some(true));
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0].as_str(), Some("ALL"));
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"].as_str(), Some("RuntimeDefault"));
        for id in ["runAsUser", "runAsGroup"] {
            assert!(pod["securityContext"][id].as_i64() > Some(0), "{id}");
        }
        assert_eq!(pod["automountServiceAccountToken"].as_bool(), Some(false));
    }
}
