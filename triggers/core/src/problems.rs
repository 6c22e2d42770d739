//! Mistakes in a manifest, collected so that one run tells them all.

use std::fmt;

/// One mistake: where, what, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path from the top of the manifest: `functions.thumbnail.triggers[0].schedule`.
    pub path: Vec<Step>,
    /// What is wrong, with the value in question; lower case, no full stop.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An element of an array, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Step::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Step::Index(index)
    }
}

/// Collects problems below a path.
#[derive(Default, Debug)]
pub struct Problems {
    at: Vec<Step>,
    found: Vec<Problem>,
    secrets: Vec<(Vec<Step>, String)>,
}

impl Problems {
    /// An empty collection at the top of the manifest.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a mistake in `key` of the present section.
    pub fn add(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let mut path = self.at.clone();
        path.push(Step::from(key));
        self.push(Problem { path, message: message.into(), help: Some(help.into()) });
    }

    /// Records a mistake whose path is known.
    pub fn push(&mut self, problem: Problem) {
        self.found.push(problem);
    }

    /// Records that `step` of the present section names a secret: whether the engine has it, others know.
    pub fn names_secret(&mut self, step: impl Into<Step>, name: impl Into<String>) {
        let mut path = self.at.clone();
        path.push(step.into());
        self.secrets.push((path, name.into()));
    }

    /// The secrets that were named, each with its place.
    pub fn take_secrets(&mut self) -> Vec<(Vec<Step>, String)> {
        std::mem::take(&mut self.secrets)
    }

    /// Runs `check` with every path below `step`.
    pub fn within<R>(&mut self, step: impl Into<Step>, check: impl FnOnce(&mut Self) -> R) -> R {
        self.at.push(step.into());
        let result = check(self);
        self.at.pop();
        result
    }

    /// The present section's path.
    pub fn at(&self) -> &[Step] {
        &self.at
    }

    /// How many were found.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them, in the order found.
    pub fn into_vec(self) -> Vec<Problem> {
        self.found
    }
}

/// A path as people write it: `functions.thumbnail.triggers[0].schedule`.
pub fn display_path(path: &[Step]) -> impl fmt::Display + '_ {
    struct Path<'a>(&'a [Step]);
    impl fmt::Display for Path<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (position, step) in self.0.iter().enumerate() {
                match step {
                    Step::Key(key) if position == 0 => f.write_str(key)?,
                    Step::Key(key) => write!(f, ".{key}")?,
                    Step::Index(index) => write!(f, "[{index}]")?,
                }
            }
            Ok(())
        }
    }
    Path(path)
}
