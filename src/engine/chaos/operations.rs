//! What operators do with experiments, how they are shown, and the task that ends them in time.

use crate::actors::events::Event;
use crate::clock;
use crate::config;
use crate::domain::chaos::Experiment;
use crate::domain::table::Table;
use crate::domain::time::Ts;
use crate::engine::chaos::{Chaos, EndedBy, Trial};
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Without an experiment the task that ends them looks this seldom.
const IDLE: Duration = Duration::from_secs(3600);

/// Ends experiments when their time is over; for ever, dropped with its task.
pub async fn run(gateway: Arc<Gateway>) {
    loop {
        let now = clock::now();
        gateway.end_chaos(|t| (t.ends <= now).then_some(EndedBy::Time)).await;
        let wait = gateway.chaos.next_end().map_or(IDLE, |end| end.since(clock::now()));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = gateway.chaos.began.notified() => {}
        }
    }
}

impl Chaos {
    fn next_end(&self) -> Option<Ts> {
        self.trials.read().running.iter().map(|t| t.ends).min()
    }

    fn find(&self, id: &str) -> Option<Arc<Trial>> {
        let trials = self.trials.read();
        trials.running.iter().chain(&trials.ended).find(|t| *t.id == *id).cloned()
    }
}

impl Trial {
    /// As operators see it.
    #[must_use]
    pub fn view(&self) -> Value {
        let at = |t: Ts| clock::wall_of(t).to_rfc3339();
        let end = self.end.get();
        json!({
            "id": &*self.id, "endpoint": &*self.experiment.endpoint, "share": self.experiment.share,
            "for": config::scalar::format_duration(self.experiment.period), "fault": self.experiment.fault,
            "state": if end.is_some() { "ended" } else { "running" },
            "started_at": self.started_at.to_rfc3339(), "ends_at": at(self.ends),
            "ended_at": end.map(|(_, at)| at.to_rfc3339()), "ended_by": end.map(|(by, _)| by.as_str()),
            "scorecard": self.score.lock().card(),
        })
    }

    /// As it stands beside its endpoint.
    #[must_use]
    pub fn short_view(&self) -> Value {
        json!({
            "id": &*self.id, "kind": self.experiment.fault.name(), "share": self.experiment.share,
            "ends_at": clock::wall_of(self.ends).to_rfc3339(),
        })
    }

    /// A heading and its scorecard, for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let state = match self.end.get() {
            Some((by, at)) => format!("ended {} by {}", at.to_rfc3339(), by.as_str()),
            None => format!("runs until {}", clock::wall_of(self.ends).to_rfc3339()),
        };
        format!("{} {}: {}\n{}", self.id, self.in_words(), state, self.score.lock().card().to_table())
    }

    fn in_words(&self) -> String {
        let Experiment { endpoint, share, period, fault } = &self.experiment;
        format!("{} at {endpoint}, share {share}, for {}", fault.name(), config::scalar::format_duration(*period))
    }
}

impl Gateway {
    /// Lets pass if the configuration allows chaos.
    ///
    /// # Errors
    /// 403 with the remedy.
    pub fn chaos_allowed(&self) -> Result<(), ApiError> {
        if self.config().chaos.allowed {
            return Ok(());
        }
        let message = "chaos is not allowed here: write `chaos: allowed` into config.yaml and POST /admin/reload";
        Err(ApiError::new(Code::ChaosNotAllowed, message))
    }

    /// Starts an experiment that an operator sent.
    ///
    /// # Errors
    /// Chaos is not allowed, what is wrong with the experiment, or the store cannot be written; nothing was started.
    pub async fn start_chaos(&self, body: &Value) -> Result<Value, ApiError> {
        self.chaos_allowed()?;
        let experiment = config::experiment_from_json(body).map_err(|m| ApiError::new(Code::InvalidRequest, m))?;
        Ok(self.begin_chaos(experiment).await?.view())
    }

    /// Starts the experiments of the configuration and of the command line. One that cannot be started is told of and left out.
    pub async fn start_configured_chaos(&self, experiments: Vec<Experiment>) {
        for experiment in experiments {
            let endpoint = Arc::clone(&experiment.endpoint);
            if let Err(e) = self.begin_chaos(experiment).await {
                tracing::error!(endpoint = &*endpoint, error = e.message, "an experiment was not started");
            }
        }
    }

    async fn begin_chaos(&self, experiment: Experiment) -> Result<Arc<Trial>, ApiError> {
        let cell = self.cell(&experiment.endpoint)?;
        let id: Arc<str> = format!("chaos-{:08x}", fastrand::u32(..)).into();
        let conflict = |m: String| ApiError::new(Code::Conflict, m);
        let trial = self.chaos.start(id, experiment, cell).map_err(conflict)?;
        let detail = format!("{}: {}", trial.id, trial.in_words());
        if let Err(e) = self.audit("chaos_start", &trial.experiment.endpoint, &detail).await {
            // What could not be noted does not happen.
            self.chaos.end(|t| (t.id == trial.id).then_some(EndedBy::Stop));
            return Err(e);
        }
        self.tell_chaos(&trial, "started", detail);
        Ok(trial)
    }

    fn tell_chaos(&self, trial: &Trial, what: &'static str, detail: String) {
        self.events.emit(|| Event::Chaos {
            endpoint: Arc::clone(&trial.experiment.endpoint),
            id: Arc::clone(&trial.id),
            kind: trial.experiment.fault.name(),
            what,
            detail,
        });
    }

    /// Ends the experiments that `why` gives a reason for, and tells their scores: in the log, the audit log and to whoever watches.
    pub async fn end_chaos(&self, why: impl Fn(&Trial) -> Option<EndedBy>) -> Vec<Arc<Trial>> {
        if !self.chaos.is_running() {
            return Vec::new();
        }
        let ended = self.chaos.end(why);
        for trial in &ended {
            let by = trial.end.get().map_or("", |(by, _)| by.as_str());
            let score = trial.score.lock().card().in_words();
            tracing::info!(id = &*trial.id, endpoint = &*trial.experiment.endpoint, by, score, "chaos ended");
            let detail = format!("{}: {}, ended by {by}: {score}", trial.id, trial.in_words());
            self.tell_chaos(trial, "ended", detail.clone());
            if let Err(e) = self.audit("chaos_end", &trial.experiment.endpoint, &detail).await {
                tracing::error!(id = &*trial.id, error = e.message, "the end of an experiment is not in the audit log");
            }
        }
        ended
    }

    /// Ends what a configuration that has just been swapped in no longer carries: `changed` are the endpoints whose settings differ.
    pub async fn end_chaos_after_reload(&self, changed: &[Arc<str>]) {
        let (topology, allowed) = (self.board.topology(), self.config().chaos.allowed);
        self.end_chaos(|t| {
            let name = &t.experiment.endpoint;
            let is_there = topology.cell(name).is_some_and(|c| c.id == t.cell.id);
            match () {
                () if !allowed => Some(EndedBy::NotAllowedAnyMore),
                () if !is_there => Some(EndedBy::EndpointRemoved),
                () if changed.contains(name) => Some(EndedBy::EndpointChanged),
                () => None,
            }
        })
        .await;
    }

    /// Ends one experiment.
    ///
    /// # Errors
    /// Chaos is not allowed, or no such experiment runs.
    pub async fn stop_chaos(&self, id: &str) -> Result<Value, ApiError> {
        self.chaos_allowed()?;
        let ended = self.end_chaos(|t| (*t.id == *id).then_some(EndedBy::Operator)).await;
        match ended.first() {
            Some(trial) => Ok(trial.view()),
            None if self.chaos.find(id).is_some() => {
                Err(ApiError::new(Code::Conflict, format!("the experiment `{id}` has ended already")))
            }
            None => Err(no_experiment(id)),
        }
    }

    /// Ends all experiments.
    ///
    /// # Errors
    /// Chaos is not allowed.
    pub async fn stop_all_chaos(&self) -> Result<Value, ApiError> {
        self.chaos_allowed()?;
        let ended = self.end_chaos(|_| Some(EndedBy::Operator)).await;
        Ok(json!({ "ended": ended.iter().map(|t| t.view()).collect::<Vec<_>>() }))
    }

    /// The experiments that run, then the last that have ended, the newest first.
    ///
    /// # Errors
    /// Chaos is not allowed.
    pub fn chaos_trials(&self) -> Result<Vec<Arc<Trial>>, ApiError> {
        self.chaos_allowed()?;
        let trials = self.chaos.trials.read();
        Ok(trials.running.iter().chain(trials.ended.iter().rev()).cloned().collect())
    }

    /// One experiment, running or among the last that have ended.
    ///
    /// # Errors
    /// Chaos is not allowed, or there is none of this id.
    pub fn chaos_trial(&self, id: &str) -> Result<Arc<Trial>, ApiError> {
        self.chaos_allowed()?;
        self.chaos.find(id).ok_or_else(|| no_experiment(id))
    }
}

/// A line per experiment, for people.
#[must_use]
pub fn table(trials: &[Arc<Trial>]) -> String {
    let titles =
        ["id", "endpoint", "kind", "share", "state", "attempts hit", "requests hit", "rescued", "lost", "until"];
    let mut table = Table::new(&titles);
    for trial in trials {
        let card = trial.score.lock().card();
        let until = trial.end.get().map_or_else(|| clock::wall_of(trial.ends), |(_, at)| *at);
        table.row([
            trial.id.to_string(),
            trial.experiment.endpoint.to_string(),
            trial.experiment.fault.name().to_owned(),
            trial.experiment.share.to_string(),
            if trial.end.get().is_some() { "ended" } else { "running" }.to_owned(),
            card.hits.to_string(),
            card.requests_hit.to_string(),
            card.rescued.to_string(),
            card.lost.to_string(),
            until.to_rfc3339(),
        ]);
    }
    table.to_text()
}

fn no_experiment(id: &str) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no experiment `{id}`; GET /admin/chaos lists them"))
}
