//! Looks at what captures changes in a PostgreSQL database, and makes it what it should be, in one transaction.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _};

use super::sql;
use crate::Server;
use crate::config::Capture;
use crate::plan::{Action, Installation, Plan, Wanted, Work};
use crate::session::{self, PATIENCE_FOR_LOCKS, lock_key, told};

/// What is installed for one trigger.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) id: i32,
    definition: String,
    /// Triggers on the table that are there and fire.
    hooks: i64,
    /// Changes that nobody has taken over.
    waiting: bool,
}

impl Installed {
    /// Whether it is what is wanted, and whole.
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        self.definition == wanted.definition() && self.hooks == wanted.capture.operations.len() as i64
    }
}

/// What is installed, by trigger; `None` where there is no schema for it.
pub(super) async fn installed(
    connection: &mut PgConnection,
    schema: &str,
    trigger: Option<&str>,
) -> sqlx::Result<Option<BTreeMap<String, Installed>>> {
    let exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    if !sqlx::query_scalar::<_, bool>(exists).bind(schema).fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    let quoted = sql::name(schema);
    let ask = format!(
        "SELECT i.trigger, i.id, i.definition,
            (SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
             JOIN pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname = $1 AND t.tgenabled <> 'D' AND t.tgparentid = 0
               AND p.proname IN ('t' || i.id || '_insert', 't' || i.id || '_update', 't' || i.id || '_delete')),
            EXISTS (SELECT FROM {quoted}.changes c WHERE c.trigger = i.id)
         FROM {quoted}.installed i WHERE i.trigger = coalesce($2, i.trigger)"
    );
    let rows: Vec<(String, i32, String, i64, bool)> =
        sqlx::query_as(AssertSqlSafe(ask)).bind(schema).bind(trigger).fetch_all(connection).await?;
    let read = |(trigger, id, definition, hooks, waiting)| (trigger, Installed { id, definition, hooks, waiting });
    Ok(Some(rows.into_iter().map(read).collect()))
}

/// Plans, and does it where it is asked for and nothing is in its way.
pub(crate) async fn work(installation: &Installation, server: &Server, work: Work) -> Result<Plan, String> {
    session::probe(server).await?;
    let patience = PATIENCE_FOR_LOCKS * 3;
    let working = async {
        let mut connection = PgConnection::connect_with(&server.options).await?;
        let mut transaction = connection.begin().await?;
        let key = lock_key(&server.schema);
        let begin = format!(
            "SET LOCAL lock_timeout = {}; SET LOCAL standard_conforming_strings = on; \
             SELECT pg_advisory_xact_lock({key})",
            PATIENCE_FOR_LOCKS.as_millis()
        );
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(begin))).await?;
        let plan = plan(&mut transaction, installation, &server.schema, work).await?;
        if matches!(work, Work::Apply { .. }) && plan.problems.is_empty() {
            for statement in plan.steps.iter().flat_map(|step| &step.statements) {
                transaction.execute(sqlx::raw_sql(AssertSqlSafe(statement.clone()))).await?;
            }
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        connection.close().await?;
        Ok(plan)
    };
    match tokio::time::timeout(patience, working).await {
        Ok(done) => done.map_err(|error: sqlx::Error| told(&error)),
        Err(_) => Err(format!("the server does not answer within {} s", patience.as_secs())),
    }
}

async fn plan(
    connection: &mut PgConnection,
    installation: &Installation,
    schema: &str,
    work: Work,
) -> sqlx::Result<Plan> {
    let mut plan = Plan { database: installation.database.clone(), ..Plan::default() };
    let there = installed(connection, schema, None).await?;
    let (prepared, there) = (there.is_some(), there.unwrap_or_default());
    if !prepared && !installation.wanted.is_empty() {
        plan.problems.extend(may_not_create(connection).await?);
        plan.step(Action::Prepare, None, sql::shared(schema));
    }
    let mut next = there.values().map(|one| one.id).max().unwrap_or(0) + 1;
    for wanted in &installation.wanted {
        let before = there.get(&wanted.trigger);
        if before.is_some_and(|one| one.is(wanted)) {
            plan.step(Action::Keep, Some(&wanted.trigger), Vec::new());
            continue;
        }
        let id = before.map_or(next, |one| one.id);
        next = next.max(id + 1);
        let (key, odd) = match look(connection, &wanted.capture).await? {
            Ok(columns) => columns,
            Err(problem) => {
                plan.problems.push(format!("trigger {}: {problem}", wanted.trigger));
                continue;
            }
        };
        let (mut statements, action) = match before {
            Some(_) => (sql::removal(schema, id), Action::Upgrade),
            None => (Vec::new(), Action::Install),
        };
        statements.extend(sql::captures(schema, id, &wanted.capture, &key, &odd));
        statements.push(format!(
            "INSERT INTO {}.installed (id, trigger, definition) VALUES ({id}, {}, {})\n\
             ON CONFLICT (trigger) DO UPDATE SET definition = excluded.definition, at = now()",
            sql::name(schema),
            sql::literal(&wanted.trigger),
            sql::literal(&wanted.definition())
        ));
        plan.step(action, Some(&wanted.trigger), statements);
    }
    let mut stay = there.len();
    for (trigger, one) in there.iter().filter(|_| installation.tidy) {
        if !installation.owns(trigger) || installation.wanted.iter().any(|wanted| wanted.trigger == *trigger) {
            continue;
        }
        if one.waiting && !work.discards() {
            plan.problems.push(format!(
                "trigger {trigger}: changes wait that nobody has taken over: let an engine take them, or say --discard"
            ));
        }
        let quoted = sql::name(schema);
        let mut statements = sql::removal(schema, one.id);
        statements.extend(
            ["changes WHERE trigger", "refused WHERE trigger", "installed WHERE id"]
                .map(|rows| format!("DELETE FROM {quoted}.{rows} = {}", one.id)),
        );
        plan.step(Action::Remove, Some(trigger), statements);
        stay -= 1;
    }
    if prepared && stay == 0 && installation.wanted.is_empty() {
        plan.step(Action::Clear, None, sql::unshared(schema));
    }
    Ok(plan)
}

/// What stands in the way of a schema.
async fn may_not_create(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let ask = "SELECT has_database_privilege(current_database(), 'CREATE'), \
               quote_ident(current_database()), quote_ident(current_user)";
    let (may, database, user): (bool, String, String) = sqlx::query_as(ask).fetch_one(connection).await?;
    Ok((!may).then(|| format!("no schema may be made: GRANT CREATE ON DATABASE {database} TO {user}")))
}

/// The columns that put a table's changes in order, and those that cannot be compared; or what is wrong.
async fn look(
    connection: &mut PgConnection,
    capture: &Capture,
) -> sqlx::Result<Result<(Vec<String>, Vec<String>), String>> {
    let name = capture.name();
    let ask = "SELECT c.oid::bigint, c.relkind::text, has_table_privilege(c.oid, 'TRIGGER'), quote_ident(current_user)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2";
    let schema = capture.schema.as_deref().unwrap_or("public");
    let found: Option<(i64, String, bool, String)> =
        sqlx::query_as(ask).bind(schema).bind(&capture.table).fetch_optional(&mut *connection).await?;
    let Some((oid, kind, may, user)) = found else {
        return Ok(Err(format!("there is no table {name}")));
    };
    if kind != "r" && kind != "p" {
        return Ok(Err(format!("{name} is not a table, and changes of nothing else are captured")));
    }
    if !may {
        return Ok(Err(format!(
            "{name} may not be given triggers: GRANT TRIGGER ON {} TO {user}",
            sql::table(capture)
        )));
    }
    let ask = "SELECT a.attname::text, a.atttypid::regtype::text FROM pg_attribute a
               WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    let columns: Vec<(String, String)> = sqlx::query_as(ask).bind(oid).fetch_all(&mut *connection).await?;
    let key = capture.key.as_deref().unwrap_or_default();
    if let Some(unknown) = capture.columns.iter().chain(key).find(|one| columns.iter().all(|(name, _)| name != *one)) {
        let there: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).take(20).collect();
        return Ok(Err(format!("{name} has no column {unknown:?}; it has {}", there.join(", "))));
    }
    let ask = "SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
               ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
               WHERE i.indrelid = $1::bigint::oid AND i.indisprimary ORDER BY array_position(i.indkey, a.attnum)";
    let key = match &capture.key {
        Some(key) => key.clone(),
        None => sqlx::query_scalar(ask).bind(oid).fetch_all(&mut *connection).await?,
    };
    if key.is_empty() && capture.key.is_none() {
        return Ok(Err(format!(
            "{name} has no primary key to put changes in order by: say key = [\"column\"], or key = [] for no order"
        )));
    }
    if let Some(when) = &capture.when
        && let Err(why) = try_condition(connection, capture, when).await?
    {
        return Ok(Err(format!("the condition is not sound: {why}")));
    }
    // Types without an operator that says whether two values are the same.
    let odd = ["json", "xml", "point", "path", "polygon", "circle", "line", "lseg", "box"];
    let odd = columns.into_iter().filter(|(_, kind)| odd.contains(&kind.as_str())).map(|(name, _)| name).collect();
    Ok(Ok((key, odd)))
}

/// Has the server read a condition, as one expression and no more. A mistake is undone.
async fn try_condition(
    connection: &mut PgConnection,
    capture: &Capture,
    when: &str,
) -> sqlx::Result<Result<(), String>> {
    let path = "SET LOCAL search_path = pg_catalog, pg_temp";
    let mut trying = connection.begin().await?;
    trying.execute(path).await?;
    let tried = trying.prepare(AssertSqlSafe(sql::trial(capture, when)).into_sql_str()).await.map(drop);
    trying.rollback().await?;
    match tried {
        Ok(()) => Ok(Ok(())),
        Err(sqlx::Error::Database(why)) => Ok(Err(why.message().to_owned())),
        Err(error) => Err(error),
    }
}
