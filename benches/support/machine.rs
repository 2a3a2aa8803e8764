//! The machine in words: no figure of a benchmark means anything without it.

use std::fs;

/// Processors, memory, kernel and load, in one line.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')).map_or("unknown", |(_, m)| m);
    let memory = read("/proc/meminfo");
    let kb = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let load = read("/proc/loadavg");
    format!(
        "{} cores ({}), {} GiB, Linux {}, load {} at the start",
        cores(),
        model.trim(),
        kb.unwrap_or(0_u64) / (1024 * 1024),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split_whitespace().next().unwrap_or("unknown"),
    )
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
