//! These tests try what the product promises on the real program, with a real Postgres and a real RabbitMQ. The names
//! of the tests are the promises.

#![expect(unreachable_pub, reason = "nothing imports this program")]

mod allocate;
mod balances;
mod broker_users;
mod bulk;
mod caps;
mod citus;
mod clients;
mod cluster;
mod commands;
mod connections;
mod console;
mod contract;
mod database_users;
mod dead_letters;
mod deploy;
mod dry_runs;
mod events;
mod exchange;
mod faults;
mod fuzz;
mod harness;
mod health;
mod history;
mod house;
mod limits;
mod manifests;
mod metrics;
mod migrations;
mod observability;
mod openapi;
mod outages;
mod pause;
mod postgres;
mod recovery;
mod reversals;
mod send;
mod settlements;
mod shards;
mod shell;
mod shutdown;
mod signing;
mod traces;
mod urls;
mod webhooks;
