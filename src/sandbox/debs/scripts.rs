//! Maintainer scripts and dpkg itself, run in the root.
//!
//! Scripts get the arguments of Debian's policy, chapter 6, and the environment of
//! dpkg(1), "Internal environment".

use std::os::unix::fs::PermissionsExt;

use fs_err as fs;

use super::content::set_mtime;
use super::database::{Database, info};
use super::package::Package;
use super::root::{Root, remove};
use crate::sandbox::Command;
use crate::sandbox::remove::remove as remove_folder;
use crate::{Error, Result};

/// Where dpkg lays a package's control files while its preinst runs; debconf looks for them here.
const TEMPORARY: &str = "var/lib/dpkg/tmp.ci";
const POLICY: &str = "usr/sbin/policy-rc.d";
/// Of Debian 12; scripts ask for it only to know that dpkg is not ancient.
const DPKG_VERSION: &str = "1.21.22";

type Execute<'a> = dyn FnMut(&Command) -> Result<()> + 'a;

pub struct Scripts<'a, 'b> {
    pub root: &'a Root,
    pub execute: &'a mut Execute<'b>,
    pub dpkg_version: String,
}

impl<'a, 'b> Scripts<'a, 'b> {
    pub fn new(
        root: &'a Root,
        execute: &'a mut Execute<'b>,
        packages: &[Package],
        database: &Database,
    ) -> Self {
        let given = packages.iter().find(|package| package.name == "dpkg").map(|package| &package.version);
        let installed = || database.packages.iter().find(|one| one.name == "dpkg").map(|one| &one.version);
        let dpkg_version = given.or_else(installed).map_or(DPKG_VERSION, String::as_str).to_owned();
        Self { root, execute, dpkg_version }
    }

    /// Runs a script that the package brings, if it does; `before` is the version there was.
    pub fn run_new(&mut self, package: &Package, name: &str, arguments: &[&str]) -> Result<()> {
        if package.deb.control_file(name).is_none() {
            return Ok(());
        }
        self.lay_out(package)?;
        self.run(package, name, &format!("/{TEMPORARY}/{name}"), arguments)?;
        Ok(remove_folder(&self.root.file(TEMPORARY)?)?)
    }

    /// Runs the old version's script, or where it fails the new version's instead.
    pub fn run_old(
        &mut self,
        package: &Package,
        name: &str,
        full_name: &str,
        old_version: &str,
    ) -> Result<()> {
        let path = info(full_name, name);
        if !self.root.file(&path)?.exists() {
            return Ok(());
        }
        let arguments = ["upgrade", &package.version];
        match self.run(package, name, &format!("/{path}"), &arguments) {
            Err(error) if package.deb.control_file(name).is_none() => Err(error),
            Err(_) => self.run_new(package, name, &["failed-upgrade", old_version, &package.version]),
            done => done,
        }
    }

    fn run(&mut self, package: &Package, name: &str, path: &str, arguments: &[&str]) -> Result<()> {
        let command = Command::new([path].iter().chain(arguments).copied());
        let command = quiet(command)
            .variable("DPKG_ADMINDIR", "/var/lib/dpkg")
            .variable("DPKG_MAINTSCRIPT_ARCH", &package.architecture)
            .variable("DPKG_MAINTSCRIPT_DEBUG", "0")
            .variable("DPKG_MAINTSCRIPT_NAME", name)
            .variable("DPKG_MAINTSCRIPT_PACKAGE", &package.name)
            .variable("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1")
            .variable("DPKG_ROOT", "")
            .variable("DPKG_RUNNING_VERSION", &self.dpkg_version);
        let result = (self.execute)(&command);
        self.root.forget();
        result.map_err(|error| error.within(format!("the {name} of `{}` failed", package.full_name())))
    }

    /// Configures packages with dpkg: all that are not, or those named.
    pub fn configure(&mut self, arguments: &[&str]) -> Result<()> {
        // Nobody is there to be asked about a changed conffile: the change is kept.
        let options = ["dpkg", "--force-confdef", "--force-confold", "--configure"];
        let command = Command::new(options.iter().chain(arguments).copied());
        let result = (self.execute)(&quiet(command));
        self.root.forget();
        result.map_err(|error: Error| error.within("dpkg could not configure the packages"))
    }

    /// Lays out all control files, as dpkg-deb does for dpkg.
    fn lay_out(&self, package: &Package) -> Result<()> {
        let folder = self.root.file(TEMPORARY)?;
        remove_folder(&folder)?;
        fs::create_dir(&folder)?;
        for file in package.deb.control() {
            let path = folder.join(&file.name);
            fs::write(&path, &file.content)?;
            let script = matches!(file.name.as_str(), "preinst" | "postinst" | "prerm" | "postrm");
            let mode = if script { file.mode | 0o555 } else { file.mode };
            fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            set_mtime(&path, file.mtime)?;
        }
        Ok(())
    }
}

/// Asks no questions.
fn quiet(command: Command) -> Command {
    command.variable("DEBIAN_FRONTEND", "noninteractive").variable("DEBCONF_NONINTERACTIVE_SEEN", "true")
}

/// While it is there no script starts or stops a service: invoke-rc.d(8) asks `policy-rc.d`, and
/// 101 forbids it.
pub struct NoServices<'a> {
    root: &'a Root,
    /// Folders made for it, and a file of the root's own that was moved aside.
    aside: Option<std::path::PathBuf>,
}

impl<'a> NoServices<'a> {
    pub fn begin(root: &'a Root) -> Result<Self> {
        let policy = root.file(POLICY)?;
        let mut aside = None;
        if fs::symlink_metadata(&policy).is_ok() {
            let path = policy.with_file_name("policy-rc.d.aside");
            fs::rename(&policy, &path)?;
            aside = Some(path);
        }
        root.write(POLICY, b"#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(policy, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { root, aside })
    }

    /// Leaves no trace of it.
    pub fn end(self) -> Result<()> {
        let policy = self.root.file(POLICY)?;
        remove(&policy)?;
        match self.aside {
            Some(aside) => Ok(fs::rename(aside, policy)?),
            None => Ok(()),
        }
    }
}
