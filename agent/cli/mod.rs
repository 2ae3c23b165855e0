//! (room under construction)

pub mod demo;
