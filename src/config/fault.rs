//! What is wrong with a configuration, and where: `file:line:column: path.to.key: what is wrong, what is allowed`.

use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// One thing that is wrong, or that deserves a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Empty for a value that came over the API.
    pub file: Arc<str>,
    /// From 1; 0 when the fault has no place in the file.
    pub line: u32,
    /// From 1, in characters; 0 when the fault has no place in the file.
    pub column: u32,
    /// The key, such as `endpoints.gpt.limits.rpm`; empty for the file as a whole.
    pub path: String,
    pub message: String,
}

impl Fault {
    /// A fault of the file as a whole.
    #[must_use]
    pub fn of_file(file: &str, message: String) -> Self {
        Self { file: file.into(), line: 0, column: 0, path: String::new(), message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            f.write_str(" ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, in the file's order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// All of `faults`, or `None` if there is none.
    #[must_use]
    pub fn from_vec(mut faults: Vec<Fault>) -> Option<Self> {
        faults.sort_by_key(|f| (f.line, f.column));
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// A single fault.
    #[must_use]
    pub fn one(fault: Fault) -> Self {
        Self(vec![fault])
    }

    /// These and one more.
    #[must_use]
    pub fn and(mut self, fault: Fault) -> Self {
        self.0.push(fault);
        self.0.sort_by_key(|f| (f.line, f.column));
        self
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// One line for an API's answer: the faults without their places, joined by `; `.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        lines.join("; ")
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One fault a line, without a line break at the end.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
