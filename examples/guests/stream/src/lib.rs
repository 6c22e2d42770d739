//! Speaks with its caller while it runs, as the path says:
//!
//! - `/echo` sends back each piece of the body as it arrives;
//! - `/upload` answers how many bytes the body had;
//! - `/download?N` sends N bytes;
//! - `/ticks?N` sends N events, one every 20 milliseconds;
//! - `/breaks` traps in the middle of its answer, `/unfinished` returns there.

use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{OutputStream, StreamError};

wasip2::http::proxy::export!(Stream);

struct Stream;

/// What is read and written at once.
const PIECE: usize = 64 << 10;

impl Guest for Stream {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let count: usize = query.parse().unwrap_or(0);
        let incoming = request.consume().expect("it was not taken yet");
        let mut bytes = 0;
        if path == "/upload" {
            read(&incoming, |piece| bytes += piece.len());
        }

        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("a new response's body was not taken yet");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().expect("a new body's stream was not taken yet");
        match path {
            "/upload" => write(&stream, bytes.to_string().as_bytes()),
            "/echo" => read(&incoming, |piece| write(&stream, &piece)),
            "/download" => {
                let piece = [b'x'; PIECE];
                for at in (0..count).step_by(PIECE) {
                    write(&stream, &piece[..PIECE.min(count - at)]);
                }
            }
            "/ticks" => {
                for tick in 0..count {
                    write(&stream, format!("data: {tick}\n\n").as_bytes());
                    monotonic_clock::subscribe_duration(20_000_000).block();
                }
            }
            _ => write(&stream, b"begun"),
        }
        drop(stream);
        match path {
            "/breaks" => panic!("as it was told"),
            "/unfinished" => std::mem::forget(body),
            _ => OutgoingBody::finish(body, None).expect("nothing was said about its length"),
        }
    }
}

/// Reads a body, piece by piece, to its end.
fn read(body: &IncomingBody, mut take: impl FnMut(Vec<u8>)) {
    let stream = body.stream().expect("it was not taken yet");
    loop {
        match stream.blocking_read(PIECE as u64) {
            Ok(piece) => take(piece),
            Err(StreamError::Closed) => return,
            Err(StreamError::LastOperationFailed(error)) => panic!("{}", error.to_debug_string()),
        }
    }
}

/// Writes as much as may be written at once, until all is.
fn write(stream: &OutputStream, bytes: &[u8]) {
    for piece in bytes.chunks(4096) {
        stream.blocking_write_and_flush(piece).expect("somebody reads");
    }
}
