//! OpenAI's chat completions, which most vendors speak.

pub mod answer;
mod ceiling;
pub mod flow;
pub mod request;
pub mod text;
pub mod transcript;
pub mod usage;

/// Where chat completions are posted, below a provider's `base_url`.
pub const CHAT_PATH: &str = "/chat/completions";
/// The list of models: also how a key is checked.
pub const MODELS_PATH: &str = "/models";
