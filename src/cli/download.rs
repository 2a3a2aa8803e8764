//! An answer of a running gateway as something to read from, so that a download of any length takes constant memory.

use super::remote;
use reqwest::{Method, Response, Url};
use std::io::{self, Read};
use tokio::runtime::{Builder, Runtime};

/// An answer's body, read as it comes.
pub struct Download {
    runtime: Runtime,
    answer: Response,
    chunk: bytes::Bytes,
}

impl Download {
    /// Asks for `path` with the query's pairs that have a value.
    ///
    /// # Errors
    /// What went wrong, with the gateway's own words where it answered.
    pub fn get(url: &str, path: &str, query: &[(&str, Option<String>)], token: Option<&str>) -> Result<Self, String> {
        Self::ask(Method::GET, url, &with_query(path, query), token)
    }

    /// Sends a request without a body.
    ///
    /// # Errors
    /// What went wrong, with the gateway's own words where it answered.
    pub fn ask(method: Method, url: &str, path: &str, token: Option<&str>) -> Result<Self, String> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let answer = runtime.block_on(remote::send(method, url, path, token, None))?;
        Ok(Self { runtime, answer, chunk: bytes::Bytes::new() })
    }

    /// A header of the answer.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.answer.headers().get(name)?.to_str().ok().map(str::to_owned)
    }

    /// Reads the whole answer as JSON.
    ///
    /// # Errors
    /// It broke off, or is something else.
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, String> {
        let url = self.answer.url().to_string();
        serde_json::from_reader(io::BufReader::new(self)).map_err(|e| format!("{url} answered something else: {e}"))
    }
}

impl Read for Download {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.answer.chunk()).map_err(io::Error::other)? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let taken = self.chunk.split_to(self.chunk.len().min(into.len()));
        into.iter_mut().zip(&taken).for_each(|(to, from)| *to = *from);
        Ok(taken.len())
    }
}

/// The path with its query, encoded.
fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let Ok(mut url) = Url::parse("http://gateway/") else { return path.to_owned() };
    for (name, value) in query {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded_and_leaves_out_what_is_not_given() {
        let query = [("from", None), ("group_by", Some("tag:a&b".to_owned()))];
        assert_eq!(with_query("/admin/ledger", &query), "/admin/ledger?group_by=tag%3Aa%26b");
        assert_eq!(with_query("/admin/ledger", &[("from", None)]), "/admin/ledger");
    }
}
