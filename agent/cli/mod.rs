//! (room under construction)

pub mod hidden;
