//! The JSON endpoint: card payments over HTTP/1.1, 200 and a code for whatever is sent as JSON, amounts digit by digit.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::cards::*;
use crate::support::instance::PROMPT_STOP;
use crate::support::*;

async fn with_endpoint() -> (Ballast, SocketAddr) {
    let any_port = ([127, 0, 0, 1], 0).into();
    let ballast = Ballast::start_with(|config| config.json_listen = Some(any_port)).await;
    let address = ballast.json_address.expect("an endpoint");
    (ballast, address)
}

/// The status line and the body of an answer to what is sent as JSON.
async fn ask(endpoint: SocketAddr, method: &str, path: &str, body: &[u8]) -> (String, String) {
    let json = "Content-Type: application/json\r\n";
    ask_with(endpoint, method, path, json, body).await
}

async fn ask_with(
    endpoint: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (String, String) {
    let mut stream = TcpStream::connect(endpoint).await.expect("a connection");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: ballast\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(body).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (
        head.lines().next().unwrap_or_default().to_owned(),
        body.to_owned(),
    )
}

async fn code(endpoint: SocketAddr, body: &str) -> String {
    let (status, body) = ask(endpoint, "POST", "/authorize", body.as_bytes()).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let code = body["code"].as_str().expect("a code").to_owned();
    match code.as_str() {
        "07" => {
            assert!(
                body["reason"].is_string() && body["message"].is_string(),
                "{body}"
            );
            assert_eq!(
                body.as_object().map(|fields| fields.len()),
                Some(3),
                "{body}"
            );
        }
        _ => assert_eq!(body, serde_json::json!({ "code": code }), "nothing else"),
    }
    code
}

/// Reason and message of a body that is declined.
async fn declined(endpoint: SocketAddr, body: &str) -> (String, String) {
    let (status, body) = ask(endpoint, "POST", "/authorize", body.as_bytes()).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["code"], "07", "{body}");
    let text = |name: &str| body[name].as_str().expect("a text").to_owned();
    (text("reason"), text("message"))
}

#[tokio::test]
async fn every_body_has_its_code() {
    let (mut ballast, endpoint) = with_endpoint().await;
    open_card(&mut ballast, "123", [0, 50_000, 0]).await;
    let pay = |total: &str| {
        format!(
            r#"{{"account":"123","totalAmount":{total},"mcc":"5811","merchant":"PADARIA DO ZE               SAO PAULO BR"}}"#
        )
    };
    let deep = "[".repeat(5_000);
    let rows = [
        (pay("100.00"), "00", 10_000),
        (pay("100"), "00", 10_000),
        (pay("0.29"), "00", 29),
        (pay("1.10"), "00", 110),
        (pay("1e1"), "00", 1_000),
        (pay("10.000"), "00", 1_000),
        (pay("\"0.07\""), "00", 7),
        (pay("1000000"), "51", 0),
        (pay("10.001"), "07", 0),
        (pay("0.001"), "07", 0),
        (pay("0"), "00", 0),
        (pay("0.00"), "00", 0),
        (pay("-0"), "00", 0),
        (pay("\"0e5\""), "00", 0),
        (pay("0").replace("123", "nobody"), "07", 0),
        (pay("-1.00"), "07", 0),
        (pay("99999999999999999999999999999999999999999999"), "07", 0),
        (pay("1e400"), "07", 0),
        (pay("null"), "07", 0),
        (pay("true"), "07", 0),
        (pay("[1]"), "07", 0),
        (pay("\"1,00\""), "07", 0),
        (pay("\"\""), "07", 0),
        (pay("01"), "07", 0),
        (pay("NaN"), "07", 0),
        (pay("1").replace("123", "nobody"), "07", 0),
        (pay("1").replace("\"123\"", "123"), "07", 0),
        (
            pay("1").replace("5811", "581158115811581158115811"),
            "07",
            0,
        ),
        (pay("1").replace("{", r#"{"id":"no such id","#), "07", 0),
        (pay("1").replace("{", r#"{"id":"x:reversal","#), "07", 0),
        (r#"{"account":"123","totalAmount":1}"#.to_owned(), "51", 0),
        (r#"{"account":"123","mcc":"5811"}"#.to_owned(), "07", 0),
        (r#"{"totalAmount":1,"mcc":"5811"}"#.to_owned(), "07", 0),
        (pay("1").replace("{", r#"{"account":"123","#), "07", 0),
        ("{}".to_owned(), "07", 0),
        ("[]".to_owned(), "07", 0),
        (String::new(), "07", 0),
        ("not json".to_owned(), "07", 0),
        (pay("1.00").replace('}', ""), "07", 0),
        (format!("{}{}", pay("1.00"), "x"), "07", 0),
        (deep, "07", 0),
        (format!("{}{}", pay("1.00"), " ".repeat(20_000)), "07", 0),
    ];
    let mut left = 50_000;
    for (body, expected, minor_units) in rows {
        let shown: String = body.chars().take(200).collect();
        assert_eq!(code(endpoint, &body).await, expected, "{shown}");
        left -= minor_units;
        assert_eq!(
            pockets(&mut ballast.balances, "123").await,
            [0, left, 0],
            "{shown}"
        );
    }
    let invalid_utf8 = [b"{\"account\":\"", &[0xff, 0xfe][..], b"\"}"].concat();
    let (status, body) = ask(endpoint, "POST", "/authorize", &invalid_utf8).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(
        body.starts_with(r#"{"code":"07","reason":"INVALID_ARGUMENT""#),
        "{body}"
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_amount_is_in_the_currency_of_the_account() {
    let (mut ballast, endpoint) = with_endpoint().await;
    for (account_id, currency_code) in [("yen", "JPY"), ("dinar", "BHD")] {
        let mut request = account(account_id);
        request.currency_code = currency_code.to_owned();
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
        let mut filling = credit(account_id, account_id, 10_000);
        filling.category = "CASH".to_owned();
        filling.amount = filling.amount.map(|mut money| {
            money.currency_code = currency_code.to_owned();
            money
        });
        ballast.balances.credit(filling).await.expect("filled");
    }
    let pay = |account: &str, total: &str| {
        format!(r#"{{"account":"{account}","totalAmount":{total},"mcc":"1","merchant":"m"}}"#)
    };
    for (account_id, total, expected, left) in [
        ("yen", "100", "00", 9_900),
        ("yen", "100.0", "00", 9_800),
        ("yen", "0.5", "07", 9_800),
        ("dinar", "1.234", "00", 8_766),
        ("dinar", "0.0005", "07", 8_766),
    ] {
        assert_eq!(
            code(endpoint, &pay(account_id, total)).await,
            expected,
            "{total}"
        );
        assert_eq!(
            pockets(&mut ballast.balances, account_id).await[2],
            left,
            "{total}"
        );
    }
}

#[tokio::test]
async fn an_id_makes_a_retry_of_what_would_be_a_payment_of_its_own() {
    let (mut ballast, endpoint) = with_endpoint().await;
    open_card(&mut ballast, "123", [0, 1_000, 0]).await;
    let pay = |id: &str, total: &str| {
        format!(r#"{{{id}"account":"123","totalAmount":{total},"mcc":"5811","merchant":"M"}}"#)
    };
    for _ in 0..3 {
        assert_eq!(code(endpoint, &pay(r#""id":"one","#, "1.00")).await, "00");
    }
    assert_eq!(
        code(endpoint, &pay(r#""id":"one","#, "1.0")).await,
        "00",
        "the same amount"
    );
    assert_eq!(
        code(endpoint, &pay(r#""id":"one","#, "2.00")).await,
        "07",
        "another payment"
    );
    assert_eq!(pockets(&mut ballast.balances, "123").await[1], 900);
    // The same payment through gRPC.
    let mut request = payment("one", "123", 100, "5811");
    request.merchant = "m".to_owned();
    assert_eq!(
        decided(&mut ballast.cards(), request).await,
        says("00", "MEAL")
    );
    for _ in 0..3 {
        assert_eq!(code(endpoint, &pay("", "1.00")).await, "00");
    }
    assert_eq!(pockets(&mut ballast.balances, "123").await[1], 600);
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_said_all_at_once() {
    let (mut ballast, endpoint) = with_endpoint().await;
    open_card(&mut ballast, "123", [0, 1_000, 1_000]).await;
    let good = r#"{"id":"p","account":"123","totalAmount":1.00,"mcc":"5811","merchant":"M"}"#;
    let with = |from: &str, to: &str| good.replace(from, to);
    let rows = [
        (
            with(r#""5811""#, "null"),
            &["mcc is null, must be a string"][..],
        ),
        (with(r#""M""#, "null"), &["merchant is null"]),
        (with(r#""p""#, "null"), &["id is null"]),
        (with(r#""123""#, "null"), &["account is null"]),
        (
            with("1.00", "null"),
            &["totalAmount is null, must be a number"],
        ),
        (
            with(r#""5811""#, "5811"),
            &["mcc is a number, must be a string"],
        ),
        (
            with(r#""123""#, "123"),
            &["account is a number, must be a string"],
        ),
        (
            with(r#""M""#, r#"{"name":"M"}"#),
            &["merchant is an object, must be a string"],
        ),
        (with(r#""p""#, "[]"), &["id is an array"]),
        (with("1.00", "true"), &["totalAmount is a boolean"]),
        (
            with("1.00", "\"1,00\""),
            &["totalAmount is not a decimal number"],
        ),
        (with("1.00", "1.001"), &["totalAmount has more decimals"]),
        (with("1.00", "-1"), &["totalAmount must not be negative"]),
        (
            r#"{"account":"123"}"#.to_owned(),
            &["totalAmount is required"],
        ),
        (r#"{"totalAmount":1}"#.to_owned(), &["account is required"]),
        (
            "{}".to_owned(),
            &["account is required", "totalAmount is required"],
        ),
        (
            r#"{"id":7,"account":null,"totalAmount":[],"mcc":null,"merchant":1}"#.to_owned(),
            &[
                "id is",
                "account is",
                "totalAmount is",
                "mcc is",
                "merchant is",
            ],
        ),
        (with("\"id\"", "\"ID\""), &["id is written \"ID\""]),
        (with("\"id\"", "\"id \""), &["id is written \"id \""]),
        (
            with("\"id\"", "\"operation_id\""),
            &["id is missing, and \"operation_id\" may be meant"],
        ),
        (with("\"id\"", "\"operationId\""), &["id is missing"]),
        // The first letter is Cyrillic.
        (with("\"id\"", "\"\u{456}d\""), &["id is missing"]),
        (
            with("totalAmount", "total_amount"),
            &["totalAmount is written", "totalAmount is required"],
        ),
        (
            with("{", r#"{"account":"1","#),
            &["account is given more than once"],
        ),
        (with("p", "p:reversal"), &["id ends with :reversal"]),
        (with("5811", "58\\ud800"), &["mcc is not a valid string"]),
        (String::new(), &["body is empty"]),
        ("[]".to_owned(), &["body is not a JSON object"]),
        ("\"x\"".to_owned(), &["body is not a JSON object"]),
        ("null".to_owned(), &["body is not a JSON object"]),
        ("not json".to_owned(), &["body is not valid JSON"]),
        (with("}", ""), &["body is not valid JSON"]),
        (
            format!("{good}{}", " ".repeat(20_000)),
            &["body has more than 16384 bytes"],
        ),
    ];
    for (body, said) in rows {
        let shown: String = body.chars().take(100).collect();
        let (reason, message) = declined(endpoint, &body).await;
        assert_eq!(reason, "INVALID_ARGUMENT", "{shown}");
        for said in said {
            assert!(message.contains(said), "{shown}: {message}");
        }
    }
    assert_eq!(
        pockets(&mut ballast.balances, "123").await,
        [0, 1_000, 1_000]
    );
    let (reason, _) = declined(endpoint, &with("123", "nobody")).await;
    assert_eq!(reason, "ACCOUNT_NOT_FOUND");
    // Fields that nobody knows are no mistake.
    let more = with("{", r#"{"terminal":{"id":[1,null]},"nsu":7,"#);
    assert_eq!(code(endpoint, &more).await, "00");
    assert_eq!(pockets(&mut ballast.balances, "123").await, [0, 900, 1_000]);
}

#[tokio::test]
async fn what_is_not_sent_as_json_moves_no_money() {
    let (mut ballast, endpoint) = with_endpoint().await;
    open_card(&mut ballast, "123", [0, 1_000, 0]).await;
    let body = br#"{"account":"123","totalAmount":1.00,"mcc":"5811","merchant":"M"}"#;
    for headers in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/jsonp\r\n",
        "Content-Type: application/grpc\r\n",
        "Content-Type: multipart/form-data; boundary=x\r\n",
        "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
    ] {
        let (status, answer) = ask_with(endpoint, "POST", "/authorize", headers, body).await;
        assert_eq!(status, "HTTP/1.1 415 Unsupported Media Type", "{headers}");
        assert!(
            answer.contains(r#""code":"07","reason":"NOT_JSON""#),
            "{answer}"
        );
    }
    assert_eq!(pockets(&mut ballast.balances, "123").await[1], 1_000);
    for headers in [
        "Content-Type: application/json; charset=utf-8\r\n",
        "content-type: Application/JSON\r\nContent-Encoding: identity\r\n",
    ] {
        let (status, answer) = ask_with(endpoint, "POST", "/authorize", headers, body).await;
        assert_eq!(
            (status.as_str(), answer.as_str()),
            ("HTTP/1.1 200 OK", r#"{"code":"00"}"#)
        );
    }
    assert_eq!(pockets(&mut ballast.balances, "123").await[1], 800);
}

#[tokio::test]
async fn each_path_has_its_method() {
    let (_ballast, endpoint) = with_endpoint().await;
    for (method, path, status) in [
        ("GET", "/authorize", "HTTP/1.1 405 Method Not Allowed"),
        ("PUT", "/authorize", "HTTP/1.1 405 Method Not Allowed"),
        ("POST", "/healthz", "HTTP/1.1 405 Method Not Allowed"),
        ("POST", "/", "HTTP/1.1 404 Not Found"),
        ("GET", "/", "HTTP/1.1 404 Not Found"),
        ("POST", "/authorize/x", "HTTP/1.1 404 Not Found"),
    ] {
        let (answered, body) = ask(endpoint, method, path, b"{}").await;
        assert_eq!(answered, status, "{method} {path}");
        assert!(body.contains(r#""code":"07""#), "{body}");
    }
}

#[tokio::test]
async fn its_health_is_that_of_the_card_service() {
    let (ballast, endpoint) = with_endpoint().await;
    let until = async |status: &str, text: &str| {
        within_reason(text, async {
            while ask(endpoint, "GET", "/healthz", b"").await
                != (status.to_owned(), text.to_owned())
            {}
        })
        .await;
    };
    until("HTTP/1.1 200 OK", "SERVING\n").await;
    // Nobody may connect to its database any more, and who is connected is not.
    let admin = ballast.database.admin().await;
    let name = ballast.database.name();
    admin
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        .await
        .expect("closed");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    admin.execute(end, &[&name]).await.expect("ended");
    until("HTTP/1.1 503 Service Unavailable", "NOT_SERVING\n").await;
    admin
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        .await
        .expect("open");
    until("HTTP/1.1 200 OK", "SERVING\n").await;
}

#[tokio::test]
async fn a_drain_answers_what_came_in_and_does_not_wait_for_the_silent() {
    let (mut ballast, endpoint) = with_endpoint().await;
    open_card(&mut ballast, "123", [0, 1_000, 0]).await;
    let lock = ballast.lock("123").await;
    let body = r#"{"account":"123","totalAmount":1.00,"mcc":"5811","merchant":"M"}"#;
    let in_flight = tokio::spawn(async move { code(endpoint, body).await });
    ballast.until_waiting(|count| count > 0).await;
    let _silent = TcpStream::connect(endpoint)
        .await
        .expect("a client that never sends a byte");
    let asked = Instant::now();
    ballast.begin_to_stop();
    while TcpStream::connect(endpoint).await.is_ok() {
        tokio::task::yield_now().await;
    }
    lock.release().await;
    assert_eq!(in_flight.await.expect("no panic"), "00");
    assert!(ballast.stopped().await);
    assert!(
        asked.elapsed() < PROMPT_STOP,
        "well within the drain timeout"
    );
}
