//! PURE: who may enrol now. Each address has a rate of its own, so that one that floods locks nobody else out; a rate over all
//! bounds what the API server is asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// Enrolments that may come at once, over all addresses: a thousand nodes are through within half a minute.
const BURST: f64 = 64.0;
/// Enrolments a second over all, in the long run: a tenth of what an API server does with ease.
const PER_SECOND: f64 = 40.0;
/// Enrolments that may come at once from one address: all pods of a node may share one.
const ADDRESS_BURST: f64 = 16.0;
/// Enrolments a second from one address: a process needs one a day, and one at each start.
const ADDRESS_PER_SECOND: f64 = 4.0;
/// Enrolments under way from one address, of those that all may have.
const ADDRESS_CONCURRENT_MAX: u32 = 4;
/// Addresses that are remembered: more than the nodes of any cluster. The one that was silent longest is forgotten first.
const ADDRESSES_MAX: usize = 8192;

/// A store of permissions that fills with time.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(burst: f64, now: Instant) -> Self {
        Self {
            tokens: burst,
            filled: now,
        }
    }

    fn fill(&mut self, per_second: f64, burst: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * per_second).min(burst);
        self.filled = now;
    }

    fn take(&mut self) -> bool {
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[derive(Debug)]
struct Address {
    bucket: Bucket,
    under_way: u32,
}

/// What was asked lately.
#[derive(Debug)]
pub struct Rates {
    all: Bucket,
    addresses: BTreeMap<IpAddr, Address>,
}

impl Rates {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            all: Bucket::full(BURST, now),
            addresses: BTreeMap::new(),
        }
    }

    /// Whether an enrolment from this address may go on; one that may must be followed by [`Rates::ended`].
    pub fn begin(&mut self, from: IpAddr, now: Instant) -> bool {
        let from = network(from);
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&from) {
            self.forget_one();
        }
        let address = self.addresses.entry(from).or_insert_with(|| Address {
            bucket: Bucket::full(ADDRESS_BURST, now),
            under_way: 0,
        });
        address.bucket.fill(ADDRESS_PER_SECOND, ADDRESS_BURST, now);
        self.all.fill(PER_SECOND, BURST, now);
        // In this order: whoever is over its own rate takes nothing from the others'.
        let allowed = address.under_way < ADDRESS_CONCURRENT_MAX && address.bucket.take() && self.all.take();
        if allowed {
            address.under_way += 1;
        }
        allowed
    }

    /// An enrolment from this address is over.
    pub fn ended(&mut self, from: IpAddr) {
        if let Some(address) = self.addresses.get_mut(&network(from)) {
            address.under_way = address.under_way.saturating_sub(1);
        }
    }

    fn forget_one(&mut self) {
        let idle = self.addresses.iter().filter(|(_, address)| address.under_way == 0);
        let oldest = idle
            .min_by_key(|(_, address)| address.bucket.filled)
            .map(|(from, _)| *from);
        if let Some(oldest) = oldest {
            self.addresses.remove(&oldest);
        }
    }
}

/// An address of the older protocol as it is; of the newer its first half, as one host has all of the second.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        older => older,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// One enrolment, begun and ended.
    fn enrol(rates: &mut Rates, from: IpAddr, now: Instant) -> bool {
        let allowed = rates.begin(from, now);
        if allowed {
            rates.ended(from);
        }
        allowed
    }

    #[test]
    fn one_address_that_floods_locks_no_other_out() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        let allowed = (0..1000).filter(|_| enrol(&mut rates, address(1), start)).count();
        assert_eq!(allowed, ADDRESS_BURST as usize);
        assert!((2..40).all(|last| enrol(&mut rates, address(last), start)));
        let later = start + Duration::from_secs(1);
        let allowed = (0..1000).filter(|_| enrol(&mut rates, address(1), later)).count();
        assert_eq!(allowed, ADDRESS_PER_SECOND as usize);
    }

    #[test]
    fn all_together_have_a_rate_too() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        let allowed = (0..=255)
            .filter(|last| enrol(&mut rates, address(*last), start))
            .count();
        assert_eq!(allowed, BURST as usize);
    }

    #[test]
    fn one_address_has_few_under_way() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        let begun = (0..10).filter(|_| rates.begin(address(1), start)).count();
        assert_eq!(begun, ADDRESS_CONCURRENT_MAX as usize);
        rates.ended(address(1));
        assert!(rates.begin(address(1), start));
    }

    #[test]
    fn the_addresses_of_one_host_count_as_one_and_their_number_is_bounded() {
        let start = Instant::now();
        let mut rates = Rates::new(start);
        for host in 0..100_u16 {
            rates.begin(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, host).into(), start);
        }
        assert_eq!(rates.addresses.len(), 1);
        for number in 0..(ADDRESSES_MAX as u32 + 100) {
            rates.begin(IpAddr::from(number.to_be_bytes()), start);
        }
        assert!(rates.addresses.len() <= ADDRESSES_MAX);
    }
}
