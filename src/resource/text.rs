//! From text to generic values, one document at a time.
//!
//! Values arrive one by one so that a file of 100,000 small documents never stands in memory as a
//! tree. A repeated key is an error in both formats: which of the two was meant cannot be known.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::MAX_TEXT;

/// Calls `take` with each document that has content; ends with the words of the first mistake.
pub(super) fn documents(text: &str, take: impl FnMut(Value)) -> Result<(), String> {
    if text.len() > MAX_TEXT {
        return Err(format!("{} bytes are too many (at most {MAX_TEXT})", text.len()));
    }
    match text.trim_start_matches('\u{feff}').trim_start().starts_with(['{', '[']) {
        true => json(text.trim_start_matches('\u{feff}'), take),
        false => yaml(text, take),
    }
}

fn json(text: &str, mut take: impl FnMut(Value)) -> Result<(), String> {
    for document in serde_json::Deserializer::from_str(text).into_iter::<Document>() {
        match document {
            Ok(Document(Value::Null)) => {}
            Ok(Document(value)) => take(value),
            Err(error) => return Err(format!("not JSON: {error}")),
        }
    }
    Ok(())
}

fn yaml(text: &str, mut take: impl FnMut(Value)) -> Result<(), String> {
    let mut bytes = text.as_bytes();
    for document in serde_saphyr::read_with_options::<_, Document>(&mut bytes, yaml_options(text.len())) {
        match document {
            Ok(Document(value)) => take(value),
            Err(error) => return Err(format!("not YAML: {}", one_line(&error.to_string()))),
        }
    }
    Ok(())
}

/// What a text may cost is bound to its length: every node and event of an honest text takes a byte
/// or more, and only aliases make more out of less. Aliases have the crate's own, small, bounds.
fn yaml_options(length: usize) -> serde_saphyr::Options {
    let events = 64 + 4 * length;
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: events,
            max_nodes: events,
            max_documents: events,
            max_reader_input_bytes: Some(MAX_TEXT),
            // Ordinary resources are about 10 deep.
            max_depth: 64,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // A node may be called `no`, and 0755 or 1_000 are not numbers to people who write YAML.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A JSON value that refuses repeated keys.
struct Document(Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Document)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, number, boolean, list or object")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Document(item)) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let Document(value) = entries.next_value()?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} stands twice in one object")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
