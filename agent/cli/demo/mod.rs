//! `pullagent demo`: the whole product in a throw-away directory, for real.

pub mod agent;
pub mod flake;
pub mod host;
pub mod leftovers;
pub mod people;
pub mod remote;
pub mod store;
pub mod tools;
pub mod world;

pub use world::{Setup, World};
