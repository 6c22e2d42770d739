//! Trigger kinds that exist for tests.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use trigger_core::{BindError, Binding, Kind, Problems, Trigger, TriggerContext, TriggerError, TriggerKind};

/// A kind that plays a tune; it has no "silence", and two of one tune exclude each other.
pub(crate) struct Bell;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BellConfig {
    /// What is played.
    tune: String,
    /// How often.
    #[serde(default)]
    #[schemars(range(min = 1, max = 12))]
    strokes: Option<u8>,
}

pub(crate) struct Ringing(String);

impl TriggerKind for Bell {
    const KIND: Kind = Kind::Job;
    type Config = BellConfig;
    type Trigger = Ringing;

    fn check(&self, config: &BellConfig, problems: &mut Problems) {
        if config.tune == "silence" {
            problems.add("tune", "no bell plays silence", "leave the trigger out");
        }
    }

    fn conflict(&self, one: &BellConfig, other: &BellConfig) -> Option<String> {
        (one.tune == other.tune).then(|| format!("both ring {}", one.tune))
    }

    fn describe(&self, config: &BellConfig) -> String {
        match config.strokes {
            Some(strokes) => format!("rings {} {strokes} times", config.tune),
            None => format!("rings {}", config.tune),
        }
    }

    async fn bind(&self, config: BellConfig, _binding: Arc<Binding>) -> Result<Ringing, BindError> {
        match config.tune.as_str() {
            "silence" => Err(BindError("no bell plays silence".to_owned())),
            _ => Ok(Ringing(config.tune)),
        }
    }
}

impl Trigger for Ringing {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        Err(TriggerError(format!("{} rang {} and broke", cx.binding.path(), self.0)))
    }
}

/// A kind that cannot be added: it has a key that every trigger has.
pub(crate) struct Whistle;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is looked at")]
pub(crate) struct WhistleConfig {
    name: String,
}

impl TriggerKind for Whistle {
    const KIND: Kind = Kind::Timer;
    type Config = WhistleConfig;
    type Trigger = Ringing;

    fn check(&self, _config: &WhistleConfig, _problems: &mut Problems) {}

    fn describe(&self, _config: &WhistleConfig) -> String {
        "whistles".to_owned()
    }

    async fn bind(&self, _config: WhistleConfig, _binding: Arc<Binding>) -> Result<Ringing, BindError> {
        Err(BindError("not this one".to_owned()))
    }
}
