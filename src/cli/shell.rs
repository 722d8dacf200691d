//! `assemble shell`.

use std::io::{IsTerminal, stdin};
use std::path::Path;

use assemble_layers::{Builder, Graph, NodeId, Recipes};

use super::options::Options;
use super::report::Reporter;
use super::session::Session;
use crate::realise::Visit;
use crate::{Error, Kind, Result};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// The image; see `assemble variants`.
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// The step, as `plan` and errors name it.
    #[arg(long, value_name = "NAME")]
    step: String,
    /// A command to run instead of a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(recipes: &dyn Recipes, arguments: &Arguments) -> Result<()> {
    let visit = visit(arguments)?;
    let reporter = Reporter::start(arguments.options.quiet, arguments.options.verbose);
    let mut session = Session::open(&arguments.options, recipes, reporter.events())?;
    let variant = session.variant(arguments.variant.as_deref())?;
    let (lock, _) = session.fitting_lock(false, true)?;
    let image = session.image(&variant, &lock)?;
    let node = find(&image.graph, &arguments.step)?;
    let mut reporter = Some(reporter);
    let begin = &mut |failed: bool| {
        // From here on the terminal is the shell's.
        if let Some(reporter) = reporter.take() {
            reporter.finish();
        }
        let what = if failed { "what it left when it failed" } else { "what it starts from" };
        super::say(format_args!("  entering  {}: {what}\n", image.graph.node(node).name));
    };
    let mut lines = Ok(());
    let print = &mut |line: &str| {
        if lines.is_ok() {
            lines = super::print(line);
        }
    };
    session.engine().enter(&image.graph, node, visit, begin, print)?;
    lines
}

fn visit(arguments: &Arguments) -> Result<Visit> {
    if !arguments.command.is_empty() {
        return Ok(Visit::Command(arguments.command.clone()));
    }
    let none = || {
        Error::new(Kind::Usage, "a shell needs a terminal")
            .hint("`assemble shell --step NAME -- COMMAND` runs one command without")
    };
    if !stdin().is_terminal() {
        return Err(none());
    }
    let path = fs_err::read_link("/proc/self/fd/0")?;
    if path == Path::new("/dev/tty") || !path.exists() { Err(none()) } else { Ok(Visit::Terminal(path)) }
}

fn find(graph: &Graph, name: &str) -> Result<NodeId> {
    let runs = || graph.nodes().filter(|(_, node)| matches!(node.builder, Builder::Run(_)));
    let found = runs().find(|(_, node)| node.name == name).map(|(id, _)| id);
    found.ok_or_else(|| {
        let names: Vec<_> = runs().map(|(_, node)| format!("`{}`", node.name)).collect();
        let error = Error::new(Kind::Usage, format!("no step `{name}` of this variant runs a command"));
        match names.is_empty() {
            true => error.hint("none of its steps does; `--variant` names another"),
            false => error.hint(format!("there is {}; `--variant` names another", names.join(", "))),
        }
    })
}
