//! The exchange for events: every type under its routing key, at least once, in order, and only if it is asked for.

use crate::harness::servers::Servers;
use crate::harness::{App, Business, eventually};
use crate::reversals::allocate;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;

const ANN: &str = "ann@example.com";
const ON: &[(&str, &str)] = &[("EARMARK_EVENT_EXCHANGE", "true")];

/// A consumer in the house: a queue of its own, bound to the exchange.
struct House {
    broker: Connection,
    channel: Channel,
    queue: String,
}

/// What such a consumer got.
#[derive(Debug)]
struct Got {
    routing_key: String,
    id: String,
    business: String,
    event: Value,
}

impl Got {
    fn seq(&self) -> i64 {
        self.event["seq"].as_i64().expect("a number")
    }
}

impl House {
    /// Declares the exchange, as whoever comes first does, and binds a queue of this kind to it.
    async fn bind(app: &App, name: &str, kind: &str, types: &str, arguments: &[(&str, AMQPValue)]) -> Self {
        let queue = format!("{}.house.{name}", app.prefix);
        let broker = app.broker().await;
        let channel = broker.create_channel().await.expect("a channel");
        let exchange = format!("{}.events", app.prefix);
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let none = FieldTable::default;
        channel
            .exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, durable, none())
            .await
            .expect("an exchange");
        let mut table = FieldTable::default();
        table.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        // It goes by itself some time after the test. Until then nobody may take from it for minutes.
        table.insert("x-expires".into(), AMQPValue::LongInt(900_000));
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), table).await.expect("a queue");
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.as_str().into(), exchange.into(), types.into(), options, none()).await.expect("bound");
        Self { broker, channel, queue }
    }

    /// Connects again.
    async fn again(&mut self, app: &App) {
        self.broker = app.broker().await;
        self.channel = self.broker.create_channel().await.expect("a channel");
    }

    /// Takes what is there now.
    async fn take(&self) -> Vec<Got> {
        let mut got = vec![];
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.channel.basic_get(self.queue.as_str().into(), options).await.expect("an answer")
        {
            let delivery = message.delivery;
            let properties = &delivery.properties;
            let business =
                properties.headers().as_ref().and_then(|headers| headers.inner().get("business_id").cloned());
            let Some(AMQPValue::LongString(business)) = business else { panic!("a business: {properties:?}") };
            assert_eq!(properties.delivery_mode(), &Some(2), "persistent");
            assert_eq!(properties.kind().as_ref().map(|kind| kind.as_str()), Some(delivery.routing_key.as_str()));
            got.push(Got {
                routing_key: delivery.routing_key.to_string(),
                id: properties.message_id().as_ref().expect("an id").to_string(),
                business: business.to_string(),
                event: serde_json::from_slice(&delivery.data).expect("an event"),
            });
        }
        got
    }

    /// Takes until there are so many.
    async fn take_many(&self, count: usize) -> Vec<Got> {
        let got = RefCell::new(vec![]);
        eventually(&format!("{} has {count} events", self.queue), async || {
            let more = self.take().await;
            got.borrow_mut().extend(more);
            got.borrow().len() >= count
        })
        .await;
        got.into_inner()
    }
}

#[tokio::test]
async fn each_type_of_event_comes_under_its_routing_key_as_the_feed_shows_it() {
    let app = App::new().await;
    let (all, some) = (
        House::bind(&app, "all", "quorum", "#", &[]).await,
        House::bind(&app, "some", "quorum", "allocation.*", &[]).await,
    );
    let (business, other) = (app.create_business(1_000), app.create_business(5));
    let process = app.start_with("serve", ON).await;
    let client = app.client(&process, &business);
    let id = allocate(&client, ANN, 100).await;
    let settled = client.settle(ANN, 30, "t").await.request_id();
    assert_eq!(client.reverse_part("k", &id, 20).await.status, 200);
    assert_eq!(client.reverse(&settled).await.status, 200);
    app.run(&["business", "fund", &business.id, "--amount", "-50"]).expect_success();
    let got = all.take_many(7).await;
    let of = |business: &Business| got.iter().filter(|got| got.business == business.id).collect::<Vec<_>>();
    let feed = client.get("/events").await.json();
    assert_eq!(json!(of(&business).iter().map(|got| &got.event).collect::<Vec<_>>()), feed["events"]);
    assert_eq!(of(&other).iter().map(|got| got.routing_key.as_str()).collect::<Vec<_>>(), ["balance.deposited"]);
    for got in &got {
        assert_eq!(json!(got.routing_key), got.event["type"]);
        assert_eq!(got.id, format!("evt_{}_{}", got.business.replace('-', ""), got.seq()));
    }
    let types: Vec<String> = some.take_many(2).await.into_iter().map(|got| got.routing_key).collect();
    assert_eq!(types, ["allocation.created", "allocation.reversed"]);
    eventually("all is published", async || process.metric("earmark_events_oldest_age_seconds").await == Some(0.0))
        .await;
    assert_eq!(process.metric("earmark_events_published_total").await, Some(7.0));
    app.finish([process]).await;
}

#[tokio::test]
async fn nothing_is_published_unless_it_is_asked_for_and_then_from_the_first_event_on() {
    let app = App::new().await;
    let house = House::bind(&app, "all", "quorum", "#", &[]).await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    allocate(&client, ANN, 100).await;
    let process = {
        process.terminate().await;
        app.start_with("serve", ON).await
    };
    let client = app.client(&process, &business);
    allocate(&client, ANN, 100).await;
    let seqs: Vec<i64> = house.take_many(3).await.iter().map(Got::seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(house.take().await.len(), 0);
    app.finish([process]).await;
}

#[tokio::test]
async fn what_a_full_queue_refuses_comes_again_with_all_after_it() {
    let app = App::new().await;
    let bounds =
        [("x-max-length", AMQPValue::LongInt(3)), ("x-overflow", AMQPValue::LongString("reject-publish".into()))];
    // A classic queue refuses what is beyond its length at once.
    let small = House::bind(&app, "small", "classic", "#", &bounds).await;
    let large = House::bind(&app, "large", "quorum", "#", &[]).await;
    let business = app.create_business(1_000);
    let process = app.start("serve").await;
    let client = app.client(&process, &business);
    for _ in 0..99 {
        allocate(&client, ANN, 1).await;
    }
    let relay = app.start_with("relay", ON).await;
    // Whatever the small queue has no room for is refused, so the large one gets it more than once.
    let got = large.take_many(101).await;
    assert!(got.iter().filter(|got| got.seq() > 90).count() > 1, "{got:?}");
    assert!(relay.metric("earmark_events_oldest_age_seconds").await.is_some());
    let seen = RefCell::new(vec![]);
    eventually("the small queue has taken all of them in a row", async || {
        let is_done = cursor(&app).await == 100;
        let more = small.take().await;
        seen.borrow_mut().extend(more.iter().map(Got::seq));
        is_done
    })
    .await;
    let seen = seen.take();
    assert!((1..=100).all(|seq| seen.contains(&seq)), "{seen:?}");
    // After the last one that was refused, all come in their order.
    let last = seen.windows(2).rposition(|pair| pair[1] < pair[0]).map_or(0, |at| at + 1);
    assert!(seen[last..].windows(2).all(|pair| pair[0] < pair[1]) && seen.ends_with(&[100]), "{seen:?}");
    app.finish([process, relay]).await;
}

/// Events that nobody has published yet, written as if somebody had put money in.
const BACKLOG: &str = "
    INSERT INTO deposits (business_id, deposit_id, amount, note, seq, payout_balance_after, moved_at)
    SELECT business_id, gen_random_uuid(), 1, '', seq + n, payout_balance + n, GREATEST(moved_at, now())
    FROM businesses, generate_series(1, 10000) AS n;
    UPDATE businesses SET seq = seq + 10000, payout_balance = payout_balance + 10000, moved_at = GREATEST(moved_at, now())";

async fn cursor(app: &App) -> i64 {
    let sum = "SELECT COALESCE(sum(cursor), 0)::bigint FROM event_exchange_cursors";
    sqlx::query_scalar(sum).fetch_one(&mut app.database().await).await.expect("a number")
}

async fn until_cursor(app: &App, least: i64) {
    eventually(&format!("{least} events are published"), async || cursor(app).await >= least).await;
}

#[tokio::test]
async fn every_event_comes_in_order_while_the_broker_crashes_and_relays_die_and_hang() {
    let Some(servers) = Servers::alone().await else { return };
    let app = App::on(servers).await;
    let mut house = House::bind(&app, "all", "classic", "#", &[]).await;
    app.create_business(5);
    app.execute(BACKLOG).await;
    let mut relays = vec![app.start_with("relay", ON).await];
    // The relay is frozen in the middle of its work, and finds out that the broker is gone: what the broker has not confirmed
    // may be lost.
    until_cursor(&app, 1_000).await;
    relays[0].signal("STOP");
    app.servers().control(&["stop", "rabbitmq", "--immediate"]).await;
    relays[0].signal("CONT");
    relays[0].until_logged("events were not published").await;
    let after = cursor(&app).await;
    assert!(after < 10_001, "it was in the middle");
    app.servers().control(&["start", "rabbitmq"]).await;
    house.again(&app).await;
    until_cursor(&app, after + 1).await;
    relays[0].kill().await;
    relays.push(app.start_with("relay", ON).await);
    until_cursor(&app, after + 2_001).await;
    relays[1].signal("STOP");
    relays.push(app.start_with("relay", ON).await);
    let stopped = cursor(&app).await;
    app.execute(BACKLOG).await;
    until_cursor(&app, stopped + 2_001).await;
    relays[1].signal("CONT");
    let got = RefCell::new(vec![]);
    let first = || {
        let mut first = BTreeMap::new();
        for (place, seq) in got.borrow().iter().enumerate() {
            first.entry(*seq).or_insert(place);
        }
        first
    };
    eventually("all events have come", async || {
        let more = house.take().await;
        got.borrow_mut().extend(more.iter().map(Got::seq));
        first().len() == 20_001
    })
    .await;
    assert!(first().into_iter().is_sorted_by_key(|(_, place)| place), "each comes first in its place");
    relays.remove(0);
    app.finish(relays).await;
}
