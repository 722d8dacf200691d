//! `assemble cache`.

use std::path::PathBuf;

use crate::Result;
use crate::cache::SecretKey;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a key to sign a cache's records with: the secret one for `--cache-secret` goes to a new
    /// file, the public one for `--cache-key` to stdout.
    Keygen {
        #[arg(value_name = "FILE")]
        secret: PathBuf,
    },
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Verb::Keygen { secret } = &arguments.verb;
    let key = SecretKey::generate()?;
    key.write(secret)?;
    super::print(key.public())
}
