//! The banner: what a person reads after the start, on stdout.

use std::fmt;
use std::net::SocketAddr;

use super::demo::{POOR, RICH};
use crate::embedded::Description;

pub(super) struct Banner<'a> {
    pub(super) address: SocketAddr,
    pub(super) json_address: Option<SocketAddr>,
    pub(super) embedded: Option<&'a Description>,
    pub(super) has_demo: bool,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            json_address,
            embedded,
            has_demo,
        } = self;
        writeln!(f, "Ballast {} is ready.", env!("CARGO_PKG_VERSION"))?;
        writeln!(f)?;
        writeln!(f, "  gRPC       {address} (plaintext, with reflection)")?;
        if let Some(json_address) = json_address {
            writeln!(
                f,
                "  JSON       http://{json_address}/authorize (card payments)"
            )?;
        }
        match embedded {
            Some(embedded) => {
                let Description {
                    data_dir,
                    database_url,
                    version,
                } = embedded;
                let data_dir = data_dir.display();
                writeln!(f, "  database   private {version}, data in {data_dir}")?;
                writeln!(f, "  SQL        psql \"{database_url}\"")?;
            }
            None => writeln!(f, "  database   as named by --database-url")?,
        }
        writeln!(f, "  stop       Ctrl-C")?;
        writeln!(f)?;
        if !has_demo {
            return write!(
                f,
                "Look around:\n\n  grpcurl -plaintext {address} describe ballast.v1.BalanceService"
            );
        }
        let amount = |minor_units: i64| {
            format!(r#""amount":{{"currency_code":"EUR","minor_units":{minor_units}}}"#)
        };
        let transfer = |id: &str, minor_units: i64| {
            format!(
                "  grpcurl -plaintext -d '{{\"operation_id\":\"{id}\",\"source_account_id\":\"{RICH}\",\
                 \"destination_account_id\":\"{POOR}\",{}}}' {address} ballast.v1.BalanceService/Transfer",
                amount(minor_units),
            )
        };
        let get = |method: &str, body: &str| {
            format!("  grpcurl -plaintext -d '{body}' {address} ballast.v1.{method}")
        };
        writeln!(
            f,
            "Try it. The demo account {RICH} began with 100.00 EUR, {POOR} with nothing."
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "Move 25.00 EUR. Sent again, it answers the same and moves nothing:\n"
        )?;
        writeln!(f, "{}\n", transfer("first-transfer", 2_500))?;
        writeln!(
            f,
            "Ask for more than is there. The answer is INSUFFICIENT_FUNDS, also when it is sent again later:\n"
        )?;
        writeln!(f, "{}\n", transfer("too-much", 100_000_000))?;
        writeln!(f, "See the balance, and what happened:\n")?;
        writeln!(
            f,
            "{}",
            get(
                "BalanceService/GetBalance",
                &format!(r#"{{"account_id":"{RICH}"}}"#)
            )
        )?;
        write!(
            f,
            "{}",
            get(
                "BalanceService/ListOperations",
                &format!(r#"{{"account_id":"{RICH}"}}"#)
            )
        )?;
        writeln!(f)
    }
}
