//! `tripline tokens`.

use clap::{Args, Subcommand};

use super::client::{Client, encode};
use super::clock::moment;
use super::show::{json, line, listing, print, table};
use super::{Remote, seconds};
use crate::admin::{Listing, NewTokenView, RevokedView, TokenRequest, TokenView};

/// What to do about tokens.
#[derive(Debug, Args)]
pub struct Tokens {
    #[command(subcommand)]
    command: TokensCommand,
}

#[derive(Debug, Subcommand)]
enum TokensCommand {
    /// Make a token. It is printed this once: the engine keeps no more than a digest of it.
    New {
        /// Whose it is: the function is told `token:<name>`.
        name: String,
        /// A function that it may call, or "*" for every one; may be repeated.
        #[arg(short, long = "function", value_name = "NAME", required = true)]
        functions: Vec<String>,
        /// A word that triggers may ask for (`auth.scopes`); may be repeated.
        #[arg(short, long = "scope", value_name = "WORD")]
        scopes: Vec<String>,
        /// It is of no use when so long has passed: 90d, 12h. Without this it does not expire.
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        expires: Option<f64>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Every token, the newest first; without what is secret of it.
    List(Remote),
    /// Revoke a token: this engine refuses it from now on, others of its store within five seconds.
    Revoke {
        /// The token's id, as `list` tells it.
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) async fn run(tokens: Tokens) -> anyhow::Result<()> {
    match tokens.command {
        TokensCommand::New { name, functions, scopes, expires, remote } => {
            let client = Client::new(&remote)?;
            let expires_in_seconds = expires.map(whole_seconds).transpose()?;
            let request = TokenRequest { name, functions, scopes, expires_in_seconds };
            let made: NewTokenView = client.post("/api/v1/tokens", &request).await?;
            if client.json {
                return json(&made);
            }
            line(made.token);
        }
        TokensCommand::List(remote) => list(&Client::new(&remote)?).await?,
        TokensCommand::Revoke { id, remote } => {
            let client = Client::new(&remote)?;
            let revoked: RevokedView = client.delete(&format!("/api/v1/tokens/{}", encode(&id))).await?;
            if client.json {
                return json(&revoked);
            }
            line(format!("{id} is revoked"));
        }
    }
    Ok(())
}

fn whole_seconds(seconds: f64) -> anyhow::Result<u32> {
    anyhow::ensure!(
        (1.0..=f64::from(u32::MAX)).contains(&seconds),
        "a token expires after a second at least, and a hundred years at most"
    );
    Ok(seconds as u32)
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let tokens: Listing<TokenView> = listing(client, "/api/v1/tokens").await?;
    if client.json {
        return json(&tokens);
    }
    let mut table = table(&["ID", "NAME", "FUNCTIONS", "SCOPES", "MADE", "EXPIRES"]);
    for token in &tokens.items {
        let expires = match token.expires_at {
            None => "never".to_owned(),
            Some(_) if token.expired => "has expired".to_owned(),
            Some(expires_at) => moment(expires_at),
        };
        table.add_row([
            token.id.clone(),
            token.name.clone(),
            token.functions.join(" "),
            token.scopes.join(" "),
            moment(token.created_at),
            expires,
        ]);
    }
    print(&table, "no tokens");
    Ok(())
}
