//! The keys of a telephone, as the dialects spell them.

use crate::dialect::json::Value;

/// The key that was pressed, from a string or a number of one character.
pub(super) fn digit(value: &Value<'_>) -> Option<u8> {
    let (Value::Str(&[digit]) | Value::Num(&[digit])) = *value else { return None };
    let digit = digit.to_ascii_uppercase();
    matches!(digit, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D').then_some(digit)
}
