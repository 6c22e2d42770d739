//! x
pub mod retry;
pub mod slots;
