//! Which ledger rows are wanted: by model, endpoint, key, outcome and tags. All that is asked for has to hold.

use crate::domain::ledger::Entry;

/// Conditions on a row; the default wants every row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFilter {
    pub model: Option<String>,
    pub endpoint: Option<String>,
    /// A virtual key's id.
    pub key: Option<String>,
    pub outcome: Option<String>,
    /// Names and values, all of them.
    pub tags: Vec<(String, String)>,
}

impl RowFilter {
    /// Reads a tag's condition, `name=value`.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse_tag(text: &str) -> Result<(String, String), String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("`{text}` is not NAME=VALUE")),
        }
    }

    /// Whether every row is wanted.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    #[must_use]
    pub fn wants(&self, e: &Entry) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        fits(&self.model, &e.model)
            && fits(&self.endpoint, &e.endpoint)
            && fits(&self.key, &e.key_id)
            && fits(&self.outcome, &e.outcome)
            && self.tags.iter().all(|(name, value)| e.tags.iter().any(|(n, v)| **n == **name && **v == **value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sample;

    #[test]
    fn all_conditions_have_to_hold() {
        let entry = sample::nth(0);
        let tag = |text: &str| RowFilter { tags: vec![RowFilter::parse_tag(text).unwrap()], ..RowFilter::default() };
        assert!(RowFilter::default().wants(&entry) && RowFilter::default().is_all());
        assert!(tag("team=t0").wants(&entry) && !tag("team=t1").wants(&entry) && !tag("tea=t0").wants(&entry));
        let both = RowFilter { model: Some("deepseek-v3.2".into()), outcome: Some("success".into()), ..tag("team=t0") };
        assert!(both.wants(&entry) && !both.is_all());
        assert!(!RowFilter { outcome: Some("cancelled".into()), ..both.clone() }.wants(&entry));
        assert!(!RowFilter { endpoint: Some("gpt".into()), ..both.clone() }.wants(&entry));
        assert!(!RowFilter { key: Some(String::new()), ..both }.wants(&entry));
        assert!(RowFilter::parse_tag("team").is_err() && RowFilter::parse_tag("=x").is_err());
    }
}
