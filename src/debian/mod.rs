//! What Debian Policy says of packages: the order of versions, and relations between packages. Both
//! who picks packages ([`crate::lock::debian`]) and who unpacks them (`sandbox::debs`) ask here.

pub mod relation;
mod version;

pub use version::Version;
