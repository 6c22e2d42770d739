//! Takes an order over HTTP and tells the rest of the shop about it.
//!
//! `POST /orders/{id}` with `{"item": "kettle", "amount": 4200}` (cents) is answered 201, and the order goes out on
//! `orders.<id>.created`. A timer reminds of it, should it have no receipt by then. A bad order is the caller's mistake,
//! not a failed attempt: it is answered 422 and nothing is published.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tripline_guest::{Event, Failure, HostError, Message, Response, Timer, environment};

/// How long a receipt may take where the environment does not say.
const REMIND_AFTER: Duration = Duration::from_secs(5);

tripline_guest::handler!(order);

/// What a caller sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    item: String,
    /// In cents.
    amount: u64,
}

/// What the rest of the shop is told, and the caller too.
#[derive(Serialize)]
struct Created<'a> {
    id: &'a str,
    item: &'a str,
    amount: u64,
}

/// Problem details for HTTP APIs (RFC 9457).
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
}

fn order(event: Event) -> Result<Response, Failure> {
    // Only its trigger fills this in; without it no later attempt has it either.
    let id = event.param("id").ok_or_else(|| Failure::permanent("expected the path /orders/{id}"))?;
    match read(&id, &event.payload) {
        Ok(order) => accept(&id, &order),
        Err(why) => {
            tripline_guest::warn!("refused order {id:?}: {why}");
            refuse(&why)
        }
    }
}

/// The order, or what is wrong with it.
fn read(id: &str, body: &[u8]) -> Result<Order, String> {
    // The id becomes a token of a subject: there a dot separates, and a star or a space has no place.
    let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !id.bytes().all(token) || !(1..=64).contains(&id.len()) {
        return Err("the id must have 1 to 64 letters, digits, '-' or '_'".into());
    }
    let order: Order = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match order.item.trim().is_empty() {
        true => Err("item must not be empty".into()),
        false => Ok(order),
    }
}

fn accept(id: &str, order: &Order) -> Result<Response, Failure> {
    let created = Created { id, item: &order.item, amount: order.amount };
    let event = serde_json::to_vec(&created)?;
    // Set and sent when this attempt has succeeded, never otherwise.
    remind(id, &event)?;
    Message::new(format!("orders.{id}.created"), event).header("content-type", "application/json").publish()?;
    tripline_guest::info!("order {id}: {} for {} cents", order.item, order.amount);
    Ok(Response::json(&created)?.status(201))
}

/// Sets the order's reminder, which its receipt cancels.
fn remind(id: &str, order: &[u8]) -> Result<(), HostError> {
    let millis = environment::get("REMIND_AFTER_MS").and_then(|text| text.parse().ok());
    let after = millis.map_or(REMIND_AFTER, Duration::from_millis);
    Timer::new("reminders", id, after).payload(order).content_type("application/json").replace().set()
}

fn refuse(why: &str) -> Result<Response, Failure> {
    let problem = Problem { title: "this order cannot be taken", status: 422, detail: why };
    let body = serde_json::to_vec(&problem)?;
    Ok(Response::new(body).status(problem.status).header("content-type", "application/problem+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_order_is_read() {
        let order = read("A-7_b", br#"{"amount": 0, "item": "kett\u006ce"}"#).ok().unwrap();
        assert_eq!((order.item.as_str(), order.amount), ("kettle", 0));
    }

    #[test]
    fn a_bad_order_is_refused_with_a_reason() {
        let good = br#"{"item": "kettle", "amount": 4200}"#;
        for id in ["", "a.b", "*", "a b", "ä", &"7".repeat(65)] {
            assert!(read(id, good).is_err_and(|why| why.contains("the id")), "{id:?}");
        }
        for (body, expected) in [
            ("", "EOF"),
            ("{}", "missing field `item`"),
            (r#"{"item": " ", "amount": 1}"#, "item must not be empty"),
            (r#"{"item": "kettle", "amount": -1}"#, "expected u64"),
            (r#"{"item": "kettle", "amount": 1, "colour": "red"}"#, "unknown field `colour`"),
        ] {
            let why = read("7", body.as_bytes()).err().unwrap();
            assert!(why.contains(expected), "{body}: {why}");
        }
    }
}
