//! The chat example in a real browser.

use serde_json::Value;

use crate::support::browser::{Browser, Tab};
use crate::support::cable::Cable;
use crate::support::websocket::chat;

async fn say(browser: &mut Browser, tab: &Tab, text: &str) {
    let script = format!(
        "document.getElementById('text').value = {text:?}; document.getElementById('form').requestSubmit(); true"
    );
    assert_eq!(browser.eval(tab, &script).await, true);
}

/// Waits until the page shows a line.
async fn reads(browser: &mut Browser, tab: &Tab, line: &str) {
    browser
        .until(tab, &format!("[...document.querySelectorAll('#lines p')].some(p => p.textContent === {line:?})"))
        .await;
}

/// The lines that the page shows, but those about who left.
async fn lines(browser: &mut Browser, tab: &Tab) -> Vec<String> {
    let lines = browser.eval(tab, "[...document.querySelectorAll('#lines p')].map(p => p.textContent)").await;
    let lines = lines.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned);
    lines.filter(|line| line != "somebody left").collect()
}

#[tokio::test]
async fn two_tabs_talk_and_one_that_was_cut_off_misses_nothing() {
    let project = chat("");
    let _engine = project.serve().await;
    let cable = Cable::to(project.public).await;
    let mut browser = Browser::start().await;
    let state = |what: &str| format!("document.getElementById('state')?.textContent === {what:?}");

    let ann = browser.open(&format!("http://127.0.0.1:{}/?name=ann", cable.port)).await;
    browser.until(&ann, &state("in lobby as ann")).await;
    reads(&mut browser, &ann, "ann came").await;
    let bob = browser.open(&format!("http://127.0.0.1:{}/?name=bob", project.public)).await;
    browser.until(&bob, &state("in lobby as bob")).await;
    reads(&mut browser, &ann, "bob came").await;
    say(&mut browser, &ann, "hello").await;
    reads(&mut browser, &bob, "ann: hello").await;
    say(&mut browser, &bob, "<b>hi</b>").await;
    reads(&mut browser, &ann, "bob: <b>hi</b>").await;

    cable.cut();
    browser.until(&ann, &state("away")).await;
    reads(&mut browser, &bob, "somebody left").await;
    say(&mut browser, &bob, "one").await;
    say(&mut browser, &bob, "two").await;
    reads(&mut browser, &bob, "bob: two").await;
    assert_eq!(project.post("/rooms/lobby", "lunch").await.status, 202);
    reads(&mut browser, &bob, "— lunch —").await;
    cable.mend();
    browser.until(&ann, &state("in lobby as ann")).await;
    reads(&mut browser, &bob, "ann came").await;
    reads(&mut browser, &ann, "— lunch —").await;
    say(&mut browser, &bob, "back?").await;
    reads(&mut browser, &ann, "bob: back?").await;
    let all = ["ann came", "bob came", "ann: hello", "bob: <b>hi</b>", "bob: one", "bob: two", "— lunch —", "ann came"];
    let all: Vec<&str> = all.into_iter().chain(["bob: back?"]).collect();
    assert_eq!(lines(&mut browser, &ann).await, all, "in their order, each once, and none is gone");
    assert_eq!(lines(&mut browser, &bob).await, all[1..]);
}
