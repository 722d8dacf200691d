//! Wheels of distributions that have none that fits: built by the sdist's own backend, from locked
//! requirements, in the sandbox.

use std::collections::BTreeMap;

use super::Group;
use crate::derivation::{ANY_TAGS, Effort, InputFile, Layout, Output, Run};
use crate::lock::{Distribution, Lock};
use crate::python::{PIP, Scheme};
use crate::tree::InvalidPath;
use crate::{Builder, Graph, NodeId, TreePath};

/// What runs in the sandbox. It needs Python 3.11 and the backend, nothing else.
const SCRIPT: &str = include_str!("build_wheel.py");

const WHEELS: &str = "opt/wheels";

/// What sdists are built in, and by.
#[derive(Clone, Debug)]
pub struct Build {
    /// Trees with Python, and with whatever else a backend may call.
    pub root: Vec<NodeId>,
    /// Where each sdist's own requirements are installed.
    pub scheme: Scheme,
    pub environment: BTreeMap<String, String>,
    pub effort: Effort,
}

impl Build {
    /// In these trees, with nothing more.
    ///
    /// # Errors
    /// A version of Python in the lock that is no part of a path.
    pub fn new(lock: &Lock, root: Vec<NodeId>) -> Result<Self, InvalidPath> {
        Ok(Self {
            root,
            scheme: Scheme::of(lock, PIP)?,
            environment: [("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned())].into(),
            effort: Effort::default(),
        })
    }

    /// The tree that holds a distribution's wheel, and nothing else.
    pub(crate) fn wheel(&self, graph: &mut Graph, distribution: &Distribution) -> NodeId {
        let name = format!("{} {} from source", distribution.name, distribution.version);
        let requirements = Group {
            what: &format!("what {} is built with", distribution.name),
            step: "",
            created_by: "",
            layout: Layout::Site(self.scheme.clone()),
            alone: u64::MAX.into(),
            build: self,
        };
        let mut root = self.root.clone();
        let requirements = super::layers(graph, &requirements, distribution.build.iter());
        root.extend(requirements.small.map(|layer| layer.tree));
        let path = format!("/sdist/{}", distribution.file.name);
        let file = InputFile { path: path.clone(), file: super::fetch(graph, distribution) };
        let wheels = format!("/{WHEELS}");
        let run = Run {
            root,
            files: vec![file],
            command: ["python3", "-c", SCRIPT, &path, &wheels].map(str::to_owned).to_vec(),
            environment: self.environment.clone(),
            working_directory: "/".to_owned(),
            output: Output::Folder(TreePath::new(WHEELS).expect("a path")),
            effort: self.effort.clone(),
        };
        graph.add(name, Builder::Run(run))
    }
}

/// What the wheel is called, but for its tags.
pub(crate) fn wheel_name(distribution: &Distribution) -> String {
    format!("{}-{}{ANY_TAGS}", distribution.name.replace('-', "_"), distribution.version)
}
