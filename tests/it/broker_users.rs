//! Users of RabbitMQ for each kind of process: each may do what its process does, and nothing else.

use crate::harness::process::Process;
use crate::harness::servers::Servers;
use crate::harness::{App, assert_allocated, eventually};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

const ROLES: [&str; 3] = ["intake", "worker", "relay"];

/// The permissions to configure, write and read that `docs/operations.md` gives the user of a role.
fn permissions(role: &str, prefix: &str) -> [String; 3] {
    let text = include_str!("../../docs/operations.md");
    let begins = format!("rabbitmqctl set_permissions earmark-{role} ");
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&begins)).expect("the command");
    let parts: Vec<String> =
        line.split('\'').skip(1).step_by(2).map(|part| part.replace("earmark\\.", &format!("{prefix}\\."))).collect();
    parts.try_into().expect("three permissions")
}

/// A deployment whose broker has a user for each role. The queues are declared by another one, with `earmark migrate`.
struct Guarded {
    app: App,
}

impl Guarded {
    async fn new() -> Option<Self> {
        let app = App::on(Servers::alone().await?).await;
        for role in ROLES {
            let (user, [configure, write, read]) = (Self::user(&app, role), permissions(role, &app.prefix));
            let password = format!("{user}-secret");
            app.servers().control(&["rabbitmqctl", "add_user", &user, &password]).await;
            app.servers().control(&["rabbitmqctl", "set_permissions", &user, &configure, &write, &read]).await;
        }
        app.run(&["migrate"]).expect_success();
        Some(Self { app })
    }

    fn user(app: &App, role: &str) -> String {
        format!("{}-{role}", app.prefix)
    }

    /// The broker's URL for the user of this role.
    fn url(&self, role: &str) -> String {
        let user = Self::user(&self.app, role);
        let (_, host) = self.app.amqp_url.rsplit_once('@').expect("a user");
        format!("amqp://{user}:{user}-secret@{host}")
    }

    async fn start(&self, role: &'static str) -> Process {
        let own = [
            ("AMQP_URL", self.url(role)),
            ("EARMARK_DECLARE", "false".into()),
            ("EARMARK_EVENT_EXCHANGE", "true".into()),
        ];
        self.app.start_with(role, &own.each_ref().map(|(name, value)| (*name, value.as_str()))).await
    }

    async fn finish(self, processes: impl IntoIterator<Item = Process>) {
        for role in ROLES {
            self.app.servers().control(&["rabbitmqctl", "delete_user", &Self::user(&self.app, role)]).await;
        }
        self.app.finish(processes).await;
    }
}

#[tokio::test]
async fn each_process_works_with_a_user_that_may_do_no_more_than_it_needs() {
    let Some(guarded) = Guarded::new().await else { return };
    let app = &guarded.app;
    let business = app.create_business(1_000);
    let (intake, worker, relay) =
        (guarded.start("intake").await, guarded.start("worker").await, guarded.start("relay").await);
    let client = app.client(&intake, &business);
    assert_allocated(&client.create("ann@example.com", 10).await);
    // A message that cannot be read becomes a dead letter, which a worker stores.
    app.publish(&app.work_queue(), b"nonsense", BasicProperties::default()).await;
    app.until_dead_letters(1).await;
    app.drop_dead_letters();
    eventually("events are published", async || {
        relay.metric("earmark_events_published_total").await.is_some_and(|count| count >= 2.0)
    })
    .await;
    for role in ROLES {
        let doctor = app.run_with(&["doctor", "--as", role], &[("AMQP_URL", &guarded.url(role))]).stdout();
        for words in ["may do what it needs, and none of what it should not", "exchanges and queues are there"] {
            assert!(doctor.contains(words), "{role}: {doctor}");
        }
    }
    for (role, other, words) in [
        ("intake", "worker", "FAILURE  permissions    this user may not write requests"),
        ("intake", "worker", "warning  permissions    this user may also take requests from the work queues"),
        ("worker", "intake", "FAILURE  permissions    this user may not write replies"),
        ("relay", "intake", "warning  permissions    this user may also write requests"),
    ] {
        let doctor = app.run_with(&["doctor", "--as", role], &[("AMQP_URL", &guarded.url(other))]).stdout();
        assert!(doctor.contains(words), "{role} as {other}: {doctor}");
    }
    let doctor = app.run(&["doctor", "--as", "intake"]).stdout();
    for words in ["may also declare and delete queues", "may also write into every queue"] {
        assert!(doctor.contains(words), "the user of the tests may do everything: {doctor}");
    }
    // Nothing is lost when the broker has to be told of a shard that is added while they run.
    app.add_shards(1);
    assert_allocated(&client.create("ann@example.com", 10).await);
    guarded.finish([intake, worker, relay]).await;
}

/// What somebody tries who has the password of one role.
const ATTEMPTS: [&str; 9] = [
    "write into a work queue",
    "write a request",
    "write a reply",
    "write a dead letter",
    "write an event",
    "take a request",
    "empty a work queue",
    "delete a work queue",
    "declare a queue",
];

/// Tries it; true if the broker lets it.
async fn succeeds(guarded: &Guarded, role: &str, attempt: &str) -> bool {
    let (app, url) = (&guarded.app, guarded.url(role));
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let queue = app.work_queue();
    let write = async |exchange: String, key: &str| {
        let options = BasicPublishOptions::default();
        let sent =
            channel.basic_publish(exchange.into(), key.into(), options, b"forged", BasicProperties::default()).await;
        match sent {
            Ok(confirm) => confirm.await.is_ok(),
            Err(_) => false,
        }
    };
    let done = match attempt {
        "write into a work queue" => write(String::new(), &queue).await,
        // To a key that no queue has, so that nothing is left behind.
        "write a request" => write(format!("{}.requests", app.prefix), "nobody").await,
        "write a reply" => write(format!("{}.replies", app.prefix), "nobody").await,
        "write a dead letter" => write(format!("{}.dead-letters", app.prefix), "").await,
        "write an event" => write(format!("{}.events", app.prefix), "nobody").await,
        "take a request" => {
            let consumed = channel
                .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
                .await;
            consumed.is_ok()
        }
        "empty a work queue" => channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.is_ok(),
        "delete a work queue" => channel
            .queue_delete(queue.into(), QueueDeleteOptions { if_unused: false, ..Default::default() })
            .await
            .is_ok(),
        "declare a queue" => {
            let name = format!("{}.allocations.9", app.prefix);
            channel.queue_declare(name.into(), QueueDeclareOptions::durable(), FieldTable::default()).await.is_ok()
        }
        other => panic!("{other}"),
    };
    let _ = connection.close(200, "done".into()).await;
    done
}

#[tokio::test]
async fn the_password_of_one_role_lets_nobody_do_what_another_does() {
    let Some(guarded) = Guarded::new().await else { return };
    let may: [(&str, &[&str]); 3] = [
        ("intake", &["write a request"]),
        // A worker empties its queues by its work.
        ("worker", &["write a reply", "write a dead letter", "take a request", "empty a work queue"]),
        ("relay", &["write an event"]),
    ];
    for (role, allowed) in may {
        for attempt in ATTEMPTS {
            assert_eq!(succeeds(&guarded, role, attempt).await, allowed.contains(&attempt), "{role}: {attempt}");
        }
    }
    guarded.app.delete_queue(&guarded.app.dead_letter_queue()).await;
    guarded.app.run(&["migrate"]).expect_success();
    guarded.finish([]).await;
}

#[tokio::test]
async fn without_its_queues_a_process_that_may_not_declare_them_says_who_does() {
    let Some(guarded) = Guarded::new().await else { return };
    let app = &guarded.app;
    app.delete_queue(&app.work_queue()).await;
    let worker = app.spawn("worker", &[("AMQP_URL", &guarded.url("worker")), ("EARMARK_DECLARE", "false")]);
    let words = "is not there: `earmark migrate` declares it";
    eventually("it says so", async || worker.log().iter().any(|line| line.to_string().contains(words))).await;
    app.run(&["migrate"]).expect_success();
    worker.ready().await;
    guarded.finish([worker]).await;
}
