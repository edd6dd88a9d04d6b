//! PURE: moments as annotations have them, RFC 3339.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;

/// A moment in text, to the second. One that no calendar has is the beginning of 1970.
#[must_use]
pub fn written(time: SystemTime) -> String {
    let exact = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    Timestamp::from_second(exact.as_second()).unwrap_or(exact).to_string()
}

/// The moment that a text names, if it names one.
#[must_use]
pub fn read(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_read_as_it_was_written_to_the_second() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_999);
        assert_eq!(written(moment), "2027-01-15T08:00:00Z");
        assert_eq!(read(&written(moment)), Some(moment - Duration::from_millis(999)));
        assert_eq!(read("2027-01-15T09:00:00+01:00"), read("2027-01-15T08:00:00Z"));
    }

    #[test]
    fn what_names_no_moment_is_none() {
        for text in ["", "now", "2027-01-15", "1800000000"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
