//! What callers' credentials are checked against: kept by the engine, asked by adapters on the internet's side.

use std::sync::Arc;

use bytes::Bytes;

use crate::{BoxFuture, Refused};

/// What the engine knows about those who call.
pub trait Credentials: Send + Sync + 'static {
    /// The value of a secret of `[engine.secrets]`; `None` where there is none that could be read.
    fn secret(&self, name: &str) -> Option<Arc<str>>;

    /// The token that was presented (`prefix_id.secret`), if it is one that may be used now. Asks the store every few
    /// seconds at most, whatever is presented.
    fn token<'a>(&'a self, presented: &'a str) -> BoxFuture<'a, Result<Option<Arc<Token>>, Refused>>;

    /// Reads a document at an address, now: the keys of an issuer. It is bounded in size and time, and no address is
    /// reached that guests could not be granted. The error says why there is none, for the log.
    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Bytes, String>>;
}

/// A bearer token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is, for logs and guests.
    pub name: Box<str>,
    /// The namespace of the functions that it may call.
    pub namespace: Box<str>,
    /// Their names; `*` stands for every one.
    pub functions: Vec<String>,
    /// What else it may, in words that triggers ask for.
    pub scopes: Vec<String>,
}

impl Token {
    /// Whether it may call a function.
    pub fn may_call(&self, namespace: &str, function_name: &str) -> bool {
        *self.namespace == *namespace && self.functions.iter().any(|one| one == "*" || one == function_name)
    }
}
