//! Fetches the URL in the request's header `x-url` by `wasi:http/outgoing-handler`, and answers the status, a space and
//! the body that it was answered, or the error by its name.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

wasip2::http::proxy::export!(Fetch);

struct Fetch;

impl Guest for Fetch {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let url = request.headers().get("x-url").pop().unwrap_or_default();
        let answer = match fetch(&String::from_utf8_lossy(&url)) {
            Ok(answer) => answer,
            Err(error) => format!("{error:?}").into_bytes(),
        };
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("a new response's body was not taken yet");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().expect("a new body's stream was not taken yet");
        for part in answer.chunks(4096) {
            if stream.blocking_write_and_flush(part).is_err() {
                return;
            }
        }
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

fn fetch(url: &str) -> Result<Vec<u8>, ErrorCode> {
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_scheme(Some(&if scheme == "https" { Scheme::Https } else { Scheme::Http })).map_err(invalid)?;
    request.set_authority(Some(authority)).map_err(invalid)?;
    request.set_path_with_query(Some(path)).map_err(invalid)?;
    let future = outgoing_handler::handle(request, None)?;
    future.subscribe().block();
    let response = future.get().expect("it is ready").expect("it was not taken yet")?;
    let mut answer = format!("{} ", response.status()).into_bytes();
    let body = response.consume().expect("it was not taken yet");
    let stream = body.stream().expect("it was not taken yet");
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => answer.extend(bytes),
            Err(StreamError::Closed) => return Ok(answer),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(wasip2::http::types::http_error_code(&error).unwrap_or(ErrorCode::HttpProtocolError));
            }
        }
    }
}
