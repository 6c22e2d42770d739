//! Says which orders have no receipt yet.
//!
//! `orders` sets a timer for every order, and `receipts` cancels it with the receipt: the timer of an order that nobody
//! could write a receipt for fires.

wit_bindgen::generate!({ path: "../../../../wit", world: "function" });

use tripline::function::{invocation, log};

struct Reminders;
export!(Reminders);

impl Guest for Reminders {
    fn handle(_cx: Context, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let order = invocation::attribute("key").unwrap_or_default();
        let reminder = format!("order {order} has no receipt yet: {}", String::from_utf8_lossy(&payload));
        log::write(log::Level::Warn, &reminder);
        Ok(reminder.into_bytes())
    }
}
