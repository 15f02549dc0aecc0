//! Intents as JSON: what the columns of an operation do not say about what was asked. Each kind that needs it has its own form.

use serde::{Deserialize, Serialize};

use crate::domain::{
    AccountId, Amount, Category, Command, Conditions, Currency, Intent, LimitChange,
    RequestedChange, RequestedLeg, Side, Sides, Source,
};

/// The column `intent` of a kind that has legs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostJson {
    legs: Vec<LegJson>,
}

/// One requested leg. Without an account it is about the world outside.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LegJson {
    side: SideJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    amount: i64,
    currency_code: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum SideJson {
    Debit,
    Credit,
}

/// The column `intent` of a freeze, and of its end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SidesJson {
    debits: bool,
    credits: bool,
}

/// The column `intent` of a change of limits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateJson {
    limits: Vec<LimitJson>,
    allow_breach: bool,
}

/// New limits of a category. What is not there stays as it was.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitJson {
    category: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overdraft_limit: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    balance_limit: Option<i64>,
    /// There is no balance limit from now on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unlimited: bool,
}

impl From<&LimitChange> for LimitJson {
    fn from(change: &LimitChange) -> Self {
        Self {
            category: change.category.to_string(),
            overdraft_limit: change.overdraft_limit,
            balance_limit: change.balance_limit.flatten(),
            unlimited: change.balance_limit == Some(None),
        }
    }
}

impl LimitJson {
    fn change(self) -> Option<LimitChange> {
        let balance_limit = match (self.balance_limit, self.unlimited) {
            (Some(_), true) => return None,
            (None, true) => Some(None),
            (limit, false) => limit.map(Some),
        };
        Some(LimitChange {
            category: Category::from_stored(&self.category),
            overdraft_limit: self.overdraft_limit,
            balance_limit,
        })
    }
}

/// The column `intent` of a debit, a credit or a transfer that has conditions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionsJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_version: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_available_after: Option<i64>,
}

impl From<&RequestedLeg> for LegJson {
    fn from(leg: &RequestedLeg) -> Self {
        let balance = leg.balance.as_ref();
        Self {
            side: match leg.side {
                Side::Debits => SideJson::Debit,
                Side::Credits => SideJson::Credit,
            },
            account_id: balance.map(|balance| balance.account_id.to_string()),
            categories: balance.map_or_else(Vec::new, |balance| {
                balance.categories.iter().map(ToString::to_string).collect()
            }),
            amount: leg.amount.minor_units(),
            currency_code: leg.currency.to_string(),
        }
    }
}

impl LegJson {
    fn leg(self) -> Option<RequestedLeg> {
        let balance = self.account_id.map(|account_id| Source {
            account_id: AccountId::from_stored(&account_id),
            categories: self
                .categories
                .iter()
                .map(|category| Category::from_stored(category))
                .collect(),
        });
        let is_complete = balance
            .as_ref()
            .is_none_or(|balance| !balance.categories.is_empty());
        is_complete.then_some(())?;
        Some(RequestedLeg {
            side: match self.side {
                SideJson::Debit => Side::Debits,
                SideJson::Credit => Side::Credits,
            },
            balance,
            amount: Amount::new(self.amount).ok()?,
            currency: Currency::new(&self.currency_code).ok()?,
        })
    }
}

/// What the column `intent` of a command is; `None`: the other columns say everything.
pub(super) fn to_json(command: &Command) -> Option<String> {
    // What a reversal reverses is in a column of its own.
    match command.moved() {
        Intent::Move { conditions, .. } if *conditions == Conditions::default() => None,
        Intent::Move { conditions, .. } => {
            let json = ConditionsJson {
                expected_version: conditions.expected_version,
                min_available_after: conditions.min_available_after,
            };
            Some(serde_json::to_string(&json).expect("numbers are JSON"))
        }
        Intent::Merge { .. } | Intent::Reverse { .. } => None,
        Intent::Post { legs } => {
            let json = PostJson {
                legs: legs.iter().map(LegJson::from).collect(),
            };
            Some(serde_json::to_string(&json).expect("texts and numbers are JSON"))
        }
        Intent::Change { change, .. } => match change {
            RequestedChange::Freeze(sides) | RequestedChange::Unfreeze(sides) => {
                let Sides { debits, credits } = *sides;
                let json = SidesJson { debits, credits };
                Some(serde_json::to_string(&json).expect("flags are JSON"))
            }
            RequestedChange::Update {
                limits,
                allow_breach,
            } => {
                let json = UpdateJson {
                    limits: limits.iter().map(LimitJson::from).collect(),
                    allow_breach: *allow_breach,
                };
                Some(serde_json::to_string(&json).expect("texts and numbers are JSON"))
            }
            RequestedChange::Close | RequestedChange::Reopen => None,
        },
    }
}

/// The change of a row that changes limits; `None`: it is not one that Ballast wrote.
pub(super) fn update_from_json(json: &str) -> Option<RequestedChange> {
    let UpdateJson {
        limits,
        allow_breach,
    } = serde_json::from_str(json).ok()?;
    let limits: Option<Vec<LimitChange>> = limits.into_iter().map(LimitJson::change).collect();
    Some(RequestedChange::Update {
        limits: limits.filter(|limits| !limits.is_empty())?,
        allow_breach,
    })
}

/// The conditions of a row that moves money; `None`: they are not ones that Ballast wrote.
pub(super) fn conditions_from_json(json: &str) -> Option<Conditions> {
    let ConditionsJson {
        expected_version,
        min_available_after,
    } = serde_json::from_str(json).ok()?;
    let conditions = Conditions {
        expected_version,
        min_available_after,
    };
    (conditions != Conditions::default()).then_some(conditions)
}

/// The directions of a row that freezes, or ends that; `None`: they are not ones that Ballast wrote.
pub(super) fn sides_from_json(json: &str) -> Option<Sides> {
    let SidesJson { debits, credits } = serde_json::from_str(json).ok()?;
    (debits || credits).then_some(Sides { debits, credits })
}

/// The intent of a row whose kind has legs; `None`: it is not one that Ballast wrote.
pub(super) fn post_from_json(json: &str) -> Option<Intent> {
    let PostJson { legs } = serde_json::from_str(json).ok()?;
    let legs: Option<Vec<RequestedLeg>> = legs.into_iter().map(LegJson::leg).collect();
    Intent::post(legs.filter(|legs| !legs.is_empty())?).ok()
}
