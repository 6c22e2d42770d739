//! Functions, versions, modules, routes and triggers.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};
use uuid::Uuid;

use super::column;
use crate::executor::Abi;
use crate::functions::Digest;
use crate::store::{Deploy, Deployed, FunctionRow, Result, TriggerRow, VersionRow};
use trigger_core::Binding;

/// Refuses what would contradict itself once stored. Answers the definitions' digests.
pub(super) fn check(namespace: &str, functions: &[Deploy]) -> Result<Vec<Digest>> {
    functions
        .iter()
        .map(|function| {
            let definition = &function.definition;
            let refuse = |why: String| {
                column::corrupt(format!("the deploy of {}/{}", definition.namespace, definition.name), why)
            };
            if definition.namespace != namespace {
                return Err(refuse(format!("it is part of a deploy to namespace {namespace:?}")));
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
pub(super) fn deploy(
    connection: &Connection,
    namespace: &str,
    functions: &[Deploy],
    digests: &[Digest],
    now: i64,
) -> Result<Vec<Deployed>> {
    if let Some(deployed) = as_it_is(connection, namespace, functions, digests)? {
        return Ok(deployed);
    }
    for table in ["routes", "triggers"] {
        let of_namespace = "function_id IN (SELECT function_id FROM functions WHERE namespace = ?1)";
        connection.prepare_cached(&format!("DELETE FROM {table} WHERE {of_namespace}"))?.execute([namespace])?;
    }
    functions
        .iter()
        .zip(digests)
        .map(|(function, digest)| deploy_one(connection, namespace, function, *digest, now))
        .collect()
}

/// What is routed in the namespace, if it is exactly this already: most starts change nothing, and what is not written
/// need not be flushed to the disk.
fn as_it_is(
    connection: &Connection,
    namespace: &str,
    functions: &[Deploy],
    digests: &[Digest],
) -> Result<Option<Vec<Deployed>>> {
    // A row that cannot be read is one that is written anew.
    let Ok(mut routed) = routed(connection) else { return Ok(None) };
    routed.retain(|row| row.version.definition.namespace == namespace);
    if routed.len() != functions.len() {
        return Ok(None);
    }
    let mut has_bytes = connection.prepare_cached("SELECT bytes = ?2 FROM module_blobs WHERE digest = ?1")?;
    let mut deployed = Vec::with_capacity(functions.len());
    for (function, digest) in functions.iter().zip(digests) {
        let name = &function.definition.name;
        let same = routed.iter().find(|row| {
            row.version.definition.name == *name
                && row.version.digest == function.digest
                && row.version.definition.digest() == *digest
                && row.triggers == function.triggers
        });
        let Some(row) = same else { return Ok(None) };
        let stored = params![function.digest.to_string(), function.module.as_ref()];
        if !has_bytes.query_row(stored, |row| row.get(0)).optional()?.unwrap_or(false) {
            return Ok(None);
        }
        let version = row.version.number;
        deployed.push(Deployed { namespace: namespace.to_owned(), name: name.clone(), version, created: false });
    }
    Ok(Some(deployed))
}

fn deploy_one(
    connection: &Connection,
    namespace: &str,
    function: &Deploy,
    definition: Digest,
    now: i64,
) -> Result<Deployed> {
    let name = function.definition.name.as_str();
    put_module(connection, function, now)?;
    let function_id = identity(connection, namespace, name)?;
    let (version, created) = match identical(connection, function_id, function.digest, definition)? {
        Some(version) => (version, false),
        None => (put_version(connection, function_id, function, definition, now)?, true),
    };
    connection
        .prepare_cached(
            "INSERT INTO routes (function_id, version) VALUES (?1, ?2)
             ON CONFLICT (function_id) DO UPDATE SET version = excluded.version",
        )?
        .execute(params![function_id, version])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO triggers (function_id, trigger_id, trigger_type, position, config) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (position, trigger) in function.triggers.iter().enumerate() {
        let binding = &trigger.binding;
        insert.execute(params![
            function_id,
            binding.trigger_id,
            binding.trigger_type.as_str(),
            column::signed(position as u64),
            trigger.config.to_string(),
        ])?;
    }
    Ok(Deployed { namespace: namespace.to_owned(), name: name.to_owned(), version, created })
}

/// Stores a module's bytes, unless they are there. Deploying it again repairs bytes that were damaged.
fn put_module(connection: &Connection, function: &Deploy, now: i64) -> Result<()> {
    let (digest, bytes) = (function.digest.to_string(), function.module.as_ref());
    connection
        .prepare_cached(
            "INSERT INTO modules (digest, size_bytes, created_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![digest, column::signed(bytes.len() as u64), now])?;
    connection
        .prepare_cached(
            "INSERT INTO module_blobs (digest, bytes) VALUES (?1, ?2)
             ON CONFLICT (digest) DO UPDATE SET bytes = excluded.bytes WHERE bytes <> excluded.bytes",
        )?
        .execute(params![digest, bytes])?;
    Ok(())
}

/// The function's identity, kept over its versions and while it is deployed nowhere.
fn identity(connection: &Connection, namespace: &str, name: &str) -> Result<[u8; 16]> {
    let known = connection
        .prepare_cached("SELECT function_id FROM functions WHERE namespace = ?1 AND name = ?2")?
        .query_row([namespace, name], |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    let function_id = Uuid::now_v7().into_bytes();
    connection
        .prepare_cached("INSERT INTO functions (function_id, namespace, name) VALUES (?1, ?2, ?3)")?
        .execute(params![function_id, namespace, name])?;
    Ok(function_id)
}

/// The version of this module and definition, if the function has one.
fn identical(
    connection: &Connection,
    function_id: [u8; 16],
    module: Digest,
    definition: Digest,
) -> Result<Option<u32>> {
    let mut select = connection.prepare_cached(
        "SELECT version FROM versions WHERE function_id = ?1 AND digest = ?2 AND definition_digest = ?3",
    )?;
    Ok(select
        .query_row(params![function_id, module.to_string(), definition.to_string()], |row| row.get(0))
        .optional()?)
}

fn put_version(
    connection: &Connection,
    function_id: [u8; 16],
    function: &Deploy,
    definition: Digest,
    now: i64,
) -> Result<u32> {
    let json = serde_json::to_string(&function.definition)
        .map_err(|error| column::corrupt(format!("the definition of {}", function.definition.name), error))?;
    Ok(connection
        .prepare_cached(
            "INSERT INTO versions (function_id, version, digest, abi, definition, definition_digest, created_at)
             SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3, ?4, ?5, ?6 FROM versions WHERE function_id = ?1
             RETURNING version",
        )?
        .query_row(
            params![function_id, function.digest.to_string(), function.abi.as_str(), json, definition.to_string(), now],
            |row| row.get(0),
        )?)
}

/// What every query for versions begins with.
const VERSIONS: &str = "
    SELECT f.function_id, v.version, v.digest, m.size_bytes, v.abi, v.definition, v.created_at,
        coalesce(r.version = v.version, 0), f.namespace, f.name
    FROM functions f
    JOIN versions v ON v.function_id = f.function_id
    JOIN modules m ON m.digest = v.digest
    LEFT JOIN routes r ON r.function_id = f.function_id
";

fn read_version(row: &Row<'_>) -> Result<VersionRow> {
    let number = row.get(1)?;
    let (namespace, name): (String, String) = (row.get(8)?, row.get(9)?);
    let whose = || format!("version {number} of {namespace}/{name}");
    let (digest, abi, definition): (String, String, String) = (row.get(2)?, row.get(4)?, row.get(5)?);
    Ok(VersionRow {
        function_id: column::id(row, 0)?,
        number,
        digest: digest.parse().map_err(|error| column::corrupt(whose(), error))?,
        module_bytes: column::count(row, 3)?,
        abi: serde_json::from_value::<Abi>(abi.into()).map_err(|error| column::corrupt(whose(), error))?,
        definition: column::json(&definition, whose)?,
        created_at: column::moment(row, 6)?,
        routed: row.get(7)?,
    })
}

fn select_versions(connection: &Connection, condition: &str, params: impl Params) -> Result<Vec<VersionRow>> {
    let mut select = connection.prepare_cached(&format!("{VERSIONS} {condition}"))?;
    let mut rows = select.query(params)?;
    let mut versions = Vec::new();
    while let Some(row) = rows.next()? {
        versions.push(read_version(row)?);
    }
    Ok(versions)
}

/// Every routed function with its triggers.
pub(super) fn routed(connection: &Connection) -> Result<Vec<FunctionRow>> {
    let versions = select_versions(connection, "WHERE r.version = v.version ORDER BY f.namespace, f.name", [])?;
    let mut triggers = triggers(connection)?;
    Ok(versions
        .into_iter()
        .map(|version| FunctionRow { triggers: triggers.remove(&version.function_id).unwrap_or_default(), version })
        .collect())
}

/// Whether a trigger is deployed.
pub(super) fn has_trigger(connection: &Connection, binding: &Binding) -> Result<bool> {
    let mut select = connection.prepare_cached(
        "SELECT 1 FROM triggers t JOIN functions f ON f.function_id = t.function_id
         WHERE f.namespace = ?1 AND f.name = ?2 AND t.trigger_id = ?3 AND t.trigger_type = ?4",
    )?;
    let Binding { namespace, function_name, trigger_id, trigger_type } = binding;
    Ok(select.exists([&**namespace, function_name, trigger_id, trigger_type.as_str()])?)
}

fn triggers(connection: &Connection) -> Result<BTreeMap<Uuid, Vec<TriggerRow>>> {
    let mut select = connection.prepare_cached(
        "SELECT f.namespace, f.name, t.trigger_id, t.trigger_type, t.config, t.function_id
         FROM triggers t JOIN functions f ON f.function_id = t.function_id ORDER BY t.function_id, t.position",
    )?;
    let mut rows = select.query([])?;
    let mut triggers: BTreeMap<Uuid, Vec<TriggerRow>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let binding: Binding = column::binding(row, 0)?;
        let config: String = row.get(4)?;
        let config = column::json(&config, || format!("trigger {}", binding.path()))?;
        triggers.entry(column::id(row, 5)?).or_default().push(TriggerRow { binding, config });
    }
    Ok(triggers)
}

/// Every version of a function, newest first.
pub(super) fn versions(connection: &Connection, namespace: &str, name: &str) -> Result<Vec<VersionRow>> {
    select_versions(connection, "WHERE f.namespace = ?1 AND f.name = ?2 ORDER BY v.version DESC", [namespace, name])
}

/// One version of a function.
pub(super) fn version(connection: &Connection, namespace: &str, name: &str, number: u32) -> Result<Option<VersionRow>> {
    let condition = "WHERE f.namespace = ?1 AND f.name = ?2 AND v.version = ?3";
    Ok(select_versions(connection, condition, params![namespace, name, number])?.pop())
}

/// A module's bytes, which have its digest.
pub(super) fn module(connection: &Connection, digest: Digest) -> Result<Option<Bytes>> {
    let bytes = connection
        .prepare_cached("SELECT bytes FROM module_blobs WHERE digest = ?1")?
        .query_row([digest.to_string()], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?)))
        .optional()?;
    match bytes {
        Some(bytes) if Digest::of(&bytes) != digest => {
            Err(column::corrupt(format!("module {digest}"), "its bytes have another digest; deploy it again"))
        }
        bytes => Ok(bytes),
    }
}
