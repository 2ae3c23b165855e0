//! What to say of a remote that speaks an old version of Git's protocol: what that costs, and what to do about it.

use crate::model::OldProtocol;

/// What the administrator of the remote can do.
pub(super) const REMEDY: &str = "cheaper once its web server lets the header 'Git-Protocol' through, or its sshd has 'AcceptEnv GIT_PROTOCOL'";

/// Says what each poll costs.
pub(super) fn cost(old: OldProtocol) -> String {
    let refs = if old.refs == 1 { "its one ref".to_owned() } else { format!("all its {} refs", old.refs) };
    format!("speaks an old version of Git's protocol: each poll transfers {refs} ({})", size(old.bytes))
}

fn size(bytes: u64) -> String {
    const KILO: u64 = 1000;
    const MEGA: u64 = 1000 * KILO;
    match bytes {
        0..KILO => format!("{bytes} bytes"),
        KILO..MEGA => format!("{} kB", bytes / KILO),
        _ => format!("{}.{} MB", bytes / MEGA, bytes % MEGA / (MEGA / 10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_said_in_words() {
        let said = |refs, bytes| cost(OldProtocol { refs, bytes });
        assert!(said(1, 182).ends_with("transfers its one ref (182 bytes)"));
        assert!(said(10_000, 678_901).ends_with("transfers all its 10000 refs (678 kB)"));
        assert!(said(100_000, 6_780_000).ends_with("(6.7 MB)"));
    }
}
