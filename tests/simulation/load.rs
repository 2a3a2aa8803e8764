//! The clients and operators of one life.

use crate::keys::{Visit, Visits};
use crate::money;
use crate::run::Asked;
use crate::scenario::Scenario;
use crate::world::client::{End, Request, ask, body};
use crate::world::provider::World;
use breakwater::actors::messages::{Act, Operate, PanicNow};
use breakwater::clock;
use breakwater::engine::error::Code;
use breakwater::engine::gateway::{Gateway, Worker};
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// An answer may come this much after its deadline: the error has to be made and told.
const SLACK: Duration = Duration::from_secs(2);

/// The clients of one life.
pub struct Load {
    pub scenario: Scenario,
    pub world: Rc<World>,
    pub asked: Rc<RefCell<BTreeMap<String, Asked>>>,
    pub visits: Rc<RefCell<Visits>>,
    pub dice: Rng,
    /// Chooses keys, and nothing else.
    pub key_dice: Rng,
    /// The life's.
    pub number: usize,
    pub serial: u64,
}

impl Load {
    /// Sends requests for so long.
    pub async fn run(mut self, worker: &Rc<Worker>, lasts: Duration) {
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
            if !self.scenario.keys.all.is_empty() && self.key_dice.f64() < 0.02 {
                // A crowd in one moment: lines form, whatever the rate is.
                let crowd = self.key_dice.usize(4..60);
                (0..crowd).for_each(|_| self.send(worker));
            }
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
        let keys = &self.scenario.keys;
        let key = keys.pick(&mut self.key_dice);
        let caller = keys.caller(&worker.gateway, key);
        let visit = self.visits.borrow_mut().begin(Visit {
            name: request.name.clone(),
            key,
            sent: self.world.now(),
            deadline: request.must_end_by.saturating_sub(SLACK),
            is_plain: !request.hints.iter().any(|(name, _)| matches!(*name, "deadline-ms" | "no-fallback")),
            ended: None,
            why: String::new(),
            beside: (0, 0),
        });
        let (world, asked, worker) = (Rc::clone(&self.world), Rc::clone(&self.asked), Rc::clone(worker));
        let visits = Rc::clone(&self.visits);
        actix::spawn(async move {
            let seen = ask(&world, &worker, caller, &request).await;
            visits.borrow_mut().end(visit, world.now(), seen.end, &seen.why);
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
