//! The machine: how much of its memory and of its disk this process may count on.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// The machine's memory in bytes, or the limit of the control group if that is less; 0 if neither is known.
pub(crate) fn memory_bytes() -> u64 {
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limit = limits
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .min();
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_of(&text))
        .unwrap_or(0);
    limit.map_or(machine, |limit| limit.min(machine))
}

/// What is free on the disk of this folder, in bytes; 0 if that is not known.
pub(super) fn free_disk_bytes(folder: &Path) -> u64 {
    statvfs(folder).map_or(0, |disk| {
        // The types of the two differ from one system to the next.
        let bytes = u128::from(disk.blocks_available()) * u128::from(disk.fragment_size());
        u64::try_from(bytes).unwrap_or(u64::MAX)
    })
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_kilobytes() {
        let meminfo = "MemTotal:       25165824 kB\nMemFree:        17770384 kB\n";
        assert_eq!(total_of(meminfo), Some(24 << 30));
        assert_eq!(total_of("MemFree: 1 kB"), None);
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_disk() {
        assert!(free_disk_bytes(Path::new("/")) > 0);
        assert_eq!(free_disk_bytes(Path::new("/no such folder")), 0);
    }
}
