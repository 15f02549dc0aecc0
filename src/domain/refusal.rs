//! A refusal: a business answer that says no. Not a failure; nothing broke.

use std::collections::BTreeMap;

use super::command::{BalanceKey, Side};
use super::id::{AccountId, Category, OperationId, OwnerId};
use super::money::{Amount, Currency};

/// Why an operation does not happen, in order of precedence. Amounts in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The operation id was used with other content. Not recorded.
    OperationIdReused {
        /// The id.
        operation_id: OperationId,
        /// The fields that differ; never empty.
        fields: Vec<&'static str>,
    },
    /// The account does not exist. Not recorded.
    AccountNotFound {
        /// The account.
        account_id: AccountId,
    },
    /// The amount is in another currency than the account. Not recorded.
    CurrencyMismatch {
        /// The account.
        account_id: AccountId,
        /// The account's currency.
        account_currency: Currency,
        /// The amount's currency.
        amount_currency: Currency,
    },
    /// The account receives for its owner, and a merge would give that to somebody else, or its closure to nobody. Not recorded.
    SettlementAccount {
        /// The account.
        account_id: AccountId,
        /// Its owner.
        owner_id: OwnerId,
    },
    /// The operation that would be reversed does not exist. Not recorded.
    OriginalNotFound {
        /// The operation.
        operation_id: OperationId,
    },
    /// Nothing is left of the operation that would be reversed. Final and recorded.
    AlreadyReversed {
        /// The operation.
        original_id: OperationId,
    },
    /// Less is left of the operation that would be reversed. Final and recorded.
    ReversalExceedsOriginal {
        /// The operation.
        original_id: OperationId,
        /// What it moved.
        original: i64,
        /// What earlier reversals moved back.
        reversed: i64,
        /// What this one would move back.
        amount: Amount,
        /// The currency of all three.
        currency: Currency,
    },
    /// The account is closed. Final and recorded.
    AccountClosed {
        /// The account.
        account_id: AccountId,
    },
    /// The account is frozen in this direction. Final and recorded.
    AccountFrozen {
        /// The account.
        account_id: AccountId,
        /// The direction.
        side: Side,
    },
    /// The balance has open holds, so its account cannot be merged or closed. Final and recorded.
    HoldsOpen {
        /// The balance.
        balance: BalanceKey,
        /// What the holds reserve.
        held: i64,
        /// The account's currency.
        currency: Currency,
    },
    /// The balance is below zero, so its account cannot be merged: debts do not move. Final and recorded.
    BalanceNegative {
        /// The balance.
        balance: BalanceKey,
        /// What it has.
        posted: i64,
        /// The account's currency.
        currency: Currency,
    },
    /// The balance is not zero, so its account cannot be closed. Final and recorded.
    AccountNotEmpty {
        /// The balance.
        balance: BalanceKey,
        /// What it has; not zero.
        posted: i64,
        /// The account's currency.
        currency: Currency,
    },
    /// The balance uses more overdraft than it is to have. Final and recorded.
    OverdraftInUse {
        /// The balance.
        balance: BalanceKey,
        /// The overdraft limit that it is to have.
        limit: i64,
        /// How far `posted - held` is below zero.
        used: i64,
        /// The account's currency.
        currency: Currency,
    },
    /// The balance has more than it is to be allowed. Final and recorded.
    BalanceAboveLimit {
        /// The balance.
        balance: BalanceKey,
        /// The balance limit that it is to have.
        limit: i64,
        /// What it has.
        posted: i64,
        /// The account's currency.
        currency: Currency,
    },
    /// A merge emptied the account, so it stays closed. Final and recorded.
    AccountMerged {
        /// The account.
        account_id: AccountId,
        /// The account that received all it had.
        destination_account_id: AccountId,
    },
    /// None of the categories covers the whole amount. Final and recorded.
    InsufficientFunds {
        /// The account.
        account_id: AccountId,
        /// The categories that were asked, in order, and what each has available.
        available: Vec<(Category, i64)>,
        /// What was needed.
        needed: Amount,
        /// The account's currency.
        currency: Currency,
    },
    /// The balance is not as the caller expects it: it has another version. Final and recorded.
    VersionMismatch {
        /// The balance that pays; of a credit, the one that receives.
        balance: BalanceKey,
        /// The version that the caller expects.
        expected: i64,
        /// The version that it has.
        version: i64,
    },
    /// Less would be available than the caller wants to be left. Final and recorded.
    MinAvailableNotMet {
        /// The balance that would pay.
        balance: BalanceKey,
        /// What it would have available.
        available_after: i64,
        /// What the caller wants it to have.
        min: i64,
        /// The account's currency.
        currency: Currency,
    },
    /// Posted would exceed the balance limit. Final and recorded.
    BalanceLimitExceeded {
        /// The balance.
        balance: BalanceKey,
        /// What the balance may reach.
        limit: i64,
        /// What it has.
        posted: i64,
        /// What would be added.
        amount: i64,
        /// The account's currency.
        currency: Currency,
    },
    /// One of several legs cannot be posted, and so none is. As final and as recorded as its cause.
    InLeg {
        /// Which one, from 0.
        index: usize,
        /// Why: any refusal of a leg by itself.
        cause: Box<Refusal>,
    },
    /// The account would get one category more than an account may have. Final and recorded.
    CategoryLimitExceeded {
        /// The balance that it has not yet.
        balance: BalanceKey,
        /// How many categories an account may have, `main` included.
        limit: usize,
    },
}

/// The most categories that the sentence of a refusal spells out; its facts have all.
const CATEGORIES_SHOWN_MAX: usize = 4;

/// The variables of a refusal by name: what an error's metadata shows and what the store keeps.
pub type Facts = BTreeMap<String, String>;

/// The fact that says which leg it is about.
const LEG: &str = "leg";
/// The fact that says which operation would be reversed.
const REVERSED: &str = "reversed_operation_id";

impl Refusal {
    /// The stable name of the reason, in UPPER_SNAKE.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OperationIdReused { .. } => "OPERATION_ID_REUSED",
            Self::AccountNotFound { .. } => "ACCOUNT_NOT_FOUND",
            Self::CurrencyMismatch { .. } => "CURRENCY_MISMATCH",
            Self::SettlementAccount { .. } => "SETTLEMENT_ACCOUNT",
            Self::OriginalNotFound { .. } => "OPERATION_NOT_FOUND",
            Self::AlreadyReversed { .. } => "ALREADY_REVERSED",
            Self::ReversalExceedsOriginal { .. } => "REVERSAL_EXCEEDS_ORIGINAL",
            Self::AccountClosed { .. } => "ACCOUNT_CLOSED",
            Self::AccountFrozen { .. } => "ACCOUNT_FROZEN",
            Self::HoldsOpen { .. } => "HOLDS_OPEN",
            Self::BalanceNegative { .. } => "BALANCE_NEGATIVE",
            Self::AccountNotEmpty { .. } => "ACCOUNT_NOT_EMPTY",
            Self::AccountMerged { .. } => "ACCOUNT_MERGED",
            Self::OverdraftInUse { .. } => "OVERDRAFT_IN_USE",
            Self::BalanceAboveLimit { .. } => "BALANCE_ABOVE_LIMIT",
            Self::InsufficientFunds { .. } => "INSUFFICIENT_FUNDS",
            Self::VersionMismatch { .. } => "VERSION_MISMATCH",
            Self::MinAvailableNotMet { .. } => "MIN_AVAILABLE_NOT_MET",
            Self::BalanceLimitExceeded { .. } => "BALANCE_LIMIT_EXCEEDED",
            Self::CategoryLimitExceeded { .. } => "CATEGORY_LIMIT_EXCEEDED",
            Self::InLeg { cause, .. } => cause.reason(),
        }
    }

    /// Whether it is final: recorded under its operation id, listed, and replayed for ever.
    pub fn is_recorded(&self) -> bool {
        match self {
            Self::OperationIdReused { .. }
            | Self::AccountNotFound { .. }
            | Self::CurrencyMismatch { .. }
            | Self::SettlementAccount { .. }
            | Self::OriginalNotFound { .. } => false,
            Self::AlreadyReversed { .. }
            | Self::ReversalExceedsOriginal { .. }
            | Self::AccountClosed { .. }
            | Self::AccountFrozen { .. }
            | Self::HoldsOpen { .. }
            | Self::BalanceNegative { .. }
            | Self::AccountNotEmpty { .. }
            | Self::AccountMerged { .. }
            | Self::OverdraftInUse { .. }
            | Self::BalanceAboveLimit { .. }
            | Self::InsufficientFunds { .. }
            | Self::VersionMismatch { .. }
            | Self::MinAvailableNotMet { .. }
            | Self::BalanceLimitExceeded { .. }
            | Self::CategoryLimitExceeded { .. } => true,
            Self::InLeg { cause, .. } => cause.is_recorded(),
        }
    }

    /// Its variables by name. With [`Refusal::reason`] they say all that the refusal says.
    pub fn facts(&self) -> Facts {
        let facts: Vec<(&str, String)> = match self {
            Self::InLeg { index, cause } => {
                let mut facts = cause.facts();
                facts.insert(LEG.to_owned(), index.to_string());
                return facts;
            }
            Self::OperationIdReused {
                operation_id,
                fields,
            } => {
                vec![
                    ("operation_id", operation_id.to_string()),
                    ("fields", fields.join(",")),
                ]
            }
            Self::OriginalNotFound { operation_id } => {
                vec![("operation_id", operation_id.to_string())]
            }
            Self::AlreadyReversed { original_id } => {
                vec![(REVERSED, original_id.to_string())]
            }
            Self::ReversalExceedsOriginal {
                original_id,
                original,
                reversed,
                amount,
                currency,
            } => vec![
                (REVERSED, original_id.to_string()),
                ("original_minor_units", original.to_string()),
                ("reversed_minor_units", reversed.to_string()),
                ("amount_minor_units", amount.minor_units().to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::AccountNotFound { account_id } | Self::AccountClosed { account_id } => {
                vec![("account_id", account_id.to_string())]
            }
            Self::CurrencyMismatch {
                account_id,
                account_currency,
                amount_currency,
            } => vec![
                ("account_id", account_id.to_string()),
                ("account_currency_code", account_currency.to_string()),
                ("amount_currency_code", amount_currency.to_string()),
            ],
            Self::SettlementAccount {
                account_id,
                owner_id,
            } => vec![
                ("account_id", account_id.to_string()),
                ("owner_id", owner_id.to_string()),
            ],
            Self::HoldsOpen {
                balance,
                held,
                currency,
            } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("held_minor_units", held.to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::OverdraftInUse {
                balance,
                limit,
                used,
                currency,
            } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("overdraft_limit_minor_units", limit.to_string()),
                ("used_minor_units", used.to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::BalanceAboveLimit {
                balance,
                limit,
                posted,
                currency,
            } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("balance_limit_minor_units", limit.to_string()),
                ("posted_minor_units", posted.to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::AccountMerged {
                account_id,
                destination_account_id,
            } => vec![
                ("account_id", account_id.to_string()),
                ("destination_account_id", destination_account_id.to_string()),
            ],
            Self::BalanceNegative {
                balance,
                posted,
                currency,
            }
            | Self::AccountNotEmpty {
                balance,
                posted,
                currency,
            } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("posted_minor_units", posted.to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::AccountFrozen { account_id, side } => {
                vec![
                    ("account_id", account_id.to_string()),
                    ("side", side.as_str().to_owned()),
                ]
            }
            Self::InsufficientFunds {
                account_id,
                available,
                needed,
                currency,
            } => vec![
                ("account_id", account_id.to_string()),
                (
                    "categories",
                    join(available.iter().map(|(category, _)| category)),
                ),
                (
                    "available_minor_units",
                    join(available.iter().map(|(_, available)| available)),
                ),
                ("needed_minor_units", needed.minor_units().to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::VersionMismatch {
                balance,
                expected,
                version,
            } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("expected_version", expected.to_string()),
                ("version", version.to_string()),
            ],
            Self::MinAvailableNotMet {
                balance,
                available_after,
                min,
                currency,
            } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("available_after_minor_units", available_after.to_string()),
                ("min_available_after_minor_units", min.to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::BalanceLimitExceeded {
                balance,
                limit,
                posted,
                amount,
                currency,
            } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("limit_minor_units", limit.to_string()),
                ("posted_minor_units", posted.to_string()),
                ("amount_minor_units", amount.to_string()),
                ("currency_code", currency.to_string()),
            ],
            Self::CategoryLimitExceeded { balance, limit } => vec![
                ("account_id", balance.account_id.to_string()),
                ("category", balance.category.to_string()),
                ("limit", limit.to_string()),
            ],
        };
        facts
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// The recorded refusal that `reason` and `facts` came from; `None` if they come from no recorded refusal.
    pub fn from_facts(reason: &str, facts: &Facts) -> Option<Self> {
        if let Some(index) = facts.get(LEG) {
            let mut facts = facts.clone();
            facts.remove(LEG);
            return Some(Self::InLeg {
                index: index.parse().ok()?,
                cause: Self::from_facts(reason, &facts)?.into(),
            });
        }
        let text = |name: &str| facts.get(name).map(String::as_str);
        let number = |name: &str| text(name)?.parse::<i64>().ok();
        let amount = |name: &str| Amount::new(number(name)?).ok();
        let currency = || Currency::new(text("currency_code")?).ok();
        let original_id = || Some(OperationId::from_stored(text(REVERSED)?));
        match reason {
            "ALREADY_REVERSED" => {
                return Some(Self::AlreadyReversed {
                    original_id: original_id()?,
                });
            }
            "REVERSAL_EXCEEDS_ORIGINAL" => {
                return Some(Self::ReversalExceedsOriginal {
                    original_id: original_id()?,
                    original: number("original_minor_units")?,
                    reversed: number("reversed_minor_units")?,
                    amount: amount("amount_minor_units")?,
                    currency: currency()?,
                });
            }
            _ => {}
        }
        let account_id = AccountId::from_stored(text("account_id")?);
        match reason {
            "ACCOUNT_CLOSED" => Some(Self::AccountClosed { account_id }),
            "ACCOUNT_FROZEN" => {
                let side = [Side::Debits, Side::Credits]
                    .into_iter()
                    .find(|side| text("side") == Some(side.as_str()))?;
                Some(Self::AccountFrozen { account_id, side })
            }
            "HOLDS_OPEN" => Some(Self::HoldsOpen {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                held: number("held_minor_units")?,
                currency: currency()?,
            }),
            "BALANCE_NEGATIVE" => Some(Self::BalanceNegative {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                posted: number("posted_minor_units")?,
                currency: currency()?,
            }),
            "ACCOUNT_NOT_EMPTY" => Some(Self::AccountNotEmpty {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                posted: number("posted_minor_units")?,
                currency: currency()?,
            }),
            "OVERDRAFT_IN_USE" => Some(Self::OverdraftInUse {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                limit: number("overdraft_limit_minor_units")?,
                used: number("used_minor_units")?,
                currency: currency()?,
            }),
            "BALANCE_ABOVE_LIMIT" => Some(Self::BalanceAboveLimit {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                limit: number("balance_limit_minor_units")?,
                posted: number("posted_minor_units")?,
                currency: currency()?,
            }),
            "ACCOUNT_MERGED" => Some(Self::AccountMerged {
                account_id,
                destination_account_id: AccountId::from_stored(text("destination_account_id")?),
            }),
            "INSUFFICIENT_FUNDS" => {
                let categories = text("categories")?.split(',').map(Category::from_stored);
                let available = text("available_minor_units")?
                    .split(',')
                    .map(|number| number.parse().ok());
                let available = categories
                    .zip(available)
                    .map(|(category, a)| a.map(|a| (category, a)));
                let available = available.collect::<Option<Vec<_>>>()?;
                let needed = amount("needed_minor_units")?;
                Some(Self::InsufficientFunds {
                    account_id,
                    available,
                    needed,
                    currency: currency()?,
                })
            }
            "VERSION_MISMATCH" => Some(Self::VersionMismatch {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                expected: number("expected_version")?,
                version: number("version")?,
            }),
            "MIN_AVAILABLE_NOT_MET" => Some(Self::MinAvailableNotMet {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                available_after: number("available_after_minor_units")?,
                min: number("min_available_after_minor_units")?,
                currency: currency()?,
            }),
            "BALANCE_LIMIT_EXCEEDED" => Some(Self::BalanceLimitExceeded {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                limit: number("limit_minor_units")?,
                posted: number("posted_minor_units")?,
                amount: number("amount_minor_units")?,
                currency: currency()?,
            }),
            "CATEGORY_LIMIT_EXCEEDED" => Some(Self::CategoryLimitExceeded {
                balance: BalanceKey {
                    account_id,
                    category: Category::from_stored(text("category")?),
                },
                limit: text("limit")?.parse().ok()?,
            }),
            _ => None,
        }
    }
}

fn join<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InLeg { index, cause } => write!(f, "legs[{index}]: {cause}"),
            Self::OperationIdReused {
                operation_id,
                fields,
            } => {
                write!(
                    f,
                    "operation {operation_id} was already used with a different {}",
                    fields.join(", ")
                )
            }
            Self::AccountNotFound { account_id } => {
                write!(f, "account {account_id} does not exist")
            }
            Self::CurrencyMismatch {
                account_id,
                account_currency,
                amount_currency,
            } => {
                write!(
                    f,
                    "account {account_id} is in {account_currency}, the amount in {amount_currency}"
                )
            }
            Self::SettlementAccount {
                account_id,
                owner_id,
            } => {
                write!(
                    f,
                    "account {account_id} is the settlement account of owner {owner_id}; merge it into an account of the same owner"
                )
            }
            Self::HoldsOpen {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                held,
                currency,
            } => write!(
                f,
                "account {account_id} has {held} held in {category} ({currency} minor units); capture or release the holds first"
            ),
            Self::BalanceNegative {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                posted,
                currency,
            } => write!(
                f,
                "account {account_id} has {posted} in {category} ({currency} minor units); settle the debt first"
            ),
            Self::OriginalNotFound { operation_id } => {
                write!(
                    f,
                    "operation {operation_id} has not ended or does not exist"
                )
            }
            Self::AlreadyReversed { original_id } => {
                write!(f, "all of operation {original_id} is reversed already")
            }
            Self::ReversalExceedsOriginal {
                original_id,
                original,
                reversed,
                amount,
                currency,
            } => {
                let amount = amount.minor_units();
                write!(
                    f,
                    "operation {original_id} moved {original}, of which {reversed} are reversed already, so {amount} cannot be reversed ({currency} minor units)"
                )
            }
            Self::AccountNotEmpty {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                posted,
                currency,
            } => write!(
                f,
                "account {account_id} has {posted} in {category} ({currency} minor units); move it first"
            ),
            Self::OverdraftInUse {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                limit,
                used,
                currency,
            } => write!(
                f,
                "account {account_id} uses {used} of overdraft in {category}, its limit would be {limit} ({currency} minor units); allow the breach or settle the debt first"
            ),
            Self::BalanceAboveLimit {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                limit,
                posted,
                currency,
            } => write!(
                f,
                "account {account_id} has {posted} in {category}, its limit would be {limit} ({currency} minor units); allow the breach or move money first"
            ),
            Self::AccountMerged {
                account_id,
                destination_account_id,
            } => write!(
                f,
                "account {account_id} was merged into account {destination_account_id}; use that one"
            ),
            Self::AccountClosed { account_id } => write!(f, "account {account_id} is closed"),
            Self::AccountFrozen { account_id, side } => {
                write!(f, "account {account_id} is frozen for {}", side.as_str())
            }
            Self::InsufficientFunds {
                account_id,
                available,
                needed,
                currency,
            } => {
                let shown = available.iter().take(CATEGORIES_SHOWN_MAX);
                let shown = shown
                    .map(|(category, available)| format!("{available} available in {category}"));
                let mut shown = shown.collect::<Vec<_>>().join(", ");
                if available.len() > CATEGORIES_SHOWN_MAX {
                    let more = available.len() - CATEGORIES_SHOWN_MAX;
                    shown.push_str(&format!(", not enough in {more} more categories"));
                }
                let needed = needed.minor_units();
                write!(
                    f,
                    "account {account_id} has {shown}, {needed} needed ({currency} minor units)"
                )
            }
            Self::VersionMismatch {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                expected,
                version,
            } => write!(
                f,
                "account {account_id} has version {version} in {category}, {expected} was expected; read the balance again"
            ),
            Self::MinAvailableNotMet {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                available_after,
                min,
                currency,
            } => write!(
                f,
                "account {account_id} would have {available_after} available in {category} after it, {min} must stay ({currency} minor units)"
            ),
            Self::BalanceLimitExceeded {
                balance,
                limit,
                posted,
                amount,
                currency,
            } => {
                let BalanceKey {
                    account_id,
                    category,
                } = balance;
                write!(
                    f,
                    "account {account_id} has {posted} in {category}, {amount} more would exceed its limit of {limit} ({currency} minor units)"
                )
            }
            Self::CategoryLimitExceeded {
                balance:
                    BalanceKey {
                        account_id,
                        category,
                    },
                limit,
            } => write!(
                f,
                "account {account_id} may have {limit} categories, {category} would be one more; use one that it has"
            ),
        }
    }
}
