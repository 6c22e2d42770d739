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

use tripline::function::{environment, log};

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
        Ok(format!("receipt for {}: {order}", cx.subject).into_bytes())
    }
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
    use super::is_free;

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
