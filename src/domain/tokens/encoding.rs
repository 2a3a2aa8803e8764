//! Whose vocabulary a model counts by, told by its name. Only those whose vocabularies are public and built in.

/// A vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// GPT-4o, 4.1, 4.5, 5, the `o` models, gpt-oss.
    O200k,
    /// GPT-4, GPT-3.5, OpenAI's embeddings.
    Cl100k,
    /// DeepSeek V2.5 to V4, R1.
    DeepSeek,
}

/// By the beginning of the bare name; the first that fits counts.
const MODELS: [(&str, Encoding); 18] = [
    ("gpt-4o", Encoding::O200k),
    ("chatgpt-4o", Encoding::O200k),
    ("gpt-4.1", Encoding::O200k),
    ("gpt-4.5", Encoding::O200k),
    ("gpt-5", Encoding::O200k),
    ("gpt-oss", Encoding::O200k),
    ("o1", Encoding::O200k),
    ("o3", Encoding::O200k),
    ("o4", Encoding::O200k),
    ("gpt-4", Encoding::Cl100k),
    ("gpt-3.5", Encoding::Cl100k),
    ("gpt-35", Encoding::Cl100k),
    ("text-embedding-3", Encoding::Cl100k),
    ("text-embedding-ada-002", Encoding::Cl100k),
    ("deepseek-chat", Encoding::DeepSeek),
    ("deepseek-reasoner", Encoding::DeepSeek),
    ("deepseek-v", Encoding::DeepSeek),
    ("deepseek-r1", Encoding::DeepSeek),
];

impl Encoding {
    pub const ALL: [Self; 3] = [Self::O200k, Self::Cl100k, Self::DeepSeek];

    /// The vocabulary's usual name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::O200k => "o200k_base",
            Self::Cl100k => "cl100k_base",
            Self::DeepSeek => "deepseek_v3",
        }
    }

    /// The vocabulary of a model; `None` for models that are not known to have one of these. A vendor before it (`openai/`) and the
    /// `ft:` of fine-tuned ones don't matter.
    #[must_use]
    pub fn of_model(model: &str) -> Option<Self> {
        let bare = model.rsplit('/').next().unwrap_or(model);
        let bare = bare.strip_prefix("ft:").unwrap_or(bare).to_ascii_lowercase();
        // Distilled models keep the vocabulary of the small model.
        if bare.contains("distill") {
            return None;
        }
        let fits = |name: &str| {
            let rest = bare.strip_prefix(name);
            // `o1` is not `o1x`; `deepseek-v` goes on with its number.
            rest.is_some_and(|r| name.ends_with('v') || !r.starts_with(|c: char| c.is_ascii_alphanumeric()))
        };
        MODELS.iter().find(|(name, _)| fits(name)).map(|(_, encoding)| *encoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_their_names_beginning() {
        for (model, encoding) in [
            ("gpt-4o-mini-2024-07-18", Some(Encoding::O200k)),
            ("openai/gpt-4.1", Some(Encoding::O200k)),
            ("ft:gpt-4o:acme::1", Some(Encoding::O200k)),
            ("o3-mini", Some(Encoding::O200k)),
            ("gpt-4-turbo", Some(Encoding::Cl100k)),
            ("gpt-3.5-turbo-0125", Some(Encoding::Cl100k)),
            ("deepseek-v3.2", Some(Encoding::DeepSeek)),
            ("deepseek-ai/DeepSeek-V3.1", Some(Encoding::DeepSeek)),
            ("deepseek-r1-distill-llama-70b", None),
            ("claude-sonnet-4.5", None),
            ("gemini-2.5-flash", None),
            ("o11y", None),
            ("", None),
        ] {
            assert_eq!(Encoding::of_model(model), encoding, "{model}");
        }
    }

    #[test]
    fn every_vocabulary_is_built_in() {
        for encoding in Encoding::ALL {
            assert!(tiktoken::get_encoding(encoding.as_str()).is_some(), "{encoding:?}");
        }
    }
}
