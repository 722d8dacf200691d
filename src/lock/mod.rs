//! Resolving what recipes and manifests ask for, into `assemble.lock`.

pub mod debian;
