//! The ledger: a bounded queue, and the actor that alone writes to the store.
//!
//! Request threads put rows into the queue and go on. The actor, alone on its arbiter, commits whatever waits (up to
//! [`BATCH`] items), then looks again: the next group forms while the last one is written. It is the one actor that does I/O in its
//! handlers; nobody else's work shares its thread. The store's writer and the batch under way live in the shared part, so an actor
//! that dies loses nothing: its successor writes the same batch again.

use crate::actors::endpoint::DeathNotice;
use crate::actors::messages::{Commit, StallNow};
pub use crate::actors::space::Room;
use crate::actors::space::Space;
use crate::actors::upkeep::Upkeep;
use crate::clock;
use crate::config::model::{Durability, OnStoreFailure};
use crate::domain::ledger::Entry;
use crate::store::{Area, LedgerItem, LedgerReader, LedgerWriter, StateStore};
use actix::{Actor, Addr, AsyncContext, Context, Handler};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::time::Duration;
use tokio::sync::oneshot;

/// Items that may wait. Beyond it rows are counted as lost, or requests refused, as `store.on_failure` says.
const QUEUE: usize = 65_536;
const BATCH: usize = 512;
/// In `group` durability a commit waits this long for company: nobody waits for it, and each costs a write to disk.
const LINGER: Duration = Duration::from_millis(20);
/// How often the store's own upkeep is looked after.
const TICK: Duration = Duration::from_secs(1);
/// Pause after a failed commit.
const RETRY: Duration = Duration::from_secs(1);

/// What can be written.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all items are rows; boxing each would cost more than it saves")]
pub enum Item {
    Ledger(LedgerItem),
    State(StateWrite),
}

/// A change of the store's state.
#[derive(Debug)]
pub enum StateWrite {
    /// `durable`: on disk with this commit; else with the next of the store's own.
    Put {
        area: Area,
        name: Arc<str>,
        bytes: Vec<u8>,
        durable: bool,
    },
    Audit {
        bytes: Vec<u8>,
    },
    /// Removes a value, once every row that came before is on disk.
    Forget {
        area: Area,
        name: Arc<str>,
    },
    /// Only tells when everything that came before is on disk.
    Nothing,
}

/// Told when the item is on disk, or why it is not.
type Done = oneshot::Sender<Result<(), String>>;

struct Queued {
    item: Item,
    done: Option<Done>,
}

/// What one commit writes.
#[derive(Default)]
struct Batch {
    ledger: Vec<LedgerItem>,
    state: VecDeque<StateWrite>,
    /// Attempts that leave when they are on disk. They come after the rows: the money that one of them holds may be what another, whose
    /// row stands before it, did not use; without that row a killed process would leave both charged in full.
    open: Vec<(Arc<str>, Vec<u8>)>,
    forgotten: Vec<(Area, Arc<str>)>,
    done: Vec<Done>,
}

impl Batch {
    fn len(&self) -> usize {
        self.ledger.len() + self.state.len() + self.open.len() + self.forgotten.len()
    }

    fn take(&mut self, queued: Queued) {
        match queued.item {
            Item::Ledger(item) => self.ledger.push(item),
            Item::State(StateWrite::Put { area: Area::Open, name, bytes, .. }) => self.open.push((name, bytes)),
            Item::State(StateWrite::Forget { area, name }) => self.forgotten.push((area, name)),
            Item::State(change) => self.state.push_back(change),
        }
        self.done.extend(queued.done);
    }
}

/// Where commits stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerStatus {
    /// Items that wait or are being written.
    pub waiting: usize,
    /// The last row on disk.
    pub durable_seq: u64,
    /// Rows that found the queue full.
    pub lost_rows: u64,
    pub commits: u64,
    /// Why the last commit failed, while it does.
    pub failing: Option<String>,
    pub room: Room,
}

struct Shared {
    queue: Mutex<VecDeque<Queued>>,
    /// The batch under way.
    taken: Mutex<Batch>,
    writer: Mutex<Option<LedgerWriter>>,
    state: StateStore,
    reader: LedgerReader,
    actor: Mutex<Option<Addr<LedgerActor>>>,
    /// The actor will look at the queue without being told.
    armed: AtomicBool,
    durability: Durability,
    on_failure: OnStoreFailure,
    durable_seq: AtomicU64,
    lost_rows: AtomicU64,
    commits: AtomicU64,
    failing: Mutex<Option<String>>,
    upkeep: Mutex<Upkeep>,
    space: Space,
}

/// Shared by everybody who has something to write.
#[derive(Clone)]
pub struct LedgerHandle(Arc<Shared>);

impl LedgerHandle {
    #[must_use]
    pub fn new(
        writer: LedgerWriter,
        reader: LedgerReader,
        state: StateStore,
        durability: Durability,
        on_failure: OnStoreFailure,
    ) -> Self {
        let durable_seq = AtomicU64::new(writer.durable_seq());
        Self(Arc::new(Shared {
            queue: Mutex::default(),
            taken: Mutex::default(),
            writer: Mutex::new(Some(writer)),
            state,
            reader,
            actor: Mutex::default(),
            armed: AtomicBool::new(false),
            durability,
            on_failure,
            durable_seq,
            lost_rows: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failing: Mutex::default(),
            upkeep: Mutex::default(),
            space: Space::default(),
        }))
    }

    /// Removes whole months that are older than `keep` from now on, at the next tick and then once a day.
    #[must_use]
    pub fn keeping(self, keep: Option<Duration>) -> Self {
        *self.0.upkeep.lock() = Upkeep::new(keep);
        self
    }

    /// Warns from now on, at each tick, of less than `low_space` bytes of room in `folder`; zero: never.
    #[must_use]
    pub fn watching(self, folder: &Path, low_space: u64) -> Self {
        self.0.space.watch(folder.to_path_buf(), low_space);
        self
    }

    /// Queues an item; nobody waits for it.
    pub fn push(&self, item: Item) {
        self.enqueue(Queued { item, done: None });
    }

    /// Queues a row. In `strict` durability the receiver tells when it is on disk; in `group` there is nothing to wait for.
    pub fn push_row(&self, entry: Entry) -> Option<oneshot::Receiver<Result<(), String>>> {
        match self.0.durability {
            Durability::Group => {
                self.push(Item::Ledger(LedgerItem::Row(entry)));
                None
            }
            Durability::Strict => {
                let (done, wait) = oneshot::channel();
                self.enqueue(Queued { item: Item::Ledger(LedgerItem::Row(entry)), done: Some(done) });
                Some(wait)
            }
        }
    }

    /// Queues a change of state and waits until it is on disk.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn write(&self, change: StateWrite) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        self.enqueue(Queued { item: Item::State(change), done: Some(done) });
        wait.await.unwrap_or_else(|_| Err("the store's queue is full".into()))
    }

    /// Queues the removal of a value, behind the rows that came before; nobody waits for it.
    pub fn forget(&self, area: Area, name: Arc<str>) {
        self.push(Item::State(StateWrite::Forget { area, name }));
    }

    fn enqueue(&self, queued: Queued) {
        let urgent = match &queued.item {
            Item::Ledger(_) => queued.done.is_some(),
            Item::State(StateWrite::Put { durable, .. }) => *durable,
            Item::State(StateWrite::Audit { .. } | StateWrite::Nothing) => true,
            Item::State(StateWrite::Forget { .. }) => false,
        };
        {
            let mut queue = self.0.queue.lock();
            if queue.len() >= QUEUE {
                if matches!(queued.item, Item::Ledger(LedgerItem::Row(_))) {
                    self.0.lost_rows.fetch_add(1, Relaxed);
                }
                return;
            }
            queue.push_back(queued);
        }
        if !self.0.armed.swap(true, AcqRel) {
            self.wake(urgent);
        }
    }

    fn wake(&self, urgent: bool) {
        if let Some(actor) = &*self.0.actor.lock() {
            actor.do_send(Commit { linger: !urgent });
        }
    }

    pub(super) fn connect(&self, actor: Addr<LedgerActor>) {
        *self.0.actor.lock() = Some(actor);
        self.0.armed.store(true, Release);
        self.wake(true);
    }

    /// Makes the writer stall; only for tests.
    pub fn stall(&self, time: Duration) {
        if let Some(actor) = &*self.0.actor.lock() {
            actor.do_send(StallNow(time));
        }
    }

    #[must_use]
    pub fn reader(&self) -> LedgerReader {
        self.0.reader.clone()
    }

    #[must_use]
    pub fn state(&self) -> &StateStore {
        &self.0.state
    }

    #[must_use]
    pub fn status(&self) -> LedgerStatus {
        LedgerStatus {
            waiting: self.0.queue.lock().len() + self.0.taken.lock().len(),
            durable_seq: self.0.durable_seq.load(Acquire),
            lost_rows: self.0.lost_rows.load(Relaxed),
            commits: self.0.commits.load(Relaxed),
            failing: self.0.failing.lock().clone(),
            room: self.0.space.room(),
        }
    }

    /// Whether new requests must be refused because they could not be accounted for.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.on_failure == OnStoreFailure::FailClosed && self.0.failing.lock().is_some()
    }

    /// Writes everything that waits, on the calling thread; for the end of the process, after the actor was told to stop.
    ///
    /// # Errors
    /// What could not be written.
    pub fn drain(&self) -> Result<(), String> {
        while self.take_batch() > 0 {
            self.commit()?;
        }
        match self.0.writer.lock().take() {
            Some(writer) => writer.close().map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    /// Moves what waits into the batch under way, unless one is left over; returns its size.
    fn take_batch(&self) -> usize {
        let mut taken = self.0.taken.lock();
        if taken.len() == 0 {
            let mut queue = self.0.queue.lock();
            let count = queue.len().min(BATCH);
            queue.drain(..count).for_each(|queued| taken.take(queued));
        }
        taken.len()
    }

    /// Writes the batch under way; on failure it stays for another try.
    fn commit(&self) -> Result<(), String> {
        let mut taken = self.0.taken.lock();
        let result = self.write_batch(&mut taken);
        match &result {
            Ok(()) => {
                for done in std::mem::take(&mut *taken).done {
                    // Whoever asked may have gone.
                    let _ = done.send(Ok(()));
                }
                self.0.commits.fetch_add(1, Relaxed);
                if self.0.failing.lock().take().is_some() {
                    tracing::info!("the store works again");
                }
            }
            Err(e) => self.failed(e),
        }
        result
    }

    fn tick(&self) {
        self.0.space.look();
        let (now, mut slot) = (clock::wall(), self.0.writer.lock());
        let Some(writer) = slot.as_mut().filter(|_| self.0.failing.lock().is_none()) else { return };
        match writer.tick(now) {
            Ok(()) => self.0.upkeep.lock().look(writer, now),
            Err(e) => self.failed(&e.to_string()),
        }
    }

    fn failed(&self, error: &str) {
        let mut failing = self.0.failing.lock();
        if failing.is_none() {
            tracing::error!(error, on_failure = ?self.0.on_failure, "the store cannot be written");
        }
        *failing = Some(error.to_owned());
    }

    fn write_batch(&self, batch: &mut Batch) -> Result<(), String> {
        let mut slot = self.0.writer.lock();
        let writer = slot.as_mut().ok_or("the ledger is closed")?;
        while let Some(change) = batch.state.front() {
            let written = match change {
                StateWrite::Put { area, name, bytes, durable } => self.0.state.put(*area, name, bytes, *durable),
                StateWrite::Audit { bytes } => self.0.state.audit(bytes),
                StateWrite::Forget { .. } | StateWrite::Nothing => Ok(()),
            };
            written.map_err(|e| e.to_string())?;
            // Written for good: another try of this batch must not write it twice.
            batch.state.pop_front();
        }
        let seq = writer.append(&batch.ledger, clock::wall()).map_err(|e| e.to_string())?;
        self.0.durable_seq.store(seq, Release);
        batch.ledger.clear();
        if !batch.open.is_empty() {
            // One write to disk for all of them.
            let values: Vec<(&str, &[u8])> = batch.open.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
            self.0.state.put_all(Area::Open, &values, true).map_err(|e| e.to_string())?;
            batch.open.clear();
        }
        for chunk in batch.forgotten.chunk_by(|a, b| a.0 == b.0) {
            let names: Vec<&str> = chunk.iter().map(|(_, name)| &**name).collect();
            let Some((area, _)) = chunk.first() else { continue };
            self.0.state.delete_all(*area, &names, false).map_err(|e| e.to_string())?;
        }
        batch.forgotten.clear();
        Ok(())
    }
}

/// The writer. All its state lives in the handle; see the module's text.
pub struct LedgerActor {
    handle: LedgerHandle,
    /// Last field, see [`DeathNotice`].
    _notice: DeathNotice,
}

impl LedgerActor {
    #[must_use]
    pub fn new(handle: LedgerHandle, notice: DeathNotice) -> Self {
        Self { handle, _notice: notice }
    }

    fn commit(&mut self, ctx: &mut Context<Self>) {
        if self.handle.take_batch() == 0 {
            self.handle.0.armed.store(false, Release);
            // An item that came between the look and the store above found the flag still up and woke nobody.
            if self.handle.0.queue.lock().is_empty() || self.handle.0.armed.swap(true, AcqRel) {
                return;
            }
            self.handle.take_batch();
        }
        match self.handle.commit() {
            Ok(()) => {
                let full = self.handle.0.queue.lock().len() >= BATCH;
                let linger = self.handle.0.durability == Durability::Group && !full;
                ctx.notify(Commit { linger });
            }
            Err(_) => {
                ctx.notify_later(Commit { linger: false }, RETRY);
            }
        }
    }
}

impl Actor for LedgerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Sums and the high-water mark reach the disk also when no row comes.
        ctx.run_interval(TICK, |actor, _| actor.handle.tick());
    }
}

impl Handler<StallNow> for LedgerActor {
    type Result = ();
    /// The one handler that blocks: the writer has a thread of its own, and a disk would block it just so.
    fn handle(&mut self, StallNow(time): StallNow, _: &mut Context<Self>) {
        tracing::warn!(?time, "the store's writer stalls because a test asked for it");
        std::thread::sleep(time);
    }
}

impl Handler<Commit> for LedgerActor {
    type Result = ();
    fn handle(&mut self, message: Commit, ctx: &mut Self::Context) {
        if message.linger {
            ctx.run_later(LINGER, Self::commit);
        } else {
            self.commit(ctx);
        }
    }
}
