//! Reads objects whose fields have names. Serde's derive for a struct would also take an array, as the fields in order,
//! and would skip a misspelled name.
//!
//! What is wrong with a refused body is found by a second, slower check (`body.rs`).

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::api::names;
use crate::api::shape::Shape;

/// Reads an object of that shape.
pub(super) struct Named<'s, T> {
    shape: &'s Shape,
    read: PhantomData<T>,
}

impl<'s, T> Named<'s, T> {
    pub(super) fn new(shape: &'s Shape) -> Self {
        Self { shape, read: PhantomData }
    }
}

impl<'a, T: Deserialize<'a>> DeserializeSeed<'a> for Named<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<T, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'a, T: Deserialize<'a>> Visitor<'a> for Named<'_, T> {
    type Value = T;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, map: M) -> Result<T, M::Error> {
        T::deserialize(MapAccessDeserializer::new(Fields { map, shape: self.shape }))
    }
}

/// Reads an array of objects of that shape.
pub(super) struct NamedItems<'s, T>(Named<'s, T>);

impl<'s, T> NamedItems<'s, T> {
    pub(super) fn new(shape: &'s Shape) -> Self {
        Self(Named::new(shape))
    }
}

impl<'a, T: Deserialize<'a>> DeserializeSeed<'a> for NamedItems<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<Vec<T>, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'a, T: Deserialize<'a>> Visitor<'a> for NamedItems<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an array of objects")
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut items: S) -> Result<Vec<T>, S::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(Named::new(self.0.shape))? {
            read.push(item);
        }
        Ok(read)
    }
}

/// The fields of an object, with checked names.
struct Fields<'s, M> {
    map: M,
    shape: &'s Shape,
}

impl<'a, M: MapAccess<'a>> MapAccess<'a> for Fields<'_, M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        self.map.next_key_seed(Name { seed, shape: self.shape })
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}

struct Name<'s, K> {
    seed: K,
    shape: &'s Shape,
}

impl<'a, K: DeserializeSeed<'a>> DeserializeSeed<'a> for Name<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<K::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'a, K: DeserializeSeed<'a>> Visitor<'a> for Name<'_, K> {
    type Value = K::Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<K::Value, E> {
        let known = || self.shape.iter().map(|(known, _)| *known);
        if !known().any(|known| known == name) && names::meant(name, known()).is_some() {
            return Err(E::custom("an unknown field is nearly a known one"));
        }
        self.seed.deserialize(name.into_deserializer())
    }
}
