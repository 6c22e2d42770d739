//! A request that asks for a socket: whether it gets one.
//!
//! What is cheap is asked first: the protocol, then the origin, how often somebody comes, who it is, whether there is
//! room, and at last the function, if it wants to be asked.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use trigger_auth::{Caller, Checked, Denied};
use trigger_core::upgrade::{Upgrade, UpgradeAnswer, UpgradeRefused, UpgradeRequest};
use trigger_core::{Answer, BoxFuture, Failure, FailureCode, Headers, HttpParts, MAX_SOCKET_NAME, Response, Shed};

use crate::config::{Config, ENVELOPE, Event};
use crate::connection;
use crate::endpoint::{Endpoint, Refused, Registered, Serving};
use crate::event;
use crate::frame::Told;
use crate::mark::Mark;
use crate::socket::Socket;

/// Rooms that a client may name to go on in.
const MAX_RESUMED: usize = 256;

/// When a client that found no room may come back.
const COME_BACK: Duration = Duration::from_secs(5);

/// Where sockets of an endpoint come in.
pub(crate) struct Door(pub(crate) Arc<Endpoint>);

impl Upgrade for Door {
    fn upgrade(&self, request: UpgradeRequest) -> BoxFuture<'_, Result<UpgradeAnswer, UpgradeRefused>> {
        Box::pin(open(&self.0, request))
    }
}

async fn open(endpoint: &Arc<Endpoint>, request: UpgradeRequest) -> Result<UpgradeAnswer, UpgradeRefused> {
    let serving = endpoint.serving().ok_or_else(|| shed(Shed::ShuttingDown, COME_BACK))?;
    let config = &serving.config;
    let UpgradeRequest { path, query, mut headers, mut attributes, subject, request_id, connection } = request;
    let accept = accept_key(&headers)?;
    let refuse = |reason, retry_after| {
        serving.cx.dispatch.count_shed(&serving.cx.binding, reason, 1);
        shed(reason, retry_after)
    };
    check_origin(&headers, &attributes, config).inspect_err(|_| {
        serving.cx.dispatch.count_shed(&serving.cx.binding, Shed::Forbidden, 1);
    })?;
    let address = attributes.iter().find(|(name, _)| name == "client").map(|(_, address)| address.clone());
    if let Some(limiter) = &serving.limiter {
        limiter.check_head(&headers, address.as_deref()).map_err(denied)?;
    }
    let caller = match &serving.guard {
        Some(guard) => Some(admitted(guard.check(&mut headers).await)?),
        None => None,
    };
    if let Some(limiter) = &serving.limiter {
        limiter.check_caller(caller.as_ref(), address.as_deref()).map_err(denied)?;
    }
    let caller = caller.map(|Caller { name, claims }| {
        attributes.extend(claims.map(|claims| ("claims".into(), claims.into())));
        name
    });
    let subprotocol = choose(&headers, &config.subprotocols);
    let enveloped = subprotocol == Some(ENVELOPE);
    let resume = match enveloped {
        true => resumed(query.as_deref().unwrap_or_default())?,
        false => Vec::new(),
    };
    let mut socket = Socket::new(&path, attributes, enveloped);
    // Whom the trigger asked for a proof, or else whom the connection's certificate names.
    socket.caller = caller.or(subject);
    let registered = endpoint.register(socket, resume, config.max_connections).map_err(|refused| match refused {
        Refused::Full => refuse(Shed::Overload, COME_BACK),
        Refused::Ending => refuse(Shed::ShuttingDown, COME_BACK),
    })?;
    registered.socket.push(&Told::Welcome { client: registered.socket.id }.frame(), config);
    if config.wants(Event::Connect)
        && let Some(refusal) = ask(&registered, &serving, headers, request_id).await?
    {
        return Ok(refusal);
    }
    let answer = switch(&accept, subprotocol);
    endpoint.tasks.spawn(connection::serve(registered, config.protocol(), connection));
    Ok(answer)
}

/// Who opens the socket. The guard counts whom it turns away.
fn admitted(checked: Result<Checked, Denied>) -> Result<Caller, UpgradeRefused> {
    match checked {
        Ok(Checked::Caller(caller)) => Ok(caller),
        // What needs a body is refused with the manifest; whoever gets here all the same has proved nothing.
        Ok(Checked::Signature(_)) => Err(shed(Shed::Unauthenticated, COME_BACK)),
        Err(why) => Err(denied(why)),
    }
}

fn denied(Denied { reason, detail, challenge, retry_after }: Denied) -> UpgradeRefused {
    let mut refused = UpgradeRefused { detail, ..shed(reason, retry_after) };
    refused.headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
    refused
}

/// Asks the function. It may refuse by a status of its own, or by failing.
async fn ask(
    registered: &Registered,
    serving: &Serving,
    headers: HeaderMap,
    request_id: Option<Box<str>>,
) -> Result<Option<UpgradeAnswer>, UpgradeRefused> {
    let mut event = event::of(&registered.socket, serving, Event::Connect, Bytes::new());
    event.headers = Headers::Http(Box::new(headers));
    event.request_id = request_id;
    event.adopt_lineage();
    match serving.cx.dispatch.dispatch(event).await {
        Answer::Ok(response) => Ok(refusal(response)),
        Answer::Failed(failure) | Answer::Kept(failure) | Answer::Retry { failure, .. } => Err(failed(failure)),
        Answer::Dead { failure, .. } => Err(failed(failure)),
        Answer::Skipped(reason) => {
            let status = StatusCode::from_u16(reason.status()).expect("the statuses of reasons are HTTP's");
            Err(UpgradeRefused::new(status, reason.as_str(), reason.detail()))
        }
        Answer::Shed { reason, retry_after } => Err(shed(reason, retry_after)),
        Answer::Cancelled => Err(shed(Shed::ShuttingDown, COME_BACK)),
    }
}

/// The function's own response, where its status says that there will be no socket.
fn refusal(response: Response) -> Option<UpgradeAnswer> {
    let HttpParts { status, mut headers } = *response.http?;
    if status.is_success() || status.is_informational() {
        return None;
    }
    for name in [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    Some(UpgradeAnswer { status, headers, body: response.body })
}

/// A function that says that it failed for good has refused; one that cannot be run has not been asked.
fn failed(failure: Failure) -> UpgradeRefused {
    let Failure { code, message, retryable, retry_after } = failure;
    let (status, detail) = match code {
        FailureCode::GuestError if !retryable => (StatusCode::FORBIDDEN, message),
        FailureCode::Timeout => (StatusCode::GATEWAY_TIMEOUT, message),
        // The message is about the engine's insides, and its trace has it.
        FailureCode::HostError | FailureCode::Cancelled => {
            (StatusCode::SERVICE_UNAVAILABLE, "the engine could not run the function".into())
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, message),
    };
    UpgradeRefused { retry_after, ..UpgradeRefused::new(status, code.as_str(), detail) }
}

fn shed(reason: Shed, retry_after: Duration) -> UpgradeRefused {
    let status = StatusCode::from_u16(reason.status()).expect("the statuses of reasons are HTTP's");
    let refused = UpgradeRefused::new(status, reason.as_str(), reason.detail());
    if reason.retryable() { refused.again_after(retry_after) } else { refused }
}

/// The answer to the client's key, where the request is one of RFC 6455 (section 4.2.1).
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, UpgradeRefused> {
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let detail = "the version of WebSocket that is spoken here is 13";
        let mut refused = UpgradeRefused::new(StatusCode::UPGRADE_REQUIRED, "unsupported_version", detail);
        refused.headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(refused);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) if BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16) => key,
        _ => {
            let detail = "Sec-WebSocket-Key must be one value: 16 bytes in base64";
            return Err(UpgradeRefused::new(StatusCode::BAD_REQUEST, "invalid_key", detail));
        }
    };
    let accept = derive_accept_key(key.as_bytes());
    Ok(HeaderValue::try_from(accept).expect("base64 is visible"))
}

fn check_origin(
    headers: &HeaderMap,
    attributes: &[trigger_core::Attribute],
    config: &Config,
) -> Result<(), UpgradeRefused> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = attributes.iter().find(|(name, _)| name == "host").map(|(_, host)| host.as_str());
    match origin.to_str() {
        Ok(origin) if config.admits(origin, host) => Ok(()),
        _ => {
            let detail = "pages of this origin may not connect";
            Err(UpgradeRefused::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail))
        }
    }
}

/// The subprotocol that the trigger likes best of those that the client offers.
fn choose<'a>(headers: &HeaderMap, spoken: &'a [String]) -> Option<&'a str> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|value| value.split(',')).map(str::trim).collect();
    spoken.iter().map(String::as_str).find(|name| offered.contains(name))
}

/// What a client had last in each room: `resume_from=<room>:<seq>`, once for each.
fn resumed(query: &str) -> Result<Vec<(Box<str>, Mark)>, UpgradeRefused> {
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("resume_from="));
    let read = |value: &str| -> Option<(Box<str>, Mark)> {
        let text = percent_decode_str(value).decode_utf8().ok()?;
        let (room, seq) = text.rsplit_once(':')?;
        (1..=MAX_SOCKET_NAME).contains(&room.len()).then_some(())?;
        Some((room.into(), seq.parse().ok()?))
    };
    let resumed: Option<Vec<_>> = values.take(MAX_RESUMED + 1).map(read).collect();
    resumed.filter(|rooms| rooms.len() <= MAX_RESUMED).ok_or_else(|| {
        let detail = format!("resume_from is a room, ':' and a number, for at most {MAX_RESUMED} rooms");
        UpgradeRefused::new(StatusCode::BAD_REQUEST, "invalid_resume_from", detail)
    })
}

fn switch(accept: &HeaderValue, subprotocol: Option<&str>) -> UpgradeAnswer {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.clone());
    if let Some(name) = subprotocol {
        let name = HeaderValue::from_str(name).expect("subprotocols are tokens");
        headers.insert(HeaderName::from_static("sec-websocket-protocol"), name);
    }
    UpgradeAnswer { status: StatusCode::SWITCHING_PROTOCOLS, headers, body: Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn the_key_is_answered_as_the_rfc_has_it() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let good = accept_key(&headers(&[("sec-websocket-version", "13"), key])).unwrap();
        assert_eq!(good, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (pairs, status, code) in [
            (&[key][..], 426, "unsupported_version"),
            (&[("sec-websocket-version", "8"), key], 426, "unsupported_version"),
            (&[("sec-websocket-version", "13")], 400, "invalid_key"),
            (&[("sec-websocket-version", "13"), ("sec-websocket-key", "c2hvcnQ=")], 400, "invalid_key"),
            (&[("sec-websocket-version", "13"), ("sec-websocket-key", "no base64")], 400, "invalid_key"),
        ] {
            let refused = accept_key(&headers(pairs)).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.code), (status, code), "{pairs:?}");
            assert_eq!(refused.headers.contains_key("sec-websocket-version"), status == 426);
        }
    }

    #[test]
    fn the_preferred_subprotocol_of_those_offered_is_chosen() {
        let spoken = ["b".to_owned(), "a".to_owned()];
        let choose =
            |offered: &str| choose(&headers(&[("sec-websocket-protocol", offered)]), &spoken).map(str::to_owned);
        assert_eq!(choose("a, b, c").as_deref(), Some("b"));
        assert_eq!(choose("a,c").as_deref(), Some("a"));
        assert_eq!(choose("c"), None);
    }

    #[test]
    fn rooms_to_go_on_in_are_read_or_refused() {
        let read = resumed("x=1&resume_from=lobby:7&resume_from=a%3Ab%20c:18446744073709551615").unwrap();
        assert_eq!(read, [("lobby".into(), Mark::alone(7)), ("a:b c".into(), Mark::alone(u64::MAX))]);
        for query in ["resume_from=lobby", "resume_from=:1", "resume_from=lobby:x", "resume_from=%FF:1"] {
            assert_eq!(resumed(query).unwrap_err().code, "invalid_resume_from", "{query}");
        }
        assert!(resumed(&"resume_from=a:1&".repeat(MAX_RESUMED + 1)).is_err());
    }
}
