//! What the kernel says about a process: CPU time and resident memory.

use crate::fault::Fault;
use std::fs;
use std::time::Duration;

/// `USER_HZ`, the unit of `/proc/<pid>/stat`: 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process and its children, as they are now.
pub fn family(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let Ok(all) = fs::read_dir("/proc") else { return pids };
    for entry in all.flatten() {
        if let Some(child) = entry.file_name().to_str().and_then(|n| n.parse().ok())
            && stat(child).is_some_and(|fields| fields.get(1).is_some_and(|parent| *parent == pid.to_string()))
        {
            pids.push(child);
        }
    }
    pids
}

/// User and system time of all threads of these processes.
pub fn cpu(pids: &[u32]) -> Result<Duration, Fault> {
    let mut ticks = 0;
    for pid in pids {
        let fields = stat(*pid).ok_or_else(|| Fault::Peer(format!("process {pid} is gone")))?;
        let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u32>().ok()).unwrap_or(0);
        ticks += field(11) + field(12);
    }
    Ok(Duration::from_secs_f64(f64::from(ticks) / TICKS_PER_SECOND))
}

/// The fields of `/proc/<pid>/stat` after the name, which may hold anything: state, parent, …, utime (11), stime (12).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Resident memory of these processes, bytes. Pages that they share count once each.
pub fn rss(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kb = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
        kb.unwrap_or(0_u64) * 1024
    };
    pids.iter().map(of).sum()
}
