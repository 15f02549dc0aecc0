//! Network neighbours: a client that does not begin, does not read or cancels everything costs a bounded amount, and others
//! go on.

use std::time::{Duration, Instant};

use ballast::rpc::answer_budget::BudgetLimits;
use ballast::rpc::proto::{GetBalanceRequest, GetOperationRequest, ListEntriesRequest};
use futures_util::future::{join, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::frames::{self, DATA, Frames, GOAWAY, HEADERS, PREFACE};
use crate::support::instance::{DRAIN_TIMEOUT, PROMPT_STOP};
use crate::support::*;

const CREDIT: &str = "/ballast.v1.BalanceService/Credit";
const GET_BALANCE: &str = "/ballast.v1.BalanceService/GetBalance";
const LIST_ENTRIES: &str = "/ballast.v1.BalanceService/ListEntries";
/// The window of a client that reads everything.
const WIDE: u32 = 1 << 30;

fn balance_request() -> GetBalanceRequest {
    GetBalanceRequest {
        account_id: "a".to_owned(),
        ..GetBalanceRequest::default()
    }
}

#[tokio::test]
async fn a_peer_that_does_not_begin_is_cut_in_time() {
    let greeting_timeout = Duration::from_secs(3);
    let mut ballast = Ballast::start_with(|config| {
        config.json_listen = Some(([127, 0, 0, 1], 0).into());
        config.network.greeting_timeout = greeting_timeout;
    })
    .await;
    open(&mut ballast, "a", 1).await;
    let mut polite = Frames::connect(ballast.address, WIDE).await;
    let greeting = frames::greeting(WIDE);
    let beginnings = [
        &[][..],
        &PREFACE[..1],
        PREFACE,
        &greeting[..PREFACE.len() + 4],
        &greeting[..greeting.len() - 1],
    ];
    let address = ballast.address;
    let silent = beginnings.map(|beginning| async move {
        let connected = Instant::now();
        let mut peer = Frames::silent(address).await;
        peer.send(beginning).await;
        within_reason("the end of a silent connection", peer.closed()).await;
        let lived = connected.elapsed();
        assert!(lived >= greeting_timeout, "{lived:?} with {beginning:?}");
    });
    let json_address = ballast.json_address.expect("a JSON endpoint");
    let beginnings = [&b""[..], b"P", b"POST /authorize HTTP/1.1\r\n"];
    let silent_json = beginnings.map(|beginning| async move {
        let connected = Instant::now();
        let mut peer = TcpStream::connect(json_address).await.expect("connected");
        peer.write_all(beginning).await.expect("sent");
        let closed = async {
            // Cut with or without a word.
            let mut words = Vec::new();
            let _reset = peer.read_to_end(&mut words).await;
        };
        within_reason("the end of a silent connection", closed).await;
        let lived = connected.elapsed();
        assert!(lived >= greeting_timeout, "{lived:?} with {beginning:?}");
    });
    join(join_all(silent), join_all(silent_json)).await;
    // Who has begun may be silent for longer.
    let call = frames::call(1, GET_BALANCE, "20S", &balance_request());
    polite.send(&call).await;
    assert!(polite.answer(1).await);
}

/// So many lists of 1,000 entries in one account; each has more than `LIST_SIZE` bytes.
const LIST_SIZE: usize = 60_000;

async fn with_entries(ballast: &mut Ballast) {
    open(ballast, "a", 0).await;
    let credits = (0..1_000).map(|index| credit_member(&format!("c-{index:0>40}"), "a", 1));
    for result in execute(&mut ballast.balances, credits.collect()).await {
        posted_of(&result);
    }
}

fn list() -> ListEntriesRequest {
    ListEntriesRequest {
        account_id: "a".to_owned(),
        page_size: 1_000,
        ..ListEntriesRequest::default()
    }
}

/// Asks for lists and reads none of them: how many were made, and how many were turned away at their deadline.
async fn ask_without_reading(peer: &mut Frames, count: u32, timeout: &str) -> (usize, usize) {
    let calls = (0..count).map(|index| frames::call(2 * index + 1, LIST_ENTRIES, timeout, &list()));
    peer.send(&calls.collect::<Vec<_>>().concat()).await;
    let (mut made, mut turned_away) = (0, 0);
    while made + turned_away < count as usize {
        let frame = peer.next().await.expect("the connection stays");
        match frame.kind {
            // An error has nothing but headers.
            HEADERS if frame.is_end() => turned_away += 1,
            HEADERS => made += 1,
            DATA | GOAWAY => panic!("unexpected {frame:?}"),
            _ => {}
        }
    }
    (made, turned_away)
}

#[tokio::test]
async fn unread_answers_are_bounded_and_reading_them_releases_memory() {
    let connection_bytes_max = 8 * LIST_SIZE;
    let mut ballast = Ballast::start_with(|config| {
        config.network.answer_budget.connection_bytes_max = connection_bytes_max;
    })
    .await;
    with_entries(&mut ballast).await;
    let mut peer = Frames::connect(ballast.address, 0).await;
    let (made, turned_away) = ask_without_reading(&mut peer, 100, "5S").await;
    assert!((1..=8).contains(&made), "{made} made, {turned_away} not");

    // Others are not held up.
    let read = ballast.balances.list_entries(list()).await.expect("a list");
    assert_eq!(read.into_inner().entries.len(), 1_000);

    let mut wide = vec![frames::window_update(0, WIDE)];
    wide.extend((0..100).map(|index| frames::window_update(2 * index + 1, WIDE)));
    peer.send(&wide.concat()).await;
    let mut ended = 0;
    while ended < made {
        let frame = peer.next().await.expect("the connection stays");
        ended += usize::from(frame.is_end());
    }
    let again = frames::call(1_001, LIST_ENTRIES, "20S", &list());
    peer.send(&[again, frames::window_update(1_001, WIDE)].concat())
        .await;
    assert!(peer.answer(1_001).await, "it fits again");
}

#[tokio::test]
async fn a_write_waits_for_memory_before_it_happens_or_does_not_happen() {
    let mut ballast = Ballast::start_with(|config| {
        config.network.answer_budget.connection_bytes_max = LIST_SIZE;
    })
    .await;
    with_entries(&mut ballast).await;
    let mut peer = Frames::connect(ballast.address, 0).await;
    let (made, _) = ask_without_reading(&mut peer, 2, "5S").await;
    assert_eq!(made, 1);
    let write = |stream, id, timeout| frames::call(stream, CREDIT, timeout, &credit(id, "a", 1));
    peer.send(&write(101, "no-memory", "1S")).await;
    assert!(!peer.answer(101).await, "OVERLOADED");
    let unknown = GetOperationRequest {
        operation_id: "no-memory".to_owned(),
        ..GetOperationRequest::default()
    };
    Rejection::of(ballast.balances.get_operation(unknown).await)
        .expect(Code::NotFound, "OPERATION_NOT_FOUND");

    let wide = [0, 1, 3, 103].map(|stream| frames::window_update(stream, WIDE));
    peer.send(&[write(103, "with-memory", "20S"), wide.concat()].concat())
        .await;
    assert!(peer.answer(103).await, "posted");
    assert_eq!(posted(&mut ballast.balances, "a").await, 1_001);
}

#[tokio::test]
async fn whoever_does_not_read_is_cut_and_what_it_held_is_free() {
    let mut ballast = Ballast::start_with(|config| {
        config.network.answer_budget = BudgetLimits {
            connection_bytes_max: 4 * LIST_SIZE,
            process_bytes_max: 16 * LIST_SIZE,
        };
        config.network.unread_timeout = Duration::from_secs(3);
        config.network.unread_timeout_crowded = Duration::from_secs(3);
    })
    .await;
    with_entries(&mut ballast).await;
    let begun = Instant::now();
    // Together they would take more than there is.
    let mut peers = Vec::new();
    for _ in 0..10 {
        let mut peer = Frames::connect(ballast.address, 0).await;
        let calls = (0..50).map(|index| frames::call(2 * index + 1, LIST_ENTRIES, "20S", &list()));
        peer.send(&calls.collect::<Vec<_>>().concat()).await;
        peers.push(peer);
    }
    for peer in &mut peers {
        within_reason("the end of a connection that does not read", peer.closed()).await;
    }
    // These clients do not answer pings either, and are cut for that 50 s after their beginning.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(45), "{took:?}");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let mut balances = ballast.own_balances();
        calls.spawn(async move { balances.list_entries(list()).await });
    }
    for read in calls.join_all().await {
        read.expect("a list");
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_those_who_do_not_read() {
    let mut ballast = Ballast::start_with(|config| {
        config.network.answer_budget.connection_bytes_max = LIST_SIZE;
    })
    .await;
    with_entries(&mut ballast).await;
    let mut peer = Frames::connect(ballast.address, 0).await;
    let calls = (0..10).map(|index| frames::call(2 * index + 1, LIST_ENTRIES, "20S", &list()));
    peer.send(&calls.collect::<Vec<_>>().concat()).await;
    // The first is made; the others wait for memory.
    while peer.next().await.expect("the connection stays").kind != HEADERS {}
    let asked = Instant::now();
    assert!(ballast.stopped().await, "drained");
    let took = asked.elapsed();
    assert!(took < PROMPT_STOP, "{took:?} of {DRAIN_TIMEOUT:?}");
}

#[tokio::test]
async fn cancelled_calls_on_a_shared_connection_leave_the_others_unharmed() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let mut proxy = Frames::connect(ballast.address, WIDE).await;
    proxy.send(&frames::window_update(0, WIDE)).await;
    let mut streams = (1..).step_by(2);
    for round in 0..3 {
        let (mut bytes, mut innocent) = (Vec::new(), Vec::new());
        for index in 0..1_000 {
            let stream = streams.next().expect("a stream");
            let id = format!("c-{round}-{index}");
            if index % 50 == 0 {
                innocent.push(stream);
                bytes.extend(frames::call(
                    stream,
                    CREDIT,
                    "20S",
                    &credit(&id, "a", 1_000),
                ));
            } else {
                bytes.extend(frames::call(stream, CREDIT, "20S", &credit(&id, "a", 1)));
                bytes.extend(frames::cancel(stream));
            }
        }
        proxy.send(&bytes).await;
        while !innocent.is_empty() {
            let frame = proxy.next().await.expect("the connection stays");
            let reason = String::from_utf8_lossy(&frame.payload);
            assert_ne!(frame.kind, GOAWAY, "{reason:?}");
            if frame.is_end() {
                innocent.retain(|stream| *stream != frame.stream);
            }
        }
    }
    // What was cancelled happened or not; what was not cancelled happened.
    assert_eq!(posted(&mut ballast.balances, "a").await / 1_000, 60);
    ballast.assert_in_order().await;
}

/// As a client library cancels: with its own deadline, or because its caller lost interest.
#[tokio::test]
async fn deadlines_of_a_client_on_a_shared_channel_leave_its_other_calls_unharmed() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let shared = ballast.own_balances();
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..2_000 {
        let mut balances = shared.clone();
        calls.spawn(async move {
            if index % 50 == 0 {
                let kept = balances.get_balance(balance_request()).await;
                kept.expect("the others are not harmed");
            } else {
                let call = balances.get_balance(balance_request());
                let _cancelled = tokio::time::timeout(Duration::from_millis(1), call).await;
            }
        });
    }
    calls.join_all().await;
    posted(&mut shared.clone(), "a").await;
}

#[tokio::test]
async fn a_flood_of_cancelled_requests_is_held_to_its_pace() {
    let mut ballast = Ballast::start_with(|config| {
        config.network.abandoned_per_second_max = 1;
    })
    .await;
    open(&mut ballast, "a", 1).await;
    let mut peer = Frames::connect(ballast.address, WIDE).await;
    let call = |stream| frames::call(stream, GET_BALANCE, "20S", &balance_request());
    let flood = (0..90).map(|index| {
        let stream = 2 * index + 1;
        [call(stream), frames::cancel(stream)].concat()
    });
    peer.send(&flood.collect::<Vec<_>>().concat()).await;
    // As soon as the server has seen them, it reads no more for a minute and a half.
    let is_held = async {
        for stream in (1_001..1_101).step_by(2) {
            peer.send(&call(stream)).await;
            let answered = tokio::time::timeout(Duration::from_secs(2), peer.answer(stream)).await;
            if answered.is_err() {
                return true;
            }
        }
        false
    };
    assert!(is_held.await, "the flood goes on");
    assert_eq!(posted(&mut ballast.own_balances(), "a").await, 1);
}
