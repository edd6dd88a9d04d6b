//! How long a request may wait for its turn, and how long it may take: the client's own words, within bounds.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::error::ApiError;

/// Milliseconds that the request may wait for a free sequence.
const MAX_WAIT: HeaderName = HeaderName::from_static("x-max-wait-ms");
/// Milliseconds that the whole answer may take.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// Seconds after which OpenAI's own clients give a request up; sent by them unasked.
const CLIENT_TIMEOUTS: [HeaderName; 2] = [
    HeaderName::from_static("x-stainless-read-timeout"),
    HeaderName::from_static("x-stainless-timeout"),
];

/// Wait of a request that names none: a person's patience, and a load balancer's.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// Longest wait that may be asked for: what the head allows.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A place must be found until then.
    pub wait_until: Instant,
    /// The answer must have ended by then.
    pub end_by: Instant,
}

impl Patience {
    /// Reads the headers of a request that came at `now`. No answer may take longer than `longest`.
    ///
    /// # Errors
    /// 400 when a header of ours is no number of milliseconds above 0.
    pub fn read(headers: &HeaderMap, longest: Duration, now: Instant) -> Result<Self, ApiError> {
        let whole = milliseconds(headers, &REQUEST_TIMEOUT)?.map_or(longest, |asked| asked.min(longest));
        // A client that gives up earlier is not waited for; one that would wait longer gets the default.
        let gives_up = CLIENT_TIMEOUTS.iter().find_map(|name| seconds(headers, name));
        let wait = match milliseconds(headers, &MAX_WAIT)? {
            Some(asked) => asked.min(LONGEST_WAIT),
            None => gives_up.map_or(DEFAULT_WAIT, |seconds| seconds.min(DEFAULT_WAIT)),
        };
        Ok(Self {
            wait_until: now + wait.min(whole),
            end_by: now + whole,
        })
    }
}

fn milliseconds(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    match number {
        Some(number) if number > 0 => Ok(Some(Duration::from_millis(number))),
        _ => Err(ApiError::invalid(
            name.as_str(),
            format!("the header {name} must be a number of milliseconds above 0"),
        )),
    }
}

/// What a client library sends by itself is no reason to refuse its request.
fn seconds(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let seconds: f64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|seconds| !seconds.is_zero())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue};
    use tokio::time::Instant;

    use super::Patience;

    const LONGEST: Duration = Duration::from_secs(1000);

    /// Seconds to wait, and seconds in all.
    fn read(headers: &[(&'static str, &'static str)]) -> Result<(f64, f64), String> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let now = Instant::now();
        let patience = Patience::read(&headers, LONGEST, now).map_err(|error| error.message)?;
        let seconds = |until: Instant| (until - now).as_secs_f64();
        Ok((seconds(patience.wait_until), seconds(patience.end_by)))
    }

    #[test]
    fn a_request_waits_as_long_as_its_client_does_within_bounds() {
        assert_eq!(read(&[]), Ok((30.0, 1000.0)));
        assert_eq!(read(&[("x-max-wait-ms", "1500")]), Ok((1.5, 1000.0)));
        assert_eq!(read(&[("x-max-wait-ms", "999999999")]), Ok((60.0, 1000.0)));
        assert_eq!(read(&[("x-request-timeout-ms", "2000")]), Ok((2.0, 2.0)));
        assert_eq!(read(&[("x-request-timeout-ms", "9000000")]), Ok((30.0, 1000.0)));
        assert_eq!(read(&[("x-stainless-read-timeout", "5.0")]), Ok((5.0, 1000.0)));
        assert_eq!(read(&[("x-stainless-timeout", "600")]), Ok((30.0, 1000.0)));
        assert_eq!(
            read(&[("x-stainless-timeout", "5"), ("x-max-wait-ms", "9000")]),
            Ok((9.0, 1000.0))
        );
    }

    #[test]
    fn a_wrong_header_of_ours_is_named_and_a_librarys_is_passed_over() {
        for wrong in ["0", "-1", "1.5", "soon", ""] {
            let message = read(&[("x-max-wait-ms", wrong)]).unwrap_err();
            assert!(message.contains("x-max-wait-ms"), "{message}");
        }
        for odd in ["NOT_GIVEN", "-1", "nan", "inf", "0"] {
            assert_eq!(read(&[("x-stainless-timeout", odd)]), Ok((30.0, 1000.0)), "{odd}");
        }
    }
}
