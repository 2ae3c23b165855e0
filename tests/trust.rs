//! Trust, held against real objects: commits made by `git commit -S` and `ssh-keygen`, and hostile ones built by
//! hand and stored by `git hash-object --literally`. Rows are named after the attack catalogue (`s…` signatures,
//! `o…` objects, `r…` ranges, `p…` policy, `t…` trees). Whatever is accepted here, `git verify-commit` with the
//! equivalent allowed-signers file must accept as well.
#![expect(clippy::disallowed_methods, reason = "tests spawn git and ssh-keygen themselves")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at what it did not expect")]

mod trust {
    mod bindings;
    mod catalogue;
    mod dice;
    mod forge;
    mod fsck;
    mod history;
    mod mutation;
    mod objects;
    mod oracle;
    mod policy;
    mod random;
    mod ranges;
    mod signatures;
    mod sshsig;
    mod stones;
    mod trees;
    mod verdicts;
    mod words;
}
