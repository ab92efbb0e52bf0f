//! Mutations: of bytes, of words, and of the values of a JSON document.

use fastrand::Rng;
use serde_json::{Number, Value};

/// What an input is made of, and so what is worth changing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Bytes.
    Bytes,
    /// Lines of text.
    Text,
    /// JSON documents, one a line or one over many.
    Json,
}

/// Words and numbers at which readers and sums break.
const WORDS: [&str; 46] = [
    "0",
    "-1",
    "1",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "-1e308",
    "1e-308",
    "NaN",
    "inf",
    "7Ei",
    "16Ei",
    "7EiB",
    "8Ei",
    "1n",
    "1.5",
    "99999999999999999999E",
    "0x10",
    "%",
    "100%",
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "\"\"",
    "\\u0000",
    "\u{0}",
    "\u{1b}[2J",
    "\u{202e}",
    "é",
    "ｅ",
    "/",
    "//",
    "..",
    "9999-12-31T23:59:59Z",
    "-009999-01-02T01:59:59Z",
    "0001-01-01T00:00:00Z",
    "PT1H",
    "366d",
    "scsi31",
    "scsi30=",
    ":",
    "=",
];

/// A mutation of an input.
pub fn mutated(input: &[u8], others: &[Vec<u8>], form: Form, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.usize(..4) {
        bytes = match (form, rng.u8(..10)) {
            (Form::Json, 0..=7) => values(&bytes, rng).unwrap_or_else(|| splice(&bytes, others, rng)),
            (Form::Bytes, 0..=5) | (Form::Text | Form::Json, 8) => bits(bytes, rng),
            (_, 9) => splice(&bytes, others, rng),
            (_, _) => words(&bytes, rng),
        };
    }
    bytes
}

fn bits(mut bytes: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    if bytes.is_empty() {
        return vec![rng.u8(..)];
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..5) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => bytes[at] = rng.u8(..),
        2 => bytes.truncate(at),
        3 => {
            let end = (at + rng.usize(1..=32)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let end = (at + rng.usize(1..=32)).min(bytes.len());
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
    }
    bytes
}

/// A piece of one input in the place of a piece of another.
fn splice(bytes: &[u8], others: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let Some(other) = rng.choice(others).filter(|other| !other.is_empty() && !bytes.is_empty()) else { return bytes.to_vec() };
    let (from, to) = (rng.usize(..other.len()), rng.usize(..bytes.len()));
    let length = rng.usize(1..=64.min(other.len() - from));
    let mut spliced = bytes[..to].to_vec();
    spliced.extend_from_slice(&other[from..from + length]);
    spliced.extend_from_slice(&bytes[(to + length).min(bytes.len())..]);
    spliced
}

/// Another word in the place of one, or a line twice, or not at all.
fn words(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    if rng.u8(..4) == 0 {
        let mut lines: Vec<&str> = text.split('\n').collect();
        let at = rng.usize(..lines.len());
        match rng.u8(..3) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[rng.usize(..lines.len())]),
            _ => lines.swap(at, 0),
        }
        return lines.join("\n").into_bytes();
    }
    let is_word = |c: char| c.is_alphanumeric() || ".%_-".contains(c);
    let mut spans = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (is_word(c), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                spans.push(from..at);
                start = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    let Some(span) = rng.choice(&spans) else { return bytes.to_vec() };
    let word = match rng.choice(&spans).filter(|_| rng.bool()) {
        Some(other) => &text[other.clone()],
        None => WORDS[rng.usize(..WORDS.len())],
    };
    format!("{}{word}{}", &text[..span.start], &text[span.end..]).into_bytes()
}

/// Other values in a JSON document, which stays one. `None` if it is none.
fn values(bytes: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let mut lines: Vec<Value> = serde_json::Deserializer::from_slice(bytes).into_iter().collect::<Result<_, _>>().ok()?;
    let at = rng.usize(..lines.len().max(1));
    let document = lines.get_mut(at)?;
    let count = places(document);
    let donor = nth(document, &mut rng.usize(..count)).cloned();
    let target = nth_mut(document, &mut rng.usize(..count))?;
    change(target, donor, rng);
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    Some(lines.join("\n").into_bytes())
}

fn change(value: &mut Value, donor: Option<Value>, rng: &mut Rng) {
    let number = |rng: &mut Rng| match rng.u8(..8) {
        0 => Number::from(u64::MAX - u64::from(rng.u8(..3))),
        1 => Number::from(i64::MAX),
        2 => Number::from(i64::MIN),
        3 => Number::from(7_u64 << 60),
        4 => Number::from(0),
        5 => Number::from_f64(f64::MAX).unwrap_or_else(|| 0.into()),
        6 => Number::from(1_u64 << rng.u32(..64)),
        _ => Number::from(rng.i32(-3..100)),
    };
    let word = |rng: &mut Rng| WORDS[rng.usize(..WORDS.len())].to_owned();
    *value = match (std::mem::take(value), rng.u8(..6)) {
        (Value::Number(_), 0..=3) => Value::Number(number(rng)),
        (Value::String(text), 0..=1) => Value::String(String::from_utf8_lossy(&words(text.as_bytes(), rng)).into_owned()),
        (Value::String(_), 2) => Value::String(word(rng)),
        (Value::Bool(flag), 0..=3) => Value::Bool(!flag),
        (Value::Array(mut items), 0..=3) if !items.is_empty() => {
            let at = rng.usize(..items.len());
            match rng.u8(..3) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => {
                    let other = rng.usize(..items.len());
                    items.swap(at, other);
                }
            }
            Value::Array(items)
        }
        (Value::Object(mut fields), 0..=3) if !fields.is_empty() => {
            let key = fields.keys().nth(rng.usize(..fields.len())).cloned().unwrap_or_default();
            let held = fields.remove(&key);
            if rng.bool() {
                let other = fields.keys().nth(rng.usize(..fields.len().max(1))).cloned().unwrap_or_else(|| word(rng));
                fields.insert(other, held.unwrap_or_default());
            }
            Value::Object(fields)
        }
        (old, 4) => donor.unwrap_or(old),
        (_, _) => match rng.u8(..5) {
            0 => Value::Null,
            1 => Value::Number(number(rng)),
            2 => Value::String(word(rng)),
            3 => Value::Array(Vec::new()),
            _ => Value::Object(serde_json::Map::new()),
        },
    };
}

/// How many values a document has, itself among them.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(fields) => fields.values().map(places).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn nth<'v>(value: &'v Value, left: &mut usize) -> Option<&'v Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter().find_map(|item| nth(item, left)),
        Value::Object(fields) => fields.values().find_map(|item| nth(item, left)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn nth_mut<'v>(value: &'v mut Value, left: &mut usize) -> Option<&'v mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth_mut(item, left)),
        Value::Object(fields) => fields.values_mut().find_map(|item| nth_mut(item, left)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
