//! The layers, in the order of the original's steps.

pub mod application;
pub mod base;
pub mod cuda;
pub mod manifest;
pub mod poetry_install;
pub mod python;
pub mod system;
pub mod tools;
