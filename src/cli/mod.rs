//! The command line: one file a verb. It knows the terminal, the environment and the home folder;
//! the rest of the library knows none of them.

mod base;
mod cache;
mod choice;
mod image;
mod inspect;
mod lock;
mod options;
mod plan;
mod push;
mod report;
mod session;
mod shell;
mod signals;
mod terminal;
mod variants;

use std::process::ExitCode;

use assemble_layers::Recipes;
use clap::{CommandFactory, Parser, Subcommand};

use crate::net::without_logins;
use crate::{Error, Kind, Result};
use terminal::{print, print_json, say};

/// Makes OCI images from recipes written in Rust, reproducibly and without Dockerfiles.
#[derive(Parser)]
#[command(name = "assemble", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// One a class of failure; see [`Kind::exit_code`].
const EXIT_CODES: &str = "Exit codes: 0 done · 2 wrong usage · 3 wrong input (manifest, lock, archive, project) · \
4 requirements that conflict, or a tag that has moved · 5 network · 6 a build step failed · 7 disk or store · 8 the machine forbids what is \
needed · 70 a mistake in this program · 130 interrupted · 143 ended by SIGTERM";

#[derive(Subcommand)]
enum Verb {
    /// Build an image: into the store, an archive, a folder, a stream, an engine, or registries.
    Image(image::Arguments),
    /// Build what lies under an image, as an image for others to build upon.
    Base(image::Arguments),
    /// Resolve what the recipes ask for, and write `assemble.lock`.
    Lock(lock::Arguments),
    /// Show what `image` would reuse, fetch and build; build nothing.
    Plan(plan::Arguments),
    /// Show what an image holds.
    Inspect(inspect::Arguments),
    /// Enter a build step: what it left when it failed, or what it starts from.
    Shell(shell::Arguments),
    /// Push an image that was written to an archive or a folder.
    Push(push::Arguments),
    /// Make keys for a shared cache.
    Cache(cache::Arguments),
    /// List the images that can be built.
    Variants(variants::Arguments),
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, in roff.
    Man,
}

/// The program of a team: `fn main() -> ExitCode { assemble::cli::main(&MyRecipes) }`.
///
/// The first thing it does is to find out whether it was started as the sandbox's helper, before
/// any thread exists.
pub fn main(recipes: &dyn Recipes) -> ExitCode {
    crate::sandbox::run_if_helper();
    end_by_panics();
    let arguments = Arguments::try_parse().unwrap_or_else(|error| refused(&error));
    match signals::end_by_signals().and_then(|()| run(recipes, arguments.verb)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == Kind::Output => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {}\n", without_logins(&error.to_string())));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Ends the program at the first panic of any thread: others may wait for that one for ever.
fn end_by_panics() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        show(panic);
        std::process::exit(i32::from(Kind::Internal.exit_code()));
    }));
}

/// As clap ends the program, which shows what it was given.
fn refused(error: &clap::Error) -> ! {
    match error.use_stderr() {
        true => say(without_logins(&error.render().to_string())),
        false => drop(error.print()),
    }
    std::process::exit(error.exit_code());
}

fn run(recipes: &dyn Recipes, verb: Verb) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Error::new(Kind::Machine, "images are built on Linux on amd64 only, so far")
            .hint("run `assemble` on such a machine, in a virtual machine, or in CI"));
    }
    match verb {
        Verb::Image(arguments) => image::run(recipes, &arguments),
        Verb::Base(arguments) => base::run(recipes, &arguments),
        Verb::Lock(arguments) => lock::run(recipes, &arguments),
        Verb::Plan(arguments) => plan::run(recipes, &arguments),
        Verb::Inspect(arguments) => inspect::run(recipes, &arguments),
        Verb::Shell(arguments) => shell::run(recipes, &arguments),
        Verb::Push(arguments) => push::run(&arguments),
        Verb::Cache(arguments) => cache::run(&arguments),
        Verb::Variants(arguments) => variants::run(recipes, &arguments),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "assemble", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
        Verb::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
            print(String::from_utf8_lossy(&page).trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clap finds wrong with a command line only when it is used.
    #[test]
    fn the_command_line_makes_sense() {
        Arguments::command().debug_assert();
    }
}
