//! Makes the statements of its payload in the database that its first line names, and answers a line for each:
//!
//! | line | what happens |
//! | --- | --- |
//! | `begin` | what follows is in a transaction |
//! | `commit` | it is committed |
//! | `forget` | it is dropped |
//! | `fail` | a failure that may be tried again |
//! | `? STATEMENT \| parameter \| …` | its rows; a parameter that looks like a number is one |
//! | `STATEMENT \| parameter \| …` | how many rows it changed |

use tripline_guest::sql::{self, Rows, Transaction, Value};
use tripline_guest::{Event, Failure};

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
            "forget" => {
                transaction = None;
                Ok("forgotten".to_owned())
            }
            "fail" => return Err(Failure::retryable("told to fail")),
            line => statement(database, transaction.as_ref(), line),
        };
        answers.push_str(&answer.unwrap_or_else(|error| format!("{:?}: {error}", error.reason)));
        answers.push('\n');
    }
    Ok(answers)
}

fn statement(
    database: &str,
    transaction: Option<&Transaction>,
    line: &str,
) -> Result<String, tripline_guest::HostError> {
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
