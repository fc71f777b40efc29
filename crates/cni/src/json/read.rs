//! Reading text, where the order of the keys still counts.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// The keys of our configurations whose objects are maps: what is in them is named by the user, so that the case of a
/// letter matters. The keys of all others are ours.
const MAPS: [&str; 5] = ["aux", "labels", "options", "podman_labels", "sysctl"];

/// Reads a value in whose objects every key is there in one spelling.
pub(super) fn read(text: &str) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Reader { is_map: false }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Reader {
    /// Whether it is a map if it is an object.
    is_map: bool,
}

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(Self { is_map: false })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            let is_map = !self.is_map && MAPS.iter().any(|map| map.eq_ignore_ascii_case(&key));
            read.push((key, entries.next_value_seed(Self { is_map })?));
        }
        if !self.is_map {
            one_spelling_each(&mut read);
        }
        Ok(Value::Object(read.into_iter().collect()))
    }
}

/// Leaves the last of the entries whose keys differ in case alone, as Go's `encoding/json` has it for the fields of a
/// structure. A null sets nothing there: it gives way to what is set.
fn one_spelling_each(entries: &mut Vec<(String, Value)>) {
    entries.sort_by(|(one, _), (other, _)| in_any_case(one, other));
    entries.dedup_by(|later, earlier| {
        let same = later.0.eq_ignore_ascii_case(&earlier.0);
        if same && !later.1.is_null() {
            std::mem::swap(later, earlier);
        }
        same
    });
}

fn in_any_case(one: &str, other: &str) -> Ordering {
    one.bytes().map(|byte| byte.to_ascii_lowercase()).cmp(other.bytes().map(|byte| byte.to_ascii_lowercase()))
}
