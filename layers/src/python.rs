//! What a Python installer writes beside a wheel's own files: scripts, `INSTALLER`, `RECORD`, and
//! the editable install of the project itself. Formats: packaging.python.org, "Recording installed
//! projects", "Entry points specification"; the exact bytes are those of Poetry's `installer`
//! library and of poetry-core, and the test against `poetry install` holds them.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
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

/// `sha256=` and the digest in URL-safe base64 without padding, as `RECORD` has it (PEP 376, PEP 427).
pub fn record_hash(digest: Sha256) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::from("sha256=");
    for chunk in digest.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

/// A field of a CSV line as Python's `csv` module writes it with minimal quoting.
pub fn csv_field(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// The text of a console script of a wheel, as the `installer` library writes it.
pub fn script(interpreter: &str, module: &str, attribute: &str) -> String {
    let function = attribute.split('.').next().unwrap_or(attribute);
    format!(
        "#!{interpreter}\n\
         # -*- coding: utf-8 -*-\n\
         import re\n\
         import sys\n\
         from {module} import {function}\n\
         if __name__ == \"__main__\":\n    \
         sys.argv[0] = re.sub(r\"(-script\\.pyw|\\.exe)?$\", \"\", sys.argv[0])\n    \
         sys.exit({attribute}())\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '' | openssl dgst -sha256 -binary | basenc --base64url`.
    #[test]
    fn record_hashes_are_url_safe_base64() {
        assert_eq!(record_hash(Sha256::of(b"")), "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
    }

    #[test]
    fn fields_are_quoted_where_needed() {
        assert_eq!(csv_field("a b"), "a b");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
