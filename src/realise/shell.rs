//! Standing where a build step stands: in what it left when it failed, or in what it starts from.

use std::path::PathBuf;

use assemble_layers::{Builder, Graph, NodeId, image};

use super::{Engine, Realisation};
use crate::sandbox::{Command, Job, Task};
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
        let step = graph.node(node);
        let Builder::Run(run) = &step.builder else {
            return Err(Error::new(Kind::Usage, format!("the step `{}` runs no command", step.name)));
        };
        let realisation = Realisation::new(self, graph);
        let key = step.builder.try_map(|input| realisation.identity(*input))?.key(image::PLATFORM);
        // Nobody builds it meanwhile.
        let _lock = self.store.lock(key)?;
        let command = Self::visiting(realisation.command(run)?, visit);
        let working = self.store.working_folder()?;
        let folder = self.store.failed_folder(key);
        let failed = folder.exists();
        let task = Task::Enter { command: command.clone() };
        let mut job = Job { folder, root: Vec::new(), blobs: Default::default(), task };
        if !failed {
            let trees = realisation.root(&run.root)?;
            job.folder = working.path().to_owned();
            job.root = trees.iter().map(|tree| self.store.tree_file(tree.diff_id)).collect();
            job.blobs = realisation.blob_files(&trees)?;
            job.task = Task::Run { command, listen: None, output: None };
        }
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
