//! Where Python's installers put what a wheel holds.

use serde::{Deserialize, Serialize};

use crate::encode::{Encode, Encoder};
use crate::tree::TreePath;

/// An install scheme: where each kind of a wheel's files goes, and who is said to have put it there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scheme {
    /// Both `purelib` and `platlib`.
    pub library: TreePath,
    pub scripts: TreePath,
    pub data: TreePath,
    pub headers: TreePath,
    /// The interpreter that scripts start, absolute: `/usr/bin/python3.11`.
    pub interpreter: String,
    /// The content of `INSTALLER`.
    pub installer: String,
}

impl Encode for Scheme {
    fn encode(&self, encoder: &mut Encoder) {
        encoder
            .put(&self.library)
            .put(&self.scripts)
            .put(&self.data)
            .put(&self.headers)
            .put(&self.interpreter)
            .put(&self.installer);
    }
}
