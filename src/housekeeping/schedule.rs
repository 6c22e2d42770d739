//! What may be written as a chore's schedule.

use tokio_cron_scheduler::Job;

/// What a schedule looks like.
const HELP: &str = "write second, minute, hour, day of the month, month and day of the week in UTC, like \
                    \"0 */5 * * * *\"";

/// What is wrong with a schedule, and what would be right.
///
/// The scheduler itself reads it, since what it means is what the scheduler makes of it. One thing it reads as nobody
/// else does: where both days are restricted it takes those that are both, and every other cron those that are either.
pub fn check(schedule: &str) -> Result<(), (String, String)> {
    let wrong = |message: &str| Err((format!("{schedule:?} {message}"), HELP.to_owned()));
    if schedule.len() > 200 {
        return Err((format!("the schedule has {} bytes, the limit is 200", schedule.len()), HELP.to_owned()));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 6 {
        let count = fields.len();
        return wrong(&format!(
            "has {count} {}, a chore's schedule has six",
            if count == 1 { "field" } else { "fields" }
        ));
    }
    let restricted = |field: &str| !matches!(field, "*" | "?");
    if restricted(fields[3]) && restricted(fields[5]) {
        return wrong("restricts the day of the month and the day of the week; choose one of them");
    }
    let Ok(mut job) = Job::new_async(schedule, |_, _| Box::pin(async {})) else {
        return wrong("is not a schedule");
    };
    match job.job_data() {
        Ok(data) if data.next_tick > 0 => Ok(()),
        Ok(_) => wrong("never comes"),
        Err(_) => wrong("is not a schedule"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chores_schedule_is_checked_at_the_door() {
        for sound in ["0 * * * * *", "* * * * * *", "0 23 4 * * *", "30 */5 * * * MON-FRI", "0 0 3 1 * ?"] {
            assert_eq!(check(sound), Ok(()), "{sound}");
        }
        for (bad, message) in [
            ("", "\"\" has 0 fields, a chore's schedule has six"),
            ("@daily", "\"@daily\" has 1 field, a chore's schedule has six"),
            ("* * * * *", "\"* * * * *\" has 5 fields, a chore's schedule has six"),
            ("0 0 0 1 * * 2020", "\"0 0 0 1 * * 2020\" has 7 fields, a chore's schedule has six"),
            ("60 * * * * *", "\"60 * * * * *\" is not a schedule"),
            ("0 0 0 30 2 *", "\"0 0 0 30 2 *\" never comes"),
            (
                "0 0 0 1 * MON",
                "\"0 0 0 1 * MON\" restricts the day of the month and the day of the week; choose one of them",
            ),
        ] {
            let (told, help) = check(bad).unwrap_err();
            assert_eq!(told, message);
            assert!(help.contains("in UTC"));
        }
        assert!(check(&"*".repeat(1000)).is_err());
    }
}
