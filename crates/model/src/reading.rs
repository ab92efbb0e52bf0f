//! A value that may not have been readable.

use serde::{Deserialize, Serialize};

/// What was read, or why it could not be.
///
/// Unknown is neither zero nor fine: rules answer "insufficient data" and gates refuse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading<T> {
    /// The value, as read.
    Known(T),
    /// Nothing was read; `why` names the thing and the cause.
    Unknown {
        /// The cause, in words a user can act on.
        why: String,
    },
}

impl<T> Reading<T> {
    /// An unknown reading.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown { why: why.into() }
    }

    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    /// The cause, if it is unknown.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown { why } => Some(why),
        }
    }

    /// The same reading of a part or a consequence of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Known(value) => Reading::Known(f(value)),
            Self::Unknown { why } => Reading::Unknown { why },
        }
    }

    /// A reading that borrows the value.
    pub fn as_ref(&self) -> Reading<&T> {
        match self {
            Self::Known(value) => Reading::Known(value),
            Self::Unknown { why } => Reading::Unknown { why: why.clone() },
        }
    }

    /// Goes on with the value, or keeps the cause.
    pub fn and_then<U>(self, f: impl FnOnce(T) -> Reading<U>) -> Reading<U> {
        match self {
            Self::Known(value) => f(value),
            Self::Unknown { why } => Reading::Unknown { why },
        }
    }

    /// The value by copy or move, if it is known.
    pub fn into_known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }
}

impl<T> Reading<Vec<T>> {
    /// The items; none if the list is unknown. Only for looking one up: never count these.
    pub fn items(&self) -> &[T] {
        self.known().map_or(&[], Vec::as_slice)
    }
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self::unknown("not read")
    }
}
