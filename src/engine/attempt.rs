//! One attempt at one endpoint. Whatever ends it, it is settled once: the permit reports to the endpoint's actor, the ledger gets
//! its row, the request's record its step. Dropped without a verdict, it was cancelled by the caller; if nothing had been sent by then,
//! it never was an attempt.

use crate::actors::permit::{Permit, Report};
use crate::clock;
use crate::config::model::EndpointConfig;
use crate::dialects::openai::request::MaxTokens;
use crate::dialects::openai::usage::Reported;
use crate::domain::budget::open::OpenAttempt;
use crate::domain::health::Figures;
use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::outcome::Outcome;
use crate::domain::time::{Ts, micros};
use crate::domain::tokens::meter::Meter;
use crate::domain::usage::{Usage, UsageSource};
use crate::engine::context::{CostState, RequestContext};
use crate::engine::hold::{Cap, Hold};
use crate::engine::record::{Step, ms};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::oneshot;

/// At the end of a row's decision: tokens of sound were priced as text.
const AUDIO: &str = ";audio_as_text";
/// In `strict` durability: how long an answer waits for a store that does not write. Then it is served and counted.
const STRICT_WAIT: Duration = Duration::from_secs(2);

/// What has been seen of the answer so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub http_status: u16,
    /// When the answer's head was there.
    pub first_byte: Option<Ts>,
    pub first_content: Option<Ts>,
    /// The upstream's own word.
    pub usage: Option<Reported>,
    /// It said, at least once, what cannot be true.
    pub disbelieved: bool,
    /// Generated text, counted as it comes; of a whole answer with usage only that there is some.
    pub text: Meter,
    /// The prompt's and the answer's tokens, where they were counted exactly because the upstream reported none.
    pub counted: (Option<u64>, Option<u64>),
}

impl Seen {
    /// Takes a report. Streams may bring one with each chunk: they are running totals, and the largest counts.
    pub fn report(&mut self, usage: Option<Reported>) {
        let total = |r: Option<Reported>| r.map(|r| r.usage.total());
        if usage.is_some() && total(usage) >= total(self.usage) {
            self.usage = usage;
        }
    }

    /// What was used. A side that the upstream reports as nothing although something was there (a prompt always is) is
    /// counted here, as both are without a report.
    fn used(&self, outcome: Outcome, prompt: u64) -> (Usage, UsageSource) {
        let (counted_prompt, counted_text) = self.counted;
        let prompt = counted_prompt.unwrap_or(prompt);
        let output = counted_text.unwrap_or_else(|| self.text.tokens());
        match self.usage {
            Some(Reported { usage, .. }) => {
                let (no_prompt, no_output) = (usage.prompt() == 0, usage.completion() == 0 && !self.text.is_empty());
                let usage = Usage {
                    input: if no_prompt { prompt } else { usage.input },
                    output: if no_output { output } else { usage.output },
                    ..usage
                };
                let guessed = no_prompt || no_output;
                (usage, if guessed { UsageSource::Estimated } else { UsageSource::Reported })
            }
            None if outcome == Outcome::Success || !self.text.is_empty() => {
                (Usage { input: prompt, output, ..Usage::default() }, UsageSource::Estimated)
            }
            None => (Usage::default(), UsageSource::None),
        }
    }

    /// Whether the upstream reported what cannot be true: no number of tokens, or none of the prompt or answer that there was.
    fn is_disbelieved(&self, outcome: Outcome, source: UsageSource) -> bool {
        // An answer that was cut may have been cut before its report was due.
        self.disbelieved || (outcome.is_success() && source == UsageSource::Estimated && self.usage.is_some())
    }

    /// Whether the upstream's report leaves something to be counted here.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.usage.is_none_or(|r| r.usage.prompt() == 0 || r.usage.completion() == 0)
    }
}

pub struct Attempt {
    ctx: Rc<RequestContext>,
    permit: Option<Permit>,
    pub config: Arc<EndpointConfig>,
    number: u32,
    /// Strategy and rank.
    decision: Arc<str>,
    hold: Hold,
    pub seen: Seen,
    /// The kind of fault that an experiment put into this attempt.
    pub injected: Option<&'static str>,
    /// How long its first byte is waited for.
    pub given: Option<Duration>,
    /// Nothing is sent before that.
    is_secured: bool,
}

/// A settled attempt; in `strict` durability its row may not be on disk yet.
#[must_use]
pub struct Settled(Option<oneshot::Receiver<Result<(), String>>>);

impl Settled {
    /// Nothing to wait for: a stream is settled at its end.
    pub fn nothing() -> Self {
        Self(None)
    }

    /// Waits until the row is on disk, where the configuration promises that.
    pub async fn durable(self) {
        if let Some(wait) = self.0
            && tokio::time::timeout(STRICT_WAIT, wait).await.is_err()
        {
            tracing::error!("an answer left before its ledger row was on disk: the store does not write");
        }
    }
}

impl Attempt {
    #[must_use]
    pub fn start(
        ctx: &Rc<RequestContext>,
        permit: Permit,
        config: Arc<EndpointConfig>,
        decision: Arc<str>,
        hold: Hold,
    ) -> Self {
        let number = ctx.attempt_started();
        let over = ctx.over_soft_budget || hold.is_exceeded();
        let decision = if over { format!("{decision};soft_budget").into() } else { decision };
        Self {
            ctx: Rc::clone(ctx),
            permit: Some(permit),
            config,
            number,
            decision,
            hold,
            seen: Seen::default(),
            injected: None,
            given: None,
            is_secured: false,
        }
    }

    /// The maximum that a hard budget put into this attempt, and no other.
    #[must_use]
    pub fn cap(&self) -> Option<Cap> {
        self.hold.cap()
    }

    /// A maximum that the request has to carry for a hard budget's sake.
    #[must_use]
    pub fn max_tokens(&self) -> Option<MaxTokens> {
        self.hold.max_tokens(&self.config)
    }

    /// To be awaited before anything is sent: what a hard budget holds for it is then on disk. Whether it may still be sent: meanwhile the
    /// endpoint's breaker may have opened.
    pub async fn secure(&mut self) -> bool {
        let Self { ctx, config, number, decision, hold, .. } = self;
        let took_time = hold
            .secure(|prompt_tokens, completion_tokens, ceiling| OpenAttempt {
                at: clock::wall(),
                request_id: ctx.id.shared(),
                attempt: u16::try_from(*number).unwrap_or(u16::MAX),
                endpoint: Arc::clone(&config.name),
                provider: Arc::clone(&config.provider.name),
                model: Arc::clone(&config.model),
                route: Arc::clone(&ctx.route),
                key_id: ctx.caller.key_id(),
                tags: Arc::clone(&ctx.tags),
                stream: ctx.stream,
                prompt_tokens,
                completion_tokens,
                ceiling,
                price_version: config.price.as_ref().map_or_else(|| "unpriced".into(), |p| Arc::clone(&p.version)),
                decision: Arc::clone(decision),
            })
            .await;
        self.is_secured = !took_time || self.permit.as_ref().is_some_and(Permit::is_good);
        self.is_secured
    }

    /// Nothing was sent: permit and money go back.
    fn withdraw(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.give_back(clock::now());
            self.ctx.attempt_withdrawn(self.number);
        }
    }

    #[must_use]
    pub fn context(&self) -> &Rc<RequestContext> {
        &self.ctx
    }

    /// When the attempt was admitted.
    #[must_use]
    pub fn started(&self) -> Ts {
        self.permit.as_ref().map_or_else(clock::now, Permit::started)
    }

    /// What the endpoint knows of itself.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.permit.as_ref().map_or_else(Figures::default, |permit| permit.cell().figures())
    }

    /// The attempt came to `outcome`; `message` is for the record, `retry_after` what a 429 or 503 asked for.
    pub fn settle(mut self, outcome: Outcome, message: &str, retry_after: Option<Duration>) -> Settled {
        self.conclude(outcome, message, retry_after)
    }

    /// Usage, where it is from, and what it costs.
    fn bill(&self, outcome: Outcome) -> (Usage, UsageSource, Option<NanoUsd>) {
        let (mut usage, source) = self.seen.used(outcome, self.ctx.prompt_tokens);
        if let (UsageSource::Estimated, Some(most)) = (source, self.hold.most_completion_tokens()) {
            // A guess, and the upstream was told a maximum.
            usage.output = usage.output.min(most.saturating_sub(usage.reasoning));
        }
        let cost = match &self.config.price {
            Some(price) => Some(price.cost(&usage)),
            None => (usage.total() == 0).then_some(NanoUsd::ZERO),
        };
        (usage, source, cost)
    }

    /// What a stream that broke off has used so far.
    #[must_use]
    pub fn used(&self) -> Usage {
        self.bill(Outcome::Partial).0
    }

    /// What the attempt costs if it succeeds with what has been seen; `None` when unpriced.
    #[must_use]
    pub fn expected_cost(&self) -> Option<NanoUsd> {
        self.bill(Outcome::Success).2
    }

    fn conclude(&mut self, outcome: Outcome, message: &str, retry_after: Option<Duration>) -> Settled {
        let Some(permit) = self.permit.take() else { return Settled(None) };
        let now = clock::now();
        let started = permit.started();
        let ttft_us = self.seen.first_content.map(|at| micros(at.since(started)));
        let (usage, source, cost) = self.bill(outcome);
        let has_audio = self.seen.usage.is_some_and(|r| r.audio > 0);
        if self.seen.is_disbelieved(outcome, source) {
            permit.cell().meters.disbelieved.fetch_add(1, Relaxed);
        }
        if outcome.is_success()
            && let Some(struck) = &mut *self.ctx.struck.borrow_mut()
        {
            struck.won = Some(usage);
        }
        permit.finish(now, &Report { outcome, ttft_us, usage, cost, retry_after });
        self.ctx.charge(
            cost,
            match source {
                _ if cost.is_none() => CostState::Unpriced,
                // Sound is priced as text: that is no exact cost.
                UsageSource::Estimated => CostState::Estimated,
                _ if has_audio => CostState::Estimated,
                _ => CostState::Measured,
            },
        );
        let http_status = self.seen.http_status;
        self.ctx.note(started, |at_ms| Step::Attempt {
            at_ms,
            attempt: self.number,
            endpoint: Arc::clone(&self.config.name),
            outcome: Cow::Borrowed(outcome.as_str()),
            http_status,
            ms: ms(now.since(started)),
            given_ms: self.given.map(ms),
            first_byte_ms: self.seen.first_byte.map(|at| ms(at.since(started))),
            ttft_ms: ttft_us.map(|us| ms(Duration::from_micros(us))),
            cost_usd: cost.map(NanoUsd::usd),
            injected: self.injected.map(Cow::Borrowed),
            message: message.to_owned(),
        });
        if !outcome.is_success() {
            tracing::debug!(
                request = self.ctx.id.as_str(),
                endpoint = &*self.config.name,
                attempt = self.number,
                outcome = outcome.as_str(),
                http_status,
                message,
                "attempt failed"
            );
        }
        let decision = match (self.injected, has_audio) {
            (None, false) => Arc::clone(&self.decision),
            (None, true) => format!("{}{AUDIO}", self.decision).into(),
            (Some(kind), _) => format!("{};chaos={kind}", self.decision).into(),
        };
        let price_version = self.config.price.as_ref().map_or_else(|| "unpriced".into(), |p| Arc::clone(&p.version));
        let at = clock::wall();
        let entry = Entry {
            at,
            request_id: self.ctx.id.shared(),
            attempt: u16::try_from(self.number).unwrap_or(u16::MAX),
            endpoint: Arc::clone(&self.config.name),
            provider: Arc::clone(&self.config.provider.name),
            model: Arc::clone(&self.config.model),
            route: Arc::clone(&self.ctx.route),
            key_id: self.ctx.caller.key_id(),
            tags: Arc::clone(&self.ctx.tags),
            outcome: outcome.ledger_str().into(),
            http_status,
            stream: self.ctx.stream,
            latency_us: micros(now.since(started)),
            ttft_us,
            usage,
            usage_source: source,
            cost,
            price_version,
            decision,
        };
        let settled = Settled(self.ctx.worker.gateway.ledger.push_row(entry));
        // Behind the row: what is on disk of the hold goes only after it.
        std::mem::take(&mut self.hold).settle(&self.ctx, &self.config.name, at, cost.unwrap_or_default());
        settled
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_secured {
            return self.withdraw();
        }
        let _ = self.conclude(Outcome::Cancelled, self.ctx.why_cancelled(), None);
    }
}
