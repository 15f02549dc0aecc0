//! Operation ids, as callers choose them.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;
use uuid::Builder;

/// What operation ids look like. All are UUIDs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OperationIds {
    /// Random (version 4): what most callers send, and the hardest for an index, which is written everywhere.
    #[default]
    Random,
    /// They begin with the time in milliseconds (version 7): an index is written at its end.
    TimeOrdered,
}

impl OperationIds {
    /// How the report calls them.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::TimeOrdered => "time-ordered",
        }
    }

    /// An id that nobody had before.
    pub(super) fn next(self, random: &mut impl RngExt) -> String {
        let builder = match self {
            Self::Random => Builder::from_random_bytes(random.random()),
            Self::TimeOrdered => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
                let millis = since_epoch.map_or(0, |passed| passed.as_millis());
                let millis = u64::try_from(millis).unwrap_or(u64::MAX);
                Builder::from_unix_timestamp_millis(millis, &random.random())
            }
        };
        builder.into_uuid().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::SmallRng;
    use uuid::{Uuid, Version};

    use super::*;

    #[test]
    fn ids_are_uuids_of_which_some_begin_with_the_time() {
        let mut random: SmallRng = rand::make_rng();
        let mut next = |kind: OperationIds| {
            let id = kind.next(&mut random);
            let uuid = Uuid::parse_str(&id).expect("a UUID");
            assert_eq!(uuid.to_string(), id);
            uuid
        };
        let (one, other) = (next(OperationIds::Random), next(OperationIds::Random));
        assert_eq!(one.get_version(), Some(Version::Random));
        assert_ne!(one, other);
        let uuid = next(OperationIds::TimeOrdered);
        assert_eq!(uuid.get_version(), Some(Version::SortRand));
        let (seconds, nanos) = uuid.get_timestamp().expect("a time").to_unix();
        let made = UNIX_EPOCH + Duration::new(seconds, nanos);
        let age = SystemTime::now().duration_since(made).expect("it is past");
        assert!(age < Duration::from_secs(60), "{age:?}");
    }
}
