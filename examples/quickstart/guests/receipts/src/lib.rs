//! Writes a receipt for every order, and can be made to fail in every way.
//!
//! | the message contains | what happens |
//! | --- | --- |
//! | `poison` | a permanent failure: a dead letter after one attempt |
//! | `slow` | the first two attempts ask for another one in 2 seconds, the third succeeds |
//! | `fail` | a failure on every attempt: a dead letter after the last |
//! | `"amount": 0` | the same, until the environment says `FREE_ORDERS = "yes"`: then a redrive succeeds |
//! | anything else | a receipt |

use std::time::Duration;

use tripline_guest::{Event, Failure, environment, timers};

/// How long `slow` asks to be left alone.
const SLOW: Duration = Duration::from_secs(2);

tripline_guest::handler!(receipt);

fn receipt(event: Event) -> Result<String, Failure> {
    let (order, subject) = (String::from_utf8_lossy(&event.payload), &event.subject);
    tripline_guest::info!("attempt {} for {subject}", event.attempt);
    if order.contains("poison") {
        return Err(Failure::permanent("nobody can write a receipt for poison"));
    }
    if order.contains("slow") && event.attempt < 3 {
        return Err(Failure::retry_after(SLOW, "the printer is warming up"));
    }
    if order.contains("fail") {
        return Err(Failure::retryable("the printer is out of paper"));
    }
    if is_free(&order) && environment::get("FREE_ORDERS").as_deref() != Some("yes") {
        return Err(Failure::retryable("a receipt over 0 needs FREE_ORDERS = \"yes\""));
    }
    if let Some(id) = order_id(subject) {
        // At once: whatever becomes of this attempt now, nobody needs to be reminded of the order.
        timers::cancel("reminders", id)?;
    }
    Ok(format!("receipt for {subject}: {order}"))
}

/// The order's id in `orders.<id>.created`.
fn order_id(subject: &str) -> Option<&str> {
    subject.strip_prefix("orders.")?.strip_suffix(".created")
}

/// Whether the order's amount is 0. A look at the text is enough here, and makes the module a third of its size.
fn is_free(order: &str) -> bool {
    let compact: String = order.split_whitespace().collect();
    compact
        .split("\"amount\":0")
        .skip(1)
        .any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit() || next == '.'))
}

#[cfg(test)]
mod tests {
    use super::{is_free, order_id};

    #[test]
    fn an_order_is_known_by_its_subject() {
        assert_eq!(order_id("orders.7.created"), Some("7"));
        assert_eq!(order_id("orders.created"), None);
    }

    #[test]
    fn only_an_amount_of_nothing_is_free() {
        for free in [r#"{"amount": 0}"#, "{\"amount\"\n:0,\"item\":\"x\"}", r#"[{"amount":5},{"amount": 0 }]"#] {
            assert!(is_free(free), "{free}");
        }
        for paid in ["", r#"{"amount": 10}"#, r#"{"amount": 0.5}"#, r#"{"amount":05}"#, r#"{"amounts": 0}"#] {
            assert!(!is_free(paid), "{paid}");
        }
    }
}
