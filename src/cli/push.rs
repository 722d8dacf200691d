//! `assemble push`, and the options of every verb that pushes.

use std::path::PathBuf;

use serde_json::json;

use super::options::{Registries, store_folder};
use super::report::{self, Reporter};
use crate::Result;
use crate::deliver::{Amount, Condition, Destination, Layout, Push, Pushed};
use crate::net::http::Patience;
use crate::store::Store;

#[derive(clap::Args)]
#[group(id = "pushing")]
pub struct Options {
    /// Push only to tags that are not there yet, or have this very image.
    #[arg(long)]
    if_absent: bool,
}

impl Options {
    /// The destinations under the options' condition; one of their own comes first.
    pub fn destinations(&self, asked: &[Destination]) -> Vec<Destination> {
        let mut destinations = asked.to_vec();
        for destination in &mut destinations {
            if self.if_absent && destination.condition == Condition::Always {
                destination.condition = Condition::Absent;
            }
        }
        destinations
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// An archive or a folder that is an OCI layout, as `assemble image --output` writes it.
    #[arg(value_name = "FILE|DIR")]
    image: PathBuf,
    /// Where it goes; with a digest, only if the tag still points to it.
    #[arg(required = true, value_name = "NAME:TAG[@DIGEST]")]
    destinations: Vec<Destination>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    registries: Registries,
    /// Where it is remembered which repositories hold what [default: $XDG_CACHE_HOME/assemble].
    #[arg(long, value_name = "DIR", env = "ASSEMBLE_STORE")]
    store: Option<PathBuf>,
    /// Print one JSON object instead of the digest.
    #[arg(long)]
    json: bool,
    /// Say only what went wrong.
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let layout = Layout::open(&arguments.image)?;
    let parts = layout.parts()?;
    // Where there is no store nothing is remembered, and none is made.
    let memory = store_folder(arguments.store.as_deref()).and_then(Store::open_cache).ok();
    let reporter = Reporter::start(arguments.quiet, false);
    let push = Push {
        client: &arguments.registries.client(Patience::default()),
        source: &layout,
        parts: &parts,
        memory: memory.as_ref(),
        events: reporter.events(),
    };
    let pushed = push.run(&arguments.options.destinations(&arguments.destinations))?;
    reporter.finish();
    if !arguments.quiet {
        pushed.iter().for_each(|pushed| super::say(report::push_summary(pushed)));
    }
    if arguments.json {
        let pushed: Vec<_> = pushed.iter().map(as_json).collect();
        return super::print_json(&json!({ "digest": parts.manifest.digest, "pushed": pushed }));
    }
    super::print(parts.manifest.digest)
}

/// Of one destination; the manifest is not counted.
pub fn as_json(pushed: &Pushed) -> serde_json::Value {
    let amount = |amount: &Amount| json!({ "blobs": amount.blobs, "bytes": amount.bytes });
    json!({
        "reference": pushed.reference.to_string(),
        "sent": amount(&pushed.sent),
        "mounted": amount(&pushed.mounted),
        "present": amount(&pushed.present),
    })
}
