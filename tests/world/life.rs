//! A life of the gateway's process, on this thread, in virtual time: the store opened, all actors started, and at its end either
//! everything written and closed, or everything dropped where it stands.

use super::provider::World;
use actix::{Arbiter, System};
use breakwater::app::Startup;
use breakwater::app::assembly::{Assembled, assemble, close};
use breakwater::clock;
use breakwater::config::{self, Config};
use breakwater::dialects::upstream::Upstream;
use breakwater::domain::time::Wall;
use breakwater::engine::gateway::{Gateway, Worker};
use breakwater::engine::probe;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;

/// When every world begins: 2026-11-23T00:00:00Z.
pub const EPOCH: Wall = Wall(1_795_392_000_000_000);
/// After the drain period: for those that were told to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As at SIGTERM: what runs may finish, actors write their checkpoints, the ledger is flushed.
    Graceful,
    /// As at SIGKILL: tasks, actors and queues are dropped.
    Kill,
}

/// A process about to be started.
pub struct Life<'a> {
    pub world: &'a Rc<World>,
    /// config.yaml, without its `store`.
    pub config: &'a str,
    pub durability: &'static str,
    pub store: &'a Path,
    /// World time at its start.
    pub begins: Duration,
    pub seed: u64,
    pub ending: Ending,
}

/// Runs a future in a runtime whose time is virtual, and drops whatever it left running.
pub fn in_virtual_time<T>(wall: Wall, seed: u64, work: impl Future<Output = T>) -> T {
    let runtime = || Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let system = System::with_tokio_rt(runtime);
    system.block_on(async {
        clock::simulate(wall);
        fastrand::seed(seed);
        work.await
    })
}

/// The configuration as the gateway reads it.
pub fn configured(text: &str, store: &Path, durability: &str) -> Config {
    let text = format!("{text}\nstore: {{path: '{}', durability: {durability}}}\n", store.display());
    let parsed = config::parse("config.yaml", &text, &|_| None, Path::new("/"));
    parsed.unwrap_or_else(|e| panic!("the simulated configuration is wrong:\n{e}\n{text}"))
}

impl Life<'_> {
    /// Lives: does `work`, then ends. Returns what `work` gave, what `after` found once everything was at rest (only a life that ends
    /// well comes to rest), and world time at the end.
    pub fn live<T, U>(
        self,
        work: impl AsyncFnOnce(Rc<Worker>) -> T,
        after: impl FnOnce(&Gateway) -> U,
    ) -> (T, Option<U>, Duration) {
        let wall = EPOCH.plus(self.begins);
        in_virtual_time(wall, self.seed, async {
            let Self { world, begins, .. } = self;
            let config = configured(self.config, self.store, self.durability);
            let startup = Startup {
                config,
                config_path: None,
                admin_token: Some("admin".into()),
                accept_ledger_loss: false,
                chaos: Vec::new(),
                test_hooks: false,
            };
            world.life_begins(begins);
            let born = clock::now();
            let Assembled { gateway, .. } =
                assemble(startup, &Arbiter::current()).unwrap_or_else(|e| panic!("the engine did not start: {e}"));
            world.watch(Some(Arc::clone(&gateway)));
            let by_world = || Upstream::by(Rc::clone(world) as Rc<_>);
            let probing = actix::spawn(probe::run(Arc::clone(&gateway), by_world()));
            let worker = Worker::start(Arc::clone(&gateway), by_world());
            let given = work(worker).await;
            probing.abort();
            let mut found = None;
            if self.ending == Ending::Graceful {
                settle(&gateway).await;
                if let Err(e) = close(&gateway).await {
                    world.journal().violation(format!("the engine did not close well: {e}"));
                }
                found = Some(after(&gateway));
            }
            world.watch(None);
            (given, found, begins + clock::now().since(born))
        })
    }
}

/// A stream that is over holds its upstream's connection this long at most, waiting for the body's proper end.
const TAIL: Duration = Duration::from_millis(200);

/// As the servers do at SIGTERM: nothing new, what runs finishes, then is told.
async fn settle(gateway: &Arc<Gateway>) {
    gateway.drain();
    let drain = gateway.config().server.drain;
    if tokio::time::timeout(drain, idle(gateway)).await.is_err() {
        gateway.stop_running();
        let _ = tokio::time::timeout(LAST_WORDS, idle(gateway)).await;
    }
    tokio::time::sleep(TAIL).await;
}

async fn idle(gateway: &Arc<Gateway>) {
    while gateway.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
