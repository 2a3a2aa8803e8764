//! The supervisor's part for failure domains: it hears from the endpoints' actors who is down and who works, has [`Domains`] judge,
//! and holds the gates of the rest. An endpoint's actor that is restarted changes nothing: holds stand in the gates.

use crate::actors::events::Event;
use crate::actors::messages::{DomainRules, MemberNews, News};
use crate::actors::supervisor::Supervisor;
use crate::clock;
use crate::domain::breaker::State;
use crate::domain::domains::{Domains, Moved};
use crate::domain::time::Ts;
use actix::{AsyncContext, Context, Handler, SpawnHandle};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The domains and the timer of their next move.
#[derive(Default)]
pub(super) struct DomainWatch {
    domains: Domains,
    timer: Option<(Ts, SpawnHandle)>,
}

impl Supervisor {
    /// A new endpoint's domains; one that comes back shut from a restart counts as down since it was shut.
    pub(super) fn join_domains(&mut self, id: u32, ctx: &mut Context<Self>) {
        let Some(ward) = self.wards.get(&id) else { return };
        let now = clock::now();
        let mut moved = self.watch.domains.set_member(now, id, &ward.cell.config().domain);
        if let Some(health) = ward.cell.saved() {
            let breaker = health.breaker().view(now);
            if breaker.state == State::Open {
                moved.extend(self.watch.domains.down(now, id, breaker.since));
            }
        }
        self.apply(&moved, now, ctx);
    }

    pub(super) fn leave_domains(&mut self, id: u32, ctx: &mut Context<Self>) {
        let now = clock::now();
        let moved = self.watch.domains.set_member(now, id, &[]);
        self.apply(&moved, now, ctx);
    }

    /// Tells what moved, holds and frees the gates, and sets the timer.
    fn apply(&mut self, moved: &[Moved], now: Ts, ctx: &mut Context<Self>) {
        for Moved { domain, until, renewed, down, members } in moved {
            let (domain, is_open) = (Arc::clone(domain), until.is_some());
            let for_s = until.map(|until| until.since(now).as_secs_f64());
            if is_open {
                tracing::warn!(domain = &*domain, down, members, for_s, renewed, "failure domain is open");
            } else {
                tracing::info!(domain = &*domain, down, members, "failure domain closed");
            }
            if !renewed {
                let (down, members) = (*down, *members);
                self.events.emit(|| Event::Domain { domain, is_open, down, members });
            }
        }
        // Whoever is down may have changed as well, without a domain moving.
        for (id, ward) in &self.wards {
            let hold = self.watch.domains.hold(*id);
            let by = hold.map(|(name, _)| Arc::clone(name));
            let before = std::mem::replace(&mut ward.cell.status.lock().held_by, by.clone());
            if by.is_none() && before.is_none() {
                continue;
            }
            ward.cell.hot.lock().gate.set_hold(now, hold.map(|(_, until)| until));
            if before.is_none() {
                ward.cell.meters.holds.fetch_add(1, Relaxed);
            }
            ward.cell.serve_line(now);
            ward.cell.tell_line();
        }
        let wake = self.watch.domains.next_wake();
        if self.watch.timer.as_ref().map(|(at, _)| *at) == wake {
            return;
        }
        if let Some((_, handle)) = self.watch.timer.take() {
            ctx.cancel_future(handle);
        }
        self.watch.timer = wake.map(|at| (at, ctx.run_later(at.since(now), Self::domains_on_time)));
    }

    fn domains_on_time(&mut self, ctx: &mut Context<Self>) {
        self.watch.timer = None;
        let now = clock::now();
        let moved = self.watch.domains.on_time(now);
        self.apply(&moved, now, ctx);
    }
}

impl Handler<MemberNews> for Supervisor {
    type Result = ();
    fn handle(&mut self, MemberNews { id, news }: MemberNews, ctx: &mut Self::Context) {
        let now = clock::now();
        let moved = match news {
            News::Down(at) => self.watch.domains.down(now, id, at),
            News::Up => self.watch.domains.up(now, id),
            News::Shut => {
                self.watch.domains.forget(id);
                Vec::new()
            }
        };
        self.apply(&moved, now, ctx);
    }
}

impl Handler<DomainRules> for Supervisor {
    type Result = ();
    fn handle(&mut self, DomainRules(settings): DomainRules, ctx: &mut Self::Context) {
        let now = clock::now();
        self.watch.domains.set_settings(settings);
        let mut moved = Vec::new();
        for (id, ward) in &self.wards {
            moved.extend(self.watch.domains.set_member(now, *id, &ward.cell.config().domain));
        }
        self.apply(&moved, now, ctx);
    }
}
