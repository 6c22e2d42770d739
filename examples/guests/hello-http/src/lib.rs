//! Answers every request with `hello`: the least that a `wasi:http` component can do, so that a benchmark of it
//! measures the engine.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Hello);

struct Hello;

impl Guest for Hello {
    fn handle(_request: IncomingRequest, outparam: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("a new response's body was not taken yet");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().expect("a new body's stream was not taken yet");
        // Whoever asked may have gone away meanwhile, and then nobody misses the rest.
        let written = stream.blocking_write_and_flush(b"hello");
        drop(stream);
        if written.is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
    }
}
