//! All that names gitoxide: remotes, packs, quarantine, trusted store, export. It decides nothing about trust.

pub mod net;

pub mod pipe;

pub mod http;

pub mod remote;
