//! Functions, versions, modules, routes and triggers.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _};
use trigger_core::Binding;
use uuid::Uuid;

use super::error::Outcome;
use super::{bindings, column};
use crate::executor::Abi;
use crate::functions::Digest;
use crate::store::{Deploy, Deployed, FunctionRow, Result, TriggerRow, VersionRow};

/// Refuses what would contradict itself once stored. Answers the definitions' digests.
pub(super) fn check(namespace: &str, functions: &[Deploy]) -> Result<Vec<Digest>> {
    let mut names = HashSet::new();
    functions
        .iter()
        .map(|function| {
            let definition = &function.definition;
            let refuse = |why: String| {
                column::corrupt(format!("the deploy of {}/{}", definition.namespace, definition.name), why).into_error()
            };
            if definition.namespace != namespace {
                return Err(refuse(format!("it is part of a deploy to namespace {namespace:?}")));
            }
            if !names.insert(&definition.name) {
                return Err(refuse("it is in the deploy twice".to_owned()));
            }
            let found = Digest::of(&function.module);
            if found != function.digest {
                return Err(refuse(format!("its module is said to have {} and has {found}", function.digest)));
            }
            Ok(definition.digest())
        })
        .collect()
}

/// Makes exactly these functions of the namespace routed.
pub(super) async fn deploy(
    connection: &mut PgConnection,
    namespace: &str,
    functions: &[Deploy],
    digests: &[Digest],
) -> Outcome<Vec<Deployed>> {
    let mut transaction = connection.begin().await?;
    let connection = &mut *transaction;
    // Nodes that deploy at once take turns: each numbers its versions after those of the one before. Reading goes on.
    sqlx::query("LOCK TABLE functions IN SHARE ROW EXCLUSIVE MODE").execute(&mut *connection).await?;
    put_modules(connection, functions).await?;
    for sql in [
        "DELETE FROM routes WHERE function_id IN (SELECT function_id FROM functions WHERE namespace = $1)",
        "DELETE FROM triggers WHERE function_id IN (SELECT function_id FROM functions WHERE namespace = $1)",
    ] {
        sqlx::query(sql).bind(namespace).execute(&mut *connection).await?;
    }
    let names: Vec<&str> = functions.iter().map(|function| function.definition.name.as_str()).collect();
    let identities = identities(connection, namespace, &names).await?;
    let identity = |function: &Deploy| identities.get(&function.definition.name).copied().unwrap_or_default();
    let ids: Vec<Uuid> = functions.iter().map(identity).collect();
    let numbers = put_versions(connection, functions, &ids, digests).await?;
    put_triggers(connection, functions, &ids).await?;
    transaction.commit().await?;
    let deployed = functions.iter().zip(&ids).map(|(function, id)| {
        let (version, created) = numbers.get(id).copied().unwrap_or_default();
        Deployed { namespace: namespace.to_owned(), name: function.definition.name.clone(), version, created }
    });
    Ok(deployed.collect())
}

/// Stores the modules that are not there. Deploying one again repairs bytes that were damaged.
async fn put_modules(connection: &mut PgConnection, functions: &[Deploy]) -> Outcome<()> {
    let modules: BTreeMap<String, &Bytes> =
        functions.iter().map(|function| (function.digest.to_string(), &function.module)).collect();
    // In one order everywhere, so that two nodes wait for each other instead of both.
    let (digests, sizes): (Vec<&str>, Vec<i64>) =
        modules.iter().map(|(digest, bytes)| (digest.as_str(), column::signed(bytes.len() as u64))).unzip();
    sqlx::query(
        "INSERT INTO modules (digest, size_bytes, created_at)
         SELECT digest, size_bytes, $3 FROM unnest($1::text[], $2::bigint[]) AS module (digest, size_bytes)
         ON CONFLICT DO NOTHING",
    )
    .bind(&digests)
    .bind(sizes)
    .bind(column::now())
    .execute(&mut *connection)
    .await?;
    // The server hashes what it has, so that megabytes travel only when they are new.
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT digest FROM unnest($1::text[]) AS asked (digest) WHERE NOT EXISTS (
            SELECT FROM module_blobs b
            WHERE b.digest = asked.digest AND 'sha256:' || encode(sha256(b.bytes), 'hex') = asked.digest
         )",
    )
    .bind(&digests)
    .fetch_all(&mut *connection)
    .await?;
    for digest in missing {
        let Some(bytes) = modules.get(&digest) else { continue };
        sqlx::query(
            "INSERT INTO module_blobs (digest, bytes) VALUES ($1, $2)
             ON CONFLICT (digest) DO UPDATE SET bytes = excluded.bytes",
        )
        .bind(&digest)
        .bind(bytes.as_ref())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The functions' identities, kept over their versions and while they are deployed nowhere.
async fn identities(connection: &mut PgConnection, namespace: &str, names: &[&str]) -> Outcome<HashMap<String, Uuid>> {
    sqlx::query(
        "INSERT INTO functions (function_id, namespace, name)
         SELECT function_id, $1, name FROM unnest($2::uuid[], $3::text[]) AS function (function_id, name)
         ON CONFLICT (namespace, name) DO NOTHING",
    )
    .bind(namespace)
    .bind(names.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(names)
    .execute(&mut *connection)
    .await?;
    let identities: Vec<(String, Uuid)> =
        sqlx::query_as("SELECT name, function_id FROM functions WHERE namespace = $1 AND name = ANY ($2)")
            .bind(namespace)
            .bind(names)
            .fetch_all(connection)
            .await?;
    Ok(identities.into_iter().collect())
}

/// Stores the versions that are new and routes each function to its own. Answers their numbers and which are new.
async fn put_versions(
    connection: &mut PgConnection,
    functions: &[Deploy],
    ids: &[Uuid],
    digests: &[Digest],
) -> Outcome<HashMap<Uuid, (u32, bool)>> {
    let mut definitions = Vec::with_capacity(functions.len());
    for function in functions {
        definitions.push(
            serde_json::to_string(&function.definition)
                .map_err(|error| column::corrupt(format!("the definition of {}", function.definition.name), error))?,
        );
    }
    let modules: Vec<String> = functions.iter().map(|function| function.digest.to_string()).collect();
    let digests: Vec<String> = digests.iter().map(Digest::to_string).collect();
    let created: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO versions (function_id, version, digest, abi, definition, definition_digest, created_at)
         SELECT function_id,
            (SELECT coalesce(max(v.version), 0) + 1 FROM versions v WHERE v.function_id = new.function_id),
            digest, abi, definition, definition_digest, $6
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
            AS new (function_id, digest, abi, definition, definition_digest)
         ON CONFLICT (function_id, digest, definition_digest) DO NOTHING
         RETURNING function_id",
    )
    .bind(ids)
    .bind(&modules)
    .bind(functions.iter().map(|function| function.abi.as_str()).collect::<Vec<&str>>())
    .bind(definitions)
    .bind(&digests)
    .bind(column::now())
    .fetch_all(&mut *connection)
    .await?;
    let created: HashSet<Uuid> = created.into_iter().collect();
    let routed: Vec<(Uuid, i64)> = sqlx::query_as(
        "INSERT INTO routes (function_id, version)
         SELECT v.function_id, v.version
         FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (function_id, digest, definition_digest)
         JOIN versions v USING (function_id, digest, definition_digest)
         RETURNING function_id, version",
    )
    .bind(ids)
    .bind(&modules)
    .bind(&digests)
    .fetch_all(connection)
    .await?;
    let number = |version: i64| u32::try_from(version).unwrap_or(u32::MAX);
    Ok(routed.into_iter().map(|(id, version)| (id, (number(version), created.contains(&id)))).collect())
}

async fn put_triggers(connection: &mut PgConnection, functions: &[Deploy], ids: &[Uuid]) -> Outcome<()> {
    let (mut owners, mut names, mut kinds, mut positions, mut configs) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (function, id) in functions.iter().zip(ids) {
        for (position, trigger) in function.triggers.iter().enumerate() {
            owners.push(*id);
            names.push(&*trigger.binding.trigger_id);
            kinds.push(trigger.binding.trigger_type.as_str());
            positions.push(column::signed(position as u64));
            configs.push(trigger.config.to_string());
        }
    }
    sqlx::query(
        "INSERT INTO triggers (function_id, trigger_id, trigger_type, position, config)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[])",
    )
    .bind(owners)
    .bind(names)
    .bind(kinds)
    .bind(positions)
    .bind(configs)
    .execute(&mut *connection)
    .await?;
    // Transactions of others find the triggers' numbers and need not give them any, for which everybody would wait.
    let bindings: Vec<&Binding> =
        functions.iter().flat_map(|function| &function.triggers).map(|trigger| &trigger.binding).collect();
    bindings::resolve(connection, &bindings).await?;
    Ok(())
}

/// What every query for versions begins with.
const VERSIONS: &str = "
    SELECT f.function_id, v.version::bigint, v.digest, m.size_bytes, v.abi, v.definition, v.created_at,
        coalesce(r.version = v.version, false), f.namespace, f.name
    FROM functions f
    JOIN versions v ON v.function_id = f.function_id
    JOIN modules m ON m.digest = v.digest
    LEFT JOIN routes r ON r.function_id = f.function_id
";

/// A query for versions. The condition is one of this file's.
fn select_versions(condition: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(format!("{VERSIONS} {condition}")))
}

fn read_version(row: &PgRow) -> Outcome<VersionRow> {
    let number = column::number(row, 1)?;
    let (namespace, name): (String, String) = (row.try_get(8)?, row.try_get(9)?);
    let whose = || format!("version {number} of {namespace}/{name}");
    let (digest, abi, definition): (String, String, String) = (row.try_get(2)?, row.try_get(4)?, row.try_get(5)?);
    Ok(VersionRow {
        function_id: row.try_get(0)?,
        number,
        digest: digest.parse().map_err(|error| column::corrupt(whose(), error))?,
        module_bytes: column::count(row, 3)?,
        abi: serde_json::from_value::<Abi>(abi.into()).map_err(|error| column::corrupt(whose(), error))?,
        definition: column::json(&definition, whose)?,
        created_at: column::moment(row, 6)?,
        routed: row.try_get(7)?,
    })
}

/// Every routed function with its triggers.
pub(super) async fn routed(connection: &mut PgConnection) -> Outcome<Vec<FunctionRow>> {
    let mut transaction = connection.begin().await?;
    // Both questions see one deploy.
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *transaction).await?;
    let rows = select_versions("WHERE r.version = v.version ORDER BY f.namespace, f.name")
        .fetch_all(&mut *transaction)
        .await?;
    let mut triggers = triggers(&mut transaction).await?;
    transaction.commit().await?;
    rows.iter()
        .map(|row| {
            let version = read_version(row)?;
            Ok(FunctionRow { triggers: triggers.remove(&version.function_id).unwrap_or_default(), version })
        })
        .collect()
}

async fn triggers(connection: &mut PgConnection) -> Outcome<HashMap<Uuid, Vec<TriggerRow>>> {
    let rows = sqlx::query(
        "SELECT f.namespace, f.name, t.trigger_id, t.trigger_type, t.config, t.function_id
         FROM triggers t JOIN functions f ON f.function_id = t.function_id ORDER BY t.function_id, t.position",
    )
    .fetch_all(connection)
    .await?;
    let mut triggers: HashMap<Uuid, Vec<TriggerRow>> = HashMap::new();
    for row in &rows {
        let binding = column::binding(row, 0)?;
        let config = column::json(row.try_get(4)?, || format!("trigger {}", binding.path()))?;
        triggers.entry(row.try_get(5)?).or_default().push(TriggerRow { binding, config });
    }
    Ok(triggers)
}

/// Every version of a function, newest first.
pub(super) async fn versions(connection: &mut PgConnection, namespace: &str, name: &str) -> Outcome<Vec<VersionRow>> {
    let rows = select_versions("WHERE f.namespace = $1 AND f.name = $2 ORDER BY v.version DESC")
        .bind(column::text(namespace).into_owned())
        .bind(column::text(name).into_owned())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read_version).collect()
}

/// One version of a function.
pub(super) async fn version(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
    number: u32,
) -> Outcome<Option<VersionRow>> {
    let row = select_versions("WHERE f.namespace = $1 AND f.name = $2 AND v.version = $3")
        .bind(column::text(namespace).into_owned())
        .bind(column::text(name).into_owned())
        .bind(i64::from(number))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read_version).transpose()
}

/// A module's bytes, as stored.
pub(super) async fn module(connection: &mut PgConnection, digest: Digest) -> Outcome<Option<Vec<u8>>> {
    Ok(sqlx::query_scalar("SELECT bytes FROM module_blobs WHERE digest = $1")
        .bind(digest.to_string())
        .fetch_optional(connection)
        .await?)
}

/// Whether a trigger is deployed.
pub(super) async fn has_trigger(connection: &mut PgConnection, binding: &Binding) -> Outcome<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT FROM triggers t JOIN functions f USING (function_id)
            WHERE f.namespace = $1 AND f.name = $2 AND t.trigger_id = $3 AND t.trigger_type = $4
         )",
    )
    .bind(&*binding.namespace)
    .bind(&*binding.function_name)
    .bind(&*binding.trigger_id)
    .bind(binding.trigger_type.as_str())
    .fetch_one(connection)
    .await?)
}
