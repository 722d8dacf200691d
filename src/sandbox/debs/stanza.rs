//! Stanzas of fields, as control files and dpkg's status hold them (deb822(5)).
//!
//! Values are bytes and stay as they are, trailing blanks and all: what is not changed is written
//! back as it was read.

use crate::{Error, Kind, Result};

/// Fields in their order; each value without the blank after the colon, with its further lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stanza {
    fields: Vec<(String, Vec<u8>)>,
}

impl Stanza {
    /// Reads all stanzas of a text; `origin` names it in errors.
    pub fn parse_all(text: &[u8], origin: &str) -> Result<Vec<Self>> {
        let mut stanzas = vec![Self::default()];
        for line in text.split(|byte| *byte == b'\n') {
            let stanza = stanzas.last_mut().expect("never empty");
            match line.first() {
                None => stanzas.push(Self::default()),
                Some(b' ' | b'\t') if line.trim_ascii().is_empty() && stanza.fields.is_empty() => {}
                Some(b' ' | b'\t') => {
                    let (_, value) = stanza.fields.last_mut().ok_or_else(|| malformed(origin, line))?;
                    value.push(b'\n');
                    value.extend_from_slice(line);
                }
                Some(_) => stanza.fields.push(field(line).ok_or_else(|| malformed(origin, line))?),
            }
        }
        stanzas.retain(|stanza| !stanza.fields.is_empty());
        Ok(stanzas)
    }

    /// Reads a text of one stanza.
    pub fn parse(text: &[u8], origin: &str) -> Result<Self> {
        let mut stanzas = Self::parse_all(text, origin)?;
        match stanzas.len() {
            1 => Ok(stanzas.remove(0)),
            count => Err(Error::new(Kind::Input, format!("`{origin}` holds {count} stanzas, not one"))),
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|(field, _)| field.eq_ignore_ascii_case(name))
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name).map(|index| &self.fields[index].1[..])
    }

    /// The value as text; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.get(name).unwrap_or_default()).trim().to_owned()
    }

    /// Replaces a value, or adds it after the first field.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        match self.position(name) {
            Some(index) => self.fields[index].1 = value.into(),
            None => self.fields.insert(self.fields.len().min(1), (name.to_owned(), value.into())),
        }
    }

    /// The stanza as text, with the empty line that ends it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b':');
            if value.first().is_some_and(|byte| *byte != b'\n') {
                bytes.push(b' ');
            }
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        bytes.push(b'\n');
        bytes
    }
}

fn field(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?.trim_end();
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    let value = &line[colon + 1..];
    let blanks = value.iter().take_while(|byte| b" \t".contains(byte)).count();
    plain.then(|| (name.to_owned(), value[blanks..].to_vec()))
}

fn malformed(origin: &str, line: &[u8]) -> Error {
    Error::new(Kind::Input, format!("`{origin}` is malformed"))
        .detail(format!("no field begins in the line `{}`", String::from_utf8_lossy(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_written_as_they_were_read() {
        let text =
            b"Package: a\nDescription: short  \n long \n .\n\xe9\nConffiles:\n /etc/a 0\n\n\nPackage: b\n";
        assert!(Stanza::parse_all(text, "status").is_err(), "a line without a colon");
        let text =
            b"Package: a\nDescription: short  \n long \n .\n \xe9\nConffiles:\n /etc/a 0\n\nPackage: b\n\n";
        let stanzas = Stanza::parse_all(text, "status").unwrap();
        assert_eq!(stanzas.iter().flat_map(Stanza::to_bytes).collect::<Vec<u8>>(), text);
        assert_eq!(stanzas[0].text("package"), "a");
        assert_eq!(stanzas[0].get("Conffiles").unwrap(), b"\n /etc/a 0");
    }

    #[test]
    fn new_fields_follow_the_first() {
        let mut stanza = Stanza::parse(b"Package: a\nVersion: 1\n", "control").unwrap();
        stanza.set("Status", "install ok unpacked");
        stanza.set("version", "2");
        assert_eq!(stanza.to_bytes(), b"Package: a\nStatus: install ok unpacked\nVersion: 2\n\n");
    }
}
