//! The long account: what reads cost when there is much to look back on. One request in flight, each kind in turn.

use std::sync::Arc;

use prost_types::Timestamp;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::Instant;
use tonic::Status;

use super::calls::{Client, Facts};
use super::measured::{Answer, Measured};
use super::recorder::Recorder;
use crate::rpc::proto::list_operations_request::Filter;
use crate::rpc::proto::{GetBalanceRequest, ListEntriesRequest, ListOperationsRequest};

/// The id of the long account. Its n-th entry was made n seconds after the epoch.
pub(in crate::bench) const LONG_ACCOUNT_ID: &str = "history";

/// The reads, by name, in the order in which they are shown; all are compared with the first.
pub(in crate::bench) const PARTS: [&str; 6] = [
    "GetBalance",
    "GetBalance at a time",
    "ListEntries, first page",
    "ListEntries, last page",
    "ListOperations, first page",
    "ListOperations, last page",
];

/// How many items the pages have that lead to the last one.
const WALK_PAGE_SIZE: i32 = 1000;

/// The account with the long history, and the tokens of its last pages.
#[derive(Debug)]
pub(in crate::bench) struct LongAccount {
    entry_count: u64,
    last_entries_token: String,
    last_operations_token: String,
}

impl LongAccount {
    /// Walks through all pages once, to know the tokens of the last ones.
    pub(in crate::bench) async fn walk(
        mut client: Client,
        entry_count: u64,
    ) -> Result<Self, Status> {
        let mut last_entries_token = String::new();
        loop {
            let request = list_entries(last_entries_token.clone(), WALK_PAGE_SIZE);
            let page = client.list_entries(request).await?.into_inner();
            if page.next_page_token.is_empty() {
                break;
            }
            last_entries_token = page.next_page_token;
        }
        let mut last_operations_token = String::new();
        loop {
            let request = list_operations(last_operations_token.clone(), WALK_PAGE_SIZE);
            let page = client.list_operations(request).await?.into_inner();
            if page.next_page_token.is_empty() {
                break;
            }
            last_operations_token = page.next_page_token;
        }
        Ok(Self {
            entry_count,
            last_entries_token,
            last_operations_token,
        })
    }

    /// Reads in turn, for as long as it is asked to.
    pub(super) async fn probe(
        self: Arc<Self>,
        mut client: Client,
        recorder: Arc<Recorder>,
    ) -> Measured {
        let mut measured = Measured::new();
        let mut random: SmallRng = rand::make_rng();
        while !recorder.is_stopping() {
            for (index, part) in PARTS.into_iter().enumerate() {
                let second = random.random_range(0..=self.entry_count);
                let sent = Instant::now();
                let answer = self.read(index, &mut client, second).await;
                let latency = sent.elapsed();
                recorder.note(&mut measured, Facts::default(), &answer, latency);
                if recorder.is_measuring() {
                    measured.part(part).note(&answer, latency);
                }
            }
        }
        measured
    }

    /// The read of this index in [`PARTS`].
    async fn read(&self, index: usize, client: &mut Client, second: u64) -> Answer {
        match index {
            0 => Answer::of(&client.get_balance(get_balance(None)).await),
            1 => Answer::of(&client.get_balance(get_balance(Some(second))).await),
            2 => Answer::of(&client.list_entries(list_entries(String::new(), 0)).await),
            3 => {
                let request = list_entries(self.last_entries_token.clone(), 0);
                Answer::of(&client.list_entries(request).await)
            }
            4 => {
                let request = list_operations(String::new(), 0);
                Answer::of(&client.list_operations(request).await)
            }
            _ => {
                let request = list_operations(self.last_operations_token.clone(), 0);
                Answer::of(&client.list_operations(request).await)
            }
        }
    }
}

fn get_balance(second: Option<u64>) -> GetBalanceRequest {
    GetBalanceRequest {
        account_id: LONG_ACCOUNT_ID.to_owned(),
        at_time: second.map(|second| Timestamp {
            seconds: i64::try_from(second).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        ..GetBalanceRequest::default()
    }
}

fn list_entries(page_token: String, page_size: i32) -> ListEntriesRequest {
    ListEntriesRequest {
        account_id: LONG_ACCOUNT_ID.to_owned(),
        page_token,
        page_size,
        ..ListEntriesRequest::default()
    }
}

fn list_operations(page_token: String, page_size: i32) -> ListOperationsRequest {
    ListOperationsRequest {
        filter: Some(Filter::AccountId(LONG_ACCOUNT_ID.to_owned())),
        page_token,
        page_size,
        ..ListOperationsRequest::default()
    }
}
