//! Questions about an image that exists or is to be.

pub mod gpu;
mod outside;
mod why;

pub use outside::Outside;
pub use why::{Why, why};
