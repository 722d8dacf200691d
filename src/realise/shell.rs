//! Standing where a build step stands: in what it left when it failed, or in what it starts from.

use std::path::PathBuf;

use assemble_layers::graph::Node;
use assemble_layers::{Builder, Graph, NodeId};

use super::executor::{Job, command, here};
use super::{Engine, Realisation};
use crate::sandbox::{self, Command, Task};
use crate::{Error, Kind, Result};

/// A shell with a terminal of its own, so that an interrupt reaches what runs in it: `script` is in
/// Debian's essential package `bsdutils`.
const SHELL: [&str; 5] = ["script", "--quiet", "--command", "exec bash", "/dev/null"];

/// How a step is entered.
pub enum Visit {
    /// A shell at the caller's terminal.
    Terminal(PathBuf),
    /// One command; its output is passed on.
    Command(Vec<String>),
}

impl Engine<'_> {
    /// Enters a step. What a failed try left is there to be changed; it goes when the step succeeds.
    /// Whether it was such a tree.
    ///
    /// # Errors
    /// A step that runs no command; those of realising what it starts from; the command's own.
    pub fn enter(
        &self,
        graph: &Graph,
        node: NodeId,
        visit: Visit,
        begin: &mut dyn FnMut(bool),
        on_line: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let Node { name, builder } = graph.node(node);
        let no_command = || Error::new(Kind::Usage, format!("the step `{name}` runs no command"));
        if !matches!(builder, Builder::Run(_)) {
            return Err(no_command());
        }
        let realisation = Realisation::new(self, graph);
        let key = realisation.key(node)?;
        // Nobody builds it meanwhile.
        let _lock = self.store.lock(key)?;
        realisation.fetch_inputs(node)?;
        let working = self.store.working_folder()?;
        let folder = self.store.failed_folder(key);
        let failed = folder.exists();
        if !failed {
            realisation.obtain_trees(node)?;
        }
        let step = realisation.job(node)?;
        let Job::Run(run) = &step else { return Err(no_command()) };
        let command = Self::visiting(command(run, self.sandbox, self.store)?, visit);
        let job = if failed {
            let task = Task::Enter { command };
            sandbox::Job { folder, root: Vec::new(), blobs: Default::default(), task }
        } else {
            let task = Task::Run { command, listen: None, output: None };
            here(step.root(), self.store, working.path(), task)?
        };
        begin(failed);
        self.sandbox.enter(&job, on_line)
    }

    fn visiting(command: Command, visit: Visit) -> Command {
        match visit {
            Visit::Terminal(terminal) => {
                let arguments = SHELL.map(str::to_owned).to_vec();
                Command { arguments, terminal: Some(terminal), ..command }.variable("TERM", "xterm")
            }
            Visit::Command(arguments) => Command { arguments, ..command },
        }
    }
}
