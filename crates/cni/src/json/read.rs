//! Reading text, where the order of the keys still counts.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// The keys whose objects, or lists of objects, are structures of the specification or of the reference plugins, and of ours.
///
/// What is under any other key is a map, or is somebody else's: the case of a letter may matter there, so that every entry
/// stays. A plugin that is not ours may keep labels or selectors in its configuration, at any depth.
const STRUCTURES: [&str; 25] = [
    "addresses",
    "args",
    "bandwidth",
    "cni",
    "cni.dev/attachments",
    "cni.dev/valid-attachments",
    "dns",
    "interfaces",
    "ip4",
    "ip6",
    "ipRanges",
    "ipam",
    "ips",
    "plugins",
    "portMappings",
    "prevResult",
    "provide",
    "ranges",
    "request",
    "result",
    "routes",
    "runtimeConfig",
    "subnets",
    "vlanTrunk",
    "weft",
];

/// Reads a value in whose structures every key is there in one spelling.
pub(super) fn read(text: &str) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Reader { is_structure: true }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Reader {
    /// Whether it is a structure if it is an object, or is made of structures if it is a list.
    is_structure: bool,
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
        while let Some(value) = elements.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            let is_structure =
                self.is_structure && STRUCTURES.iter().any(|one| one.eq_ignore_ascii_case(&key));
            read.push((key, entries.next_value_seed(Self { is_structure })?));
        }
        if self.is_structure {
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
