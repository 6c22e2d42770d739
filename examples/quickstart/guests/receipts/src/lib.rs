//! Writes a receipt for every order, and can be made to fail in every way.
//!
//! | the message contains | what happens |
//! | --- | --- |
//! | `poison` | a permanent failure: a dead letter after one attempt |
//! | `slow` | the first two attempts ask for another one in 2 seconds, the third succeeds |
//! | `fail` | a failure on every attempt: a dead letter after the last |
//! | `"amount": 0` | the same, until the environment says `FREE_ORDERS = "yes"`: then a redrive succeeds |
//! | anything else | a receipt |

wit_bindgen::generate!({ path: "../../../../wit", world: "function" });

use tripline::function::{environment, log, timers};

/// How long `slow` asks to be left alone, in milliseconds.
const SLOW_MILLISECONDS: u64 = 2_000;

struct Receipts;
export!(Receipts);

impl Guest for Receipts {
    fn handle(cx: Context, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let order = String::from_utf8_lossy(&payload);
        log::write(log::Level::Info, &format!("attempt {} for {}", cx.attempt, cx.subject));
        if order.contains("poison") {
            return Err(Failure::Permanent("nobody can write a receipt for poison".into()));
        }
        if order.contains("slow") && cx.attempt < 3 {
            return Err(Failure::RetryAfter(("the printer is warming up".into(), SLOW_MILLISECONDS)));
        }
        if order.contains("fail") {
            return Err(Failure::Retryable("the printer is out of paper".into()));
        }
        if is_free(&order) && environment::get("FREE_ORDERS").as_deref() != Some("yes") {
            return Err(Failure::Retryable("a receipt over 0 needs FREE_ORDERS = \"yes\"".into()));
        }
        if let Some(id) = order_id(&cx.subject) {
            // At once: whatever becomes of this attempt now, nobody needs to be reminded of the order.
            timers::cancel("reminders", id)
                .map_err(|error| Failure::Retryable(format!("cannot cancel the reminder: {error:?}")))?;
        }
        Ok(format!("receipt for {}: {order}", cx.subject).into_bytes())
    }
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
