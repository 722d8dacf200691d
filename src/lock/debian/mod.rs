//! Placeholder until the branch `debian-lock` is merged.
use assemble_layers::lock::{Debian, DebianRequirements};
use crate::{Result, fetch::Fetcher};
pub struct Resolved { pub debian: Debian, pub warnings: Vec<String>, pub timestamp: u64 }
pub fn resolve(_: &DebianRequirements, _: &Fetcher, _: Option<&Debian>, _: &[String]) -> Result<Resolved> { unimplemented!() }
