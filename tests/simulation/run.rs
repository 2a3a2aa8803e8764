//! Runs a scenario from its first life to its last, and holds what happened against what is promised.

use crate::keys::{Visit, Visits};
use crate::load::Load;
use crate::scenario::{Scenario, Span};
use crate::world::Journal;
use crate::world::client::End;
use crate::world::life::{EPOCH, Ending, Life, in_virtual_time};
use crate::world::provider::World;
use crate::{keys, money, turns};
use breakwater::clock;
use breakwater::domain::breaker::State;
use breakwater::domain::gate::Door;
use breakwater::domain::ledger::{Entry, Row};
use breakwater::domain::money::NanoUsd;
use breakwater::domain::sums::{GroupBy, TimeRange};
use breakwater::domain::time::{Ts, Wall};
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
    /// Calls that passed a request in line: each is one that a turn was judged by.
    pub passed: u64,
    /// Requests that their key's own limit refused.
    pub over_limit: u64,
    /// Requests that found no room to wait.
    pub crowded: u64,
    pub violations: Vec<String>,
    /// The journal's lines about the first violation.
    pub lines: Vec<String>,
}

/// A request of the past, as it is held against the ledger.
pub struct Asked {
    pub life: usize,
    pub max_attempts: u32,
    /// `None` while it runs; for ever, if a kill came first.
    pub ended: Option<(End, Wall)>,
    pub lowered: bool,
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
    /// What the lives so far have added to it.
    report: Report,
}

pub fn run(scenario: &Scenario, folder: &Path) -> Report {
    let world = World::new(scenario.natures.clone(), Journal::default());
    let dice = Rng::with_seed(scenario.seed ^ 0x5eed);
    let (asked, ends, remembered, report) = (Rc::default(), Vec::new(), Vec::new(), Report::default());
    let mut run = Run { scenario, world, asked, ends, dice, remembered, report };
    in_virtual_time(EPOCH, scenario.seed, async { scenario.keys.store(&folder.join("state")) });
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
        world.keep_calls();
        let visits: Rc<RefCell<Visits>> = Rc::default();
        let load = Load {
            scenario: self.scenario.clone(),
            world: Rc::clone(&world),
            asked: Rc::clone(&self.asked),
            visits: Rc::clone(&visits),
            dice: Rng::with_seed(self.dice.u64(..)),
            key_dice: Rng::with_seed(self.scenario.seed ^ number as u64),
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
            (memory(&worker.gateway), world.now())
        };
        let ((remembered, loaded), found, ends) = life.live(work, at_rest);
        self.judge_lines(&visits.borrow().all, loaded);
        self.remembered = remembered;
        self.ends.push(EPOCH.plus(ends));
        if let Some(rows) = found {
            self.compare(&rows);
            self.report.rows = rows.values().map(|r| u64::from(r.count)).sum();
            self.report.orphans = rows.values().map(|r| u64::from(r.orphans)).sum();
        }
        ends
    }

    /// Who was served before whom, until the load ended.
    fn judge_lines(&mut self, visits: &[Visit], end: Ts) {
        let (scenario, journal) = (self.scenario, self.world.journal());
        let made = self.world.made();
        let made: Vec<_> = made.into_iter().filter(|made| made.at < end).collect();
        keys::check(&scenario.keys, visits, journal);
        // Who waits for money stands in no line.
        if !scenario.money.is_any {
            self.report.passed += turns::check(&scenario.keys, scenario.longest_wait, visits, &made, end, journal);
        }
        let count = |of: fn(&Visit) -> bool| visits.iter().filter(|v| of(v)).count() as u64;
        self.report.over_limit += count(Visit::is_over_own_limit);
        self.report.crowded += count(Visit::is_crowded_out);
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
            kills: self.scenario.lives.iter().filter(|l| l.ending == Ending::Kill).count() as u64,
            lines: journal.lines_about(about),
            violations,
            ..self.report
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
