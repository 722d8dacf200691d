//! Addresses that never show a credential.

use std::fmt;

use url::Url;

use crate::error::{Error, Kind, Result};

/// An `http` or `https` address. It may carry a login; what it shows does not: `Display` and
/// `Debug` leave out the login, and the query, which signed addresses keep their tokens in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(Url);

impl Address {
    /// # Errors
    /// The text is no `http` or `https` address. The message does not repeat it: what cannot be
    /// read cannot be stripped of its login either.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("not an address: {why}"))
                .hint("an address looks like `https://mirror.example/folder/`")
        };
        let url = Url::parse(text.trim()).map_err(|error| wrong(&error.to_string()))?;
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            other => Err(wrong(&format!("`{other}:` is neither `http:` nor `https:`"))),
        }
    }

    /// As [`Address::parse`], of a folder: what is joined to it goes below it, slash or no slash.
    pub fn folder(text: &str) -> Result<Self> {
        let mut this = Self::parse(text)?;
        this.0.set_query(None);
        this.0.set_fragment(None);
        if !this.0.path().ends_with('/') {
            let path = format!("{}/", this.0.path());
            this.0.set_path(&path);
        }
        Ok(this)
    }

    /// The address that `reference` means on this page. The login goes along to the same origin
    /// and to no other.
    pub fn join(&self, reference: &str) -> Result<Self> {
        let joined = self.0.join(reference).map_err(|error| {
            Error::new(Kind::Network, format!("`{}` refers to a broken address", self.host())).detail(error)
        })?;
        let mut joined = Self::parse(joined.as_str())?;
        if joined.same_origin(self) && !joined.has_login() {
            joined.set_login(self.0.username(), self.0.password());
        }
        Ok(joined)
    }

    /// The same address with a login, unless it has one.
    #[must_use]
    pub fn or_login(mut self, user: &str, password: Option<&str>) -> Self {
        if !self.has_login() {
            self.set_login(user, password);
        }
        self
    }

    /// The same address with one more parameter in its query.
    #[must_use]
    pub fn with_query(mut self, name: &str, value: &str) -> Self {
        self.0.query_pairs_mut().append_pair(name, value);
        self
    }

    pub fn has_query(&self, name: &str) -> bool {
        self.0.query_pairs().any(|(known, _)| known == name)
    }

    /// The same address with something behind its path.
    #[must_use]
    pub fn with_ending(mut self, ending: &str) -> Self {
        let path = format!("{}{ending}", self.0.path());
        self.0.set_path(&path);
        self
    }

    /// The folder `name` beside the last one of the path.
    pub fn sibling(&self, name: &str) -> Result<Self> {
        let mut this = self.clone();
        let folders = self.0.path().trim_end_matches('/');
        let above = folders.rfind('/').map_or("", |slash| &folders[..slash]);
        let path = format!("{above}/{name}/");
        this.0.set_path(&path);
        Ok(this)
    }

    /// The host, and the port if it is not the scheme's own: `mirror.example:8080`.
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub fn path(&self) -> &str {
        self.0.path()
    }

    pub fn same_origin(&self, other: &Self) -> bool {
        self.0.origin() == other.0.origin()
    }

    /// `https://mirror.example`: what logins are for.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    pub fn has_login(&self) -> bool {
        !self.0.username().is_empty() || self.0.password().is_some()
    }

    /// The address without login, and the login, decoded.
    pub(crate) fn split(&self) -> (Url, Option<(String, Option<String>)>) {
        let mut bare = Self(self.0.clone());
        bare.set_login("", None);
        let login = self.has_login().then(|| (decode(self.0.username()), self.0.password().map(decode)));
        (bare.0, login)
    }

    /// Cannot fail: an `http` address has a host.
    fn set_login(&mut self, user: &str, password: Option<&str>) {
        let _ = self.0.set_username(user);
        let _ = self.0.set_password(password);
    }
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}{}", self.0.scheme(), self.host(), self.0.path())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A text without the logins in it, for people and logs: an address has one in its right place, and an argument
/// may have one where none belongs. What has a colon before an `@` is one, but for a tag before a digest; so is
/// what stands between `//` and an `@`, but for the user of SSH.
pub fn without_logins(text: &str) -> String {
    let borders = |letter: char| letter.is_whitespace() || "/`'\"<>(),;".contains(letter);
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    for part in text.split_inclusive(borders) {
        let before = &text[..from];
        from += part.len();
        let Some((login, host)) = part.rsplit_once('@') else {
            shown.push_str(part);
            continue;
        };
        let is_tag = host.starts_with("sha256:");
        let is_login = login.contains(':') || (before.ends_with("//") && !before.ends_with("ssh://"));
        match is_login && !is_tag {
            true => shown.extend(["…@", host]),
            false => shown.push_str(part),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_login_is_shown() {
        for (text, shown) in [
            ("`usr:s3cret@host:1/x` is none", "`…@host:1/x` is none"),
            ("at https://usr:s3cret@host/x, y", "at https://…@host/x, y"),
            ("/tmp/http:/usr:s3cret@127.0.0.1:1/x", "/tmp/http:/…@127.0.0.1:1/x"),
            ("https://token@host", "https://…@host"),
            ("--cache-to=usr:p@ss@host/x", "…@host/x"),
        ] {
            assert_eq!(without_logins(text), shown);
        }
        for plain in [
            "r.example/a:b@sha256:0a",
            "git@host:a/b",
            "ssh://git@host/a",
            "URL@COMMIT",
            "https://host/a@b",
            "a @ b: c",
        ] {
            assert_eq!(without_logins(plain), plain);
        }
    }

    #[test]
    fn a_login_is_used_but_never_shown() {
        let address = Address::parse("https://me:s%40cret@index.example/simple/?token=s%40cret").unwrap();
        for shown in [address.to_string(), format!("{address:?}"), format!("{:?}", Some(&address))] {
            assert_eq!(
                shown.trim_start_matches("Some(").trim_end_matches(')'),
                "https://index.example/simple/"
            );
        }
        assert_eq!(address.split().1, Some(("me".to_owned(), Some("s@cret".to_owned()))));
    }

    #[test]
    fn what_is_no_address_is_not_repeated() {
        let error = Address::parse("https://me:secret@:x").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(Address::parse("ftp://mirror.example/").is_err());
    }

    #[test]
    fn a_login_goes_along_to_the_same_origin_only() {
        let page = Address::parse("https://me:secret@index.example/simple/x/").unwrap();
        assert!(page.join("../../files/x.whl").unwrap().has_login());
        assert!(page.join("https://index.example/x.whl").unwrap().has_login());
        for elsewhere in
            ["https://files.example/x.whl", "http://index.example/x", "https://index.example:81/x"]
        {
            assert!(!page.join(elsewhere).unwrap().has_login(), "{elsewhere}");
        }
    }

    #[test]
    fn folders_and_their_siblings() {
        let folder = Address::folder("http://mirror.example:8080/pub/debian").unwrap();
        assert_eq!(
            folder.join("dists/x").unwrap().to_string(),
            "http://mirror.example:8080/pub/debian/dists/x"
        );
        let sibling = folder.sibling("debian-security").unwrap();
        assert_eq!(sibling.to_string(), "http://mirror.example:8080/pub/debian-security/");
        let root = Address::folder("http://mirror.example").unwrap();
        assert_eq!(root.sibling("x").unwrap().to_string(), "http://mirror.example/x/");
    }
}
