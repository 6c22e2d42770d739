//! Every mistake of a manifest, each with its place: what `check` prints and the engine refuses to start with.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use trigger_core::{Problem, Step, display_path};

use super::source::Place;

/// A manifest's mistakes, in order of their places.
#[derive(Clone, Debug)]
pub struct Report {
    file: String,
    mistakes: Vec<Mistake>,
}

/// One mistake and its place.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// Line, from 1; 0 where the text could not be read at all.
    pub line: usize,
    /// Column in characters, from 1; 0 where the text could not be read at all.
    pub column: usize,
    /// The key in question: `functions.thumbnail.triggers[0].schedule`. Empty where the text could not be parsed.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    label: Option<Range<usize>>,
    source: Arc<NamedSource<String>>,
}

impl Report {
    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The mistakes, in order of their places.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// A report of one mistake of a file whose text cannot be shown.
    pub(super) fn unreadable(file: &str, (message, help): (String, String)) -> Self {
        let source = Arc::new(NamedSource::new(file, String::new()));
        let (line, column, path, label) = (0, 0, String::new(), None);
        let mistakes = vec![Mistake { line, column, path, message, help: Some(help), label, source }];
        Self { file: file.to_owned(), mistakes }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, mistake) in self.mistakes.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if mistake.line > 0 {
                write!(f, ":{}:{}", mistake.line, mistake.column)?;
            }
            write!(f, ": {mistake}")?;
            if let Some(help) = &mistake.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

impl Diagnostic for Report {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.mistakes.iter().map(|mistake| mistake as &dyn Diagnostic)))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl std::error::Error for Mistake {}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.label.as_ref().map(|_| &*self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = self.label.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_primary_with_span(None, label))))
    }
}

/// Finds the places of mistakes in a text.
pub(super) struct Reporter {
    file: String,
    /// The text without its secrets, every byte in its place.
    shown: String,
    source: Arc<NamedSource<String>>,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Reporter {
    /// For a text that is fit to be shown.
    pub(super) fn new(file: &str, shown: String) -> Self {
        let begins = shown.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(begins).collect();
        let source = Arc::new(NamedSource::new(file, shown.clone()).with_language("toml"));
        Self { file: file.to_owned(), shown, source, lines }
    }

    /// The report of these mistakes.
    pub(super) fn report(&self, mut mistakes: Vec<Mistake>) -> Report {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        Report { file: self.file.clone(), mistakes }
    }

    /// A mistake at a place in the text.
    pub(super) fn at(&self, span: Range<usize>, path: String, message: String, help: Option<String>) -> Mistake {
        let (line, column) = self.position(span.start);
        let label = Some(self.within_line(span));
        Mistake { line, column, path, message, help, label, source: self.source.clone() }
    }

    /// A mistake at the value of a path, or as near to it as there is one.
    pub(super) fn locate(&self, places: &Place, problem: Problem) -> Mistake {
        let span = span_of(places, &problem.path);
        self.at(span, display_path(&problem.path).to_string(), problem.message, problem.help)
    }

    /// A mistake at the key that a path ends with.
    pub(super) fn locate_key(&self, places: &Place, problem: Problem) -> Mistake {
        let place = problem.path.iter().try_fold(places, |place, step| place.get(step));
        match place.map(|place| place.key.clone()).filter(|key| !key.is_empty()) {
            Some(key) => self.at(key, display_path(&problem.path).to_string(), problem.message, problem.help),
            None => self.locate(places, problem),
        }
    }

    /// The line of a path's value.
    pub(super) fn line_of(&self, places: &Place, path: &[Step]) -> usize {
        self.position(span_of(places, path).start).0
    }

    fn position(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.shown.len());
        let line = self.lines.partition_point(|begin| *begin <= at);
        let begin = self.lines[line - 1];
        let column = self.shown.get(begin..at).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }

    /// What of a span is on its first line, so that a long value does not fill the screen.
    fn within_line(&self, span: Range<usize>) -> Range<usize> {
        let start = span.start.min(self.shown.len());
        let end = span.end.clamp(start, self.shown.len());
        let length = self.shown.get(start..end).map_or(0, |text| text.find(['\n', '\r']).unwrap_or(text.len()));
        start..start + length
    }
}

/// The value of a path; of what is not there, the nearest thing above it.
pub(super) fn span_of(places: &Place, path: &[Step]) -> Range<usize> {
    let mut nearest = &places.value;
    let mut place = places;
    for step in path {
        match place.get(step) {
            Some(below) => place = below,
            None => break,
        }
        if !place.value.is_empty() {
            nearest = &place.value;
        }
    }
    nearest.clone()
}

#[cfg(test)]
mod tests {
    use super::super::source::parse;
    use super::*;

    fn locate(text: &str, path: &[Step]) -> (usize, usize, String) {
        let reporter = Reporter::new("tripline.toml", text.to_owned());
        let problem = Problem { path: path.to_vec(), message: "no".to_owned(), help: None };
        let mistake = reporter.locate(&parse(text).places, problem);
        (mistake.line, mistake.column, text[mistake.label.unwrap()].to_owned())
    }

    #[test]
    fn a_mistake_is_at_its_value_or_as_near_as_can_be() {
        let text = "[engine]\n# äöü\nbüs = 1\n[[functions.a.triggers]]\npath = [\n  1\n]\n";
        let trigger: Vec<Step> = vec!["functions".into(), "a".into(), "triggers".into(), 0.into()];
        let with = |step: Step| trigger.iter().cloned().chain([step]).collect::<Vec<_>>();
        assert_eq!(locate(text, &["engine".into(), "büs".into()]), (3, 7, "1".to_owned()));
        assert_eq!(locate(text, &with("path".into())), (5, 8, "[".to_owned()));
        assert_eq!(locate(text, &with("type".into())), (4, 1, "[[functions.a.triggers]]".to_owned()));
        assert_eq!(locate(text, &["functions".into(), "a".into(), "module".into()]).0, 4);
        assert_eq!(locate(text, &["nowhere".into()]), (1, 1, String::new()));
        assert_eq!(locate("", &["nowhere".into()]), (1, 1, String::new()));
    }

    #[test]
    fn a_report_says_everything_in_one_text() {
        let reporter = Reporter::new("tripline.toml", "a = 1\nb = 2\n".to_owned());
        let mistakes = vec![
            reporter.at(10..11, "b".to_owned(), "second".to_owned(), Some("do this".to_owned())),
            reporter.at(4..5, String::new(), "first".to_owned(), None),
        ];
        let report = reporter.report(mistakes);
        assert_eq!(report.to_string(), "tripline.toml:1:5: first\ntripline.toml:2:5: b: second (do this)");
        let unreadable = Report::unreadable("x.toml", ("gone".to_owned(), "look".to_owned()));
        assert_eq!(unreadable.to_string(), "x.toml: gone (look)");
    }
}
