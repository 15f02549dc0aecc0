//! What processes and the machine use: processor time and memory. Linux tells it; on other systems nothing is known.

/// What one process uses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessUse {
    /// Its user and system time, in seconds.
    pub(crate) cpu_seconds: f64,
    /// User and system time of its children that have ended and were waited for, in seconds.
    pub(crate) ended_children_cpu_seconds: f64,
    /// Its resident memory.
    pub(crate) rss_bytes: u64,
}

impl ProcessUse {
    /// Processor time of the process and of its children that have ended, in seconds.
    pub(crate) fn cpu_seconds_with_children(self) -> f64 {
        self.cpu_seconds + self.ended_children_cpu_seconds
    }
}

/// Processor time of a machine since it started, over all its processors, in seconds. In a container these may be those of
/// its host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineTime {
    /// What nobody used.
    pub(crate) idle_seconds: f64,
    /// What the host gave to other machines, as far as it says so.
    pub(crate) stolen_seconds: f64,
    /// All there was.
    pub(crate) all_seconds: f64,
}

impl MachineTime {
    /// What came since an earlier moment.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            idle_seconds: self.idle_seconds - before.idle_seconds,
            stolen_seconds: self.stolen_seconds - before.stolen_seconds,
            all_seconds: self.all_seconds - before.all_seconds,
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use procfs::process::{Process, Stat, all_processes};
    use procfs::{CpuInfo, Current, CurrentSI, KernelStats};

    use super::{MachineTime, ProcessUse};

    fn seconds(ticks: u64) -> f64 {
        ticks as f64 / procfs::ticks_per_second() as f64
    }

    impl ProcessUse {
        /// Of this process; nothing if it has ended.
        pub(crate) fn of(pid: i32) -> Self {
            let stat = Process::new(pid).and_then(|process| process.stat());
            stat.map_or_else(|_gone| Self::default(), |stat| Self::of_stat(&stat))
        }

        /// Of each child of this process that runs.
        pub(crate) fn of_children(parent: i32) -> Vec<Self> {
            let processes = all_processes().into_iter().flatten().flatten();
            let stats = processes.filter_map(|process| process.stat().ok());
            let children = stats.filter(|stat| stat.ppid == parent);
            children.map(|stat| Self::of_stat(&stat)).collect()
        }

        fn of_stat(stat: &Stat) -> Self {
            let ended = stat.cutime.saturating_add(stat.cstime);
            Self {
                cpu_seconds: seconds(stat.utime + stat.stime),
                ended_children_cpu_seconds: seconds(u64::try_from(ended).unwrap_or(0)),
                rss_bytes: stat.rss * procfs::page_size(),
            }
        }
    }

    impl MachineTime {
        /// Until now.
        pub(crate) fn now() -> Option<Self> {
            let time = KernelStats::current().ok()?.total;
            let (waiting, stolen) = (time.iowait?, time.steal?);
            // What guests use is in the first two.
            let busy = time.user + time.nice + time.system + time.irq? + time.softirq?;
            let idle = time.idle + waiting;
            Some(Self {
                idle_seconds: seconds(idle),
                stolen_seconds: seconds(stolen),
                all_seconds: seconds(busy + idle + stolen),
            })
        }
    }

    /// What the processors of this machine are called; empty if nothing tells.
    pub(crate) fn cpu_model() -> String {
        let info = CpuInfo::current().ok();
        let model = info.as_ref().and_then(|info| info.model_name(0));
        model.unwrap_or_default().to_owned()
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::cpu_model;

#[cfg(not(target_os = "linux"))]
mod unknown {
    use super::{MachineTime, ProcessUse};

    impl ProcessUse {
        pub(crate) fn of(_pid: i32) -> Self {
            Self::default()
        }

        pub(crate) fn of_children(_parent: i32) -> Vec<Self> {
            Vec::new()
        }
    }

    impl MachineTime {
        pub(crate) fn now() -> Option<Self> {
            None
        }
    }

    pub(crate) fn cpu_model() -> String {
        String::new()
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use unknown::cpu_model;
