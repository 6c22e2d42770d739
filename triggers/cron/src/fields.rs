//! The grammar of an expression's fields, for the sake of its messages.
//!
//! croner parses expressions, but its errors name neither the field nor what would be right, and it lets through what
//! nobody means: a weekday's name in the minutes, `1JAN` as November, an `L` that matches no day. So each field is
//! checked here first. Which instants the fields stand for is croner's business alone.

use crate::Error;

/// One field: what it is called and what it holds.
struct Field {
    name: &'static str,
    low: u16,
    high: u16,
    /// Names of the values, from `first_name` on.
    names: &'static [&'static str],
    first_name: u16,
    day: Option<Day>,
}

/// The two fields that choose days have words of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Day {
    OfMonth,
    OfWeek,
}

const fn number(name: &'static str, low: u16, high: u16) -> Field {
    Field { name, low, high, names: &[], first_name: 0, day: None }
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const FIELDS: [Field; 7] = [
    number("second", 0, 59),
    number("minute", 0, 59),
    number("hour", 0, 23),
    Field { day: Some(Day::OfMonth), ..number("day of month", 1, 31) },
    Field { names: &MONTHS, first_name: 1, ..number("month", 1, 12) },
    Field { names: &WEEKDAYS, day: Some(Day::OfWeek), ..number("day of week", 0, 7) },
    number("year", 1970, 2099),
];

/// The fields of an expression that says nothing impossible in any of them.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    second: &'a str,
    minute: &'a str,
    hour: &'a str,
    day_of_month: &'a str,
    day_of_week: &'a str,
}

impl<'a> Fields<'a> {
    /// Splits and checks an expression of 5 to 7 fields.
    pub(crate) fn parse(expression: &'a str) -> Result<Self, Error> {
        let mut texts: Vec<&str> = expression.split_whitespace().collect();
        match texts.len() {
            5 => {
                texts.insert(0, "0");
                texts.push("*");
            }
            6 => texts.push("*"),
            7 => {}
            count => {
                return Err(Error::schedule(
                    format!("{expression:?} has {count} fields"),
                    "write 5 fields (minute, hour, day of month, month, day of week), 6 with leading seconds, \
                     or 7 with leading seconds and a final year",
                ));
            }
        }
        for (field, text) in FIELDS.iter().zip(&texts) {
            field.check(text)?;
        }
        Ok(Self { second: texts[0], minute: texts[1], hour: texts[2], day_of_month: texts[3], day_of_week: texts[5] })
    }

    /// Whether the time of day is named (`30 2,14`) and not stepped through (`*/5`): daylight saving time treats the
    /// two differently.
    pub(crate) fn is_fixed_time(&self) -> bool {
        [self.second, self.minute, self.hour].iter().all(|text| !text.contains(['*', '/']))
    }

    /// Whether a day must match both day fields: so says crontab(5) unless both are restricted, and a field that
    /// begins with `*` is not, `*/2` included.
    pub(crate) fn needs_both_days(&self) -> bool {
        [self.day_of_month, self.day_of_week].iter().any(|text| text.starts_with(['*', '?']))
    }
}

impl Field {
    fn check(&self, text: &str) -> Result<(), Error> {
        let items = match self.day {
            Some(_) if text == "?" => return Ok(()),
            // `+` asks for both day fields to match.
            Some(Day::OfWeek) => text.strip_prefix('+').unwrap_or(text),
            _ => text,
        };
        if items == "*" {
            return Ok(());
        }
        items.split(',').try_for_each(|item| self.check_item(item))
    }

    fn check_item(&self, item: &str) -> Result<(), Error> {
        match item {
            "" => return Err(self.error("has an empty item", "remove the comma that nothing follows or precedes")),
            "*" => return Err(self.error("has \"*\" in a list", "write \"*\" alone, or only the values")),
            _ => {}
        }
        match self.day {
            Some(Day::OfMonth) if is(item, "L") || is(item, "LW") => return Ok(()),
            Some(Day::OfMonth) => {
                if let Some(day) = item.strip_suffix(['W', 'w']) {
                    return self.value(day).map(drop);
                }
            }
            Some(Day::OfWeek) if is(item, "L") => {
                return Err(self.error("has \"L\" without a day", "write \"SUN#L\" for the month's last Sunday"));
            }
            Some(Day::OfWeek) => {
                if let Some((days, which)) = item.split_once('#') {
                    if !matches!(which, "1" | "2" | "3" | "4" | "5" | "L" | "l") {
                        return Err(self.error(
                            &format!("has \"#{which}\""),
                            "write \"#1\" to \"#5\" for the month's first to fifth such day, \"#L\" for its last",
                        ));
                    }
                    return self.value_or_range(days);
                }
                if let Some(day) = item.strip_suffix(['L', 'l']) {
                    return self.value(day).map(drop);
                }
            }
            None => {}
        }
        match item.split_once('/') {
            Some((base, step)) => self.stepped(item, base, step),
            None => self.value_or_range(item),
        }
    }

    fn stepped(&self, item: &str, base: &str, step: &str) -> Result<(), Error> {
        let largest = self.high - self.low;
        match step.parse::<u16>() {
            Ok(count) if (1..=largest).contains(&count) && is_digits(step) => {}
            _ => {
                return Err(self.error(
                    &format!("has the step {step:?} in {item:?}"),
                    &format!("steps of this field run from 1 to {largest}"),
                ));
            }
        }
        if base == "*" {
            return Ok(());
        }
        if !base.contains('-') {
            return Err(self.error(
                &format!("has a step without a range in {item:?}"),
                &format!("write \"*/{step}\", or a range: \"{}-{}/{step}\"", self.low, self.high),
            ));
        }
        self.value_or_range(base)
    }

    fn value_or_range(&self, text: &str) -> Result<(), Error> {
        let Some((first, last)) = text.split_once('-') else { return self.value(text).map(drop) };
        let (from, mut to) = (self.value(first)?, self.value(last)?);
        // A week that ends on Sunday ends on day 7.
        if self.day == Some(Day::OfWeek) && is(last, "SUN") {
            to = 7;
        }
        if from > to {
            return Err(self.error(
                &format!("has a range that runs backwards, {text:?}"),
                &format!("write it as two: \"{first}-{},{}-{last}\"", self.high, self.low),
            ));
        }
        Ok(())
    }

    fn value(&self, text: &str) -> Result<u16, Error> {
        if let Some(position) = self.names.iter().position(|name| is(text, name)) {
            // There are twelve months.
            return Ok(self.first_name + position as u16);
        }
        if !is_digits(text) {
            return Err(self.error(&format!("has {text:?}"), &self.values()));
        }
        match text.parse() {
            Ok(value) if (self.low..=self.high).contains(&value) => Ok(value),
            _ => Err(self.error(&format!("has {text:?}, which is out of range"), &self.values())),
        }
    }

    fn values(&self) -> String {
        let names = match self.names {
            [first, .., last] => format!(" or {first} to {last}"),
            _ => String::new(),
        };
        format!("values of this field run from {} to {}{names}", self.low, self.high)
    }

    fn error(&self, what: &str, help: &str) -> Error {
        Error::schedule(format!("the {} field {what}", self.name), help)
    }
}

/// Words are read without regard to case.
fn is(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

/// `u16::from_str` would let a sign through.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(expression: &str) -> (String, String) {
        let Error { key, message, help, .. } = Fields::parse(expression).expect_err(expression);
        assert_eq!(key, "schedule");
        (message, help)
    }

    #[test]
    fn good_fields_pass() {
        for expression in [
            "* * * * *",
            "*/15 9-17 * * MON-FRI",
            "0 0 1,15 jan,Jul ?",
            "0 0 L * *",
            "0 0 lw * *",
            "0 0 15W * *",
            "0 0 * * 5l",
            "0 0 5w * tue#l",
            "0 0 * * FRI#2,mon-wed#1,SUN#L",
            "0 0 1 * +MON",
            "0 0 * * SAT-SUN",
            "0 0 * * 5-7",
            "*/10 * * * * *",
            "0 0 12 24 12 * 2030-2040/2",
            "0-59/7,3 * * * *",
        ] {
            Fields::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        }
    }

    #[test]
    fn a_mistake_names_its_field_its_value_and_the_way_out() {
        let range = |low: u16, high: u16| format!("values of this field run from {low} to {high}");
        for (expression, message, help) in [
            ("60 * * * *", "the minute field has \"60\", which is out of range", range(0, 59)),
            ("-1 * * * *", "the minute field has \"\"", range(0, 59)),
            ("+1 * * * *", "the minute field has \"+1\"", range(0, 59)),
            ("0 24 * * *", "the hour field has \"24\", which is out of range", range(0, 23)),
            ("0 9-99999 * * *", "the hour field has \"99999\", which is out of range", range(0, 23)),
            ("0 0 0 * *", "the day of month field has \"0\", which is out of range", range(1, 31)),
            ("0 0 32W * *", "the day of month field has \"32\", which is out of range", range(1, 31)),
            ("60 0 0 * * *", "the second field has \"60\", which is out of range", range(0, 59)),
            ("0 0 0 1 1 * 3000", "the year field has \"3000\", which is out of range", range(1970, 2099)),
            ("0 0 * 13 *", "the month field has \"13\", which is out of range", range(1, 12) + " or JAN to DEC"),
            ("0 0 * 1JAN *", "the month field has \"1JAN\"", range(1, 12) + " or JAN to DEC"),
            ("0 0 * * 8", "the day of week field has \"8\", which is out of range", range(0, 7) + " or SUN to SAT"),
            ("0 0 * * MONDAY", "the day of week field has \"MONDAY\"", range(0, 7) + " or SUN to SAT"),
            ("MON 0 * * *", "the minute field has \"MON\"", range(0, 59)),
            ("é 0 * * *", "the minute field has \"é\"", range(0, 59)),
        ] {
            assert_eq!(refusal(expression), (message.to_owned(), help), "{expression}");
        }
    }

    #[test]
    fn shapes_that_nobody_means_are_refused() {
        for (expression, message) in [
            ("", "\"\" has 0 fields"),
            ("* * * *", "\"* * * *\" has 4 fields"),
            ("* * * * * * * *", "\"* * * * * * * *\" has 8 fields"),
            ("1,,2 * * * *", "the minute field has an empty item"),
            ("1, * * * *", "the minute field has an empty item"),
            ("*,5 * * * *", "the minute field has \"*\" in a list"),
            ("? * * * *", "the minute field has \"?\""),
            ("0/10 * * * *", "the minute field has a step without a range in \"0/10\""),
            ("/10 * * * *", "the minute field has a step without a range in \"/10\""),
            ("*/0 * * * *", "the minute field has the step \"0\" in \"*/0\""),
            ("*/60 * * * *", "the minute field has the step \"60\" in \"*/60\""),
            ("*/x * * * *", "the minute field has the step \"x\" in \"*/x\""),
            ("*/+5 * * * *", "the minute field has the step \"+5\" in \"*/+5\""),
            ("0 17-9 * * *", "the hour field has a range that runs backwards, \"17-9\""),
            ("0 0 * * FRI-MON", "the day of week field has a range that runs backwards, \"FRI-MON\""),
            ("0 1-2-3 * * *", "the hour field has \"2-3\""),
            ("0 0 * * L", "the day of week field has \"L\" without a day"),
            ("0 0 * * FRI#6", "the day of week field has \"#6\""),
            ("0 L * * *", "the hour field has \"L\""),
            ("0 0 W * *", "the day of month field has \"\""),
        ] {
            assert_eq!(refusal(expression).0, message, "{expression}");
        }
        let (_, help) = refusal("0 17-9 * * *");
        assert_eq!(help, "write it as two: \"17-23,0-9\"");
        let (_, help) = refusal("0/10 * * * *");
        assert_eq!(help, "write \"*/10\", or a range: \"0-59/10\"");
    }

    #[test]
    fn fixed_times_are_told_from_intervals() {
        for fixed in ["30 2 * * *", "0,30 2,14 * * *", "0 9-17 * * *", "5 0 0 1 1 *"] {
            assert!(Fields::parse(fixed).unwrap().is_fixed_time(), "{fixed}");
        }
        for interval in ["* 2 * * *", "*/5 2 * * *", "0 * * * *", "0-30/5 2 * * *", "* 0 2 * * *"] {
            assert!(!Fields::parse(interval).unwrap().is_fixed_time(), "{interval}");
        }
    }
}
