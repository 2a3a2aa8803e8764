//! The control requests under `/__sim/`: faults, statistics, profile, reset. Shapes stand in docs/sim.md.
//!
//! An answer to a change is sent when the port has followed it: after `refuse` was put, connecting is refused.

use super::fault::Fault;
use super::reply::Reply;
use super::state::Shared;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a change may take to reach the port.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) async fn answer(shared: &Arc<Shared>, method: &str, what: &str, body: &[u8]) -> Reply {
    let changed = match (what, method) {
        ("stats", "GET") => return show(&shared.stats()),
        ("faults", "GET") => return show(&shared.faults()),
        ("profile", "GET") => return show(&*shared.profile()),
        ("faults", "PUT" | "POST") => serde_json::from_slice::<Vec<Fault>>(body)
            .map_err(|e| e.to_string())
            .and_then(|faults| shared.set_faults(faults).map_err(|e| e.0)),
        ("faults", "DELETE") => shared.set_faults(Vec::new()).map_err(|e| e.0),
        ("profile", "PUT" | "POST") => serde_json::from_slice::<Map<String, Value>>(body)
            .map_err(|e| e.to_string())
            .and_then(|keys| shared.change_profile(keys).map_err(|e| e.0)),
        ("reset", "POST") => {
            shared.reset();
            Ok(())
        }
        ("stats" | "faults" | "profile" | "reset", _) => return error(405, "wrong method for this path"),
        _ => return error(404, "there are /__sim/faults, /__sim/stats, /__sim/profile and /__sim/reset"),
    };
    if let Err(why) = changed {
        return error(400, &why);
    }
    let (done, settled) = tokio::sync::oneshot::channel();
    shared.when_settled(move || {
        let _ = done.send(());
    });
    if !matches!(tokio::time::timeout(SETTLE, settled).await, Ok(Ok(()))) {
        return error(500, "the port did not follow in time");
    }
    match what {
        "profile" => show(&*shared.profile()),
        _ => show(&shared.faults()),
    }
}

fn show(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => Reply::json(200, body),
        Err(e) => error(500, &e.to_string()),
    }
}

fn error(status: u16, message: &str) -> Reply {
    Reply::json(status, json!({"error": message}).to_string())
}
