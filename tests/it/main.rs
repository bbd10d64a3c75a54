//! What the product promises, tried on the real program with a real Postgres and a real RabbitMQ. The names of the tests
//! are the promises.

mod allocate;
mod commands;
mod console;
mod contract;
mod deploy;
mod faults;
mod harness;
mod house;
mod letters;
mod metrics;
mod outages;
mod pause;
mod shutdown;
