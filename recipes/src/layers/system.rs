//! Step 2, the system dependencies: build tools, Python, an init process.

use assemble_layers::image::Layer;
use assemble_layers::{Graph, Lock, debian};

use super::base::Base;

/// The lock's name for these packages.
pub const SET: &str = "system";
pub const PACKAGES: [&str; 6] = ["build-essential", "curl", "git", "python3", "python3-dev", "tini"];

pub fn layer(graph: &mut Graph, lock: &Lock, base: &Base) -> Layer {
    let set = base.set(SET);
    let tree = debian::unpack_set(graph, &lock.debian, &set, "system dependencies", &base.root);
    Layer {
        tree,
        step: "system dependencies".to_owned(),
        created_by: format!("apt-get install --no-install-recommends {}", PACKAGES.join(" ")),
    }
}
