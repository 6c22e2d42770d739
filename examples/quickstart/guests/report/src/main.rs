//! Reports on its standard input, as a WASI command: the payload comes in on stdin, the answer goes out on stdout.
//!
//! Any program that reads and writes is a function. An exit code other than 0 is a failure and what it said on stderr
//! is the failure's message: here, whenever the input contains `fail`.

use std::io::{self, Read};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut input = String::new();
    if let Err(error) = io::stdin().read_to_string(&mut input) {
        eprintln!("cannot read the input: {error}");
        return ExitCode::FAILURE;
    }
    if input.contains("fail") {
        eprintln!("the input asks for a failure");
        return ExitCode::FAILURE;
    }
    let title = std::env::var("TITLE").unwrap_or_else(|_| "Report".into());
    println!(
        "{title}: {} bytes, {} lines, {} words",
        input.len(),
        input.lines().count(),
        input.split_whitespace().count()
    );
    for line in input.lines() {
        println!("> {line}");
    }
    ExitCode::SUCCESS
}
