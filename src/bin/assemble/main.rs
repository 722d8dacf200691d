//! The program: the command line over SpectralMC's recipes.

mod spectralmc;

use std::process::ExitCode;

fn main() -> ExitCode {
    assemble::main(spectralmc::program())
}
