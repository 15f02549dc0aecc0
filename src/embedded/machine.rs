//! The machine: how much of its memory and of its disk this process may count on.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

/// The machine's memory in bytes, or the limit of the control group if that is less; 0 if neither is known.
pub(crate) fn memory_bytes() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = limit_files(&groups)
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .min();
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_of(&text))
        .unwrap_or(0);
    limit.map_or(machine, |limit| limit.min(machine))
}

/// What is free on the disk of this folder, in bytes; `None` if that is not known.
pub(super) fn free_disk_bytes(folder: &Path) -> Option<u64> {
    let disk = statvfs(folder).ok()?;
    // The types of the two differ from one system to the next.
    let bytes = u128::from(disk.blocks_available()) * u128::from(disk.fragment_size());
    Some(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Where the limits of the control groups that this process is in stand, as `/proc/self/cgroup` has them: of its own group
/// and of all around it, up to the root, which is what a container sees of its own. First version 2, then version 1.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let group_of = |head: fn(&str) -> bool| {
        let mut lines = groups
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let group = lines.find(|(controllers, _)| head(controllers));
        Path::new(group.map_or("/", |(_, path)| path)).to_owned()
    };
    let hierarchies = [
        ("/sys/fs/cgroup", "memory.max", group_of(str::is_empty)),
        (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            group_of(|controllers| controllers.split(',').any(|name| name == "memory")),
        ),
    ];
    let mut files = Vec::new();
    for (mount, name, group) in hierarchies {
        for group in group.ancestors() {
            let group = group.strip_prefix("/").unwrap_or(group);
            files.push(Path::new(mount).join(group).join(name));
        }
    }
    files
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
    fn every_group_around_the_process_has_a_limit() {
        let shown = |groups| -> Vec<String> {
            let files = limit_files(groups);
            files
                .iter()
                .map(|file| file.display().to_string())
                .collect()
        };
        let root = [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        assert_eq!(shown(""), root);
        assert_eq!(shown("0::/\n"), root);
        let service = [
            "/sys/fs/cgroup/system.slice/ballast.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            root[0],
            root[1],
        ];
        assert_eq!(shown("0::/system.slice/ballast.service\n"), service);
        let version_1 = [
            root[0],
            "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
            root[1],
        ];
        assert_eq!(shown("5:cpu,cpuacct:/\n4:memory:/docker\n"), version_1);
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_disk() {
        assert!(free_disk_bytes(Path::new("/")) > Some(0));
        assert_eq!(free_disk_bytes(Path::new("/no such folder")), None);
    }
}
