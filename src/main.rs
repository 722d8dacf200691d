//! The program: the command line over SpectralMC's recipes.

use std::process::ExitCode;

fn main() -> ExitCode {
    assemble::main(assemble_recipes::program())
}
