//! A list read from a file item by item, through a window of a megabyte.
//!
//! A saved PodList of a large cluster is hundreds of megabytes; as one piece of memory its pages
//! alone cost more than parsing them.

use std::io::Read;
use std::string::FromUtf8Error;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Deserializer;

use super::wire::{List, Listed};

/// Bytes read at once: enough to amortise the call, little enough to stay in the cache.
const CHUNK: u64 = 1 << 20;
/// Items after which the size of the rest is estimated.
const SAMPLED: usize = 512;

/// Why a saved list could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The operating system refused.
    #[error("cannot be read")]
    Io(#[from] std::io::Error),
    /// The text is no list of the kind, or it is cut.
    #[error("is no whole list: {problem} at byte {at}")]
    Text {
        /// What is wrong.
        problem: String,
        /// Near which byte.
        at: u64,
    },
}

/// The part of the text that is in memory.
struct Window<R> {
    source: R,
    text: String,
    /// The beginning of a character that the window's end cut.
    cut: Vec<u8>,
    /// Where the unread part begins.
    start: usize,
    /// Bytes of the file before `text`.
    before: u64,
    /// Bytes of the file, if it is one.
    length: Option<u64>,
    ended: bool,
}

impl<R: Read> Window<R> {
    /// Reads more of the file; what was consumed is dropped.
    fn fill(&mut self) -> Result<(), StreamError> {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes.drain(..self.start);
        self.before += self.start as u64;
        self.start = 0;
        bytes.append(&mut self.cut);
        self.ended = self.source.by_ref().take(CHUNK).read_to_end(&mut bytes)? == 0;
        // Checked once for all: the parser need not look at each string again.
        self.text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) if error.utf8_error().error_len().is_none() && !self.ended => {
                let whole = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                self.cut = bytes.split_off(whole);
                String::from_utf8(bytes).map_err(|error| self.not_text(&error))?
            }
            Err(error) => return Err(self.not_text(&error)),
        };
        Ok(())
    }

    fn not_text(&self, error: &FromUtf8Error) -> StreamError {
        let at = self.before + error.utf8_error().valid_up_to() as u64;
        StreamError::Text { problem: "no UTF-8 text".to_owned(), at }
    }

    fn error(&self, problem: impl ToString) -> StreamError {
        StreamError::Text { problem: problem.to_string(), at: self.before + self.start as u64 }
    }

    /// Whether an error stands where the window ends: a number cut in half is "invalid", not "cut".
    fn is_near_end(&self, error: &serde_json::Error) -> bool {
        const NUMBER: usize = 64;
        let text = &self.text.as_bytes()[self.start..];
        let line =
            text.split(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(|line| line.len() + 1).sum::<usize>();
        line + error.column() + NUMBER >= text.len()
    }

    /// The next value, whole.
    fn value<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, StreamError> {
        loop {
            let mut values = Deserializer::from_str(&self.text[self.start..]).into_iter::<T>();
            let (value, used) = (values.next(), values.byte_offset());
            // A number that touches the end of the window may go on behind it.
            let whole = self.start + used < self.text.len() || self.ended;
            match value {
                Some(Ok(value)) if whole => {
                    self.start += used;
                    return Ok(value);
                }
                Some(Err(error)) if self.ended || !(error.is_eof() || self.is_near_end(&error)) => return Err(self.error(error)),
                None if self.ended => return Err(self.error("the text ends")),
                Some(_) | None => self.fill()?,
            }
        }
    }

    /// The next byte that is no white space; consumed.
    fn mark(&mut self) -> Result<u8, StreamError> {
        loop {
            match self.text.as_bytes()[self.start..].iter().position(|byte| !byte.is_ascii_whitespace()) {
                Some(offset) => {
                    self.start += offset + 1;
                    return Ok(self.text.as_bytes()[self.start - 1]);
                }
                None if self.ended => return Err(self.error("the text ends")),
                None => {
                    self.start = self.text.len();
                    self.fill()?;
                }
            }
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), StreamError> {
        let found = self.mark()?;
        if found == wanted {
            Ok(())
        } else {
            Err(self.error(format!("`{}` instead of `{}`", char::from(found), char::from(wanted))))
        }
    }

    /// The items of an array, each turned into ours before the next is read.
    fn items<T: Listed>(&mut self) -> Result<Vec<T>, StreamError> {
        let mut items = Vec::new();
        if self.mark()? != b'[' {
            // `null`, which some client libraries write for an empty list.
            self.start -= 1;
            return self.value::<Option<IgnoredAny>>()?.map_or(Ok(items), |_| Err(self.error("`items` is no array")));
        }
        if self.mark()? == b']' {
            return Ok(items);
        }
        self.start -= 1;
        let begin = self.before + self.start as u64;
        loop {
            items.extend(T::from_wire(self.value()?));
            if items.len() == SAMPLED
                && let Some(length) = self.length
            {
                // One allocation instead of a dozen, each twice the last: fresh memory is not free.
                let used = (self.before + self.start as u64 - begin).max(1);
                let more = length.saturating_sub(begin) / used * SAMPLED as u64;
                items.reserve_exact(usize::try_from(more).unwrap_or_default());
            }
            match self.mark()? {
                b',' => {}
                b']' => return Ok(items),
                other => return Err(self.error(format!("`{}` between items", char::from(other)))),
            }
        }
    }
}

/// Reads a whole list; `length` is that of the file, if it is known.
///
/// # Errors
/// [`StreamError`] if the file cannot be read or is no whole list of the kind.
pub(crate) fn read<T: Listed>(source: impl Read, length: Option<u64>) -> Result<List<T>, StreamError> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct ListMeta {
        #[serde(rename = "continue")]
        next: Option<String>,
    }
    let mut window = Window { source, text: String::new(), cut: Vec::new(), start: 0, before: 0, length, ended: false };
    window.expect(b'{')?;
    let (mut items, mut meta) = (None, ListMeta::default());
    let mut mark = window.mark()?;
    while mark != b'}' {
        window.start -= 1;
        let key: String = window.value()?;
        window.expect(b':')?;
        match key.as_str() {
            "items" => items = Some(window.items()?),
            "metadata" => meta = window.value::<Option<ListMeta>>()?.unwrap_or_default(),
            _ => drop(window.value::<IgnoredAny>()?),
        }
        mark = match window.mark()? {
            b',' => window.mark()?,
            b'}' => b'}',
            other => return Err(window.error(format!("`{}` between fields", char::from(other)))),
        };
    }
    let items = items.ok_or_else(|| window.error("there are no `items`"))?;
    Ok(List { items, next: meta.next.filter(|token| !token.is_empty()), remaining: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use capplan_model::kube::Namespace;

    /// Gives a few bytes a time, so that every value meets the end of the window.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.len().min(3).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn names(text: &str) -> Result<Vec<String>, StreamError> {
        read::<Namespace>(Slow(text.as_bytes()), None).map(|list| list.items.into_iter().map(|one| one.name).collect())
    }

    #[test]
    fn a_list_reads_the_same_wherever_its_pieces_end() {
        let text = r#" { "kind": "NamespaceList", "extra": [1, 2.5e3, {"a": "]}"}], "items": [ {"metadata": {"name": "a\"]}"}} ,
            {"metadata":{"name":"b"}}], "metadata": {"continue": ""}, "n": 12 } "#;
        assert_eq!(names(text).expect("whole"), ["a\"]}", "b"]);
        assert_eq!(names(r#"{"items":[]}"#).expect("whole"), [""; 0]);
        assert_eq!(names(r#"{"items":null,"metadata":null}"#).expect("whole"), [""; 0]);
    }

    #[test]
    fn a_character_may_lie_across_the_end_of_the_window() {
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(CHUNK as usize - 60 + shift), "ä€🦀".repeat(20));
            let text = format!(r#"{{"items":[{{"metadata":{{"name":"{long}"}}}}]}}"#);
            assert_eq!(names(&text).expect("whole"), [long]);
        }
        for (text, at) in [(&b"{\"items\":[\"\xff\"]}"[..], 11), (&b"{\"items\":[\"\xe2\x82"[..], 11)] {
            let error = read::<Namespace>(Slow(text), None).map(|_| ()).expect_err("no text");
            assert!(error.to_string().ends_with(&format!("no UTF-8 text at byte {at}")), "{error}");
        }
    }

    #[test]
    fn a_list_cut_anywhere_is_an_error() {
        let text = r#"{"metadata":{},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}"#;
        for end in 0..text.len() {
            assert!(names(&text[..end]).is_err(), "cut at {end}");
        }
        for wrong in ["[]", "{}", r#"{"items":{}}"#, r#"{"items":[1]}"#, r#"{"items":[{} {}]}"#] {
            assert!(names(wrong).is_err(), "{wrong}");
        }
    }
}
