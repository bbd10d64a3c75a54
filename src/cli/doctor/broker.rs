//! The doctor's checks of RabbitMQ: reachable, new enough, passes a message through, has the queues as this program declares
//! them, and has enough copies of each.

use super::{ProcessRole, failure, ok, warning};
use crate::rabbit::depth::Depth;
use crate::rabbit::management::{Management, Replicas};
use crate::rabbit::permissions::Act;
use crate::rabbit::topology::{DISCONNECTED_MILLIS, DISCONNECTED_TIMEOUT, Topology};
use crate::rabbit::{Broker, Error};
use crate::wire::operator::Check;

/// The oldest RabbitMQ version that has what the queues need (at-least-once dead-lettering).
const OLDEST: (u32, u32) = (3, 10);
/// How many copies of a queue are enough: one of them may be lost. It is also how many RabbitMQ makes by default.
const ENOUGH_COPIES: usize = 3;

/// All checks of the broker and of the queues of these shards. If no message passes through, there is only that failure. With a
/// `role` no message is sent, as its user may not, and it is checked what that user may do.
pub(super) async fn check(
    broker: &Broker,
    management: Option<&Management>,
    shards: &[u8],
    topology: &Topology,
    role: Option<ProcessRole>,
) -> Vec<Check> {
    let first = match role {
        Some(role) => permissions(broker, topology, role).await,
        None => broker
            .round_trip(topology)
            .await
            .map(|took| vec![ok("rabbitmq", format!("a message went through in {} ms", took.as_millis()))]),
    };
    let mut checks = match first {
        Ok(checks) => checks,
        Err(error) => return vec![unreachable(&error)],
    };
    checks.extend(broker.versions().await.iter().map(|found| version(found.as_deref())));
    checks.extend(queues(broker, management, topology, shards).await);
    checks
}

/// What the user of such a process needs to be able to do.
fn needs(role: ProcessRole) -> &'static [Act] {
    match role {
        ProcessRole::Intake => &[Act::WriteRequests],
        ProcessRole::Worker => &[Act::WriteReplies, Act::TakeRequests],
        ProcessRole::Relay => &[],
    }
}

/// Checks that the user may do all that it needs, and nothing else.
async fn permissions(broker: &Broker, topology: &Topology, role: ProcessRole) -> Result<Vec<Check>, Error> {
    let mut checks = vec![];
    for act in Act::ALL {
        let (may, what) = (broker.may(topology, act).await?, act.in_words());
        match (may, needs(role).contains(&act)) {
            (true, false) => {
                let found = format!("this user may also {what}");
                checks.push(warning(
                    "permissions",
                    found,
                    "take that away, as docs/operations.md says: `rabbitmqctl set_permissions`",
                ));
            }
            (false, true) => {
                let found = format!("this user may not {what}");
                checks.push(failure(
                    "permissions",
                    found,
                    "allow it, as docs/operations.md says: `rabbitmqctl set_permissions`",
                ));
            }
            (true, true) | (false, false) => {}
        }
    }
    if checks.is_empty() {
        checks.push(ok("permissions", "this user may do what it needs, and none of what it should not"));
    }
    Ok(checks)
}

fn unreachable(error: &Error) -> Check {
    let fix =
        "start the broker, correct AMQP_URL, give its user all rights to EARMARK_QUEUE_PREFIX, or clear its alarm";
    failure("rabbitmq", error.to_string(), fix)
}

fn version(found: Option<&str>) -> Check {
    let Some(text) = found else {
        return ok("rabbitmq", "version of a node not checked: it has TLS, or did not answer");
    };
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if number < OLDEST {
        return failure("rabbitmq", format!("{text} is older than 3.10"), "upgrade the broker");
    }
    ok("rabbitmq", format!("version {text}"))
}

/// Checks the queues. It declares no queue that does not exist, because the prefix may be wrong.
async fn queues(broker: &Broker, management: Option<&Management>, topology: &Topology, shards: &[u8]) -> Vec<Check> {
    let names = topology.all_queues(shards);
    let depths = match broker.find_queues(&names).await {
        Ok(depths) => depths,
        Err(error) => {
            let fix = "check the leader nodes of the queues: `rabbitmq-queues quorum_status`";
            return vec![failure("queues", error.to_string(), fix)];
        }
    };
    if let Some((name, _)) = names.iter().zip(&depths).find(|(_, depth)| depth.is_none()) {
        let fix = "correct EARMARK_QUEUE_PREFIX, or run `earmark migrate`, which declares it";
        return vec![warning("queues", format!("{name} is not there"), fix)];
    }
    let found = |depth: Depth| format!("{}: {} ready, {} consumers", depth.queue, depth.ready, depth.consumers);
    let mut checks: Vec<Check> = depths.into_iter().flatten().map(|depth| ok("queue", found(depth))).collect();
    let mut replicas = vec![];
    if let Some(management) = management {
        match find_replicas(broker, management, &names).await {
            Ok((nodes, found)) => {
                checks.extend(names.iter().zip(&found).map(|(name, found)| copies(name, found, &nodes)));
                replicas = found;
            }
            Err(error) => {
                let fix = "correct RABBITMQ_MANAGEMENT_URL, and give its user the tag `monitoring`";
                checks.push(warning("copies", error.to_string(), fix));
            }
        }
    }
    checks.extend(declared(broker, topology, shards, &replicas).await);
    checks
}

async fn find_replicas(
    broker: &Broker,
    management: &Management,
    names: &[String],
) -> Result<(Vec<String>, Vec<Replicas>), Error> {
    let (nodes, mut replicas) = (management.find_nodes().await?, vec![]);
    for name in names {
        replicas.push(management.find_replicas(broker, name).await?);
    }
    Ok((nodes, replicas))
}

/// Checks how many copies of a queue there are in a cluster of these nodes.
fn copies(name: &str, Replicas { leader, members, online, .. }: &Replicas, nodes: &[String]) -> Check {
    let of = format!("{name}: on {} of {} nodes ({})", members.len(), nodes.len(), members.join(", "));
    let Some(leader) = leader.as_ref().filter(|leader| online.contains(leader)) else {
        return warning("copies", format!("{of}, none leads"), "start the nodes that are down");
    };
    let found = format!("{of}, led by {leader}");
    if members.len() < nodes.len().min(ENOUGH_COPIES) {
        return warning("copies", found, "run `rabbitmq-queues grow NODE all` for each node that has none");
    }
    if online.len() < members.len() {
        return warning("copies", format!("{found}, {} online", online.len()), "start the nodes that are down");
    }
    ok("copies", found)
}

/// Checks whether the queues are declared as this program declares them. `replicas`: what the management API says of each
/// queue, if it was asked.
async fn declared(broker: &Broker, topology: &Topology, shards: &[u8], replicas: &[Replicas]) -> Vec<Check> {
    let names = topology.all_queues(shards);
    let mut checks = vec![];
    loop {
        match broker.declare(topology, shards).await {
            Ok(()) if topology.is_declared_by_others() => {
                return vec![ok("queues", "all exchanges and queues are there")];
            }
            Ok(()) if checks.is_empty() => return vec![ok("queues", "declared as this program declares them")],
            Ok(()) => return checks,
            // From now on the topology takes this queue as it is, so each is named once.
            Err(error) if error.to_string().contains(DISCONNECTED_TIMEOUT) && checks.len() < shards.len() => {
                let text = error.to_string();
                let number = names.iter().position(|name| text.contains(&format!("'{name}'")));
                let name = number.map_or("a work queue", |number| names[number].as_str());
                let found = number.and_then(|number| replicas.get(number));
                checks.push(without_timeout(name, found.and_then(|found| found.disconnected_millis)));
            }
            Err(error) => {
                let fix = "empty the queue, delete it, and let a worker declare it again";
                checks.push(failure("queues", error.to_string(), fix));
                return checks;
            }
        }
    }
}

/// A work queue without the argument [`DISCONNECTED_TIMEOUT`]. A policy may stand in for it: `by_policy` is what it says.
fn without_timeout(name: &str, by_policy: Option<i64>) -> Check {
    let found = format!("{name} was declared without {DISCONNECTED_TIMEOUT}");
    match by_policy {
        Some(millis) if millis <= DISCONNECTED_MILLIS.into() => {
            ok("queues", format!("{found}, and has a policy of {millis} ms"))
        }
        _ => warning(
            "queues",
            format!("{found}: if the node of its worker is lost, no other takes over for a minute"),
            "set the policy `consumer-disconnected-timeout` to 2000, or delete the queue when it is empty: it is declared anew",
        ),
    }
}
