//! The numbers that stand for triggers in rows that there are many of.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use sqlx::{PgConnection, Row as _};
use trigger_core::Binding;

use super::column;
use super::error::Outcome;

/// Numbers that are committed. They never change, and no row of the table is ever removed.
#[derive(Default)]
pub(super) struct Bindings {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    ids: HashMap<Arc<Binding>, i64>,
    bindings: HashMap<i64, Arc<Binding>>,
}

impl Bindings {
    /// The number of a trigger, if it is known here.
    pub(super) fn id(&self, binding: &Binding) -> Option<i64> {
        self.known.read().ids.get(binding).copied()
    }

    /// The trigger of a number, if it is known here.
    pub(super) fn binding(&self, id: i64) -> Option<Arc<Binding>> {
        self.known.read().bindings.get(&id).cloned()
    }

    /// Remembers numbers after their commit.
    pub(super) fn learn(&self, found: Vec<(i64, Binding)>) {
        let mut known = self.known.write();
        for (id, binding) in found {
            let binding = Arc::new(binding);
            known.ids.insert(binding.clone(), id);
            known.bindings.insert(id, binding);
        }
    }
}

/// The numbers of triggers, given to them now if they have none. They are committed when this returns.
pub(super) async fn resolve(connection: &mut PgConnection, of: &[&Binding]) -> Outcome<Vec<(i64, Binding)>> {
    let names = |name: fn(&Binding) -> &str| of.iter().map(|binding| name(binding)).collect::<Vec<&str>>();
    let rows = sqlx::query(
        "WITH asked AS (
            SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
                AS asked (namespace, function_name, trigger_id, trigger_type)
         ), made AS (
            INSERT INTO bindings (namespace, function_name, trigger_id, trigger_type)
            SELECT namespace, function_name, trigger_id, trigger_type FROM asked
            WHERE NOT EXISTS (
                SELECT FROM bindings b WHERE (b.namespace, b.function_name, b.trigger_id, b.trigger_type)
                    = (asked.namespace, asked.function_name, asked.trigger_id, asked.trigger_type)
            )
            ORDER BY namespace, function_name, trigger_id, trigger_type
            -- Whoever makes the same one at this moment has made it then, and its number is to be seen.
            ON CONFLICT (namespace, function_name, trigger_id, trigger_type)
                DO UPDATE SET trigger_type = excluded.trigger_type
            RETURNING binding_id, namespace, function_name, trigger_id, trigger_type
         )
         SELECT binding_id, namespace, function_name, trigger_id, trigger_type FROM made
         UNION ALL
         SELECT b.binding_id, b.namespace, b.function_name, b.trigger_id, b.trigger_type
         FROM asked JOIN bindings b USING (namespace, function_name, trigger_id, trigger_type)",
    )
    .bind(names(|binding| &binding.namespace))
    .bind(names(|binding| &binding.function_name))
    .bind(names(|binding| &binding.trigger_id))
    .bind(names(|binding| binding.trigger_type.as_str()))
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, column::binding(row, 1)?))).collect()
}

/// The triggers of numbers.
pub(super) async fn of(connection: &mut PgConnection, ids: &[i64]) -> Outcome<Vec<(i64, Binding)>> {
    let rows = sqlx::query(
        "SELECT binding_id, namespace, function_name, trigger_id, trigger_type FROM bindings
         WHERE binding_id = ANY ($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, column::binding(row, 1)?))).collect()
}

/// The number of a trigger, if it has one.
pub(super) async fn find(connection: &mut PgConnection, binding: &Binding) -> Outcome<Option<i64>> {
    Ok(sqlx::query_scalar(
        "SELECT binding_id FROM bindings
         WHERE namespace = $1 AND function_name = $2 AND trigger_id = $3 AND trigger_type = $4",
    )
    .bind(&*binding.namespace)
    .bind(&*binding.function_name)
    .bind(&*binding.trigger_id)
    .bind(binding.trigger_type.as_str())
    .fetch_optional(connection)
    .await?)
}
