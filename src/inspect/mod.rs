//! Questions about an image that exists or is to be.

mod why;

pub use why::{Why, why};
