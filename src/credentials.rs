//! What callers' credentials are checked against, as adapters ask for it.

use std::sync::Arc;

use trigger_core::{BoxFuture, Credentials, Refused, Token};

use crate::secrets::Secrets;
use crate::tokens::Tokens;

/// The engine's secrets and tokens.
pub struct Known {
    /// The secrets.
    pub secrets: Arc<Secrets>,
    /// The tokens of the engine's namespace.
    pub tokens: Arc<Tokens>,
}

impl Credentials for Known {
    fn secret(&self, name: &str) -> Option<Arc<str>> {
        self.secrets.get(name)
    }

    fn token<'a>(&'a self, presented: &'a str) -> BoxFuture<'a, Result<Option<Arc<Token>>, Refused>> {
        Box::pin(self.tokens.presented(presented))
    }
}
