//! The cases of the Autobahn test suite (<https://github.com/crossbario/autobahn-testsuite>) that say what is answered,
//! each by the number that it has there. Limits and performance (9) are elsewhere, compression (12, 13) is not offered.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use trigger_core::testing::FakeDispatch;

use super::support::{Place, answer, close_code, frame};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// Frames that more follow, and those that follow.
const FIRST_TEXT: u8 = 0x01;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;

/// What is sent, what is answered, the goodbye after that where it was no breach, and the code of the close frame.
struct Case {
    name: String,
    sent: Vec<u8>,
    answered: Vec<(u8, Vec<u8>)>,
    goodbye: Vec<u8>,
    code: u16,
}

fn case(name: &str, sent: &[Vec<u8>], answered: &[(u8, &[u8])], code: u16) -> Case {
    let answered = answered.iter().map(|(first, payload)| (*first, payload.to_vec())).collect();
    Case { name: name.to_owned(), sent: sent.concat(), answered, goodbye: Vec::new(), code }
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// What is no breach.
fn good(name: &str, sent: &[Vec<u8>], answered: &[(u8, &[u8])]) -> Case {
    Case { goodbye: close(1000, b""), ..case(name, sent, answered, 1000) }
}

fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    for length in [1, 125, 126, 127, 128, 65_535, 65_536] {
        let payload = vec![b'*'; length];
        cases.push(good(&format!("1.1 {length}"), &[frame(TEXT, &payload)], &[(TEXT, &payload)]));
        cases.push(good(&format!("1.2 {length}"), &[frame(BINARY, &payload)], &[(BINARY, &payload)]));
    }
    cases
}

fn pings() -> Vec<Case> {
    let (bytes, most) = (&[0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff][..], &[0xfe; 125][..]);
    let ten: Vec<Vec<u8>> = (0..10).map(|number| frame(PING, &[b'0' + number])).collect();
    let numbers: Vec<[u8; 1]> = (0..10).map(|number| [b'0' + number]).collect();
    let pongs: Vec<(u8, &[u8])> = numbers.iter().map(|number| (PONG, &number[..])).collect();
    vec![
        good("2.1", &[frame(PING, b"")], &[(PONG, b"")]),
        good("2.2", &[frame(PING, b"Hello, world!")], &[(PONG, b"Hello, world!")]),
        good("2.3", &[frame(PING, bytes)], &[(PONG, bytes)]),
        good("2.4", &[frame(PING, most)], &[(PONG, most)]),
        case("2.5", &[frame(PING, &[0xfe; 126])], &[], 1002),
        good("2.7", &[frame(PONG, b"")], &[]),
        good("2.8", &[frame(PONG, b"unsolicited")], &[]),
        good("2.9", &[frame(PONG, b"unsolicited"), frame(PING, b"ping")], &[(PONG, b"ping")]),
        good("2.10", &ten, &pongs),
    ]
}

fn reserved() -> Vec<Case> {
    let hello = || frame(TEXT, b"hello");
    let mut cases = Vec::new();
    for bits in 1..8_u8 {
        cases.push(case(&format!("3.{bits}"), &[frame(TEXT | bits << 4, b"hello")], &[], 1002));
        cases.push(case(&format!("3.{bits} ping"), &[frame(PING | bits << 4, b"")], &[], 1002));
        cases.push(case(&format!("3.{bits} close"), &[frame(CLOSE | bits << 4, b"")], &[], 1002));
        let behind = [hello(), frame(TEXT | bits << 4, b"hello")];
        cases.push(case(&format!("3.{bits} behind a text"), &behind, &[(TEXT, b"hello")], 1002));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15_u8] {
        cases.push(case(&format!("4 {opcode}"), &[frame(0x80 | opcode, b"")], &[], 1002));
        let behind = [hello(), frame(0x80 | opcode, b"x"), frame(PING, b"")];
        cases.push(case(&format!("4 {opcode} behind a text"), &behind, &[(TEXT, b"hello")], 1002));
    }
    cases
}

fn fragments() -> Vec<Case> {
    let (first, last) = (|| frame(FIRST_TEXT, b"frag"), || frame(LAST, b"ment"));
    let whole: (u8, &[u8]) = (TEXT, b"fragment");
    vec![
        case("5.1", &[frame(0x09, b"frag"), last()], &[], 1002),
        case("5.2", &[frame(0x0a, b"frag"), last()], &[], 1002),
        good("5.3", &[first(), last()], &[whole]),
        good("5.6", &[first(), frame(PING, b"ping"), last()], &[(PONG, b"ping"), whole]),
        case("5.9", &[frame(LAST, b"nothing"), frame(TEXT, b"hello")], &[], 1002),
        case("5.12", &[frame(MORE, b"nothing"), frame(TEXT, b"hello")], &[], 1002),
        case("5.15", &[first(), last(), frame(MORE, b"x"), frame(TEXT, b"y")], &[whole], 1002),
        case("5.18", &[first(), frame(TEXT, b"ment")], &[], 1002),
        good(
            "5.19",
            &[first(), frame(MORE, b"m"), frame(PING, b"1"), frame(MORE, b"en"), frame(PING, b"2"), frame(LAST, b"t")],
            &[(PONG, b"1"), (PONG, b"2"), whole],
        ),
        good("6.1.2", &[frame(FIRST_TEXT, b""), frame(MORE, b""), frame(LAST, b"x")], &[(TEXT, b"x")]),
    ]
}

fn text() -> Vec<Case> {
    let greek = "Hello-µ@ßöäüàá-UTF-8!!κόσμε".as_bytes();
    let mut by_octets: Vec<Vec<u8>> = greek.iter().map(|octet| frame(MORE, &[*octet])).collect();
    by_octets[0][0] = FIRST_TEXT;
    by_octets.last_mut().unwrap()[0] = LAST;
    let mut cases = vec![
        good("6.2.1", &[frame(TEXT, greek)], &[(TEXT, greek)]),
        good("6.2.2", &[frame(FIRST_TEXT, &greek[..12]), frame(LAST, &greek[12..])], &[(TEXT, greek)]),
        good("6.2.3", &by_octets, &[(TEXT, greek)]),
        // Fails with the fragment that is wrong: the last one never comes.
        case("6.4.1", &[frame(FIRST_TEXT, b"\xce\xba"), frame(MORE, b"\xf4\x90\x80\x80")], &[], 1007),
        case("6.4.2", &[frame(FIRST_TEXT, b"\xce\xba\xf4"), frame(MORE, b"\x90")], &[], 1007),
    ];
    for valid in
        ["\u{7f}", "\u{80}", "\u{7ff}", "\u{800}", "\u{d7ff}", "\u{e000}", "\u{fffd}", "\u{ffff}", "\u{10ffff}"]
    {
        let bytes = valid.as_bytes();
        cases.push(good(&format!("6.5 {valid:?}"), &[frame(TEXT, bytes)], &[(TEXT, bytes)]));
    }
    for invalid in [
        // A continuation alone, a beginning alone, bytes that are never there.
        &b"\x80"[..],
        b"\xbf\x80",
        b"\xc0 ",
        b"\xe0\x80 ",
        b"\xce",
        b"\xf0\x90\x80",
        b"\xfe",
        b"\xff",
        // Longer than need be.
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf8\x87\xbf\xbf\xbf",
        // Beyond Unicode, and surrogates.
        b"\xf4\x90\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
    ] {
        cases.push(case(&format!("6.3 {invalid:x?}"), &[frame(TEXT, invalid)], &[], 1007));
        let fragments = [frame(FIRST_TEXT, b"good"), frame(LAST, invalid)];
        cases.push(case(&format!("6.3 {invalid:x?} in fragments"), &fragments, &[], 1007));
    }
    cases
}

fn closing() -> Vec<Case> {
    let mut cases = vec![
        case("7.1.2", &[close(1000, b""), close(1000, b"")], &[], 1000),
        case("7.1.3", &[close(1000, b""), frame(PING, b"late")], &[], 1000),
        case("7.1.4", &[close(1000, b""), frame(TEXT, b"late")], &[], 1000),
        case("7.1.5", &[frame(FIRST_TEXT, b"frag"), close(1000, b""), frame(LAST, b"ment")], &[], 1000),
        case("7.3.1", &[frame(CLOSE, b"")], &[], 1005),
        case("7.3.2", &[frame(CLOSE, b"x")], &[], 1002),
        case("7.3.4", &[close(1000, b"Hello World!")], &[], 1000),
        case("7.3.5", &[close(1000, &[b'*'; 123])], &[], 1000),
        case("7.3.6", &[close(1000, &[b'*'; 124])], &[], 1002),
        case("7.5.1", &[close(1000, b"\xce\xba\xed\xa0\x80")], &[], 1007),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999] {
        cases.push(case(&format!("7.7 {code}"), &[close(code, b"")], &[], code));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(case(&format!("7.9 {code}"), &[close(code, b"")], &[], 1002));
    }
    cases
}

#[tokio::test]
async fn the_cases_of_the_autobahn_suite_are_answered_as_it_says() {
    let (place, dispatch) = (Place::new().await, FakeDispatch::echo());
    place.run(&dispatch, json!({})).await;
    let cases = [framing(), pings(), reserved(), fragments(), text(), closing()];
    let mut wrong = Vec::new();
    for Case { name, sent, answered, goodbye, code } in cases.into_iter().flatten() {
        // As it comes, and octet by octet where that is not for ever.
        for octets in [sent.len().max(1), 1] {
            if octets == 1 && sent.len() > 500 {
                continue;
            }
            let mut stream = place.connect().await.socket.into_inner();
            stream.set_nodelay(true).unwrap();
            for part in sent.chunks(octets) {
                // It may be closed in the middle.
                if stream.write_all(part).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let mut got = Vec::new();
            for _ in &answered {
                got.push(answer(&mut stream).await);
            }
            let _it_may_be_closed_already = stream.write_all(&goodbye).await;
            let closed = close_code(&mut stream).await;
            if (&got, closed) != (&answered, code) {
                wrong.push(format!("{name}: {got:x?}, {closed} in place of {answered:x?}, {code}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
