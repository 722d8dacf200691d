//! `assemble inspect`.

use std::path::Path;

use assemble_layers::Recipes;
use assemble_layers::gpu::Capability;
use serde_json::{Value, json};

use super::options::Options;
use super::report::Reporter;
use super::session::Session;
use crate::inspect::Outside;
use crate::inspect::gpu::{CARDS, Inspection, Library, carries};
use crate::{Error, Kind, Result};

#[derive(clap::Args)]
pub struct Arguments {
    /// A variant that was built into the store, an archive, or the folder of an OCI layout.
    image: String,
    /// Show which GPUs its libraries have code for.
    #[arg(long, required = true)]
    gpu: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: Options,
}

pub fn run(recipes: &dyn Recipes, arguments: &Arguments) -> Result<()> {
    // A path is written as one, so that a file named `binary` does not hide the variant.
    let path = Path::new(&arguments.image);
    let is_variant = recipes.variants().iter().any(|variant| variant.name == arguments.image);
    let inspection = match !is_variant && path.exists() {
        true => Inspection::of_outside(&Outside::open(path)?, &std::env::temp_dir())?,
        false => of_variant(recipes, arguments)?,
    };
    if arguments.json {
        return super::print_json(&as_json(&inspection));
    }
    print_text(&inspection)
}

fn of_variant(recipes: &dyn Recipes, arguments: &Arguments) -> Result<Inspection> {
    let reporter = Reporter::start(arguments.options.quiet, arguments.options.verbose);
    let session = Session::open(&arguments.options, recipes, reporter.events())?;
    let variant = session.variant(Some(&arguments.image))?;
    // As it stands: what another lock would make was not made.
    let lock = session.known.as_ref().ok_or_else(|| {
        Error::new(Kind::Input, format!("there is no `{}`", session.lock_path().display()))
            .hint("`assemble lock` makes it")
    })?;
    let image = session.image(&variant, lock)?;
    let engine = session.engine();
    let (image, layers) = engine.made(&image)?;
    let inspection = Inspection::of_made(&engine, &image, &layers);
    session.tell_others();
    reporter.finish();
    inspection
}

fn print_text(inspection: &Inspection) -> Result<()> {
    if inspection.libraries.is_empty() {
        return super::print(
            "  no library has device code: the image needs no GPU, or compiles for it at run time",
        );
    }
    for Library { path, code, unsound } in &inspection.libraries {
        super::print(format!("  /{path}"))?;
        let unsound = unsound.as_ref().map(|how| format!("cannot be read: {how}"));
        super::print(format!("      {}", unsound.unwrap_or_else(|| carries(code))))?;
    }
    super::print("")?;
    for promise in &inspection.promises {
        super::print(format!("  promised  {promise}"))?;
    }
    for (capability, cards) in CARDS {
        super::print(format!(
            "  {:<10}{capability:<6}{cards}{}",
            verdict(inspection, capability),
            why(inspection, capability)
        ))?;
    }
    Ok(())
}

fn verdict(inspection: &Inspection, capability: Capability) -> &'static str {
    match (inspection.serves(capability), inspection.lacking(capability).len() < inspection.judged().len()) {
        (true, _) => "runs",
        // Without a promise nobody says which libraries matter.
        (false, true) => "in part",
        (false, false) => "does not",
    }
}

fn why(inspection: &Inspection, capability: Capability) -> String {
    let lacking = inspection.lacking(capability);
    match &lacking[..] {
        [] => String::new(),
        all if all.len() == inspection.judged().len() => String::new(),
        [one] => format!("   (not {})", name(one)),
        [one, rest @ ..] => format!("   (not {} and {} more)", name(one), rest.len()),
    }
}

fn name(library: &Library) -> String {
    String::from_utf8_lossy(library.path.name()).into_owned()
}

fn as_json(inspection: &Inspection) -> Value {
    let libraries = inspection.libraries.iter().map(|Library { path, code, unsound }| {
        let fatbins = code
            .fatbins()
            .map(|(fatbin, count)| json!({ "cubins": fatbin.cubins, "ptx": fatbin.ptx, "count": count }));
        json!({
            "path": format!("/{path}"),
            "sm": code.cubins(),
            "ptx": code.ptx(),
            "fatbins": fatbins.collect::<Vec<_>>(),
            "unsound": unsound,
        })
    });
    let capabilities = CARDS.iter().map(|(capability, cards)| {
        let lacking = inspection.lacking(*capability);
        json!({
            "capability": capability,
            "cards": cards.split(", ").collect::<Vec<_>>(),
            "serves": inspection.serves(*capability),
            "lacking": lacking.iter().map(|library| format!("/{}", library.path)).collect::<Vec<_>>(),
        })
    });
    let promises = inspection
        .promises
        .iter()
        .map(|promise| json!({ "library": promise.library, "targets": promise.targets }));
    json!({
        "libraries": libraries.collect::<Vec<_>>(),
        "promises": promises.collect::<Vec<_>>(),
        "capabilities": capabilities.collect::<Vec<_>>(),
    })
}
