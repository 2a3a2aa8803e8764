//! What an upstream says is left of its rate limits, in the headers of OpenAI's API and of those that follow it, of Anthropic's,
//! and in the generic ones. A number that isn't one says nothing.

use reqwest::header::{HeaderMap, HeaderName};

const REQUESTS: [HeaderName; 4] = [
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("ratelimit-remaining"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
    HeaderName::from_static("anthropic-ratelimit-input-tokens-remaining"),
];

/// What is left of requests and of tokens; the least, if an answer names several.
#[must_use]
pub fn read(headers: &HeaderMap) -> (Option<u64>, Option<u64>) {
    let least = |names: &[HeaderName]| names.iter().filter_map(|name| count(headers, name)).min();
    (least(&REQUESTS), least(&TOKENS))
}

fn count(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(pairs: &[(&'static str, &str)]) -> (Option<u64>, Option<u64>) {
        read(&pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect())
    }

    #[test]
    fn vendors_names_are_known_and_the_least_counts() {
        let openai = [("x-ratelimit-remaining-requests", "59"), ("x-ratelimit-remaining-tokens", " 149984 ")];
        assert_eq!(of(&openai), (Some(59), Some(149_984)));
        let anthropic = [
            ("anthropic-ratelimit-requests-remaining", "4"),
            ("anthropic-ratelimit-tokens-remaining", "80000"),
            ("anthropic-ratelimit-input-tokens-remaining", "30000"),
        ];
        assert_eq!(of(&anthropic), (Some(4), Some(30_000)));
        assert_eq!(of(&[("ratelimit-remaining", "0")]), (Some(0), None));
        assert_eq!(of(&[("x-ratelimit-limit-requests", "60")]), (None, None));
    }

    #[test]
    fn junk_says_nothing() {
        for junk in ["", "-1", "1e3", "3.5", "many", "99999999999999999999", "0x10", "1,000", "+5"] {
            assert_eq!(of(&[("x-ratelimit-remaining-requests", junk)]), (None, None), "{junk}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_left(text in "[ -~]{0,30}") {
            let told = of(&[("x-ratelimit-remaining", &text)]).0;
            prop_assert_eq!(told, text.trim().parse::<u64>().ok().filter(|_| !text.contains('+')));
        }
    }
}
