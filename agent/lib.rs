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
//! This page is the map. The rooms are listed in reading order; imports point from the bottom of
//! the list to its top, never back, and `tests/layering.rs` holds them to it.
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
//! | [`report`] | state as people and machines read it: `status.json`, status text, history |
//! | [`gateway`] | the process that talks to the network and decides nothing |
//! | [`control`] | the local socket: protocol, server, client |
//! | [`reconcile`] | the loop |
//! | [`steps`] | `perform()`: one arm per action |
//! | [`daemon`] | the composition root |
//! | [`cli`] | one file per verb |

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
