//! A command: what a caller asks for, parsed and valid, before anyone has looked at a balance.

use std::collections::BTreeMap;

use super::id::{AccountId, Category, OperationId, OwnerId};
use super::money::{Amount, Currency};

/// Which balance: the unit of locking, of versions and of history.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BalanceKey {
    /// The account.
    pub account_id: AccountId,
    /// The pocket of the account.
    pub category: Category,
}

/// Who pays: an account, and the categories that may, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The account.
    pub account_id: AccountId,
    /// The first one that covers the whole amount pays. Never empty, each at most once.
    pub categories: Vec<Category>,
}

/// The direction of the money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Movement {
    /// Out of a balance, to the world outside.
    Debit {
        /// Who pays.
        source: Source,
    },
    /// Into a balance, from the world outside.
    Credit {
        /// Who receives.
        destination: BalanceKey,
    },
    /// From one balance to another.
    Transfer {
        /// Who pays.
        source: Source,
        /// Who receives; never among the source's balances.
        destination: BalanceKey,
        /// The owner whose settlement account the destination is, if the caller named the owner and not the account.
        owner_id: Option<OwnerId>,
    },
    /// Everything from one account to another, category by category; then the first one closes.
    Merge {
        /// The account that is emptied and closed.
        source: AccountId,
        /// The account that receives; never the source.
        destination: AccountId,
    },
}

/// What the caller wants to remember about an operation. Part of its content: a replay must carry the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Note {
    /// Free text.
    pub description: String,
    /// Free facts.
    pub metadata: BTreeMap<String, String>,
}

/// One request to move money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Identity and idempotency key.
    pub operation_id: OperationId,
    /// From where to where.
    pub movement: Movement,
    /// How much; `None`: whatever there is, in a merge and in nothing else.
    pub amount: Option<Amount>,
    /// In which currency.
    pub currency: Currency,
    /// The caller's note.
    pub note: Note,
}

/// A transfer would pay a balance out of itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("category {} of account {} is both source and destination", .0.category, .0.account_id)]
pub struct SameBalance(pub BalanceKey);

impl Movement {
    /// A transfer. Fails if the destination is one of the balances that may pay.
    pub fn transfer(
        source: Source,
        destination: BalanceKey,
        owner_id: Option<OwnerId>,
    ) -> Result<Self, SameBalance> {
        if source.account_id == destination.account_id
            && source.categories.contains(&destination.category)
        {
            return Err(SameBalance(destination));
        }
        Ok(Self::Transfer {
            source,
            destination,
            owner_id,
        })
    }

    /// The balances that may pay, if the movement names them.
    pub fn source(&self) -> Option<&Source> {
        match self {
            Self::Debit { source } | Self::Transfer { source, .. } => Some(source),
            Self::Credit { .. } | Self::Merge { .. } => None,
        }
    }

    /// The account that pays, if it is not the world outside.
    pub fn source_account_id(&self) -> Option<&AccountId> {
        match self {
            Self::Merge { source, .. } => Some(source),
            movement => movement.source().map(|source| &source.account_id),
        }
    }

    /// The account that receives, if it is not the world outside.
    pub fn destination_account_id(&self) -> Option<&AccountId> {
        match self {
            Self::Merge { destination, .. } => Some(destination),
            movement => movement.destination().map(|key| &key.account_id),
        }
    }

    /// The balance that receives, if the movement names it.
    pub fn destination(&self) -> Option<&BalanceKey> {
        match self {
            Self::Credit { destination } | Self::Transfer { destination, .. } => Some(destination),
            Self::Debit { .. } | Self::Merge { .. } => None,
        }
    }

    /// The owner that was named as the destination.
    pub fn destination_owner_id(&self) -> Option<&OwnerId> {
        match self {
            Self::Transfer { owner_id, .. } => owner_id.as_ref(),
            Self::Debit { .. } | Self::Credit { .. } | Self::Merge { .. } => None,
        }
    }

    /// The accounts whose locks the movement needs: one or two, the source's first.
    pub fn account_ids(&self) -> impl Iterator<Item = &AccountId> {
        let (source, destination) = (self.source_account_id(), self.destination_account_id());
        source
            .into_iter()
            .chain(destination.filter(|id| Some(*id) != source))
    }

    /// The balances that the movement names; of a merge none, since it moves whatever there is.
    pub fn named_balances(&self) -> impl Iterator<Item = (&AccountId, &Category)> {
        let paying = self.source().into_iter().flat_map(|source| {
            let categories = source.categories.iter();
            categories.map(|category| (&source.account_id, category))
        });
        let receiving = self.destination();
        paying.chain(receiving.map(|key| (&key.account_id, &key.category)))
    }

    fn kind(&self) -> std::mem::Discriminant<Self> {
        std::mem::discriminant(self)
    }
}

impl Command {
    /// The names of the fields in which the content of `other` differs; empty: `other` is a replay of this command.
    /// A destination that was named by its owner is compared by the owner, so a replay stays one whichever account
    /// settles for that owner by then.
    pub fn differing_fields(&self, other: &Self) -> Vec<&'static str> {
        let (this, that) = (&self.movement, &other.movement);
        let source_account = |movement: &Movement| movement.source_account_id().cloned();
        let source_categories =
            |movement: &Movement| movement.source().map(|source| source.categories.clone());
        let destination_account = |movement: &Movement| match movement.destination_owner_id() {
            Some(_) => None,
            None => movement.destination_account_id().cloned(),
        };
        let destination_category =
            |movement: &Movement| movement.destination().map(|key| key.category.clone());
        [
            ("kind", this.kind() != that.kind()),
            (
                "source_account_id",
                source_account(this) != source_account(that),
            ),
            (
                "source_categories",
                source_categories(this) != source_categories(that),
            ),
            (
                "destination_account_id",
                destination_account(this) != destination_account(that),
            ),
            (
                "destination_owner_id",
                this.destination_owner_id() != that.destination_owner_id(),
            ),
            (
                "destination_category",
                destination_category(this) != destination_category(that),
            ),
            ("amount.minor_units", self.amount != other.amount),
            ("amount.currency_code", self.currency != other.currency),
            (
                "description",
                self.note.description != other.note.description,
            ),
            ("metadata", self.note.metadata != other.note.metadata),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}
