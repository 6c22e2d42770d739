//! A function written with the guest crate that uses all that the engine lends: entries, secrets, requests, other
//! functions.

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::engine::Project;
use crate::support::{eventually, within};

/// A server of prices: `/price` leads to `/price/now`, which costs what the body says. Tells every request.
async fn prices() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tx, rx) = mpsc::channel(64);
    let serve = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !is_whole(&request) {
                let mut read = [0; 1024];
                match stream.read(&mut read).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => request.extend_from_slice(&read[..count]),
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let body = request.rsplit("\r\n").next().unwrap_or_default();
            let (head, answer) = match (request.starts_with("POST /price HTTP"), body) {
                (_, "busy") => ("429 Too Many Requests\r\nretry-after: 3600", String::new()),
                (true, _) => ("307 Temporary Redirect\r\nlocation: /price/now", String::new()),
                (false, _) => ("200 OK", format!("{{\"cents\": {body}}}")),
            };
            let length = answer.len();
            let text = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}");
            // A client that went away is its own affair.
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = tx.send(request).await;
        }
    };
    #[expect(clippy::disallowed_methods, reason = "the test's own server ends with the test's runtime")]
    tokio::spawn(serve);
    (url, rx)
}

/// Whether the head is there, and a body of the length that it tells.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn project(prices: &str) -> Project {
    let engine = r#"
secrets = { API_KEY = { file = "key" } }
egress = { allow_networks = ["127.0.0.0/8"] }
"#;
    let functions = format!(
        r#"
[functions.orders]
module = "everything.wasm"
env_vars = {{ PRICES = "{prices}" }}
allow = {{ kv = ["orders"], secrets = ["API_KEY"], http = ["{prices}"], invoke = ["tax", "audit"] }}
[[functions.orders.triggers]]
type = "http"
method = "POST"
path = "/orders/{{id}}"

[functions.tax]
module = "everything.wasm"
is_public = false

[functions.audit]
module = "everything.wasm"
is_public = false
allow = {{ kv = ["totals"] }}

[functions.stranger]
module = "everything.wasm"
[[functions.stranger.triggers]]
type = "http"
path = "/stranger"
"#
    );
    let project = Project::new(engine, &functions);
    project.guest("everything.component.wasm", "everything.wasm");
    std::fs::write(project.path("key"), "hunter2\n").unwrap();
    project
}

#[tokio::test]
async fn a_function_of_the_guest_crate_uses_all_that_it_is_granted() {
    let (url, mut asked) = prices().await;
    let project = project(&url);
    let engine = project.serve().await;

    let taken = project.post("/orders/7", "1000").await;
    assert_eq!(taken.status, StatusCode::CREATED, "{}", taken.text());
    assert_eq!((&taken.json()["order"], &taken.json()["cents"]), (&"7".into(), &"1200".into()));
    for path in ["POST /price HTTP", "POST /price/now HTTP"] {
        let request = within("a request", asked.recv()).await.unwrap();
        assert!(request.starts_with(path), "{request}");
        assert!(request.to_ascii_lowercase().contains("authorization: bearer hunter2"), "{request}");
    }
    let again = project.post("/orders/7", "1000").await;
    assert_eq!((again.status, &*again.text()), (StatusCode::CONFLICT, "this order was taken before\n"));
    assert_eq!(project.post("/orders/8", "2000").await.json()["cents"], "2400");
    eventually("the audit of both", async || {
        let attempts = project.attempts("audit").await;
        attempts.len() == 2 && attempts.iter().all(|(_, outcome)| outcome == "ok")
    })
    .await;
    let audits = project.admin("/api/v1/traces?function=audit").await;
    let listed = audits["items"].as_array().unwrap();
    let orders = project.admin("/api/v1/traces?function=orders").await;
    let parents: Vec<_> = orders["items"].as_array().unwrap().iter().map(|row| &row["invocation_id"]).collect();
    assert!(listed.iter().all(|audit| parents.contains(&&audit["parent"]) && audit["depth"] == 1), "{audits}");

    // What the server says, and what the other function says, is what becomes of the order: and it may be taken then.
    for body in ["busy", "\"much\""] {
        let failed = project.post("/orders/9", body).await;
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", failed.text());
        assert_eq!(failed.json()["code"], "guest_error");
    }
    assert_eq!(project.post("/orders/9", "10").await.status, StatusCode::CREATED);
    assert!(!engine.log().contains("hunter2"), "{}", engine.log());
}

#[tokio::test]
async fn a_function_of_the_guest_crate_is_told_why_it_is_refused() {
    let project = project("http://127.0.0.1:1");
    let _engine = project.serve().await;
    let told = project.post("/stranger", "").await.text();
    let told: Vec<&str> = told.lines().collect();
    let grants = ["kv", "secrets", "http", "invoke", "invoke"];
    assert_eq!(told.len(), grants.len(), "{told:?}");
    for (line, grant) in told.iter().zip(grants) {
        let grant = format!("functions.stranger.allow.{grant}");
        assert!(line.starts_with("Denied: ") && line.contains(&grant), "{grant} is not in {line}");
    }
}
