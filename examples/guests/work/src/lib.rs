//! Does what the lines of its payload say, one after another, and answers a line for each:
//!
//! | line | what happens |
//! | --- | --- |
//! | `enqueue QUEUE [key=K] [after=MS] [PAYLOAD…]` | a job; the answer is its id |
//! | `cancel-job ID` | a job is taken back; `cancel-job last` means the last that was enqueued here |
//! | `set TIMER KEY MS [PAYLOAD…]` | a timer, so many milliseconds from now |
//! | `cancel-timer TIMER KEY` | a timer is taken back |
//! | `progress PERCENT [NOTE…]` | it says how far it has come |
//! | `fail` | a failure that may be tried again |
//! | `spin` | it computes until its time is over |
//!
//! In a payload `;` stands for the end of a line, so that what a line starts can have lines of its own.

wit_bindgen::generate!({ path: "../../../wit", world: "function" });

use tripline::function::types::{Conflict, Moment};
use tripline::function::{jobs, timers};

struct Work;
export!(Work);

impl Guest for Work {
    fn handle(_cx: Context, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let text = String::from_utf8(payload).map_err(|_| Failure::Permanent("the payload is no text".into()))?;
        let (mut answers, mut last) = (String::new(), String::new());
        for line in text.lines() {
            let answer = obey(line, &mut last)?;
            answers.push_str(&answer);
            answers.push('\n');
        }
        Ok(answers.into_bytes())
    }
}

fn obey(line: &str, last: &mut String) -> Result<String, Failure> {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default();
    Ok(match next() {
        "enqueue" => {
            let queue = next();
            let mut options = jobs::Options {
                content_type: Some("text/plain".into()),
                headers: Vec::new(),
                key: None,
                unique: None,
                run_at: None,
                expires_at: None,
                priority: None,
                ordering_key: None,
                retry_count: None,
                result_ttl_seconds: None,
            };
            let mut payload = Vec::new();
            for word in words {
                match word.split_once('=') {
                    Some(("key", key)) => options.key = Some(key.into()),
                    Some(("after", millis)) => options.run_at = Some(Moment::After(number(millis)?)),
                    _ => payload.push(word),
                }
            }
            match jobs::enqueue(queue, &lines(&payload), &options) {
                Ok(id) => {
                    last.clone_from(&id);
                    id
                }
                Err(error) => format!("{error:?}"),
            }
        }
        "cancel-job" => {
            let id = match next() {
                "last" => last.as_str(),
                id => id,
            };
            format!("{:?}", jobs::cancel(id))
        }
        "set" => {
            let (timer, key, millis) = (next(), next(), number(next())?);
            let options = timers::Options {
                content_type: Some("text/plain".into()),
                headers: Vec::new(),
                conflict: Conflict::Replace,
                allow_past: false,
                retry_count: None,
                result_ttl_seconds: None,
            };
            let payload: Vec<&str> = words.collect();
            format!("{:?}", timers::set(timer, key, Moment::After(millis), &lines(&payload), &options))
        }
        "cancel-timer" => {
            let (timer, key) = (next(), next());
            format!("{:?}", timers::cancel(timer, key))
        }
        "progress" => {
            let percent = number(next())? as f32;
            let note: Vec<&str> = words.collect();
            format!("{:?}", jobs::progress(percent, &note.join(" ")))
        }
        "fail" => return Err(Failure::Retryable("told to fail".into())),
        "spin" => loop {
            core::hint::spin_loop();
        },
        other => other.into(),
    })
}

fn number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| Failure::Permanent(format!("{text:?} is no number")))
}

fn lines(words: &[&str]) -> Vec<u8> {
    words.join(" ").replace(';', "\n").into_bytes()
}
