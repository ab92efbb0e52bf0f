//! How long an answer may take and how large it may be: a server that is slow, endless or hostile must not hold a
//! command for ever, nor fill the memory.

use std::time::{Duration, Instant};

/// Bounds on what is read of the three APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// For one request with its whole body.
    pub request: Duration,
    /// For a whole reading of both planes.
    pub reading: Duration,
    /// Bytes of one body, after decompression.
    pub bytes: usize,
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The connection failed, or its time is over.
    Transport(reqwest::Error),
    /// The body is larger than [`ReadLimits::bytes`].
    TooLarge,
}

impl Default for ReadLimits {
    /// # Source
    /// pveproxy gives up on a request after 30 s, kube-apiserver after 60 s (`--request-timeout`). A page has at most
    /// 500 objects: 256 MiB hold them at half a megabyte each, and etcd takes no object above 1.5 MB.
    fn default() -> Self {
        Self { request: Duration::from_secs(60), reading: Duration::from_secs(300), bytes: 256 << 20 }
    }
}

impl ReadLimits {
    /// When a reading that begins now has to be over.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.reading
    }

    /// Reads the body of an answer, as far as it may go.
    pub(crate) async fn body(&self, response: &mut reqwest::Response) -> Result<Vec<u8>, Cut> {
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(Cut::Transport)? {
            if body.len() + part.len() > self.bytes {
                return Err(Cut::TooLarge);
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    /// The time that is left for a request: its own, but not beyond the deadline of the reading that it is part of.
    pub(crate) fn left(&self, deadline: Option<Instant>) -> Duration {
        let until = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        until.map_or(self.request, |left| left.min(self.request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_never_outlasts_the_reading_that_it_is_part_of() {
        let limits = ReadLimits { request: Duration::from_secs(60), reading: Duration::from_secs(1), bytes: 1 };
        assert_eq!(limits.left(None), Duration::from_secs(60));
        assert!(limits.left(Some(limits.deadline())) <= Duration::from_secs(1));
        let past = Instant::now().checked_sub(Duration::from_secs(1)).expect("the machine runs for longer");
        assert_eq!(limits.left(Some(past)), Duration::ZERO);
    }
}
