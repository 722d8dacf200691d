//! The sandbox.

/// Placeholder until the branch `sandbox` is merged.
pub fn remove(folder: &std::path::Path) -> crate::Result<()> {
    Ok(fs_err::remove_dir_all(folder)?)
}
