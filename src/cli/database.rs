//! `tripline database`: what captures changes in databases. The work itself is the database trigger's; the composition
//! root brings the two together.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do in databases.
#[derive(Debug, Args)]
pub struct Database {
    /// What.
    #[command(subcommand)]
    pub command: DatabaseCommand,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum DatabaseCommand {
    /// Print what would be done, statement by statement, and do nothing.
    Plan(Which),
    /// Do it: all of it in one transaction for each database, or nothing.
    Apply(Change),
    /// Remove every trigger of the manifest's namespace, and with the last one what all of them share.
    Drop(Change),
}

/// What to change.
#[derive(Debug, Args)]
pub struct Change {
    /// Also where changes are lost that wait for a trigger which goes.
    #[arg(long)]
    pub discard: bool,
    /// Where.
    #[command(flatten)]
    pub which: Which,
}

/// Where to look.
#[derive(Debug, Args)]
pub struct Which {
    /// The manifest, or the directory that it lies in.
    #[arg(default_value = "tripline.toml")]
    pub manifest: PathBuf,
    /// A database to look at beside those that triggers take changes from; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub database: Vec<String>,
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
}
