//! A serde deserializer over a [`Value`] whose struct keys match in any case.

use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde_json::Value;

use super::JsonError;

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

pub(super) struct Fold<'de>(pub(super) &'de Value);

/// Hands the kinds of value that have no keys to serde_json's own deserializer.
macro_rules! plain {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            Deserializer::$method(self.0, visitor).map_err(|error| JsonError::new(error.to_string()))
        }
    )*};
}

impl<'de> Fold<'de> {
    fn map<V: Visitor<'de>>(
        self,
        visitor: V,
        fields: &'static [&'static str],
        nulls: Nulls,
    ) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Object(map) => {
                let entries = map.iter();
                visitor.visit_map(Entries { map, entries, fields, nulls, current: None })
            }
            // What serde expects is the name of our structure, which tells the reader nothing.
            _ => Err(JsonError::new("an object is expected")),
        }
    }
}

impl<'de> Deserializer<'de> for Fold<'de> {
    type Error = JsonError;

    plain! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Object(_) => self.map(visitor, &[], Nulls::Kept),
            Value::Array(_) => self.deserialize_seq(visitor),
            plain => Deserializer::deserialize_any(plain, visitor)
                .map_err(|error: serde_json::Error| JsonError::new(error.to_string())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Array(values) => visitor.visit_seq(Elements { values, index: 0 }),
            _ => Deserializer::deserialize_seq(self.0, visitor)
                .map_err(|error: serde_json::Error| JsonError::new(error.to_string())),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Array(values) if values.len() != len => {
                Err(de::Error::invalid_length(values.len(), &visitor))
            }
            _ => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.map(visitor, &[], Nulls::Dropped)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.map(visitor, fields, Nulls::Dropped)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Variant { name, content: None }),
            Value::Object(map) if map.len() == 1 => match map.iter().next() {
                Some((key, content)) => {
                    visitor.visit_enum(Variant { name: folded(key, variants), content: Some(content) })
                }
                None => Err(JsonError::new("an object with one key is expected")),
            },
            _ => Err(JsonError::new("a string or an object with one key is expected")),
        }
    }
}

/// Returns the one of `names` that is `key` in any case, or `key` itself.
fn folded<'a>(key: &'a str, names: &'static [&'static str]) -> &'a str {
    if names.contains(&key) {
        return key;
    }
    names.iter().find(|name| name.eq_ignore_ascii_case(key)).copied().unwrap_or(key)
}

struct Elements<'de> {
    values: &'de [Value],
    index: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = JsonError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, JsonError> {
        let index = self.index;
        let Some(value) = self.values.get(index) else { return Ok(None) };
        self.index += 1;
        seed.deserialize(Fold(value)).map(Some).map_err(|error| error.at(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len() - self.index)
    }
}

/// What becomes of an entry whose value is null.
#[derive(Clone, Copy, PartialEq)]
enum Nulls {
    Kept,
    Dropped,
}

struct Entries<'de> {
    map: &'de serde_json::Map<String, Value>,
    entries: serde_json::map::Iter<'de>,
    fields: &'static [&'static str],
    nulls: Nulls,
    current: Option<(&'de str, &'de Value)>,
}

impl Entries<'_> {
    /// Returns whether another key stands for `field` as well and is preferred to the entry just taken.
    fn is_superseded(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
            || self.entries.clone().any(|(key, value)| !value.is_null() && key.eq_ignore_ascii_case(field))
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = JsonError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, JsonError> {
        while let Some((key, value)) = self.entries.next() {
            if value.is_null() && self.nulls == Nulls::Dropped {
                continue;
            }
            let field = folded(key, self.fields);
            if field != key && self.is_superseded(field) {
                continue;
            }
            self.current = Some((key, value));
            return seed.deserialize(field.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, JsonError> {
        let Some((key, value)) = self.current.take() else {
            return Err(JsonError::new("a value was asked for before its key"));
        };
        seed.deserialize(Fold(value)).map_err(|error| error.under(key))
    }

    fn size_hint(&self) -> Option<usize> {
        None
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<&'de Value>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = JsonError;
    type Variant = Content<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content<'de>), JsonError> {
        let variant = seed.deserialize(self.name.into_deserializer())?;
        Ok((variant, Content { name: self.name, content: self.content }))
    }
}

struct Content<'de> {
    name: &'de str,
    content: Option<&'de Value>,
}

impl<'de> Content<'de> {
    fn value(&self) -> Result<Fold<'de>, JsonError> {
        let missing = || JsonError::new(format!("{:?} needs a value", self.name));
        self.content.map(Fold).ok_or_else(missing)
    }

    fn under(self, error: JsonError) -> JsonError {
        error.under(self.name)
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = JsonError;

    fn unit_variant(self) -> Result<(), JsonError> {
        match self.content {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(JsonError::new("no value is expected").under(self.name)),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, JsonError> {
        seed.deserialize(self.value()?).map_err(|error| self.under(error))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, JsonError> {
        self.value()?.deserialize_tuple(len, visitor).map_err(|error| self.under(error))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.value()?.deserialize_struct("", fields, visitor).map_err(|error| self.under(error))
    }
}
