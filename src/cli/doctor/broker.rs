//! The doctor's checks of RabbitMQ: reachable, new enough, passes a message through, and has the queues as this program
//! declares them.

use super::{failure, ok, warning};
use crate::rabbit::depth::Depth;
use crate::rabbit::topology::Topology;
use crate::rabbit::{Broker, Error};
use crate::wire::operator::Check;

/// The oldest RabbitMQ version that has what the queues need (at-least-once dead-lettering).
const OLDEST: (u32, u32) = (3, 10);

/// All checks of the broker and of the queues of these shards. If no message passes through, there is only that failure.
pub(super) async fn check(broker: &Broker, shards: &[u8], prefix: &str) -> Vec<Check> {
    let topology = Topology::new(prefix);
    let took = match broker.round_trip(&topology).await {
        Ok(took) => took,
        Err(error) => return vec![unreachable(&error)],
    };
    let mut checks = vec![ok("rabbitmq", format!("a message went through in {} ms", took.as_millis()))];
    checks.extend(broker.versions().await.iter().map(|found| version(found.as_deref())));
    checks.extend(queues(broker, &topology, shards).await);
    checks
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
async fn queues(broker: &Broker, topology: &Topology, shards: &[u8]) -> Vec<Check> {
    let names = topology.all_queues(shards);
    let depths = match broker.find_queues(&names).await {
        Ok(depths) => depths,
        Err(error) => {
            let fix = "check the leader nodes of the queues: `rabbitmq-queues quorum_status`";
            return vec![failure("queues", error.to_string(), fix)];
        }
    };
    if let Some((name, _)) = names.iter().zip(&depths).find(|(_, depth)| depth.is_none()) {
        let fix = "correct EARMARK_QUEUE_PREFIX, or start a worker, which declares it";
        return vec![warning("queues", format!("{name} is not there"), fix)];
    }
    let found = |depth: Depth| format!("{}: {} ready, {} consumers", depth.queue, depth.ready, depth.consumers);
    let mut checks: Vec<Check> = depths.into_iter().flatten().map(|depth| ok("queue", found(depth))).collect();
    checks.push(match broker.check_declared(topology, shards).await {
        Ok(()) => ok("queues", "declared as this program declares them"),
        Err(error) => {
            let fix = "empty the queue, delete it, and let a worker declare it again";
            failure("queues", error.to_string(), fix)
        }
    });
    checks
}
