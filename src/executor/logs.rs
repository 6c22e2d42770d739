//! What a guest says: lines, up to their number and their bytes.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::LogLine;
use super::masks::Masks;
use crate::functions::Definition;

/// The lines of one attempt.
#[derive(Debug)]
pub(super) struct Logs {
    lines: Vec<LogLine>,
    bytes: u64,
    truncated: bool,
    max_lines: usize,
    max_bytes: u64,
    began: Instant,
    /// What the lines do not tell.
    pub(super) masks: Masks,
}

impl Logs {
    pub(super) fn new(definition: &Definition, began: Instant) -> Self {
        Self {
            lines: Vec::new(),
            bytes: 0,
            truncated: false,
            max_lines: definition.max_log_lines as usize,
            max_bytes: definition.max_log_bytes,
            began,
            masks: Masks::default(),
        }
    }

    /// Keeps a line, or as much of it as there is room for.
    pub(super) fn push(&mut self, level: &'static str, message: &str) {
        let at_micros = self.began.elapsed().as_micros() as u64;
        self.push_at(at_micros, Cow::Borrowed(level), message);
    }

    fn push_at(&mut self, at_micros: u64, level: Cow<'static, str>, message: &str) {
        let message = &*self.masks.hide(message);
        let room = self.max_bytes.saturating_sub(self.bytes) as usize;
        if self.lines.len() >= self.max_lines || (room == 0 && !message.is_empty()) {
            self.truncated = true;
            return;
        }
        let kept = prefix(message, room);
        self.truncated |= kept.len() < message.len();
        self.bytes += kept.len() as u64;
        self.lines.push(LogLine { at_micros, level, message: kept.to_owned() });
    }

    /// Takes the lines of `other` in, in the order of time.
    pub(super) fn merge(&mut self, other: Logs) {
        self.truncated |= other.truncated;
        if self.lines.is_empty() {
            self.lines = other.lines;
            return;
        }
        let mut lines: Vec<LogLine> = std::mem::take(&mut self.lines);
        lines.extend(other.lines);
        lines.sort_by_key(|line| line.at_micros);
        self.bytes = 0;
        for line in lines {
            self.push_at(line.at_micros, line.level, &line.message);
        }
    }

    /// The last line that says something.
    pub(super) fn last_words(&self) -> Option<String> {
        self.lines.iter().rev().map(|line| line.message.trim()).find(|line| !line.is_empty()).map(str::to_owned)
    }

    /// The lines, and whether some are missing.
    pub(super) fn into_lines(self) -> (Vec<LogLine>, bool) {
        (self.lines, self.truncated)
    }
}

/// The longest beginning of a text that has at most `bytes` bytes and cuts no character.
pub(super) fn prefix(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A WASI output stream whose lines are log lines. It takes everything and keeps what there is room for, since a guest
/// that says much is not thereby wrong.
#[derive(Clone)]
pub(super) struct LineStream {
    level: &'static str,
    logs: Arc<Mutex<Logs>>,
    /// What came after the last line's end.
    rest: Arc<Mutex<VecDeque<u8>>>,
}

/// The longest line: what follows begins another.
const MAX_LINE: usize = 8 << 10;

/// Bytes that a guest may write at once.
const PERMIT: usize = 64 << 10;

impl LineStream {
    pub(super) fn new(level: &'static str, logs: Arc<Mutex<Logs>>) -> Self {
        Self { level, logs, rest: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut rest = self.rest.lock();
        for &byte in bytes {
            if byte != b'\n' {
                rest.push_back(byte);
            }
            if byte == b'\n' || rest.len() >= MAX_LINE {
                self.line(&mut rest);
            }
        }
    }

    fn line(&self, rest: &mut VecDeque<u8>) {
        let line = String::from_utf8_lossy(rest.make_contiguous());
        self.logs.lock().push(self.level, line.trim_end_matches('\r'));
        rest.clear();
    }

    /// Makes a line of what was written without an end.
    pub(super) fn finish(&self) {
        let mut rest = self.rest.lock();
        if !rest.is_empty() {
            self.line(&mut rest);
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LineStream {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for LineStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

impl IsTerminal for LineStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LineStream {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only asked for by WASI 0.3, which is not offered.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(max_lines: u32, max_bytes: u64) -> Logs {
        let mut definition = Definition::new("default", "function");
        definition.max_log_lines = max_lines;
        definition.max_log_bytes = max_bytes;
        Logs::new(&definition, Instant::now())
    }

    fn messages(logs: Logs) -> (Vec<String>, bool) {
        let (lines, truncated) = logs.into_lines();
        (lines.into_iter().map(|line| line.message).collect(), truncated)
    }

    #[test]
    fn lines_are_kept_up_to_their_number_and_their_bytes() {
        let mut few = logs(2, 100);
        for line in ["one", "two", "three"] {
            few.push("info", line);
        }
        assert_eq!(messages(few), (vec!["one".into(), "two".into()], true));
        let mut short = logs(10, 6);
        short.push("info", "four");
        short.push("info", "é and more");
        short.push("info", "gone");
        assert_eq!(messages(short), (vec!["four".into(), "é".into()], true), "no character is cut");
        let mut whole = logs(2, 7);
        whole.push("info", "one");
        whole.push("info", "four");
        assert_eq!(messages(whole), (vec!["one".into(), "four".into()], false));
    }

    #[test]
    fn a_stream_is_cut_into_lines() {
        let shared = Arc::new(Mutex::new(logs(10, 100_000)));
        let mut stream = LineStream::new("stderr", shared.clone());
        for part in ["a\nb", "c\r\n", "\n", "end"] {
            stream.write(Bytes::from_static(part.as_bytes())).unwrap();
        }
        stream.write(Bytes::from(vec![b'x'; MAX_LINE])).unwrap();
        stream.finish();
        drop(stream);
        let (lines, truncated) = messages(Arc::into_inner(shared).unwrap().into_inner());
        assert!(!truncated);
        assert_eq!(lines[..3], ["a", "bc", ""]);
        assert_eq!(lines[3].len(), MAX_LINE, "a line without an end is cut, not kept for ever");
        assert_eq!(lines[4], "xxx");
    }

    #[test]
    fn lines_of_two_sources_are_in_the_order_of_time() {
        let mut ours = logs(3, 100);
        let mut theirs = logs(3, 100);
        ours.push_at(1, "info".into(), "first");
        theirs.push_at(2, "stderr".into(), "second");
        ours.push_at(3, "info".into(), "third");
        theirs.push_at(4, "stderr".into(), "fourth");
        ours.merge(theirs);
        assert_eq!(messages(ours), (vec!["first".into(), "second".into(), "third".into()], true));
    }
}
