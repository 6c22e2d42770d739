//! Greets whoever asks, as a `wasi:http` component: it would run under any host of that world.
//!
//! `GET /hello?name=Ada` is answered `Hello, Ada!`.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Hello);

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let greeting = format!("Hello, {}!\n", query_parameter(&target, "name").unwrap_or_else(|| "world".into()));

        let headers = Fields::new();
        let plain_text = [b"text/plain; charset=utf-8".to_vec()];
        headers.set("content-type", &plain_text).expect("new headers can be set");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("a new response's body was not taken yet");
        ResponseOutparam::set(outparam, Ok(response));

        let stream = body.write().expect("a new body's stream was not taken yet");
        // Whoever asked may have gone away meanwhile, and then nobody misses the rest.
        let written = stream.blocking_write_and_flush(greeting.as_bytes());
        drop(stream);
        if written.is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
    }
}

/// The first value of a query parameter, decoded and cut to 100 characters.
fn query_parameter(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    Some(decode(value).chars().filter(|c| !c.is_control()).take(100).collect())
}

/// Undoes the encoding of forms and queries: `+` is a space, `%41` an A; what is not encoded right stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match (first, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => *first,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::query_parameter;

    #[test]
    fn a_name_is_found_decoded_and_cut() {
        for (target, expected) in [
            ("/hello?name=Ada", Some("Ada")),
            ("/hello?a=1&name=Ada+Lovelace%21&name=B", Some("Ada Lovelace!")),
            ("/hello?name=%C3%A9%0A%zz%4", Some("é%zz%4")),
            ("/hello?name=", Some("")),
            ("/hello?name", None),
            ("/hello?nickname=Ada", None),
            ("/hello", None),
        ] {
            assert_eq!(query_parameter(target, "name").as_deref(), expected, "{target}");
        }
        let long = format!("/hello?name={}", "é".repeat(500));
        assert_eq!(query_parameter(&long, "name").unwrap().chars().count(), 100);
    }
}
