//! `pullagent` keeps one NixOS host equal to what a Git repository says it should be.
//!
//! It trusts keys, never the network: not the Git server, not the CI, not whoever sends a hint that
//! something was pushed. One value travels along one straight line, and each arrow is one function:
//!
//! ```text
//! fetch ─▶ select ─▶ verify ─▶ build ─▶ activate ─▶ health ─▶ settle ─▶ report
//! Candidates Target  Verified   Built   Activated   Verdict   Outcome   status · metrics
//! ```
//!
//! This page is the map. The rooms are listed in reading order; a room names only rooms above it, never one
//! below, and `tests/layering.rs` holds them to that.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`model`] | the nouns: ids, targets, [`model::Action`], [`model::Event`], and [`model::State`] with its one transition table. Pure. |
//! | [`plan`] | what to do next: [`plan::next`] turns state and facts into one action. Pure. |
//! | [`trust`] | bytes in, verdict out: commit split, SSH signatures, the range fold, tree rules. Pure. |
//! | [`config`] | the configuration file: raw JSON to [`config::Settings`] |
//! | [`journal`] | the only persistent state: lock, append, replay, compaction |
//! | [`host`] | the machine outside, one file per program, without policy |
//! | [`guard`] | the dead man's switch: plan, decision, fire, roll back |
//! | [`repo`] | all that names gitoxide: remotes, packs, quarantine, trusted store, export |
//! | [`wire`] | the messages between reconciler and gateway |
//! | [`report`] | state as people and machines read it: `status.json`, status text, history, log |
//! | [`gateway`] | the part that talks to the network and decides nothing |
//! | [`control`] | the local socket: protocol, server, client |
//! | [`reconcile`] | the loop |
//! | [`steps`] | `perform()`: one arm per action |
//! | [`daemon`] | the composition root |
//! | [`cli`] | one file per verb |
//!
//! Where to begin: [`reconcile`] fits on a screen and shows how everything meets. To learn why a commit is refused, go to
//! [`trust`]; why a host does what it does, to [`plan`]; what a step does to the host, to [`steps`].
//!
//! Some rooms may name less than what is above them: [`wire`] only `model`; [`guard`] only `host` and `model`, for it must
//! work where all else is broken; [`steps`] and [`reconcile`] never name each other.
//!
//! # Where this house differs from its plan
//!
//! - [`config`] is no leaf: it names [`trust`], so that keys that can't be used are refused where they are read, at the
//!   build of the system, and not on the host.
//! - [`gateway`] is a process of its own where systemd passes the agent a socket for it, and a task in the agent's process
//!   elsewhere (demo, quick tests); both speak the same [`wire`].
//! - How often a target was rolled back for a reason that may pass is counted in [`model::State`] like its resets, not read
//!   off the history, so that an operator's `retry` can forget it; so are the rollbacks that suspend a host.
//! - Where systemd does not run the host (demo, quick tests), [`guard`] and the switch are plain detached processes instead
//!   of timers and units.

pub mod model;

pub mod plan;

pub mod trust;

pub mod config;

pub mod journal;

pub mod host;

pub mod guard;

pub mod repo;

pub mod wire;

pub mod report;

pub mod gateway;

pub mod control;

pub mod reconcile;

pub mod steps;

pub mod daemon;

pub mod cli;
