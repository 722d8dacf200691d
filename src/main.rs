//! The program: the command line over SpectralMC's recipes.

use std::process::ExitCode;

fn main() -> ExitCode {
    assemble::cli::main(&assemble_recipes::SpectralMc)
}
