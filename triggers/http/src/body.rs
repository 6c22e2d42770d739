//! Reading a request's body: never more than the route takes, never longer than the listener waits.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http_body::Body;
use http_body_util::BodyExt as _;
use serde::de::IgnoredAny;

/// What is set aside for a body of several frames before they arrive; a caller that only claims to send more costs no
/// more than this.
const FIRST_RESERVE: u64 = 64 * 1024;

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// It is larger than the route takes.
    TooLarge,
    /// It did not arrive in time.
    TimedOut,
    /// It ended early or its chunks are malformed.
    Broken,
}

/// Reads a body of at most `limit` bytes within `timeout`. A body that announces more is refused unread.
pub(crate) async fn read<B: Body<Data = Bytes>>(body: B, limit: u64, timeout: Duration) -> Result<Bytes, Error> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit {
        return Err(Error::TooLarge);
    }
    let mut reading = pin!(collect(body, limit));
    // Most bodies arrive with their headers and are complete at the second poll, the one that follows when the
    // connection learns that someone reads. Only for those that are not is a timer worth its cost.
    let mut polls = 0;
    let early = poll_fn(|cx| match reading.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if polls == 0 => {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Ready(None),
    });
    match early.await {
        Some(result) => result,
        None => tokio::time::timeout(timeout, reading).await.unwrap_or(Err(Error::TimedOut)),
    }
}

async fn collect<B: Body<Data = Bytes>>(body: B, limit: u64) -> Result<Bytes, Error> {
    let mut body = pin!(body);
    let Some(first) = next(body.as_mut(), limit).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next(body.as_mut(), limit - first.len() as u64).await? else { return Ok(first) };
    let announced = (first.len() + second.len()) as u64 + body.size_hint().lower();
    let mut whole = Vec::with_capacity(announced.min(FIRST_RESERVE.max((first.len() + second.len()) as u64)) as usize);
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    while let Some(more) = next(body.as_mut(), limit - whole.len() as u64).await? {
        whole.extend_from_slice(&more);
    }
    Ok(Bytes::from(whole))
}

/// The next frame with data, which must fit into what is left of the limit. Trailers are dropped.
async fn next<B: Body<Data = Bytes>>(mut body: std::pin::Pin<&mut B>, left: u64) -> Result<Option<Bytes>, Error> {
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Error::Broken)?.into_data() else { continue };
        if data.len() as u64 > left {
            return Err(Error::TooLarge);
        }
        if !data.is_empty() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Whether a media type says that the body is JSON: `application/json` or anything `+json`.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().as_bytes();
    let suffix = essence.len().checked_sub(b"+json".len()).map(|start| &essence[start..]);
    essence.eq_ignore_ascii_case(b"application/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"))
}

/// Where a text stops being JSON, without building what it means. JSON is UTF-8 (RFC 8259, section 8.1).
pub(crate) fn check_json(body: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("not UTF-8 after {} bytes", error.valid_up_to()))?;
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use proptest::prelude::*;
    use std::convert::Infallible;

    const LONG: Duration = Duration::from_secs(60);

    fn frames(parts: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = Infallible> {
        StreamBody::new(stream::iter(parts.into_iter().map(|part| Ok(Frame::data(Bytes::from(part))))))
    }

    #[tokio::test]
    async fn a_body_that_announces_too_much_is_refused_unread() {
        struct Announced;
        impl Body for Announced {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                unreachable!("it must not be read")
            }
            fn size_hint(&self) -> http_body::SizeHint {
                http_body::SizeHint::with_exact(11)
            }
        }
        assert_eq!(read(Announced, 10, LONG).await, Err(Error::TooLarge));
    }

    #[tokio::test]
    async fn a_body_of_one_frame_is_not_copied() {
        let bytes = Bytes::from(vec![7; 100]);
        let read = read(Full::new(bytes.clone()), 100, LONG).await.unwrap();
        assert_eq!(read.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"begins")))]);
        let stalls = StreamBody::new(futures_util::StreamExt::chain(first, stream::pending()));
        let begun = tokio::time::Instant::now();
        assert_eq!(read(stalls, 100, Duration::from_secs(7)).await, Err(Error::TimedOut));
        assert_eq!(begun.elapsed().as_secs(), 7);
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_no_body() {
        let parts = stream::iter([Ok(Frame::data(Bytes::from_static(b"begins"))), Err("cut")]);
        assert_eq!(read(StreamBody::new(parts), 100, LONG).await, Err(Error::Broken));
    }

    proptest! {
        #[test]
        fn a_body_is_read_whole_or_refused(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8),
            limit in 0_u64..100,
        ) {
            let whole = parts.concat();
            let read = futures_util::FutureExt::now_or_never(collect(frames(parts), limit)).unwrap();
            if whole.len() as u64 <= limit {
                prop_assert_eq!(read, Ok(Bytes::from(whole)));
            } else {
                prop_assert_eq!(read, Err(Error::TooLarge));
            }
        }
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        for (content_type, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/cloudevents+json", true),
            ("application/problem+JSON ;x=y", true),
            ("application/jsonl", false),
            ("application/x-ndjson", false),
            ("text/plain; note=application/json", false),
            ("json", false),
            ("", false),
        ] {
            assert_eq!(is_json(content_type), expected, "{content_type:?}");
        }
    }

    #[test]
    fn json_is_checked_to_its_end() {
        for good in ["{}", " [1, \"é\"] ", "null", "1e400", "\"\\ud800\""] {
            assert_eq!(check_json(good.as_bytes()), Ok(()), "{good}");
        }
        for (bad, why) in [
            (&b""[..], "EOF while parsing"),
            (b"{\"a\":1", "EOF while parsing"),
            (b"{} {}", "trailing characters"),
            (b"{'a':1}", "key must be a string"),
            (b"\"\xff\"", "not UTF-8 after 1 bytes"),
        ] {
            let error = check_json(bad).unwrap_err();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(check_json(deep.as_bytes()), Ok(()), "depth costs no stack");
    }
}
