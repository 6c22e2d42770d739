//! Bearer tokens as they are kept: who may call what, and a digest by which the secret is known again.

use chrono::{DateTime, Utc};

/// The most tokens of a namespace: engines hold all of them in memory.
pub const MAX_TOKENS: u32 = 10_000;

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its identity, which is no secret.
    pub id: String,
    /// The namespace of the functions that it may call.
    pub namespace: String,
    /// Whose it is.
    pub name: String,
    /// SHA-256 of its secret: 32 random bytes, which nobody guesses, so that nothing slower is needed.
    pub digest: [u8; 32],
    /// The functions that it may call; `*` stands for every one.
    pub functions: Vec<String>,
    /// What else it may, in words that triggers ask for.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it is of no use.
    pub expires_at: Option<DateTime<Utc>>,
}
