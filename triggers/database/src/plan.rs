//! What is to be done in databases so that changes are captured: looked at before it is done.

use std::fmt::Write as _;

use serde::Serialize;

use crate::config::{Capture, Source};
use crate::{Config, Databases, Place, postgres, sqlite};

/// The version of what is installed: another one is an upgrade.
const LAYOUT: u32 = 1;

/// What one database should have.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The database's name.
    pub database: String,
    place: Place,
    /// The triggers of other namespaces are left alone.
    namespace: String,
    pub(crate) wanted: Vec<Wanted>,
    /// Whether what nobody wants goes.
    pub(crate) tidy: bool,
}

/// One trigger that wants changes.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) trigger: String,
    pub(crate) capture: Capture,
}

/// What is done about one trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// What all triggers share is made.
    Prepare,
    /// It is installed.
    Install,
    /// It is installed differently, or not whole.
    Upgrade,
    /// It is as it should be.
    Keep,
    /// It is removed.
    Remove,
    /// What all triggers shared is removed.
    Clear,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// The trigger: `namespace/function/trigger`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// How.
    pub statements: Vec<String>,
}

/// What is to be done in one database, or was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// The database's name.
    pub database: String,
    /// The steps, in their order.
    pub steps: Vec<Step>,
    /// Why they cannot be taken: then none of them is.
    pub problems: Vec<String>,
}

impl Plan {
    pub(crate) fn step(&mut self, action: Action, trigger: Option<&str>, statements: Vec<String>) {
        self.steps.push(Step { action, trigger: trigger.map(str::to_owned), statements });
    }

    /// For people; with the statements where they are asked for.
    pub fn text(&self, statements: bool) -> String {
        let mut text = format!("database {}\n", self.database);
        for step in &self.steps {
            let action = match step.action {
                Action::Prepare => "prepare",
                Action::Install => "install",
                Action::Upgrade => "upgrade",
                Action::Keep => "keep",
                Action::Remove => "remove",
                Action::Clear => "clear",
            };
            let _ = writeln!(text, "  {action:<8} {}", step.trigger.as_deref().unwrap_or("what all of them share"));
            for statement in step.statements.iter().filter(|_| statements) {
                let _ = writeln!(text, "\n{statement};");
            }
        }
        for problem in &self.problems {
            let _ = writeln!(text, "  problem: {problem}");
        }
        text
    }
}

impl Wanted {
    /// How an installation is known to be this one.
    pub(crate) fn definition(&self) -> String {
        serde_json::json!({ "layout": LAYOUT, "capture": self.capture }).to_string()
    }
}

impl Installation {
    /// One for each database that these triggers (`namespace/function/trigger`) take changes from, and for those that
    /// are named beside.
    pub fn all(
        databases: &Databases,
        namespace: &str,
        triggers: Vec<(String, Config)>,
        beside: &[String],
    ) -> Result<Vec<Self>, String> {
        let mut all: Vec<Self> = Vec::new();
        let mut of = |name: Option<&str>| -> Result<(usize, Place), String> {
            let (name, place) = databases.find(name).map_err(|(why, help)| format!("{why}; {help}"))?;
            let at = all.iter().position(|one| one.database == name).unwrap_or_else(|| {
                all.push(Self {
                    database: name.to_owned(),
                    place: place.clone(),
                    namespace: namespace.to_owned(),
                    wanted: Vec::new(),
                    tidy: true,
                });
                all.len() - 1
            });
            Ok((at, place.clone()))
        };
        let mut wanted = Vec::new();
        for (trigger, config) in triggers {
            let database = config.database.clone();
            // A database with channels alone is not touched.
            if config.table.is_some() {
                let (at, place) = of(database.as_deref())?;
                if let Source::Table(settings) = config.source(&place) {
                    wanted.push((at, Wanted { trigger, capture: settings.capture }));
                }
            }
        }
        for name in beside {
            of(Some(name))?;
        }
        for (at, one) in wanted {
            all[at].wanted.push(one);
        }
        Ok(all)
    }

    /// What one trigger wants, whatever else is there.
    pub(crate) fn of_one(database: &str, place: Place, trigger: String, capture: Capture) -> Self {
        let wanted = vec![Wanted { trigger, capture }];
        Self { database: database.to_owned(), place, namespace: String::new(), wanted, tidy: false }
    }

    /// Whether an installed trigger is for this installation to judge.
    pub(crate) fn owns(&self, trigger: &str) -> bool {
        trigger.split('/').next() == Some(&self.namespace)
    }

    /// What would be done.
    pub async fn plan(&self) -> Result<Plan, String> {
        self.work(Work::Plan).await
    }

    /// Does it: all of it or nothing. `discard` says that changes may be lost that wait for triggers which go.
    pub async fn apply(&self, discard: bool) -> Result<Plan, String> {
        self.work(Work::Apply { discard }).await
    }

    /// Removes every trigger of the namespace, and with the last one what all of them share.
    pub async fn drop(&self, discard: bool) -> Result<Plan, String> {
        let nothing = Self { wanted: Vec::new(), tidy: true, ..self.clone() };
        nothing.work(Work::Apply { discard }).await
    }

    async fn work(&self, work: Work) -> Result<Plan, String> {
        match &self.place {
            Place::Postgres(server) => postgres::install::work(self, server, work).await,
            Place::Sqlite(file) => sqlite::install::work(self, file, work).await,
        }
    }
}

/// Whether it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Plan,
    Apply { discard: bool },
}

impl Work {
    /// Whether changes may be lost.
    pub(crate) fn discards(self) -> bool {
        matches!(self, Work::Apply { discard: true })
    }
}
