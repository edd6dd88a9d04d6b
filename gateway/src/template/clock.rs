//! `strftime` for templates that write the date: the proleptic Gregorian calendar in UTC.

const SECONDS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// Days from the year 0000-03-01, where 400-year cycles begin, to 1970-01-01.
const DAYS_TO_UNIX_EPOCH: i64 = 719_468;
const DAYS_PER_CYCLE: i64 = 146_097;

/// Year, month 1-12, day 1-31 of a day counted from 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + DAYS_TO_UNIX_EPOCH;
    let cycle = shifted.div_euclid(DAYS_PER_CYCLE);
    let day_of_cycle = shifted.rem_euclid(DAYS_PER_CYCLE);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    // Years begin in March here, so that the leap day is the last one.
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (cycle * 400 + year_of_cycle + i64::from(month <= 2), month, day)
}

/// `format` with the codes that chat templates use, at `now_unix_s`.
///
/// # Errors
/// Names a code that is not one of them.
pub fn format(format: &str, now_unix_s: i64) -> Result<String, String> {
    let days = now_unix_s.div_euclid(SECONDS_PER_DAY);
    let second = now_unix_s.rem_euclid(SECONDS_PER_DAY);
    let (year, month, day) = date(days);
    let name = |names: &[&str], index: i64| {
        usize::try_from(index)
            .ok()
            .and_then(|index| names.get(index).map(|name| (*name).to_owned()))
    };
    let month_name = name(&MONTHS, month - 1).unwrap_or_default();
    // 1970-01-01 was a Thursday.
    let weekday = name(&WEEKDAYS, (days + 3).rem_euclid(7)).unwrap_or_default();
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let code = characters.next();
        let unpadded = code == Some('-');
        let code = if unpadded { characters.next() } else { code };
        let number = |value: i64| {
            if unpadded {
                value.to_string()
            } else {
                format!("{value:02}")
            }
        };
        text.push_str(&match code {
            Some('Y') => year.to_string(),
            Some('y') => number(year.rem_euclid(100)),
            Some('m') => number(month),
            Some('d') => number(day),
            Some('e') => format!("{day:2}"),
            Some('H') => number(second / 3_600),
            Some('I') => number((second / 3_600 + 11) % 12 + 1),
            Some('M') => number(second / 60 % 60),
            Some('S') => number(second % 60),
            Some('p') => if second < SECONDS_PER_DAY / 2 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month_name.clone(),
            Some('b') => month_name.chars().take(3).collect(),
            Some('A') => weekday.clone(),
            Some('a') => weekday.chars().take(3).collect(),
            Some('%') => "%".to_owned(),
            Some(other) => return Err(format!("strftime_now does not know %{other}")),
            None => return Err("strftime_now: the format ends in %".to_owned()),
        });
    }
    Ok(text)
}
