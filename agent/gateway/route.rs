//! Which ways lead out of this host, by its routing table: how a poller that can't reach its remote learns that the network
//! has come up. Nothing is sent for it, and it takes no right that the gateway lacks. It knows no remote but by address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::Url;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// How often the ways are looked at, while there is reason to.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Stand for everywhere else: the default route leads there, and nobody lives there (RFC 5737, RFC 3849).
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// No packet is sent to it; the kernel wants one to find a route.
const DISCARD_PORT: u16 = 9;

/// The ways towards one remote, as they were when they were looked at last.
#[derive(Debug)]
pub(super) struct Ways {
    to: Vec<IpAddr>,
    /// With which address of its own the host would go there, where it has a way.
    from: Vec<Option<IpAddr>>,
}

impl Ways {
    /// Looks at the ways to the remote at `url`. Where only its name is known, the way to everywhere stands for it.
    pub(super) fn towards(url: &str) -> Ways {
        let literal = Url::parse(url).ok().and_then(|url| {
            let host = url.host_str()?.trim_matches(['[', ']']);
            host.parse().ok()
        });
        let to = literal.map_or_else(|| ELSEWHERE.to_vec(), |address| vec![address]);
        let from = to.iter().copied().map(way).collect();
        Ways { to, from }
    }

    /// Waits until there is another way than there was. Safe to cancel.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.look() {
                return;
            }
        }
    }

    /// Returns whether there is a way that was not there before.
    fn look(&mut self) -> bool {
        let from: Vec<Option<IpAddr>> = self.to.iter().copied().map(way).collect();
        let before = std::mem::replace(&mut self.from, from);
        self.from.iter().zip(before).any(|(now, before)| now.is_some() && *now != before)
    }
}

/// Returns the address with which this host would go to `to`. Connecting a datagram socket only looks the route up; binding
/// one, as the standard library does, is what the gateway's unit forbids.
fn way(to: IpAddr) -> Option<IpAddr> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    rustix::net::connect(&socket, &SocketAddr::new(to, DISCARD_PORT)).ok()?;
    let own = rustix::net::getsockname(&socket).ok()?;
    SocketAddr::try_from(own).ok().map(|own| own.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_gone_to_and_a_name_stands_for_everywhere() {
        let ways = Ways::towards("https://127.0.0.1:8443/infra.git");
        assert_eq!(ways.from, [Some(IpAddr::V4(Ipv4Addr::LOCALHOST))]);
        assert_eq!(Ways::towards("https://[::1]/infra.git").to, [IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        for named in ["https://git.example.org/infra.git", "git@git.example.org:infra.git", "/srv/infra.git"]
        {
            assert_eq!(Ways::towards(named).to, ELSEWHERE, "{named}");
        }
    }

    #[test]
    fn only_a_new_way_is_news() {
        let local = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut ways = Ways::towards("https://127.0.0.1/infra.git");
        assert!(!ways.look());
        for before in [None, Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))] {
            ways.from = vec![before];
            assert!(ways.look(), "{before:?}");
            assert_eq!(ways.from, [local]);
        }
        // No way leads to an address that stands for none.
        ways.to = vec![IpAddr::V4(Ipv4Addr::BROADCAST)];
        assert!(!ways.look());
        assert_eq!(ways.from, [None]);
    }
}
