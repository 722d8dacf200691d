//! A command in the sandbox: the part of last resort.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::part::{AnyPart, Expansion, Laid, Named, Part, Told, handle};
use super::words::{inside, owned, texts};
use super::{RecipeError, Result};
use crate::Builder;
use crate::derivation::{Cache, Effort, Jobs, Output, Run};
use crate::image::Layer;

/// A command, in a root that has some parts and what they stand on. It has no network. What it changes is
/// the layer, unless [`Command::output`] names a folder.
#[derive(Clone)]
pub struct Command(Rc<Data>);

#[derive(Clone)]
struct Data {
    arguments: Vec<String>,
    root: Vec<AnyPart>,
    environment: Vec<(String, String)>,
    folder: String,
    output: Option<String>,
    cache: Option<(String, String)>,
    jobs: Option<Jobs>,
    told: Told,
}

impl Command {
    /// A program and its arguments; nothing is read by a shell.
    pub fn new<T: Into<String>>(arguments: impl IntoIterator<Item = T>) -> Self {
        Self(Rc::new(Data {
            arguments: texts(arguments),
            root: Vec::new(),
            environment: Vec::new(),
            folder: "/".to_owned(),
            output: None,
            cache: None,
            jobs: None,
            told: Told::default(),
        }))
    }

    /// A script of `/bin/sh`; what it says is what the history shows.
    pub fn shell(script: &str) -> Self {
        Self::new(["/bin/sh", "-c", script]).history(script)
    }

    fn data(&mut self) -> &mut Data {
        Rc::make_mut(&mut self.0)
    }

    /// In a root that has this part, and what it stands on.
    #[must_use]
    pub fn over(mut self, part: impl Into<AnyPart>) -> Self {
        self.data().root.push(part.into());
        self
    }

    /// Sets variables of its environment.
    #[must_use]
    pub fn env<'v>(mut self, variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> Self {
        self.data().environment.extend(owned(variables));
        self
    }

    /// Where it starts: absolute, `/` unless this says otherwise.
    #[must_use]
    pub fn folder(mut self, folder: &str) -> Self {
        folder.clone_into(&mut self.data().folder);
        self
    }

    /// What is kept is one folder (absolute), and the layer is its content, from the root on: `/out/usr/bin/x`
    /// of the folder `/out` is `/usr/bin/x` of the image.
    #[must_use]
    pub fn output(mut self, folder: &str) -> Self {
        self.data().output = Some(folder.to_owned());
        self
    }

    /// Gives it a folder that outlives it, `path` inside, so that a build that was killed goes on where it
    /// was. Steps that name it alike share it.
    #[must_use]
    pub fn cache(mut self, name: &str, path: &str) -> Self {
        self.data().cache = Some((name.to_owned(), path.to_owned()));
        self
    }

    /// Says in a variable how many compilers may run at once, of which one needs `memory` bytes at most.
    #[must_use]
    pub fn jobs(mut self, variable: &str, memory: u64) -> Self {
        self.data().jobs = Some(Jobs { variable: variable.to_owned(), memory });
        self
    }
}

handle!(Command, named);

impl Data {
    fn effort(&self) -> Result<Effort> {
        let cache = self
            .cache
            .as_ref()
            .map(|(name, path)| Ok::<_, RecipeError>(Cache { name: inside(name)?, path: path.clone() }));
        Ok(Effort { cache: cache.transpose()?, jobs: self.jobs.clone() })
    }
}

impl Part for Data {
    fn over(&self) -> Vec<AnyPart> {
        // What is kept of it is a difference to these; a folder stands for itself.
        if self.output.is_none() { self.root.clone() } else { Vec::new() }
    }

    fn made_with(&self) -> Vec<AnyPart> {
        self.root.clone()
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let output = match &self.output {
            Some(folder) => Output::Folder(inside(folder)?),
            None => Output::Difference,
        };
        let text = self.arguments.join(" ");
        if self.arguments.first().is_none_or(String::is_empty) {
            return Err(RecipeError("a command of the recipe names no program".to_owned()));
        }
        let root = expansion.root(&self.root)?;
        if root.is_empty() {
            return Err(RecipeError(format!(
                "`{text}` runs in an empty root: `over` names the parts that it needs"
            )));
        }
        let mut names = BTreeSet::new();
        if let Some((name, _)) = self.environment.iter().find(|(name, _)| !names.insert(name)) {
            return Err(RecipeError(format!("`env` of `{text}` sets `{name}` twice")));
        }
        let run = Run {
            root,
            files: Vec::new(),
            command: self.arguments.clone(),
            environment: self.environment.iter().cloned().collect(),
            working_directory: self.folder.clone(),
            output,
            effort: self.effort()?,
        };
        let name = self.told.name.clone().unwrap_or_else(|| text.clone());
        let tree = expansion.graph.add(&name, Builder::Run(run));
        let step = self.told.step.clone().unwrap_or(name);
        let created_by = self.told.history.clone().unwrap_or(text);
        Ok(vec![Layer { tree, step, created_by }.into()])
    }
}
