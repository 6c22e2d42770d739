//! Behaviour over real sockets and real servers. One binary, a module per behaviour, one harness (`support`).

mod bad_input;
mod bus;
mod clock;
mod crashes;
mod cron;
mod dead_letters;
mod everything;
mod examples;
mod guests;
mod hosts;
mod jobs;
mod languages;
mod ledger;
mod limits;
mod local;
mod main_job;
mod on_nats;
mod on_postgres;
mod pubsub;
mod queues;
mod reload;
mod sql;
mod support;
mod timers;
mod transactions;
mod waits;
