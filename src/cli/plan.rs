//! `assemble plan`.

use assemble_layers::Recipes;
use serde_json::json;

use super::choice::{Choice, Declared};
use super::options::Options;
use super::report::{Reporter, bytes};
use super::session::Session;
use crate::Result;
use crate::realise::{Planned, State, Step};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    choice: Choice,
    /// Fail if the lock does not fit.
    #[arg(long)]
    locked: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(recipes: &dyn Recipes, arguments: &Arguments) -> Result<()> {
    let reporter = Reporter::start(arguments.options.quiet, arguments.options.verbose);
    let mut session = Session::open(&arguments.options, recipes, reporter.events())?;
    let Declared { mended, image, why, .. } =
        arguments.choice.declare(&mut session, arguments.locked, false)?;
    let plan = session.engine().plan(&image)?;
    session.tell_others();
    reporter.finish();
    mended.iter().for_each(|line| super::say(format_args!("  lock      {line}\n")));
    why.iter().for_each(|line| super::say(format_args!("  gpu       {line}\n")));
    if arguments.json {
        let layers: Vec<_> = plan.layers.iter().map(as_json).collect();
        let steps: Vec<_> = plan.steps.iter().map(step_as_json).collect();
        return super::print_json(&json!({ "variant": image.variant, "layers": layers, "steps": steps }));
    }
    for layer in &plan.layers {
        let (files, size) = layer.fetch;
        let fetch = match files {
            0 => String::new(),
            1 => format!("   fetches a file, {}", bytes(size)),
            _ => format!("   fetches {files} files, {}", bytes(size)),
        };
        let size = layer.size.map_or(String::new(), bytes);
        super::print(format!(
            "  {:<11}{:<20}{:<42}{size:>9}{fetch}",
            word(&layer.state),
            layer.step,
            layer.name
        ))?;
        if let State::Undecided { until } = &layer.state {
            super::print(format!("            until {until} is built"))?;
        }
    }
    plan.steps.iter().try_for_each(print_step)
}

/// What layers are made from, and by what.
fn print_step(step: &Step) -> Result<()> {
    super::print(format!("  {:<11}{:<20}{}", word(&step.state), "(step)", step.name))?;
    step.about.iter().try_for_each(|line| super::print(format!("            {line}")))
}

fn step_as_json(step: &Step) -> serde_json::Value {
    json!({ "name": step.name, "state": word(&step.state), "until": until(&step.state), "about": step.about })
}

fn until(state: &State) -> Option<&String> {
    match state {
        State::Undecided { until } => Some(until),
        _ => None,
    }
}

fn word(state: &State) -> &'static str {
    match state {
        State::Base => "base",
        State::Reuse => "reuse",
        State::Substitute => "substitute",
        State::Pack => "pack",
        State::Build => "build",
        State::Undecided { .. } => "undecided",
    }
}

fn as_json(layer: &Planned) -> serde_json::Value {
    json!({
        "name": layer.name, "step": layer.step, "state": word(&layer.state), "until": until(&layer.state), "size": layer.size,
        "fetch": { "files": layer.fetch.0, "bytes": layer.fetch.1 },
    })
}
