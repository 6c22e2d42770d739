//! Peers that break the protocol: each is told by the right close code, and nobody else notices.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Answer, Response, Shed};

use super::support::{Place, answer, close_code, frame, in_time, told, wait_for_events};

#[tokio::test]
async fn frames_that_break_the_protocol_have_their_close_codes() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "events": ["message", "disconnect", "error"], "max_message_bytes": 1000 })).await;
    let unmasked = || vec![0x81, 2, b'h', b'i'];
    let with = |frames: &[Vec<u8>]| frames.concat();
    let mut neighbour = place.connect().await;
    for (what, bytes, code) in [
        ("a reserved bit", frame(0xc1, b"hi"), 1002),
        ("a reserved opcode of data", frame(0x83, b"hi"), 1002),
        ("a reserved opcode of control", frame(0x8b, b""), 1002),
        ("no mask", unmasked(), 1002),
        ("a ping in fragments", frame(0x09, b"hi"), 1002),
        ("a ping that is too large", frame(0x89, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"hi"), 1002),
        ("a text within a text", with(&[frame(0x01, b"a"), frame(0x81, b"b")]), 1002),
        ("a close frame of one byte", frame(0x88, b"x"), 1002),
        ("a close code that is none", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("a close reason that is no text", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("a text that is no text", frame(0x81, b"\xff\xfe"), 1007),
        ("half a character in fragments", with(&[frame(0x01, b"\xce"), frame(0x80, b"a")]), 1007),
        ("a message that is too large", frame(0x82, &[0; 1001]), 1009),
        ("a message that grows too large", with(&[frame(0x02, &[0; 600]), frame(0x80, &[0; 401])]), 1009),
        ("a length beyond all", with(&[vec![0x82, 0xff], vec![0x7f; 8], vec![0; 4]]), 1009),
        ("goodbye", frame(0x88, b"\x03\xe8"), 1000),
        ("goodbye without a code, answered alike", with(&[frame(0x81, b""), frame(0x88, b"\x03\xe9later")]), 1001),
    ] {
        let before = dispatch.seen().len();
        let stream = place.connect().await.socket.into_inner();
        let mut stream = stream;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(close_code(&mut stream).await, code, "{what}");
        let broke = !what.contains("goodbye") && !what.contains("code that is none");
        let empty_text = usize::from(what.contains("alike"));
        wait_for_events(&dispatch, before + 1 + usize::from(broke) + empty_text).await;
        let events = told(&dispatch, "code").split_off(before + empty_text);
        if broke {
            assert_eq!(events, [format!("error {code}"), format!("disconnect {code}")], "{what}");
        }
    }
    assert!(dispatch.shed().contains(&(Shed::TooLarge, 1)) && dispatch.shed().contains(&(Shed::Malformed, 1)));
    neighbour.send("still here").await;
    assert_eq!(neighbour.text().await, "still here");
}

#[tokio::test]
async fn what_came_before_a_broken_frame_is_handled_and_answered() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({})).await;
    let mut stream = place.connect().await.socket.into_inner();
    let bytes = [frame(0x81, b"one"), frame(0x81, b"two"), frame(0x83, b"broken"), frame(0x81, b"late")].concat();
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(answer(&mut stream).await, (0x81, b"one".to_vec()));
    assert_eq!(answer(&mut stream).await, (0x81, b"two".to_vec()));
    assert_eq!(close_code(&mut stream).await, 1002);
    assert_eq!(dispatch.seen().len(), 2);
}

#[tokio::test]
async fn a_flood_of_fragments_is_one_message_or_too_large() {
    let (place, dispatch) = (
        Place::new().await,
        FakeDispatch::new(|event| Answer::Ok(Response::from(bytes::Bytes::from(event.payload.len().to_string())))),
    );
    place.run(&dispatch, json!({ "max_message_bytes": 1000 })).await;
    let mut stream = place.connect().await.socket.into_inner();
    let mut flood = frame(0x01, b"");
    (0..20_000).for_each(|_| flood.extend(frame(0x00, b"")));
    flood.extend(frame(0x80, b"end"));
    stream.write_all(&flood).await.unwrap();
    assert_eq!(answer(&mut stream).await, (0x81, b"3".to_vec()), "empty fragments cost nothing");
    let mut flood = frame(0x02, b"");
    (0..1001).for_each(|_| flood.extend(frame(0x00, b"x")));
    stream.write_all(&flood).await.unwrap();
    assert_eq!(close_code(&mut stream).await, 1009);
}

#[tokio::test]
async fn pings_within_a_message_and_byte_by_byte_are_answered() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({})).await;
    let mut stream = place.connect().await.socket.into_inner();
    let bytes = [frame(0x01, b"he"), frame(0x89, b"?"), frame(0x80, b"llo")].concat();
    for byte in bytes {
        stream.write_all(&[byte]).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(answer(&mut stream).await, (0x8a, b"?".to_vec()));
    assert_eq!(answer(&mut stream).await, (0x81, b"hello".to_vec()));
}

#[tokio::test]
async fn a_peer_that_closes_its_sending_side_ends_the_socket() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "events": ["message", "disconnect", "error"] })).await;
    let mut stream = place.connect().await.socket.into_inner();
    stream.write_all(&frame(0x81, b"last words")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    in_time("the end", stream.read_to_end(&mut rest)).await.unwrap();
    wait_for_events(&dispatch, 2).await;
    assert_eq!(told(&dispatch, "code"), ["message", "disconnect 1006"], "what it said is handled");
}

#[tokio::test]
async fn requests_that_are_no_handshake_are_refused_with_a_status() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({ "origins": ["https://app.example"], "events": ["connect"] })).await;
    for (headers, status, code) in [
        (&[("sec-websocket-version", "8")][..], 426, "unsupported_version"),
        (&[("sec-websocket-key", "short")], 400, "invalid_key"),
        (&[("origin", "https://evil.example")], 403, "origin_not_allowed"),
        (&[("origin", "null")], 403, "origin_not_allowed"),
    ] {
        let refused = place.ask("/live", headers).await.map(drop).unwrap_err();
        assert_eq!(refused, (status, code.to_owned()), "{headers:?}");
    }
    assert_eq!(place.ask("/elsewhere", &[]).await.map(drop).unwrap_err().0, 404);
    assert!(dispatch.seen().is_empty(), "no function was asked");
    assert_eq!(dispatch.shed(), [(Shed::Forbidden, 1), (Shed::Forbidden, 1)]);
    let mut admitted = place.ask("/live", &[("origin", "https://app.example")]).await.unwrap();
    admitted.send(Message::Close(None)).await;

    // A request that asks for no upgrade is told what the path is for.
    let mut stream = tokio::net::TcpStream::connect(place.addr).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    in_time("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("upgrade: websocket"), "{answer}");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_and_sends_on_holds_up_nobody() {
    let (place, dispatch) = (
        Place::new().await,
        FakeDispatch::new(|event| match &event.payload[..] {
            b"hi" => Answer::Ok(Response::from(event.payload.clone())),
            _ => Answer::Ok(Response::from(bytes::Bytes::from(vec![0; 1 << 20]))),
        }),
    );
    place.run(&dispatch, json!({ "send_queue": 2, "events": ["message", "disconnect"] })).await;
    let mut deaf = place.connect().await.socket.into_inner();
    let asked = tokio::time::timeout(Duration::from_secs(10), async {
        // Answers of a mebibyte that it never reads: the socket's own buffers are full some time.
        while !told(&dispatch, "code").iter().any(|event| event == "disconnect 1013") {
            let _gone_in_the_end = deaf.write_all(&frame(0x81, b"more")).await;
            tokio::task::yield_now().await;
        }
    });
    let mut neighbour = place.connect().await;
    neighbour.send("hi").await;
    assert_eq!(neighbour.text().await, "hi");
    asked.await.expect("it is closed with 1013");
}
