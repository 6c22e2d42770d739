//! Makes the statements of its payload in the database that its first line names, and answers a line for each:
//!
//! | line | what happens |
//! | --- | --- |
//! | `begin` | what follows is in a transaction |
//! | `commit` | it is committed |
//! | `commit with effects` | it is committed, and with it what was enqueued and published before |
//! | `enqueue QUEUE \| payload` | a job |
//! | `publish SUBJECT \| payload` | a message |
//! | `forget` | it is dropped |
//! | `fail` | a failure that may be tried again |
//! | `? STATEMENT \| parameter \| …` | its rows; a parameter that looks like a number is one |
//! | `STATEMENT \| parameter \| …` | how many rows it changed |

use tripline_guest::sql::{self, Rows, Transaction, Value};
use tripline_guest::{Event, Failure, HostError, Job, Message};

tripline_guest::handler!(obey);

fn obey(event: Event) -> Result<String, Failure> {
    let mut lines = event.text()?.lines();
    let database = lines.next().unwrap_or_default();
    let (mut answers, mut transaction) = (String::new(), None);
    for line in lines {
        let answer = match line {
            "begin" => Transaction::begin(database).map(|begun| {
                transaction = Some(begun);
                "begun".to_owned()
            }),
            "commit" => {
                transaction.take().map_or(Ok("nothing".to_owned()), |begun| begun.commit().map(|()| "committed".into()))
            }
            "commit with effects" => transaction.take().map_or(Ok("nothing".to_owned()), |begun| {
                begun.commit_with_effects().map(|()| "committed with effects".into())
            }),
            "forget" => {
                transaction = None;
                Ok("forgotten".to_owned())
            }
            "fail" => return Err(Failure::retryable("told to fail")),
            line => match asked(line) {
                Some(asked) => asked.map(|()| "asked for".to_owned()),
                None => statement(database, transaction.as_ref(), line),
            },
        };
        answers.push_str(&answer.unwrap_or_else(|error| format!("{:?}: {error}", error.reason)));
        answers.push('\n');
    }
    Ok(answers)
}

/// Asks for a job or a message, where the line says so.
fn asked(line: &str) -> Option<Result<(), HostError>> {
    let (what, payload) = line.split_once(" | ")?;
    match what.split_once(' ')? {
        ("enqueue", queue) => Some(Job::new(queue, payload).enqueue().map(drop)),
        ("publish", subject) => Some(Message::new(subject, payload).publish()),
        _ => None,
    }
}

fn statement(database: &str, transaction: Option<&Transaction>, line: &str) -> Result<String, HostError> {
    let mut parts = line.split('|').map(str::trim);
    let statement = parts.next().unwrap_or_default();
    let parameters: Vec<Value> =
        parts.map(|part| part.parse::<i64>().map_or_else(|_| part.into(), Value::Integer)).collect();
    match (statement.strip_prefix("? "), transaction) {
        (Some(query), Some(begun)) => begun.query(query, &parameters).map(shown),
        (Some(query), None) => sql::query(database, query, &parameters).map(shown),
        (None, Some(begun)) => begun.execute(statement, &parameters).map(|changed| changed.to_string()),
        (None, None) => sql::execute(database, statement, &parameters).map(|changed| changed.to_string()),
    }
}

fn shown(rows: Rows) -> String {
    let rows: Vec<String> = rows.rows.iter().map(|row| format!("{row:?}")).collect();
    rows.join(" ")
}
