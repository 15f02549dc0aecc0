//! The ledger as the batcher sees it: something that takes jobs and gives verdicts.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::error::StoreError;
use crate::domain::{AccountId, Claim, Command, MemberRefused, OperationId, Receipt, Refusal};

/// What is executed as a whole: in one transaction, or not at all.
#[derive(Debug, Clone)]
pub enum Work {
    /// One command.
    Command(Arc<Command>),
    /// An atomic group: all of its commands, in this order, or none of them.
    Group(Arc<[Arc<Command>]>),
}

impl Work {
    /// Its commands, in their order.
    pub fn commands(&self) -> &[Arc<Command>] {
        match self {
            Self::Command(command) => std::slice::from_ref(command),
            Self::Group(commands) => commands,
        }
    }
}

/// The ids of some accounts, sorted, each once. One or two, as a plain command has, need no allocation.
type AccountIds = SmallVec<[AccountId; 2]>;

/// Work on its way, and the claim that decides between it and its caller's deadline.
#[derive(Debug, Clone)]
pub struct Job {
    work: Work,
    account_ids: AccountIds,
    /// Started right before the decision, when all locks are held.
    pub claim: Arc<Claim>,
    /// A job whose deadline has passed before the decision is withdrawn.
    pub deadline: Instant,
    validates_only: bool,
}

impl Job {
    /// A job of one command.
    pub fn new(command: Arc<Command>, claim: Arc<Claim>, deadline: Instant) -> Self {
        let account_ids: AccountIds = command.account_ids().cloned().collect();
        Self {
            work: Work::Command(command),
            account_ids,
            claim,
            deadline,
            validates_only: false,
        }
    }

    /// A job of an atomic group.
    pub fn group(commands: Arc<[Arc<Command>]>, claim: Arc<Claim>, deadline: Instant) -> Self {
        let of_each = commands.iter().flat_map(|command| command.account_ids());
        let mut account_ids: AccountIds = of_each.cloned().collect();
        sort(&mut account_ids);
        Self {
            work: Work::Group(commands),
            account_ids,
            claim,
            deadline,
            validates_only: false,
        }
    }

    /// The same work, but it is only decided, and nothing of it happens.
    pub fn only_validated(self) -> Self {
        Self {
            validates_only: true,
            ..self
        }
    }

    /// Whether it is only decided, and nothing of it happens.
    pub fn validates_only(&self) -> bool {
        self.validates_only
    }

    /// The same work on other accounts.
    #[cfg(test)]
    pub(crate) fn on(mut self, account_ids: &[AccountId]) -> Self {
        self.account_ids = account_ids.into();
        sort(&mut self.account_ids);
        self
    }

    /// What to do.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Its commands, in their order.
    pub fn commands(&self) -> &[Arc<Command>] {
        self.work.commands()
    }

    /// The accounts whose locks it needs, sorted, each once.
    pub fn account_ids(&self) -> &[AccountId] {
        &self.account_ids
    }

    /// How much of a batch it fills, in plain commands: one for each of its commands, or for each two of its accounts if that
    /// is more. At least 1.
    pub fn weight(&self) -> usize {
        let by_accounts = self.account_ids.len().div_ceil(2);
        self.commands().len().max(by_accounts).max(1)
    }
}

fn sort(account_ids: &mut AccountIds) {
    if account_ids.len() > 1 {
        account_ids.sort_unstable();
        account_ids.dedup();
    }
}

/// What a batch does about an account that is locked elsewhere. `H` is the ledger's [`Ledger::Hold`].
#[derive(Debug)]
pub enum Locking<H> {
    /// Skips it; its jobs come back as [`Verdict::Contended`].
    Skip,
    /// Skips it, but already holds the locks of some accounts, and runs in the transaction that holds them.
    Held(H),
}

/// How one command was decided.
pub type Decision = Result<Receipt, Refusal>;

/// How an atomic group was decided: a receipt for each member in order, or the one that was refused.
pub type GroupDecision = Result<Vec<Receipt>, MemberRefused>;

/// What became of one job.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The command's decision. Final, and committed.
    Decided(Decision),
    /// The group's decision. Final, and committed.
    GroupDecided(GroupDecision),
    /// This account is locked elsewhere; nothing happened.
    Contended(AccountId),
    /// The caller withdrew before the decision; nothing happened.
    Withdrawn,
}

/// Something that executes batches durably. The store is one; tests of the coalescing loop bring others.
///
/// Whoever waits for an account or an operation id that another session holds, does it with `await_accounts` or
/// `await_operation`, and holds nothing else meanwhile.
pub trait Ledger: Send + Sync + 'static {
    /// The locks of some accounts, in a transaction that has done nothing else yet. To be used up by `execute` or `release`.
    type Hold: Send + std::fmt::Debug + 'static;

    /// Executes the jobs in one transaction and answers after its commit, one verdict for each job in order. May be
    /// repeated after an error: what was committed is then replayed. Not cancel safe: run it to its end.
    fn execute(
        &self,
        jobs: &[Job],
        locking: Locking<Self::Hold>,
    ) -> impl Future<Output = Result<Vec<Verdict>, StoreError>> + Send;

    /// Waits for the locks of these accounts, in the order of their ids, and of those of their balances that the commands
    /// name, at most `wait_max` for each, and keeps them. [`StoreError::LockTimeout`]: one was not granted.
    fn await_accounts(
        &self,
        account_ids: &[AccountId],
        commands: &[Arc<Command>],
        wait_max: Duration,
    ) -> impl Future<Output = Result<Self::Hold, StoreError>> + Send;

    /// Gives the locks back.
    fn release(&self, hold: Self::Hold) -> impl Future<Output = ()> + Send;

    /// Waits until no transaction of another session is about to record this operation id, at most `wait_max`.
    /// [`StoreError::LockTimeout`]: one still is.
    fn await_operation(
        &self,
        operation_id: &OperationId,
        wait_max: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Amount, BalanceKey, Category, Currency, Movement, Note, Source};

    fn transfer(from: &str, to: &str) -> Arc<Command> {
        let source = Source {
            account_id: AccountId::from_stored(from),
            categories: vec![Category::main()],
        };
        let destination = BalanceKey {
            account_id: AccountId::from_stored(to),
            category: Category::main(),
        };
        let movement = Movement::transfer(source, destination, None).expect("two balances");
        let amount = Amount::new(1).expect("an amount");
        let currency = Currency::new("EUR").expect("a currency");
        Arc::new(Command::of_movement(
            OperationId::from_stored(&format!("{from}-{to}")),
            movement,
            (amount, currency),
            Note::default(),
        ))
    }

    fn names(job: &Job) -> Vec<&str> {
        job.account_ids().iter().map(AccountId::as_str).collect()
    }

    #[test]
    fn a_job_names_each_account_once_in_the_order_of_the_ids() {
        let deadline = Instant::now();
        let single = Job::new(transfer("b", "a"), Arc::default(), deadline);
        assert_eq!(names(&single), ["a", "b"]);
        assert!(!single.account_ids.spilled(), "two need no allocation");
        assert_eq!(single.weight(), 1);
        let members = [transfer("c", "a"), transfer("a", "b"), transfer("b", "c")];
        let group = Job::group(members.into(), Arc::default(), deadline);
        assert_eq!(names(&group), ["a", "b", "c"]);
        assert_eq!(group.weight(), 3);
        let of_many: Vec<AccountId> = (10..110)
            .map(|number| AccountId::from_stored(&number.to_string()))
            .collect();
        assert_eq!(single.on(&of_many).weight(), 50);
    }
}
