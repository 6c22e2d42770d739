//! The numbers that stand for triggers in rows that there are many of.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rusqlite::{Connection, OptionalExtension as _, params};
use trigger_core::Binding;

use crate::store::Result;

/// Numbers that are committed. They never change, and no row of the table is ever removed.
#[derive(Default)]
pub(super) struct Bindings {
    known: RwLock<HashMap<Binding, i64>>,
}

impl Bindings {
    /// The number of a trigger, if it was asked for before.
    pub(super) fn get(&self, binding: &Binding) -> Option<i64> {
        self.known.read().get(binding).copied()
    }

    /// Remembers numbers after their commit.
    pub(super) fn learn(&self, bindings: &[Arc<Binding>], ids: &[i64]) {
        let mut known = self.known.write();
        known.extend(bindings.iter().map(|binding| (**binding).clone()).zip(ids.iter().copied()));
    }
}

/// The number of a trigger, given to it now if it has none.
pub(super) fn resolve(connection: &Connection, binding: &Binding) -> Result<i64> {
    if let Some(id) = find(connection, binding)? {
        return Ok(id);
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO bindings (namespace, function_name, trigger_id, trigger_type) VALUES (?1, ?2, ?3, ?4)
         RETURNING binding_id",
    )?;
    let Binding { namespace, function_name, trigger_id, trigger_type } = binding;
    Ok(insert.query_row(params![namespace, function_name, trigger_id, trigger_type.as_str()], |row| row.get(0))?)
}

/// The number of a trigger, if it has one.
pub(super) fn find(connection: &Connection, binding: &Binding) -> Result<Option<i64>> {
    let mut select = connection.prepare_cached(
        "SELECT binding_id FROM bindings
         WHERE namespace = ?1 AND function_name = ?2 AND trigger_id = ?3 AND trigger_type = ?4",
    )?;
    let Binding { namespace, function_name, trigger_id, trigger_type } = binding;
    let found =
        select.query_row(params![namespace, function_name, trigger_id, trigger_type.as_str()], |row| row.get(0));
    Ok(found.optional()?)
}
