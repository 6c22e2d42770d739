//! What a trigger asks of its events before they are run, whatever its kind: keys of every trigger's section.

use serde_json::Value;
use trigger_core::{Failure, FailureCode, InvocationContext};

use crate::filter::Filter;
use crate::kinds::{FILTER, PAYLOAD_SCHEMA};
use crate::payload_schema::PayloadSchema;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Demands {
    filter: Option<Filter>,
    schema: Option<PayloadSchema>,
}

impl Demands {
    /// Those of a section, if it has any. One that cannot be read was refused before.
    pub fn of(section: &Value) -> Option<Self> {
        let filter = section.get(FILTER).and_then(|filter| Filter::read(filter).ok());
        let schema = section.get(PAYLOAD_SCHEMA).and_then(|schema| PayloadSchema::read(schema).ok());
        (filter.is_some() || schema.is_some()).then_some(Self { filter, schema })
    }

    /// Whether an event is to be run at all.
    pub fn matches(&self, invocation: &InvocationContext) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(invocation))
    }

    /// Why no attempt is made for an event, which will not be another one when it is tried again.
    pub fn judge(&self, invocation: &InvocationContext) -> Result<(), Failure> {
        let judged = self.schema.as_ref().map_or(Ok(()), |schema| schema.judge(&invocation.payload));
        judged.map_err(|why| Failure::new(FailureCode::BadInput, why).permanent())
    }
}
