//! (room under construction)

pub mod hidden;

pub mod demo;
