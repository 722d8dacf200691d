//! What reaches the terminal. Names, messages of registries and lines of build logs come from outside:
//! none of them may move the cursor, change its colour or its title, or turn the order of letters.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;

use crate::{Error, Kind, Result};

/// Whether a terminal does something else than to show it: C0, C1 and DEL (ECMA-48), what turns the order
/// of letters (Unicode Standard Annex 9, 2) and what breaks lines unseen. Tabs and line feeds are
/// structure.
fn is_control(character: char) -> bool {
    let turns = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(character, '\u{2028}' | '\u{2029}');
    turns || breaks || character.is_control() && !matches!(character, '\n' | '\t')
}

fn replaced<'a>(text: &'a str, escape: impl Fn(char) -> String) -> Cow<'a, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let one = |character: char| match is_control(character) {
        true => escape(character),
        false => character.to_string(),
    };
    Cow::Owned(text.chars().map(one).collect())
}

/// The text with such characters as Rust writes them, `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    replaced(text, |character| character.escape_default().to_string())
}

/// As [`plain`], and of one line.
pub fn line(text: &str) -> String {
    plain(text).replace(['\n', '\t'], " ")
}

/// Writes a line to stdout. Whoever reads it may have gone: that is no failure of ours.
///
/// # Errors
/// Those of stdout.
pub fn print(text: impl Display) -> Result<()> {
    write_line(&plain(&text.to_string()))
}

/// As [`print`], a JSON value, which stays one: such characters stand in its strings alone.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    write_line(&json(value))
}

fn json(value: &serde_json::Value) -> String {
    replaced(&value.to_string(), |character| format!("\\u{:04x}", u32::from(character))).into_owned()
}

fn write_line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Output, "nobody reads stdout"))
        }
        result => Ok(result?),
    }
}

/// Writes to stderr, lines with their ends. Whoever reads it may have gone.
pub fn say(text: impl Display) {
    let _ = write!(std::io::stderr(), "{}", plain(&text.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2Jb\rc\u{7}d\u{7f}e\u{9b}31mf\u{202e}g\u{2066}h\u{200f}i\u{2028}j\0k";

    #[test]
    fn no_control_character_is_left() {
        let text = plain(HOSTILE);
        assert_eq!(text, r"a\u{1b}[2Jb\rc\u{7}d\u{7f}e\u{9b}31mf\u{202e}g\u{2066}h\u{200f}i\u{2028}j\u{0}k");
        assert!(matches!(plain("  é\tß\n  日本 \u{1f600}\n"), Cow::Borrowed(_)));
        assert_eq!(line("a\nb\u{1b}"), r"a b\u{1b}");
        for control in (0..=0x9f).filter_map(char::from_u32).filter(|it| it.is_control()) {
            let kept = matches!(control, '\n' | '\t');
            assert_eq!(plain(&control.to_string()).contains(control), kept, "{control:?}");
        }
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, "plain\n\t\"\\"] });
        let text = json(&value);
        assert!(!text.contains(is_control), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
