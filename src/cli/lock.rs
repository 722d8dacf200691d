//! `assemble lock`.

use assemble_layers::Recipes;

use super::options::Options;
use super::report::Reporter;
use super::session::Session;
use crate::lock::{self, Update};
use crate::{Error, Kind, Result};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Move this package, and nothing else that need not move (may be given several times).
    #[arg(long, value_name = "NAME")]
    update: Vec<String>,
    /// Resolve everything anew, as if there were no lock.
    #[arg(long, conflicts_with = "update")]
    fresh: bool,
    /// Write nothing; fail if the lock would change.
    #[arg(long)]
    check: bool,
    /// Print the lock as another tool's, and resolve nothing.
    #[arg(long, value_name = "FORMAT", value_enum)]
    export: Option<Export>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Export {
    /// As `poetry.lock`.
    Poetry,
}

pub fn run(recipes: &dyn Recipes, arguments: &Arguments) -> Result<()> {
    let reporter = Reporter::start(arguments.options.quiet, arguments.options.verbose);
    let session = Session::open(&arguments.options, recipes, reporter.events())?;
    let path = session.lock_path();
    let known = match arguments.fresh {
        true => None,
        false => session.known.clone(),
    };
    if let Some(Export::Poetry) = arguments.export {
        let known = known.ok_or_else(|| {
            Error::new(Kind::Input, format!("there is no `{}`", path.display()))
                .hint("`assemble lock` makes it")
        })?;
        let front_end = known.requirements.python.front_end();
        if !front_end.resolves() {
            let message = format!("Poetry decided nothing of this project: `{}` did", front_end.lock_file());
            return Err(Error::new(Kind::Usage, message));
        }
        return super::print(lock::poetry_lock(&known, &session.manifest.sources).trim_end());
    }
    let update = Update { names: arguments.update.clone() };
    let requirements = arguments.options.requirements(recipes, session.known.as_ref())?;
    let fits =
        |known: &assemble_layers::Lock| lock::outdated(known, &requirements, &session.manifest).is_empty();
    let made = match &known {
        // Nobody is asked for what is settled.
        Some(known) if fits(known) && !arguments.check && update.names.is_empty() => known.clone(),
        _ => {
            if !arguments.check {
                lock::check_writable(&path)?;
            }
            session.maker()?.make(known.as_ref(), &update)?
        }
    };
    let before = session.known.as_ref();
    let changes = before.map_or(Vec::new(), |before| lock::difference(Some(before), &made));
    let changed = before.is_none_or(|before| !same(before, &made));
    session.tell_others();
    reporter.finish();
    for change in &changes {
        super::say(format_args!("  {change}\n"));
    }
    if changed && !arguments.check {
        lock::write(&path, &made)?;
    }
    report(arguments, &made, changed, &changes)?;
    match changed && arguments.check {
        true => Err(Error::new(Kind::Input, format!("`{}` is not what would be locked now", path.display()))
            .hint("`assemble lock` writes what stands above")),
        false => Ok(()),
    }
}

/// The time alone is no change.
fn same(one: &assemble_layers::Lock, other: &assemble_layers::Lock) -> bool {
    let mut other = other.clone();
    other.created = one.created;
    *one == other
}

fn report(
    arguments: &Arguments,
    lock: &assemble_layers::Lock,
    changed: bool,
    changes: &[String],
) -> Result<()> {
    if arguments.json {
        return super::print_json(&serde_json::json!({ "changed": changed, "changes": changes }));
    }
    if !arguments.options.quiet {
        let state = if changed { "changed" } else { "unchanged" };
        super::say(format_args!("  lock      {}   {state}\n", super::report::lock_summary(lock)));
    }
    Ok(())
}
