//! The trigger kinds of this build, by name: the one place where their types are forgotten.
//!
//! Every kind has a configuration type and a trigger type of its own. Here they become values and boxes, so that the
//! manifest and the supervisor treat all kinds alike and [`TriggerKind`] stays a plain trait. A kind is added by the
//! composition root; the library knows none.

use std::any::Any;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use serde_json::Value;
use trigger_core::{
    BindError, Binding, BoxFuture, Finding, Kind, Problems, Timetable, Trigger, TriggerContext, TriggerError,
    TriggerKind,
};

use crate::store::TriggerRow;

/// Keys of every trigger's section, whatever its kind: a kind's own keys must not be called so.
pub const COMMON_KEYS: [&str; 4] = ["type", "name", FILTER, PAYLOAD_SCHEMA];

/// What a trigger asks of its events. It stays in the section, of which the kind reads the rest.
pub const FILTER: &str = "filter";

/// What the payloads of a trigger's events must be, whatever its kind.
pub const PAYLOAD_SCHEMA: &str = "payload_schema";

/// The trigger kinds of this build.
#[derive(Default)]
pub struct Kinds {
    kinds: Vec<Box<dyn AnyKind>>,
}

/// A kind cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// There is one of that name.
    #[error("the trigger kind {0:?} was added twice")]
    Duplicate(Kind),
    /// It uses a key that every trigger has.
    #[error("the trigger kind {kind:?} calls one of its keys {key:?}, which every trigger has already")]
    Reserved {
        /// The kind.
        kind: Kind,
        /// The key.
        key: &'static str,
    },
}

/// A bound event source of whatever kind.
pub trait BoundTrigger: Send + 'static {
    /// Accepts events until `cx.shutdown`; on return, every accepted event has been answered.
    fn run(self: Box<Self>, cx: TriggerContext) -> BoxFuture<'static, Result<(), TriggerError>>;
}

impl<T: Trigger> BoundTrigger for T {
    fn run(self: Box<Self>, cx: TriggerContext) -> BoxFuture<'static, Result<(), TriggerError>> {
        Box::pin(Trigger::run(*self, cx))
    }
}

/// A section that could be read: its kind's own configuration, as typed.
pub struct Section {
    kind: Kind,
    config: Box<dyn Any + Send + Sync>,
}

impl Section {
    /// The configuration, where the section is of this kind.
    pub fn config<K: TriggerKind>(&self) -> Option<&K::Config> {
        self.config.downcast_ref().filter(|_| self.kind == K::KIND)
    }
}

impl Kinds {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind.
    pub fn add<K: TriggerKind>(&mut self, kind: K) -> Result<&mut Self, AddError> {
        if self.has(K::KIND) {
            return Err(AddError::Duplicate(K::KIND));
        }
        let erased = Erased { schema: schema_of::<K>(), kind: Arc::new(kind) };
        if let Some(key) = COMMON_KEYS.into_iter().find(|key| erased.schema["properties"].get(key).is_some()) {
            return Err(AddError::Reserved { kind: K::KIND, key });
        }
        self.kinds.push(Box::new(erased));
        Ok(self)
    }

    /// Whether this build has the kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.get(kind).is_some()
    }

    /// The kinds of this build, in the order in which they were added.
    pub fn all(&self) -> Vec<Kind> {
        self.kinds.iter().map(|kind| kind.kind()).collect()
    }

    /// JSON Schema of a kind's own keys.
    pub fn schema(&self, kind: Kind) -> Option<&Value> {
        self.get(kind).map(AnyKind::schema)
    }

    /// Reads a section of that kind; the error says what its type does not take.
    pub fn read(&self, kind: Kind, config: &Value) -> Result<Section, String> {
        let known = self.get(kind).ok_or_else(|| not_in_this_build(kind))?;
        match config.as_object().filter(|section| COMMON_KEYS.iter().any(|key| section.contains_key(*key))) {
            None => known.read(config),
            Some(section) => {
                let own = section.iter().filter(|(key, _)| !COMMON_KEYS.contains(&key.as_str()));
                known.read(&own.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
        }
    }

    /// Finds every mistake in a section that its schema cannot find. Opens nothing.
    pub fn check(&self, section: &Section, problems: &mut Problems) {
        if let Some(kind) = self.get(section.kind) {
            kind.check(section, problems);
        }
    }

    /// Whether two triggers exclude each other, and why. Those of different kinds never do.
    pub fn conflict(&self, one: &Section, other: &Section) -> Option<String> {
        if one.kind != other.kind {
            return None;
        }
        self.get(one.kind)?.conflict(one, other)
    }

    /// One line about a trigger, for people.
    pub fn describe(&self, row: &TriggerRow) -> String {
        let kind = row.binding.trigger_type;
        match (self.get(kind), self.read(kind, &row.config)) {
            (Some(known), Ok(section)) => known.describe(&section),
            (Some(_), Err(error)) => format!("cannot be read: {error}"),
            (None, _) => not_in_this_build(kind),
        }
    }

    /// The instants of a section, if its kind has any.
    pub fn timetable(&self, section: &Section) -> Option<Arc<dyn Timetable>> {
        self.get(section.kind)?.timetable(section)
    }

    /// The instants of a trigger, if its kind has any and the section can be read.
    pub fn timetable_of(&self, row: &TriggerRow) -> Option<Arc<dyn Timetable>> {
        self.timetable(&self.read(row.binding.trigger_type, &row.config).ok()?)
    }

    /// Whether the bodies of a trigger's events stream.
    pub fn streams(&self, row: &TriggerRow) -> bool {
        let kind = row.binding.trigger_type;
        match (self.get(kind), self.read(kind, &row.config)) {
            (Some(known), Ok(section)) => known.streams(&section),
            _ => false,
        }
    }

    /// What of a trigger's source cannot hold what is promised of its events.
    pub async fn examine(&self, row: &TriggerRow) -> Vec<Finding> {
        let kind = row.binding.trigger_type;
        match (self.get(kind), self.read(kind, &row.config)) {
            (Some(known), Ok(section)) => known.examine(section).await,
            _ => Vec::new(),
        }
    }

    /// Acquires a trigger's port, subscription or lease. Accepts no event yet.
    pub async fn bind(&self, row: &TriggerRow) -> Result<Box<dyn BoundTrigger>, BindError> {
        let kind = row.binding.trigger_type;
        let section = self.read(kind, &row.config).map_err(|error| BindError(format!("cannot be read: {error}")))?;
        let known = self.get(kind).ok_or_else(|| BindError(not_in_this_build(kind)))?;
        known.bind(section, Arc::new(row.binding.clone())).await
    }

    fn get(&self, kind: Kind) -> Option<&dyn AnyKind> {
        self.kinds.iter().map(|known| &**known).find(|known| known.kind() == kind)
    }
}

/// What is said of a kind that exists, but not here.
pub(crate) fn not_in_this_build(kind: Kind) -> String {
    format!("the trigger kind \"{kind}\" is not in this build")
}

/// The schema of a type without references: it is put into other schemas, where they would lead elsewhere.
pub(crate) fn inline_schema<T: schemars::JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn schema_of<K: TriggerKind>() -> Value {
    let mut schema = inline_schema::<K::Config>();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
    }
    schema
}

/// A kind without its types.
trait AnyKind: Send + Sync {
    fn kind(&self) -> Kind;
    fn schema(&self) -> &Value;
    fn read(&self, config: &Value) -> Result<Section, String>;
    fn check(&self, section: &Section, problems: &mut Problems);
    fn conflict(&self, one: &Section, other: &Section) -> Option<String>;
    fn describe(&self, section: &Section) -> String;
    fn timetable(&self, section: &Section) -> Option<Arc<dyn Timetable>>;
    fn streams(&self, section: &Section) -> bool;
    fn examine(&self, section: Section) -> BoxFuture<'static, Vec<Finding>>;
    fn bind(
        &self,
        section: Section,
        binding: Arc<Binding>,
    ) -> BoxFuture<'static, Result<Box<dyn BoundTrigger>, BindError>>;
}

struct Erased<K> {
    schema: Value,
    kind: Arc<K>,
}

/// A section's configuration. Sections are only made by `read`, which gives each the type of its kind.
fn typed<K: TriggerKind>(section: &Section) -> &K::Config {
    section.config.downcast_ref().expect("a section of a kind holds the configuration of that kind")
}

impl<K: TriggerKind> AnyKind for Erased<K> {
    fn kind(&self) -> Kind {
        K::KIND
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn read(&self, config: &Value) -> Result<Section, String> {
        let config = <K::Config as serde::Deserialize>::deserialize(config).map_err(|error| error.to_string())?;
        Ok(Section { kind: K::KIND, config: Box::new(config) })
    }

    fn check(&self, section: &Section, problems: &mut Problems) {
        self.kind.check(typed::<K>(section), problems);
    }

    fn conflict(&self, one: &Section, other: &Section) -> Option<String> {
        self.kind.conflict(typed::<K>(one), typed::<K>(other))
    }

    fn describe(&self, section: &Section) -> String {
        self.kind.describe(typed::<K>(section))
    }

    fn timetable(&self, section: &Section) -> Option<Arc<dyn Timetable>> {
        self.kind.timetable(typed::<K>(section))
    }

    fn streams(&self, section: &Section) -> bool {
        self.kind.streams(typed::<K>(section))
    }

    fn examine(&self, section: Section) -> BoxFuture<'static, Vec<Finding>> {
        let (kind, config) = (self.kind.clone(), typed::<K>(&section).clone());
        Box::pin(async move { kind.examine(config).await })
    }

    fn bind(
        &self,
        section: Section,
        binding: Arc<Binding>,
    ) -> BoxFuture<'static, Result<Box<dyn BoundTrigger>, BindError>> {
        let (kind, config) = (self.kind.clone(), typed::<K>(&section).clone());
        Box::pin(async move {
            let bound = kind.bind(config, binding).await?;
            Ok(Box::new(bound) as Box<dyn BoundTrigger>)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::fakes::{Bell, Whistle};
    use serde_json::json;
    use trigger_core::testing::FakeDispatch;

    fn row(kind: Kind, config: Value) -> TriggerRow {
        let binding = Binding {
            namespace: "default".into(),
            function_name: "one".into(),
            trigger_id: kind.as_str().into(),
            trigger_type: kind,
        };
        TriggerRow { binding, config }
    }

    #[test]
    fn a_kind_is_added_once() {
        let mut kinds = Kinds::new();
        kinds.add(Bell).unwrap();
        assert_eq!(kinds.add(Bell).err(), Some(AddError::Duplicate(Kind::Job)));
        assert_eq!(kinds.all(), [Kind::Job]);
        assert!(kinds.has(Kind::Job) && !kinds.has(Kind::Http));
        assert_eq!(kinds.schema(Kind::Job).unwrap()["required"], json!(["tune"]));
    }

    #[test]
    fn a_kind_may_not_take_the_keys_of_every_trigger() {
        let error = Kinds::new().add(Whistle).err().unwrap();
        assert_eq!(error, AddError::Reserved { kind: Kind::Timer, key: "name" });
        assert!(error.to_string().contains("\"name\""));
    }

    #[test]
    fn a_section_is_described_and_what_cannot_be_read_says_so() {
        let mut kinds = Kinds::new();
        kinds.add(Bell).unwrap();
        assert_eq!(kinds.describe(&row(Kind::Job, json!({ "tune": "ding" }))), "rings ding");
        assert!(kinds.describe(&row(Kind::Job, json!({}))).contains("missing field `tune`"));
        assert_eq!(kinds.describe(&row(Kind::Http, json!({}))), "the trigger kind \"http\" is not in this build");
    }

    #[tokio::test]
    async fn a_bound_trigger_runs_as_its_own_type_would() {
        let mut kinds = Kinds::new();
        kinds.add(Bell).unwrap();
        let row = row(Kind::Job, json!({ "tune": "ding" }));
        let bound = kinds.bind(&row).await.unwrap();
        let dispatch = FakeDispatch::echo();
        let error = bound.run(dispatch.context(Kind::Job, "job")).await.unwrap_err();
        assert_eq!(error.to_string(), "default/function/job rang ding and broke");
        for (config, kind, said) in [
            (json!({ "tune": "silence" }), Kind::Job, "no bell plays silence"),
            (json!({}), Kind::Job, "cannot be read: missing field `tune`"),
            (json!({}), Kind::Cron, "not in this build"),
        ] {
            let row = TriggerRow { config, binding: Binding { trigger_type: kind, ..row.binding.clone() } };
            let error = kinds.bind(&row).await.err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
