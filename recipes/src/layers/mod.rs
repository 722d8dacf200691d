//! The layers that are SpectralMC's own. What every team needs (Debian's packages, pip and Poetry,
//! `poetry install`, the application's files) is in `assemble_layers`.

pub mod cuda;
pub mod cuda11;
pub mod pytorch;
