//! Says which orders have no receipt yet.
//!
//! `orders` sets a timer for every order, and `receipts` cancels it with the receipt: the timer of an order that nobody
//! could write a receipt for fires.

use tripline_guest::{Event, Failure};

tripline_guest::handler!(remind);

fn remind(event: Event) -> Result<String, Failure> {
    let order = event.attribute("key").unwrap_or_default();
    let reminder = format!("order {order} has no receipt yet: {}", String::from_utf8_lossy(&event.payload));
    tripline_guest::warn!("{reminder}");
    Ok(reminder)
}
