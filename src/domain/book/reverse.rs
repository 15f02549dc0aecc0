//! The rule of reversals: what is left of an operation can go back, under the rules of any movement.

use super::Book;
use crate::domain::command::Intent;
use crate::domain::id::OperationId;
use crate::domain::money::Currency;
use crate::domain::posting::Posting;
use crate::domain::refusal::Refusal;

/// What is known of an operation and of the reversals that posted. Amounts in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reversals {
    /// What the operation moved; `None`: it has several legs, and is reversed as a whole.
    pub original: Option<i64>,
    /// How many reversals posted.
    pub count: i64,
    /// What they moved back; 0 if the operation has several legs.
    pub reversed: i64,
}

impl Reversals {
    /// With one more.
    pub(super) fn with(self, amount: Option<i64>) -> Self {
        Self {
            count: self.count.saturating_add(1),
            reversed: self.reversed.saturating_add(amount.unwrap_or(0)),
            ..self
        }
    }
}

impl Book {
    /// The checks, in order of precedence: whether the accounts exist and have the currency; what is left of the original; and
    /// then all else that any such movement checks.
    pub(super) fn decide_reversal(
        &self,
        original_id: &OperationId,
        back: &Intent,
        currency: Currency,
    ) -> Result<Posting, Refusal> {
        let decided = match back {
            Intent::Move {
                movement,
                amount,
                conditions,
            } => self.decide_movement(movement, (*amount, currency), *conditions),
            Intent::Post { legs } => self.decide_post(legs),
            _ => Err(Refusal::OriginalNotFound {
                operation_id: original_id.clone(),
            }),
        };
        if decided
            .as_ref()
            .is_err_and(|refusal| !refusal.is_recorded())
        {
            return decided;
        }
        self.check_left(original_id, back, currency)?;
        decided
    }

    /// Whether so much of the original was not reversed yet.
    fn check_left(
        &self,
        original_id: &OperationId,
        back: &Intent,
        currency: Currency,
    ) -> Result<(), Refusal> {
        let Some(reversals) = self.reversals.get(original_id) else {
            return Err(Refusal::OriginalNotFound {
                operation_id: original_id.clone(),
            });
        };
        let is_used_up = match reversals.original {
            Some(original) => reversals.reversed >= original,
            None => reversals.count > 0,
        };
        if is_used_up {
            return Err(Refusal::AlreadyReversed {
                original_id: original_id.clone(),
            });
        }
        match (back, reversals.original) {
            (Intent::Move { amount, .. }, Some(original))
                if amount.minor_units() > original.saturating_sub(reversals.reversed) =>
            {
                Err(Refusal::ReversalExceedsOriginal {
                    original_id: original_id.clone(),
                    original,
                    reversed: reversals.reversed,
                    amount: *amount,
                    currency,
                })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{
        Account, AccountFlags, AccountId, Amount, Balance, BalanceKey, Balances, Category, Command,
        Conditions, Movement, Note, Operation, Source, Timestamp,
    };

    fn id(text: &str) -> OperationId {
        OperationId::from_stored(text)
    }

    fn eur() -> Currency {
        Currency::new("EUR").expect("a currency")
    }

    fn amount(minor_units: i64) -> Amount {
        Amount::new(minor_units).expect("an amount")
    }

    fn command(operation_id: &str, intent: Intent) -> Arc<Command> {
        Arc::new(Command {
            operation_id: id(operation_id),
            intent,
            currency: eur(),
            note: Note::default(),
        })
    }

    fn book() -> Book {
        let account = |posted| Account {
            currency: eur(),
            flags: AccountFlags::default(),
            balances: Balances::new(Balance {
                posted,
                ..Balance::default()
            }),
        };
        let mut book = Book::new(Timestamp::from_micros(1_000_000), 256);
        let accounts = [("a", 10), ("b", 0)];
        let accounts =
            accounts.map(|(name, posted)| (AccountId::from_stored(name), account(posted)));
        book.add_accounts(accounts.into_iter().collect());
        book
    }

    /// Ten from a to b, posted.
    fn original(book: &mut Book) -> Arc<Operation> {
        let source = Source {
            account_id: AccountId::from_stored("a"),
            categories: vec![Category::main()],
        };
        let destination = BalanceKey {
            account_id: AccountId::from_stored("b"),
            category: Category::from_stored("FOOD"),
        };
        let movement = Movement::transfer(source, destination, None).expect("two balances");
        let amount = amount(10);
        let intent = Intent::Move {
            movement,
            amount,
            conditions: Conditions::default(),
        };
        book.apply(&command("original", intent))
            .expect("ten are there")
            .operation
    }

    fn reversal(operation_id: &str, original: &Operation, minor_units: i64) -> Arc<Command> {
        let asked = Some((amount(minor_units), eur()));
        let (intent, _currency) = Intent::reverse(original, asked).expect("it can be reversed");
        command(operation_id, intent)
    }

    fn nothing_reversed() -> Reversals {
        Reversals {
            original: Some(10),
            count: 0,
            reversed: 0,
        }
    }

    #[test]
    fn parts_go_back_until_nothing_is_left() {
        let mut book = book();
        let original = original(&mut book);
        book.add_reversals(id("original"), nothing_reversed());
        let parts = [
            ("1", 4, None),
            ("2", 7, Some("REVERSAL_EXCEEDS_ORIGINAL")),
            ("3", 6, None),
            ("4", 1, Some("ALREADY_REVERSED")),
        ];
        for (operation_id, minor_units, expected) in parts {
            let answer = book.apply(&reversal(operation_id, &original, minor_units));
            let reason = answer.as_ref().err().map(Refusal::reason);
            assert_eq!(reason, expected, "{operation_id}");
            let Ok(receipt) = answer else {
                continue;
            };
            // From the category that received to the one that paid.
            let moved: Vec<(&str, &str, i64)> = receipt
                .operation
                .entries()
                .iter()
                .map(|entry| {
                    let BalanceKey {
                        account_id,
                        category,
                    } = &entry.balance;
                    (account_id.as_str(), category.as_str(), entry.amount)
                })
                .collect();
            assert_eq!(
                moved,
                [("b", "FOOD", -minor_units), ("a", "main", minor_units)]
            );
        }
        // A refusal as it is stored is the same refusal.
        for operation in book.into_changes().operations {
            if let crate::domain::Outcome::Refused(refusal) = &operation.outcome {
                let read = Refusal::from_facts(refusal.reason(), &refusal.facts());
                assert_eq!(read.as_ref(), Some(refusal));
            }
        }
    }

    #[test]
    fn a_group_that_is_refused_leaves_all_of_the_original_to_reverse() {
        let mut book = book();
        let original = original(&mut book);
        book.add_reversals(id("original"), nothing_reversed());
        let group = [reversal("1", &original, 8), reversal("2", &original, 3)];
        let refused = book.apply_group(&group).expect_err("eleven of ten");
        assert_eq!(refused.refusal.reason(), "REVERSAL_EXCEEDS_ORIGINAL");
        assert!(book.apply(&reversal("3", &original, 10)).is_ok());
    }

    #[test]
    fn a_reversal_and_what_was_refused_cannot_be_reversed() {
        let mut book = book();
        let first = original(&mut book);
        book.add_reversals(id("original"), nothing_reversed());
        let back = book
            .apply(&reversal("back", &first, 10))
            .expect("ten are there");
        let never = Intent::reverse(&back.operation, None).expect_err("a reversal");
        let cause = |not_reversible| match not_reversible {
            crate::domain::NotReversible::Never { cause, .. } => cause.as_str(),
            crate::domain::NotReversible::OnlyAsAWhole => "whole",
        };
        assert_eq!(cause(never), "REVERSAL");
        let again = reversal("again", &first, 1);
        assert!(book.apply(&again).is_err());
        let changes = book.into_changes();
        let refused = changes.operations.last().expect("the refusal");
        assert_eq!(
            cause(Intent::reverse(refused, None).expect_err("refused")),
            "REFUSED"
        );
    }
}
