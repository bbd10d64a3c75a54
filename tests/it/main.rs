//! What the product promises, tried on the real program with a real Postgres and a real RabbitMQ. The names of the tests
//! are the promises.

mod allocate;
mod bulk;
mod commands;
mod contract;
mod deploy;
mod faults;
mod harness;
mod history;
mod house;
mod letters;
mod limits;
mod metrics;
mod openapi;
mod outages;
mod pause;
mod send;
mod shutdown;
