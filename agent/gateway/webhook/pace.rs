//! How often: a bucket that fills by itself and may be emptied at once, and one such bucket for each address that asks. It
//! is told the time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Requests that are answered in all: as many at once, and one more each time that the second value has passed.
const ALL: (u32, Duration) = (100, Duration::from_millis(100));
/// The same for one address (of IPv6: one network of 64 bits).
const ONE: (u32, Duration) = (30, Duration::from_secs(1));
/// How many addresses are told apart. Beyond that only the bound for all counts.
const ADDRESSES_MAX: usize = 1024;
/// What is left of an IPv6 address of which the owner may choose the rest.
const NETWORK: u128 = !0 << 64;

/// So many at once, and then one in each span of time.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    burst: u32,
    every: Duration,
    /// When as many as ever may come at once again.
    full_at: Option<Instant>,
}

impl Pace {
    pub(super) fn new((burst, every): (u32, Duration)) -> Pace {
        Pace { burst, every, full_at: None }
    }

    /// Returns when the next may come, which is `now` at the earliest.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let room = self.every * self.burst.saturating_sub(1);
        self.full_at.and_then(|full| full.checked_sub(room)).map_or(now, |next| next.max(now))
    }

    /// Takes note of one that came.
    pub(super) fn spend(&mut self, now: Instant) {
        self.full_at = Some(self.full_at.map_or(now, |full| full.max(now)) + self.every);
    }

    /// Takes note of one if it may come. Returns whether it may.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let may = self.next(now) <= now;
        if may {
            self.spend(now);
        }
        may
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full| full <= now)
    }
}

/// Bounds how many requests are answered.
#[derive(Debug)]
pub(super) struct Limits {
    all: Pace,
    each: BTreeMap<IpAddr, Pace>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { all: Pace::new(ALL), each: BTreeMap::new() }
    }
}

impl Limits {
    /// Returns whether a request from `address` is answered. Behind an address of this host there is a reverse proxy, which
    /// speaks for many.
    pub(super) fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = network(address);
        if address.is_loopback() {
            return self.all.take(now);
        }
        if self.each.len() >= ADDRESSES_MAX {
            self.each.retain(|_, pace| !pace.is_full(now));
        }
        if !self.each.contains_key(&address) && self.each.len() >= ADDRESSES_MAX {
            return self.all.take(now);
        }
        self.each.entry(address).or_insert_with(|| Pace::new(ONE)).take(now) && self.all.take(now)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) if !six.is_loopback() => Ipv6Addr::from(u128::from(six) & NETWORK).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn so_many_at_once_and_then_one_at_a_time() {
        let began = Instant::now();
        let mut pace = Pace::new((3, 10 * SECOND));
        let taken: Vec<u32> = (0..60).filter(|second| pace.take(began + *second * SECOND)).collect();
        assert_eq!(taken, [0, 1, 2, 10, 20, 30, 40, 50]);
        assert_eq!(pace.next(began + 55 * SECOND), began + 60 * SECOND);
        assert!(pace.is_full(began + 100 * SECOND) && !pace.is_full(began + 60 * SECOND));
    }

    #[test]
    fn one_address_can_t_use_up_what_is_for_all() {
        let (now, mut limits) = (Instant::now(), Limits::default());
        let mut answered =
            |address: &str| (0..1000).filter(|_| limits.admit(address.parse().unwrap(), now)).count();
        assert_eq!(answered("203.0.113.7"), 30);
        assert_eq!(answered("::ffff:203.0.113.7"), 0, "the same");
        assert_eq!(answered("2001:db8::1"), 30);
        assert_eq!(answered("2001:db8::2"), 0, "whoever has one has all of the network");
        assert_eq!(answered("127.0.0.1"), 40, "a proxy is bounded by what is left");
        assert_eq!(answered("198.51.100.1"), 0, "nothing is");
    }

    #[test]
    fn addresses_without_number_take_no_memory_without_bound() {
        let (began, mut limits) = (Instant::now(), Limits::default());
        for n in 0..100_000u32 {
            limits.admit(IpAddr::from(n.to_be_bytes()), began + n * SECOND / 1000);
        }
        assert!(limits.each.len() <= ADDRESSES_MAX);
        let later = began + 1000 * SECOND;
        assert!(limits.admit("198.51.100.1".parse().unwrap(), later));
    }

    proptest! {
        #[test]
        fn no_span_of_time_has_more_than_its_share(gaps in prop::collection::vec(0u64..3000, 1..200)) {
            let (mut now, mut pace, mut taken) = (Instant::now(), Pace::new((5, SECOND)), Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                if pace.take(now) {
                    taken.push(now);
                }
            }
            for (n, first) in taken.iter().enumerate() {
                for (m, last) in taken.iter().enumerate().skip(n) {
                    prop_assert!((m - n) as f64 <= 5.0 + (*last - *first).as_secs_f64());
                }
            }
        }
    }
}
