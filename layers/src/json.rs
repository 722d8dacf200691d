//! The one function that makes JSON that is digested.

use serde::Serialize;

/// JSON without blanks, whose object keys are sorted. `oci-spec`'s own serialisation is not
/// deterministic: its maps are `HashMap`.
///
/// # Errors
/// A value that JSON cannot hold: a map whose keys are no texts.
pub fn canonical(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    // `serde_json::Map` is a `BTreeMap` unless the feature `preserve_order` is on; the test notices.
    serde_json::to_vec(&serde_json::to_value(value)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":{"z":1,"y":[2]},"a":"\u00e9"}"#).unwrap();
        assert_eq!(super::canonical(&value).unwrap(), r#"{"a":"é","b":{"y":[2],"z":1}}"#.as_bytes());
    }
}
