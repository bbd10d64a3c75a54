//! Asks RabbitMQ's management API what AMQP does not tell: on which nodes a queue is. Only `earmark doctor` asks. It only
//! reads.

use super::topology::DISCONNECTED_TIMEOUT;
use super::{Broker, Error};
use crate::{https, server_url};
use reqwest::Client;
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// How long an answer may take. A person waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The way to the management API.
pub struct Management {
    url: Url,
    client: Client,
}

/// Where the copies of a queue are.
#[derive(Debug)]
pub struct Replicas {
    /// The node of the copy that leads, if there is one.
    pub leader: Option<String>,
    /// The nodes that have a copy.
    pub members: Vec<String>,
    /// Those of them that are there.
    pub online: Vec<String>,
    /// How long the broker waits for the node of the active consumer, in milliseconds: by the queue's argument or by a
    /// policy, whichever is less. `None` if neither says so.
    pub disconnected_millis: Option<i64>,
}

impl Management {
    /// Reads `http://user:password@host:port`. The error text is meant to follow the name of the setting.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = server_url::parse(text, ["http", "https"])?;
        let client = https::client().and_then(|client| client.timeout(TIMEOUT).build());
        Ok(Self { url, client: client.map_err(|error| error.to_string())? })
    }

    /// The nodes of the cluster, also those that are down.
    pub async fn find_nodes(&self) -> Result<Vec<String>, Error> {
        let nodes = self.get(&["nodes"]).await?;
        let names = nodes.as_array().into_iter().flatten().filter_map(|node| node["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Where the copies of a queue of this broker are.
    pub async fn find_replicas(&self, broker: &Broker, queue: &str) -> Result<Replicas, Error> {
        let vhost = broker.uris.first().map_or("/", |uri| uri.vhost.as_str());
        Ok(read(&self.get(&["queues", vhost, queue]).await?))
    }

    async fn get(&self, path: &[&str]) -> Result<Value, Error> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let asking = async { self.client.get(url).send().await?.error_for_status()?.json().await };
        asking.await.map_err(|error: reqwest::Error| Error(format!("management API: {}", error.without_url())))
    }
}

fn read(queue: &Value) -> Replicas {
    let nodes = |field: &str| {
        let names = queue[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    };
    let by_argument = queue["arguments"][DISCONNECTED_TIMEOUT].as_i64();
    // A policy has the argument's name without its prefix.
    let by_policy = queue["effective_policy_definition"][&DISCONNECTED_TIMEOUT[2..]].as_i64();
    Replicas {
        leader: queue["leader"].as_str().map(str::to_owned),
        members: nodes("members"),
        online: nodes("online"),
        disconnected_millis: by_argument.into_iter().chain(by_policy).min(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_queue_is_read_whatever_the_broker_leaves_out() {
        let known = read(&json!({
            "leader": "a", "members": ["a", "b"], "online": ["a"],
            "arguments": { "x-consumer-disconnected-timeout": 2_000 },
            "effective_policy_definition": { "consumer-disconnected-timeout": 500 },
        }));
        assert_eq!((known.leader.as_deref(), known.members.len(), known.online.len()), (Some("a"), 2, 1));
        assert_eq!(known.disconnected_millis, Some(500));
        let unknown = read(&json!({ "effective_policy_definition": [] }));
        assert_eq!((unknown.leader, unknown.members.len(), unknown.disconnected_millis), (None, 0, None));
    }
}
