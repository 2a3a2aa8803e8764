//! Runs a scenario from its first life to its last, and holds what happened against what is promised.

use crate::money;
use crate::scenario::{Scenario, Span};
use crate::world::Journal;
use crate::world::client::{End, Request, ask, body};
use crate::world::life::{EPOCH, Ending, Life};
use crate::world::provider::World;
use breakwater::actors::messages::{Act, Operate, PanicNow};
use breakwater::clock;
use breakwater::domain::breaker::State;
use breakwater::domain::gate::Door;
use breakwater::domain::ledger::{Entry, Row};
use breakwater::domain::money::NanoUsd;
use breakwater::domain::sums::{GroupBy, TimeRange};
use breakwater::domain::time::Wall;
use breakwater::engine::access::Caller;
use breakwater::engine::error::Code;
use breakwater::engine::gateway::{Gateway, Worker};
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A row is on disk this long after its attempt, when the disk is quick: two lingering commits and the hop to the actor.
const COMMITTED: Duration = Duration::from_millis(100);
/// An answer may come this much after its deadline: the error has to be made and told.
const SLACK: Duration = Duration::from_secs(2);

/// What a scenario came to.
#[derive(Debug, Default)]
pub struct Report {
    pub hash: u64,
    pub events: u64,
    pub time: Duration,
    pub requests: u64,
    pub complete: u64,
    /// Complete as far as a hard budget paid for it.
    pub lowered: u64,
    pub over_budget: u64,
    pub calls: u64,
    pub rows: u64,
    pub orphans: u64,
    pub kills: u64,
    pub violations: Vec<String>,
    /// The journal's lines about the first violation.
    pub lines: Vec<String>,
}

/// A request of the past, as it is held against the ledger.
struct Asked {
    life: usize,
    max_attempts: u32,
    /// `None` while it runs; for ever, if a kill came first.
    ended: Option<(End, Wall)>,
    lowered: bool,
}

/// An endpoint's breaker as the last life left it.
struct Remembered {
    name: Arc<str>,
    open_until: Wall,
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: Rc<World>,
    asked: Rc<RefCell<BTreeMap<String, Asked>>>,
    /// When each life ended.
    ends: Vec<Wall>,
    dice: Rng,
    remembered: Vec<Remembered>,
    rows: u64,
    orphans: u64,
}

pub fn run(scenario: &Scenario, folder: &Path) -> Report {
    let world = World::new(scenario.natures.clone(), Journal::default());
    let dice = Rng::with_seed(scenario.seed ^ 0x5eed);
    let (asked, ends, remembered) = (Rc::default(), Vec::new(), Vec::new());
    let mut run = Run { scenario, world, asked, ends, dice, remembered, rows: 0, orphans: 0 };
    let mut time = Duration::ZERO;
    let last = Span { lasts: Duration::ZERO, ending: Ending::Graceful, ..scenario.lives[0] };
    for (number, span) in scenario.lives.iter().copied().chain([last]).enumerate() {
        time = run.life(number, span, folder, time) + span.then_down;
    }
    run.report(time)
}

impl Run<'_> {
    fn life(&mut self, number: usize, span: Span, folder: &Path, begins: Duration) -> Duration {
        let world = Rc::clone(&self.world);
        let life = Life {
            world: &world,
            config: &self.scenario.config,
            durability: span.durability,
            store: &folder.join("state"),
            begins,
            seed: self.dice.u64(..),
            ending: span.ending,
        };
        world.journal().note(&format!("life {number}: {span:?}"));
        let load = Load {
            scenario: self.scenario.clone(),
            world: Rc::clone(&world),
            asked: Rc::clone(&self.asked),
            dice: Rng::with_seed(self.dice.u64(..)),
            number,
            serial: 0,
        };
        let before = std::mem::take(&mut self.remembered);
        let at_rest = |gateway: &Gateway| {
            at_rest(gateway, &world);
            ledger(gateway, &world)
        };
        let work = async |worker: Rc<Worker>| {
            check_memory(&worker.gateway, &before, &world);
            money::check(&worker.gateway, &entries(&worker.gateway), world.journal());
            load.run(&worker, span.lasts).await;
            memory(&worker.gateway)
        };
        let (remembered, found, ends) = life.live(work, at_rest);
        self.remembered = remembered;
        self.ends.push(EPOCH.plus(ends));
        if let Some(rows) = found {
            self.compare(&rows);
            self.rows = rows.values().map(|r| u64::from(r.count)).sum();
            self.orphans = rows.values().map(|r| u64::from(r.orphans)).sum();
        }
        ends
    }

    /// Rows against calls: each attempt has its row, but for those that a kill overtook.
    fn compare(&self, rows: &BTreeMap<String, OfRequest>) {
        let journal = self.world.journal();
        let present = self.ends.len() - 1;
        for (name, asked) in &*self.asked.borrow() {
            let (calls, found) = (self.world.calls_for(name), rows.get(name));
            // Of an orphan nobody knows whether its call was made.
            let (count, orphans) = found.map_or((0, 0), |f| (f.count, f.orphans));
            let killed = self.scenario.lives.get(asked.life).is_some_and(|l| l.ending == Ending::Kill);
            let strict = self.scenario.lives.get(asked.life).is_some_and(|l| l.durability == "strict");
            let died = self.ends[asked.life.min(present)];
            let settled = asked.ended.is_some_and(|(_, at)| at.plus(COMMITTED) < died);
            let told = asked.ended.is_some_and(|(end, _)| end == End::Complete);
            let too_many = count - orphans > calls || (orphans > 0 && !killed);
            if too_many || ((!killed || settled) && count != calls) {
                journal.violation(format!("{name}: {calls} calls and {count} rows"));
            }
            if told && strict && !found.is_some_and(|f| f.succeeded) {
                journal.violation(format!("{name}: answered under `strict` and no row of it"));
            }
            if calls > asked.max_attempts {
                journal.violation(format!("{name}: {calls} calls, at most {} allowed", asked.max_attempts));
            }
        }
        for name in rows.keys().filter(|name| !self.asked.borrow().contains_key(*name)) {
            journal.violation(format!("{name}: rows of a request that nobody made"));
        }
    }

    fn report(self, time: Duration) -> Report {
        let journal = self.world.journal();
        let violations = journal.violations();
        let about = violations.first().and_then(|v| v.split(':').next()).unwrap_or_default();
        let asked = self.asked.borrow();
        let ended = |of: End| asked.values().filter(move |a| a.ended.is_some_and(|(end, _)| end == of));
        Report {
            hash: journal.hash(),
            events: journal.events(),
            time,
            requests: asked.len() as u64,
            complete: ended(End::Complete).count() as u64,
            lowered: ended(End::Complete).filter(|a| a.lowered).count() as u64,
            over_budget: ended(End::Refused(Code::BudgetExceeded)).count() as u64,
            calls: self.world.calls(),
            rows: self.rows,
            orphans: self.orphans,
            kills: self.scenario.lives.iter().filter(|l| l.ending == Ending::Kill).count() as u64,
            lines: journal.lines_about(about),
            violations,
        }
    }
}

/// Nothing runs: nothing may be held.
fn at_rest(gateway: &Gateway, world: &World) {
    let journal = world.journal();
    for cell in &gateway.board.topology().cells {
        let in_flight = cell.hot.lock().gate.in_flight();
        if in_flight > 0 {
            journal.violation(format!("{}: {in_flight} permits have leaked", cell.name));
        }
    }
    let (in_flight, waiting) = (gateway.in_flight(), gateway.waiting.count());
    if in_flight > 0 || waiting > 0 || world.running() > 0 {
        journal.violation(format!("at rest: {in_flight} in flight, {waiting} waiting, {} calls up", world.running()));
    }
}

#[derive(Default)]
struct OfRequest {
    count: u32,
    /// Attempts that a kill overtook under a hard budget.
    orphans: u32,
    /// The attempts' numbers.
    attempts: BTreeSet<u16>,
    succeeded: bool,
}

fn entries(gateway: &Gateway) -> Vec<Entry> {
    let rows = gateway.ledger.reader().rows(TimeRange::ALL).expect("rows");
    rows.map(|row| row.expect("a sound row").entry).collect()
}

/// Reads the whole ledger: its chain, its sums against its rows, and the rows of each request.
fn ledger(gateway: &Gateway, world: &World) -> BTreeMap<String, OfRequest> {
    let (reader, journal) = (gateway.ledger.reader(), world.journal());
    match reader.verify(&mut |_| {}) {
        Ok(report) if report.first_bad.is_none() => {}
        other => journal.violation(format!("ledger: it does not verify: {other:?}")),
    }
    let mut by_endpoint: BTreeMap<String, (u64, u64, NanoUsd)> = BTreeMap::new();
    let mut by_request: BTreeMap<String, OfRequest> = BTreeMap::new();
    money::check(gateway, &entries(gateway), journal);
    for row in reader.rows(TimeRange::ALL).expect("rows") {
        let Row { seq, entry, .. } = row.expect("a sound row");
        journal.note(&format!(
            "row {seq} {} {} {} {} {} {:?} {}",
            entry.at.0, entry.request_id, entry.attempt, entry.endpoint, entry.outcome, entry.cost, entry.decision
        ));
        let sum = by_endpoint.entry(entry.endpoint.to_string()).or_default();
        *sum = (sum.0 + 1, sum.1 + entry.usage.total(), sum.2 + entry.cost.unwrap_or_default());
        let request = by_request.entry(entry.request_id.to_string()).or_default();
        request.count += 1;
        request.succeeded |= &*entry.outcome == "success";
        request.orphans += u32::from(entry.decision.ends_with(";orphan"));
        if entry.attempt < 1 || !request.attempts.insert(entry.attempt) {
            journal.violation(format!("{}: two rows of attempt {}, or one of none", entry.request_id, entry.attempt));
        }
    }
    let sums = reader.sums(TimeRange::ALL, &GroupBy::Endpoint).expect("sums");
    let sums: BTreeMap<_, _> =
        sums.into_iter().map(|s| (s.group, (s.tally.attempts, s.tally.usage.total(), s.tally.cost))).collect();
    if sums != by_endpoint {
        journal.violation(format!("ledger: sums are {sums:?}, rows say {by_endpoint:?}"));
    }
    let lost = gateway.ledger.status().lost_rows;
    if lost > 0 {
        journal.violation(format!("ledger: {lost} rows lost"));
    }
    by_request
}

/// The breakers that were open long enough for that to be on disk.
fn memory(gateway: &Gateway) -> Vec<Remembered> {
    let now = clock::now();
    let cells = gateway.board.topology().cells.clone();
    let open = cells.iter().filter_map(|cell| {
        let view = cell.saved()?.breaker().view(now);
        let open_until = clock::wall_of(view.retry_at?);
        (view.state == State::Open && now.since(view.since) > COMMITTED)
            .then(|| Remembered { name: Arc::clone(&cell.name), open_until })
    });
    open.collect()
}

/// What was open before the restart and has time left is open after it.
fn check_memory(gateway: &Gateway, before: &[Remembered], world: &World) {
    for Remembered { name, open_until } in before {
        let door = gateway.board.topology().cell(name).map(|c| c.hot.lock().gate.door());
        let left = open_until.since(clock::wall());
        if !left.is_zero() && !matches!(door, Some(Door::Shut { .. })) {
            world
                .journal()
                .violation(format!("{name}: open for another {left:?} before the restart, {door:?} after it"));
        }
    }
}

/// The clients of one life.
struct Load {
    scenario: Scenario,
    world: Rc<World>,
    asked: Rc<RefCell<BTreeMap<String, Asked>>>,
    dice: Rng,
    number: usize,
    serial: u64,
}

impl Load {
    async fn run(mut self, worker: &Rc<Worker>, lasts: Duration) {
        let end = clock::now().plus(lasts);
        let mut quiet_at = clock::now();
        let mut rate = self.scenario.rate;
        let mut operate_at = clock::now().plus(self.spread(400.0));
        loop {
            let pause = self.spread(1.0 / rate);
            if clock::now().plus(pause) >= end {
                tokio::time::sleep(end.since(clock::now())).await;
                return;
            }
            tokio::time::sleep(pause).await;
            let now = clock::now();
            if now >= quiet_at {
                // Load comes in phases: next to nothing, the usual, a rush.
                rate = self.scenario.rate * [0.05, 0.5, 1.0, 1.0, 2.0, 20.0][self.dice.usize(..6)];
                rate = rate.min(60.0);
                quiet_at = now.plus(self.spread(if rate > 10.0 { 4.0 } else { 60.0 }));
            }
            if now >= operate_at {
                operate_at = now.plus(self.spread(400.0));
                self.operate(&worker.gateway);
            }
            self.send(worker);
        }
    }

    /// Exponentially spread around a mean in seconds.
    fn spread(&mut self, mean_s: f64) -> Duration {
        Duration::from_secs_f64((-(1.0 - self.dice.f64()).ln() * mean_s).min(600.0))
    }

    /// An operator, or a bug in an actor, at work.
    fn operate(&mut self, gateway: &Gateway) {
        let cells = gateway.board.topology().cells.clone();
        let cell = &cells[self.dice.usize(..cells.len())];
        let what = self.dice.usize(..4);
        self.world.journal().note(&format!("operator: {what} at {}", cell.name));
        let Some(actor) = cell.actor() else { return };
        let operate = |act| Operate { act, reason: "simulated".into(), author: "simulation".into() };
        match what {
            0 => actor.do_send(operate(Act::Trip(Some(Duration::from_secs(self.dice.u64(1..120)))))),
            1 => actor.do_send(operate(Act::Reset)),
            2 => actor.do_send(PanicNow),
            _ => {}
        }
    }

    fn send(&mut self, worker: &Rc<Worker>) {
        let request = self.request();
        let route = self.scenario.routes.iter().find(|r| r.name == request.route).expect("a route");
        let hinted = request.hints.iter().find(|(name, _)| *name == "max-attempts");
        let hinted = hinted.and_then(|(_, n)| n.parse().ok()).unwrap_or(u32::MAX);
        let alone = request.hints.iter().any(|(name, _)| *name == "no-fallback");
        let max_attempts = if alone { 1 } else { route.max_attempts.min(hinted) };
        self.asked
            .borrow_mut()
            .insert(request.name.clone(), Asked { life: self.number, max_attempts, ended: None, lowered: false });
        let (world, asked, worker) = (Rc::clone(&self.world), Rc::clone(&self.asked), Rc::clone(worker));
        actix::spawn(async move {
            let seen = ask(&world, &worker, Caller::Anyone, &request).await;
            if seen.end == End::Refused(Code::BudgetExceeded) {
                let bytes = body(&request).len();
                money::check_refusal(&worker.gateway, &request.name, bytes, &seen.why, world.journal());
            }
            if let Some(asked) = asked.borrow_mut().get_mut(&request.name) {
                asked.ended = Some((seen.end, clock::wall()));
                asked.lowered = seen.lowered;
            }
        });
    }

    fn request(&mut self) -> Request {
        self.serial += 1;
        let dice = &mut self.dice;
        let route = &self.scenario.routes[dice.usize(..self.scenario.routes.len())];
        let mut hints = Vec::new();
        let mut deadline = route.deadline;
        if dice.f64() < 0.1 {
            let ms = dice.u64(50..20_000);
            deadline = deadline.min(Duration::from_millis(ms));
            hints.push(("deadline-ms", ms.to_string()));
        }
        if dice.f64() < 0.05 {
            hints.push(("max-attempts", dice.u32(1..4).to_string()));
        }
        if dice.f64() < 0.03 {
            hints.push(("no-fallback", "true".into()));
        }
        if self.scenario.money.teams {
            hints.extend(["a", "b"].get(dice.usize(..3)).map(|team| ("tag", format!("team={team}"))));
        }
        Request {
            name: format!("r{}-{}", self.number, self.serial),
            route: route.name.clone(),
            tokens: dice.usize(1..40),
            max_tokens: (dice.f64() < 0.3).then(|| dice.usize(1..60)),
            recovers: route.recovers,
            stream: dice.bool(),
            leaves_after: (dice.f64() < 0.05).then(|| Duration::from_millis(dice.u64(1..8_000))),
            must_end_by: deadline + SLACK,
            hints,
        }
    }
}
