//! Custom parameters of a call: what the operator's own systems want the agent to know.

use core::fmt;

use serde::{Serialize, Serializer};

use crate::dialect::{
    Facts, Malformed,
    json::{Key, Members, Value},
};

/// Names and values, at most [`MAX`](Self::MAX) of them and [`MAX_BYTES`](Self::MAX_BYTES) together. Printed, they keep
/// to themselves, because one may be a token or a number.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parameters(heapless::Vec<(Parameter, Parameter), { Self::MAX }>);

type Parameter = heapless::String<{ Parameters::MAX_BYTES }>;

impl Parameters {
    /// How many there may be (Exotel, "Working with the Stream applet").
    pub const MAX: usize = 3;
    /// How many bytes their names and values may have together (the same page).
    pub const MAX_BYTES: usize = 256;

    /// Adds one. `false`: it is one too many, all of them would be too long, or its name is taken.
    pub fn add(&mut self, name: &str, value: &str) -> bool {
        let so_far: usize = self.iter().map(|(name, value)| name.len() + value.len()).sum();
        let (Ok(own_name), Ok(own_value)) = (name.try_into(), value.try_into()) else { return false };
        so_far + name.len() + value.len() <= Self::MAX_BYTES
            && self.iter().all(|(taken, _)| taken != name)
            && self.0.push((own_name, own_value)).is_ok()
    }

    /// Adds a member of a message, where its value is a text, a number or a truth. `false` as for [`add`](Self::add), and
    /// for any other value.
    pub(super) fn take(&mut self, key: &Key<'_>, value: &Value<'_>) -> bool {
        let (mut name, mut text) = (Parameter::new(), Parameter::new());
        key.text(&mut name);
        match value {
            Value::Str(_) | Value::Num(_) => value.text(&mut text),
            Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }).unwrap_or_default(),
            Value::Object(_) | Value::Array(_) | Value::Null => return false,
        }
        self.add(&name, &text)
    }

    /// Each name and value, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Where a platform's `start` has no numbers, its users pass them as parameters, and so do we.
impl Facts {
    /// The parameters of the call, and its two numbers where they are known and no parameter has their names.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let numbers = [("from", self.from.as_str()), ("to", self.to.as_str())];
        let is_free = |name: &str| self.custom.iter().all(|(taken, _)| taken != name);
        let numbers = numbers.into_iter().filter(move |(name, number)| !number.is_empty() && is_free(name));
        self.custom.iter().chain(numbers)
    }

    /// Takes in what an object has by way of parameters, as many as there is room for.
    ///
    /// # Errors
    /// [`Malformed`] when the object is not JSON.
    pub(super) fn take_parameters(&mut self, mut members: Members<'_>) -> Result<(), Malformed> {
        while let Some((key, value)) = members.next()? {
            self.take_parameter(&key, &value);
        }
        Ok(())
    }

    /// Takes in one parameter, or one of the two numbers.
    pub(super) fn take_parameter(&mut self, key: &Key<'_>, value: &Value<'_>) {
        if key.is_either(b"from", b"From") {
            value.text(&mut self.from);
        } else if key.is_either(b"to", b"To") {
            value.text(&mut self.to);
        } else {
            self.custom.take(key, value);
        }
    }
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of them", self.0.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_the_rest_alone() {
        let mut parameters = Parameters::default();
        assert!(parameters.add("lane", "sales"));
        assert!(!parameters.add("lane", "night"), "a name twice");
        assert!(!parameters.add("long", core::str::from_utf8(&[b'x'; 250]).unwrap()));
        assert!(parameters.add("desk", "") && parameters.add("shift", "2"));
        assert!(!parameters.add("fourth", "x"));
        assert!(parameters.iter().eq([("lane", "sales"), ("desk", ""), ("shift", "2")]));
    }
}
