//! Takes an order with all that the engine lends a function. It is three functions of one module, by their names:
//!
//! | function | what it does |
//! | --- | --- |
//! | `orders` | takes each order once, asks `PRICES` what it costs, has `tax` add the tax, has `audit` note it down later |
//! | `tax` | answers the sum with a fifth on top; no number is a failure |
//! | `audit` | counts orders and adds up what they cost |
//!
//! A function of any other name tells what it is refused.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tripline_guest::http::Request;
use tripline_guest::kv::Bucket;
use tripline_guest::{Call, Event, Failure, HostError, Response, ResultExt, environment, secrets};

tripline_guest::handler!(handle);

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
struct Price {
    cents: u32,
}

#[derive(Serialize)]
struct Confirmed<'a> {
    order: &'a str,
    cents: &'a str,
    audit: &'a str,
}

fn handle(event: Event) -> Result<Response, Failure> {
    match event.function_name().as_str() {
        "orders" => order(&event),
        "tax" => Ok(taxed(&event)?.into()),
        "audit" => Ok(audit(&event)?.into()),
        _ => Ok(refusals().into()),
    }
}

fn order(event: &Event) -> Result<Response, Failure> {
    let id = event.param("id").unwrap_or_default();
    let orders = Bucket::new("orders");
    let Some(taken) = orders.swap(&id, None, "taken", HOUR)? else {
        return Ok(Response::from("this order was taken before\n").status(409));
    };
    let answer = confirm(&id, event);
    match &answer {
        // Entries stay whatever becomes of the attempt: what it took it gives back.
        Err(_) => drop(orders.delete(&id)?),
        Ok(_) => drop(orders.swap(&id, Some(taken), "confirmed", None)?),
    }
    answer
}

fn confirm(id: &str, event: &Event) -> Result<Response, Failure> {
    let key = secrets::get("API_KEY")?;
    let prices = environment::get("PRICES").ok_or_else(|| Failure::permanent("PRICES is not set"))?;
    let price: Price = Request::post(format!("{prices}/price"))
        .header("authorization", format!("Bearer {key}"))
        .body(event.payload.clone())
        .timeout(Duration::from_secs(20))
        .follow_redirects(1)
        .send()?
        .success()?
        .json()?;
    let cents = Call::new("tax", price.cents.to_string()).content_type("text/plain").invoke()?;
    let cents = String::from_utf8(cents).or_permanent()?;
    let audit = Call::new("audit", cents.as_str()).header("order", id).invoke_later()?;
    Ok(Response::json(&Confirmed { order: id, cents: &cents, audit: &audit })?.status(201))
}

fn taxed(event: &Event) -> Result<String, Failure> {
    let cents: u64 = event.text()?.parse().or_permanent()?;
    Ok((cents + cents / 5).to_string())
}

fn audit(event: &Event) -> Result<String, Failure> {
    let totals = Bucket::new("totals");
    let order = event.header("order").unwrap_or_default();
    totals.set(&format!("order/{}", String::from_utf8_lossy(&order)), &event.payload, HOUR)?;
    totals.increment("cents", event.text()?.parse().or_permanent()?, None)?;
    let mut listed = Vec::new();
    for key in totals.keys("order/") {
        let entry = totals.entry(&key?)?;
        listed.push(String::from_utf8(entry.map(|entry| entry.value).unwrap_or_default()).or_permanent()?);
    }
    let sum = totals.get("cents")?.unwrap_or_default();
    Ok(format!("{} = {}", listed.join(" + "), String::from_utf8_lossy(&sum)))
}

fn refusals() -> String {
    let told = [
        refusal(Bucket::new("orders").get("1")),
        refusal(secrets::get("API_KEY")),
        refusal(Request::get("http://127.0.0.1:1/").send()),
        refusal(Call::new("tax", "1").invoke()),
        refusal(Call::new("tax", "1").invoke_later()),
    ];
    told.join("\n")
}

fn refusal<T>(asked: Result<T, HostError>) -> String {
    match asked {
        Ok(_) => "granted".to_owned(),
        Err(error) => format!("{:?}: {error}", error.reason),
    }
}
