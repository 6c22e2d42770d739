//! Looks at what captures changes in a SQLite file, and makes it what it should be, in one transaction.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::sql;
use crate::config::{Capture, Operation};
use crate::plan::{Action, Installation, Plan, Wanted, Work};

/// How one trigger is installed.
pub(super) enum State {
    /// As it is wanted, under this number.
    Whole(i64),
    /// Otherwise: the manifest or the table's columns have changed since.
    Other,
    /// Not at all.
    Absent,
}

/// A table's columns: all of them, and those that put its changes in order.
struct Columns {
    all: Vec<String>,
    key: Vec<String>,
}

/// Whether there is what all triggers share. A table that another connection has made is found by a query alone.
fn is_prepared(connection: &Connection) -> rusqlite::Result<bool> {
    let ask = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tripline_installed')";
    connection.query_row(ask, [], |row| row.get(0))
}

/// How a trigger is installed.
pub(super) fn state(connection: &Connection, wanted: &Wanted) -> rusqlite::Result<State> {
    if !is_prepared(connection)? {
        return Ok(State::Absent);
    }
    let ask = "SELECT id FROM tripline_installed WHERE trigger = ?1";
    let Some(id) = connection.query_row(ask, [&wanted.trigger], |row| row.get(0)).optional()? else {
        return Ok(State::Absent);
    };
    Ok(match look(connection, &wanted.capture)? {
        Ok(columns) if is_whole(connection, id, &wanted.capture, &columns)? => State::Whole(id),
        _ => State::Other,
    })
}

/// Whether what is there says what would be written now.
fn is_whole(connection: &Connection, id: i64, capture: &Capture, columns: &Columns) -> rusqlite::Result<bool> {
    let expected = sql::captures(id, capture, &columns.all, &columns.key);
    for operation in Operation::ALL {
        let ask = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?1";
        let there: Option<String> =
            connection.query_row(ask, [sql::trigger(id, operation)], |row| row.get(0)).optional()?;
        let wanted = expected.iter().find(|(of, _)| *of == operation).map(|(_, text)| text);
        if there.as_ref() != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Plans, and does it where it is asked for and nothing is in its way.
pub(crate) async fn work(installation: &Installation, file: &Path, work: Work) -> Result<Plan, String> {
    let (installation, file) = (installation.clone(), file.to_owned());
    let working = tokio::task::spawn_blocking(move || {
        let mut connection = super::open(&file)?;
        work_in(&mut connection, &installation, work).map_err(super::told)
    });
    working.await.map_err(|_| "the file's connection was lost")?
}

/// Whether it is wanted or not, it is done: that is how a file says what it would not take. Dropped, it is undone.
fn work_in(connection: &mut Connection, installation: &Installation, work: Work) -> rusqlite::Result<Plan> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut plan = Plan { database: installation.database.clone(), ..Plan::default() };
    let prepared = is_prepared(&transaction)?;
    if !prepared && !installation.wanted.is_empty() {
        step(&transaction, &mut plan, Action::Prepare, None, sql::shared())?;
    }
    let there = if prepared { installed(&transaction)? } else { BTreeMap::new() };
    let mut next = there.values().max().copied().unwrap_or(0) + 1;
    for wanted in &installation.wanted {
        if matches!(state(&transaction, wanted)?, State::Whole(_)) {
            plan.step(Action::Keep, Some(&wanted.trigger), Vec::new());
            continue;
        }
        let before = there.get(&wanted.trigger).copied();
        let id = before.unwrap_or(next);
        next = next.max(id + 1);
        if let Err(problem) = install(&transaction, &mut plan, wanted, id, before.is_some())? {
            plan.problems.push(format!("trigger {}: {problem}", wanted.trigger));
        }
    }
    let mut stay = there.len();
    for (trigger, id) in there.iter().filter(|_| installation.tidy) {
        if !installation.owns(trigger) || installation.wanted.iter().any(|wanted| wanted.trigger == *trigger) {
            continue;
        }
        let waits = "SELECT EXISTS (SELECT 1 FROM tripline_changes WHERE trigger = ?1)";
        if transaction.query_row(waits, [id], |row| row.get(0))? && !work.discards() {
            plan.problems.push(format!(
                "trigger {trigger}: changes wait that nobody has taken over: let an engine take them, or say --discard"
            ));
        }
        let mut statements = sql::removal(*id);
        statements.extend(
            ["changes WHERE trigger", "refused WHERE trigger", "installed WHERE id"]
                .map(|rows| format!("DELETE FROM tripline_{rows} = {id}")),
        );
        step(&transaction, &mut plan, Action::Remove, Some(trigger), statements)?;
        stay -= 1;
    }
    if prepared && stay == 0 && installation.wanted.is_empty() {
        step(&transaction, &mut plan, Action::Clear, None, sql::unshared())?;
    }
    if matches!(work, Work::Apply { .. }) && plan.problems.is_empty() {
        transaction.commit()?;
    }
    Ok(plan)
}

fn step(
    connection: &Connection,
    plan: &mut Plan,
    action: Action,
    trigger: Option<&str>,
    statements: Vec<String>,
) -> rusqlite::Result<()> {
    statements.iter().try_for_each(|statement| connection.execute(statement, []).map(drop))?;
    plan.step(action, trigger, statements);
    Ok(())
}

/// What is installed: numbers by trigger.
fn installed(connection: &Connection) -> rusqlite::Result<BTreeMap<String, i64>> {
    let mut select = connection.prepare("SELECT trigger, id FROM tripline_installed")?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Installs one trigger, or says what is in its way.
fn install(
    connection: &Connection,
    plan: &mut Plan,
    wanted: &Wanted,
    id: i64,
    again: bool,
) -> rusqlite::Result<Result<(), String>> {
    let capture = &wanted.capture;
    let columns = match look(connection, capture)? {
        Ok(found) => found,
        Err(problem) => return Ok(Err(problem)),
    };
    let (mut statements, action) = match again {
        true => (sql::removal(id), Action::Upgrade),
        false => (Vec::new(), Action::Install),
    };
    statements.extend(sql::captures(id, capture, &columns.all, &columns.key).into_iter().map(|(_, text)| text));
    if !again {
        let trigger = sql::literal(&wanted.trigger);
        statements.push(format!("INSERT INTO tripline_installed (id, trigger) VALUES ({id}, {trigger})"));
    }
    let trigger = Some(&*wanted.trigger);
    let done = step(connection, plan, action, trigger, statements);
    let sound = done.and_then(|()| {
        // Names in a trigger are looked up when it fires, which must not be a writer's business to find out.
        sql::trials(capture, &columns.all).iter().try_for_each(|trial| connection.prepare(trial).map(drop))
    });
    match sound {
        Ok(()) => Ok(Ok(())),
        Err(rusqlite::Error::SqlInputError { msg, .. }) | Err(rusqlite::Error::SqliteFailure(_, Some(msg))) => {
            let condition = if capture.when.is_some() { "the condition is not sound: " } else { "" };
            Ok(Err(format!("{condition}{msg}")))
        }
        Err(error) => Err(error),
    }
}

/// A table's columns and those that put its changes in order; or what is wrong.
fn look(connection: &Connection, capture: &Capture) -> rusqlite::Result<Result<Columns, String>> {
    let table = &capture.table;
    let ask = "SELECT type FROM sqlite_master WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')";
    let kind: Option<String> = connection.query_row(ask, [table], |row| row.get(0)).optional()?;
    match kind.as_deref() {
        None => return Ok(Err(format!("there is no table {table}"))),
        Some("table") => {}
        Some(_) => return Ok(Err(format!("{table} is not a table, and changes of nothing else are captured"))),
    }
    let mut select = connection.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
    let columns: Vec<(String, i64)> =
        select.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let key = capture.key.as_deref().unwrap_or_default();
    if let Some(unknown) = capture.columns.iter().chain(key).find(|one| columns.iter().all(|(name, _)| name != *one)) {
        let there: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).take(20).collect();
        return Ok(Err(format!("{table} has no column {unknown:?}; it has {}", there.join(", "))));
    }
    let mut primary: Vec<&(String, i64)> = columns.iter().filter(|(_, place)| *place > 0).collect();
    primary.sort_by_key(|(_, place)| *place);
    let key = match &capture.key {
        Some(key) => key.clone(),
        None if primary.is_empty() => {
            return Ok(Err(format!(
                "{table} has no primary key to put changes in order by: say key = [\"column\"], or key = [] for no \
                 order"
            )));
        }
        None => primary.iter().map(|(name, _)| name.clone()).collect(),
    };
    Ok(Ok(Columns { all: columns.into_iter().map(|(name, _)| name).collect(), key }))
}
