//! `sql`: statements in the databases that a definition grants.

use std::sync::Arc;
use std::time::Instant;

use trigger_core::InvocationContext;
use wasmtime::component::Resource;

use super::bindings::tripline::function::sql::{self, Error, HostTransaction, Value};
use super::events::shown;
use crate::databases::{self, Database, Rows, Transaction};
use crate::executor::guest::Guest;

/// The most transactions that an attempt may have open at once.
const MAX_OPEN: usize = 4;

/// A transaction that a guest has begun.
pub struct Open {
    database: String,
    /// `None` once it is over, and while a statement of it is under way.
    transaction: Option<Box<dyn Transaction>>,
}

impl From<databases::Error> for Error {
    fn from(error: databases::Error) -> Self {
        match error {
            databases::Error::Denied(why) => Error::Denied(why),
            databases::Error::Invalid(why) => Error::Invalid(why),
            databases::Error::Constraint(code, why) => Error::Constraint((code, why)),
            databases::Error::Conflict(why) => Error::Conflict(why),
            databases::Error::TooLarge(why) => Error::TooLarge(why),
            databases::Error::Unavailable(why) => Error::Unavailable(why),
        }
    }
}

impl From<Value> for databases::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Boolean(truth) => Self::Boolean(truth),
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(text) => Self::Text(text),
            Value::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<databases::Value> for Value {
    fn from(value: databases::Value) -> Self {
        match value {
            databases::Value::Null => Self::Null,
            databases::Value::Boolean(truth) => Self::Boolean(truth),
            databases::Value::Integer(number) => Self::Integer(number),
            databases::Value::Real(number) => Self::Real(number),
            databases::Value::Text(text) => Self::Text(text),
            databases::Value::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<Rows> for sql::Rows {
    fn from(rows: Rows) -> Self {
        let row = |row: Vec<databases::Value>| row.into_iter().map(Into::into).collect();
        Self { columns: rows.columns, rows: rows.rows.into_iter().map(row).collect() }
    }
}

/// A statement's parameters, and the bytes that go with both.
fn given(statement: &str, parameters: Vec<Value>) -> (Vec<databases::Value>, usize) {
    let parameters: Vec<databases::Value> = parameters.into_iter().map(Into::into).collect();
    let bytes = statement.len() + parameters.iter().map(databases::Value::bytes).sum::<usize>();
    (parameters, bytes)
}

impl sql::Host for Guest {
    async fn query(&mut self, database: String, statement: String, values: Vec<Value>) -> Result<sql::Rows, Error> {
        let (began, (parameters, bytes)) = (Instant::now(), given(&statement, values));
        let result = match self.database(&database) {
            Ok(of) => of.query(statement, parameters).await.map(sql::Rows::from).map_err(Error::from),
            Err(error) => Err(error),
        };
        self.noted("sql-query", shown(&database), began, bytes, result.as_ref().err().map(told));
        result
    }

    async fn execute(&mut self, database: String, statement: String, values: Vec<Value>) -> Result<u64, Error> {
        let (began, (parameters, bytes)) = (Instant::now(), given(&statement, values));
        let result = match self.database(&database) {
            Ok(of) => of.execute(statement, parameters).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        self.noted("sql-execute", shown(&database), began, bytes, result.as_ref().err().map(told));
        result
    }

    async fn begin(&mut self, database: String) -> Result<Resource<Open>, Error> {
        let began = Instant::now();
        let result = self.begin_in(&database).await;
        self.noted("sql-begin", shown(&database), began, 0, result.as_ref().err().map(told));
        result
    }
}

impl HostTransaction for Guest {
    async fn query(
        &mut self,
        transaction: Resource<Open>,
        statement: String,
        values: Vec<Value>,
    ) -> Result<sql::Rows, Error> {
        let (began, (parameters, bytes)) = (Instant::now(), given(&statement, values));
        let (database, mut taken) = self.take(&transaction)?;
        let result = taken.query(statement, parameters).await.map(sql::Rows::from).map_err(Error::from);
        self.put_back(&transaction, taken);
        self.noted("sql-query", database, began, bytes, result.as_ref().err().map(told));
        result
    }

    async fn execute(
        &mut self,
        transaction: Resource<Open>,
        statement: String,
        values: Vec<Value>,
    ) -> Result<u64, Error> {
        let (began, (parameters, bytes)) = (Instant::now(), given(&statement, values));
        let (database, mut taken) = self.take(&transaction)?;
        let result = taken.execute(statement, parameters).await.map_err(Error::from);
        self.put_back(&transaction, taken);
        self.noted("sql-execute", database, began, bytes, result.as_ref().err().map(told));
        result
    }

    async fn commit(&mut self, transaction: Resource<Open>) -> Result<(), Error> {
        let began = Instant::now();
        let (database, taken) = self.take(&transaction)?;
        let result = taken.commit().await.map_err(Error::from);
        self.noted("sql-commit", database, began, 0, result.as_ref().err().map(told));
        result
    }

    async fn commit_with_effects(&mut self, transaction: Resource<Open>) -> Result<(), Error> {
        let began = Instant::now();
        // They go with the transaction or not at all: what it did not take with it must not follow on its own.
        let (effects, bytes) = self.take_effects();
        let (database, taken) = self.take(&transaction)?;
        let relay = self.served.as_ref().and_then(|served| served.services.relay.clone());
        let result = match relay {
            _ if effects.is_empty() => taken.commit().await,
            Some(relay) => relay.commit(&database, taken, &effects).await,
            None => Err(databases::Error::Unavailable("no engine is here that would take this over".to_owned())),
        };
        let result = result.map_err(Error::from);
        self.noted("sql-commit", database, began, bytes, result.as_ref().err().map(told));
        result
    }

    async fn drop(&mut self, transaction: Resource<Open>) -> wasmtime::Result<()> {
        if let Some(served) = &mut self.served {
            served.resources.delete(transaction)?;
            served.open_transactions = served.open_transactions.saturating_sub(1);
        }
        Ok(())
    }
}

impl Guest {
    fn database(&self, name: &str) -> Result<Arc<dyn Database>, Error> {
        self.granted("sql", &self.version.definition.allow.sql, name).map_err(|why| Error::Denied(why.to_string()))?;
        let databases = self.served.as_ref().map(|served| &served.services.databases);
        let database = databases.and_then(|databases| databases.get(name));
        let caused = |database: Arc<dyn Database>| database.caused_by(self.with_invocation(InvocationContext::cause));
        database.map(caused).ok_or_else(|| {
            let name = shown(name);
            Error::UnknownDatabase(format!("the engine has no database {name:?}: it is set by engine.databases.{name}"))
        })
    }

    async fn begin_in(&mut self, database: &str) -> Result<Resource<Open>, Error> {
        let of = self.database(database)?;
        if self.served.as_ref().is_none_or(|served| served.open_transactions >= MAX_OPEN) {
            return Err(Error::TooLarge(format!("an attempt has at most {MAX_OPEN} transactions open at once")));
        }
        let transaction = Some(of.begin().await?);
        let open = Open { database: shown(database), transaction };
        let served = self.served.as_mut().expect("it has databases");
        let resource = served.resources.push(open).map_err(|error| Error::TooLarge(error.to_string()))?;
        served.open_transactions += 1;
        Ok(resource)
    }

    /// Takes a transaction for a statement: dropped with it, where the attempt is cut meanwhile, it is rolled back.
    fn take(&mut self, transaction: &Resource<Open>) -> Result<(String, Box<dyn Transaction>), Error> {
        let open = self.served.as_mut().and_then(|served| served.resources.get_mut(transaction).ok());
        let over = || Error::Invalid("the transaction is over".to_owned());
        let open = open.ok_or_else(over)?;
        Ok((open.database.clone(), open.transaction.take().ok_or_else(over)?))
    }

    fn put_back(&mut self, transaction: &Resource<Open>, taken: Box<dyn Transaction>) {
        if let Some(open) = self.served.as_mut().and_then(|served| served.resources.get_mut(transaction).ok()) {
            open.transaction = Some(taken);
        }
    }
}

/// An error as traces show it: a database's message may repeat what the guest gave it.
fn told(error: &Error) -> String {
    match error {
        Error::Denied(_) => "denied".to_owned(),
        Error::UnknownDatabase(_) => "unknown database".to_owned(),
        Error::Invalid(_) => "invalid".to_owned(),
        Error::Constraint((code, _)) => format!("constraint {code}"),
        Error::Conflict(_) => "conflict".to_owned(),
        Error::TooLarge(why) => format!("too large: {why}"),
        Error::Unavailable(why) => format!("unavailable: {why}"),
    }
}
