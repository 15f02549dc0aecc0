//! The rules of the book: one table with a row per refusal in order of precedence, then what must hold for any
//! sequence of commands.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::domain::Side;
use crate::domain::id::Category;
use crate::domain::money::Amount;
use crate::domain::{LimitChange, Movement, Note, RequestedChange, RequestedLeg, Sides, Source};

fn id(text: &str) -> AccountId {
    AccountId::parse(text).expect("a test's id is valid")
}

fn category(text: &str) -> Category {
    Category::parse(text).expect("a test's category is valid")
}

fn key(account: &str, pocket: &str) -> BalanceKey {
    BalanceKey {
        account_id: id(account),
        category: category(pocket),
    }
}

fn currency(code: &str) -> Currency {
    Currency::new(code).expect("a test's currency is valid")
}

fn source(account: &str, categories: &[&str]) -> Source {
    Source {
        account_id: id(account),
        categories: categories.iter().map(|c| category(c)).collect(),
    }
}

fn command(operation: &str, movement: Movement, minor_units: i64) -> Arc<Command> {
    Arc::new(Command::of_movement(
        OperationId::parse(operation).expect("a test's id is valid"),
        movement,
        (
            Amount::new(minor_units).expect("a test's amount is valid"),
            currency("EUR"),
        ),
        Note::default(),
    ))
}

fn merge(operation: &str, from: &str, to: &str) -> Arc<Command> {
    Arc::new(Command {
        operation_id: OperationId::parse(operation).expect("a test's id is valid"),
        intent: Intent::Merge {
            source: id(from),
            destination: id(to),
        },
        currency: currency("EUR"),
        note: Note::default(),
    })
}

fn transfer(from: &str, to: &str) -> Movement {
    Movement::transfer(source(from, &["main"]), key(to, "main"), None).expect("two balances")
}

fn account(posted: i64) -> Account {
    let main = Balance {
        posted,
        ..Balance::default()
    };
    Account {
        currency: currency("EUR"),
        flags: AccountFlags::default(),
        balances: Balances::new(main),
    }
}

fn book(accounts: impl IntoIterator<Item = (AccountId, Account)>) -> Book {
    book_with_categories(256, accounts)
}

fn book_with_categories(
    categories_per_account_max: usize,
    accounts: impl IntoIterator<Item = (AccountId, Account)>,
) -> Book {
    let now = Timestamp::from_micros(1_000_000);
    let mut book = Book::new(now, categories_per_account_max);
    book.add_accounts(accounts.into_iter().collect());
    book
}

/// Both accounts break every rule at once. Each row mends the rule that was reported; the next one must then be.
#[test]
fn each_refusal_in_order_of_precedence() {
    let broken = || Account {
        currency: currency("USD"),
        flags: AccountFlags {
            closed: true,
            debits_frozen: true,
            credits_frozen: true,
        },
        balances: Balances::new(Balance {
            posted: 5,
            balance_limit: Some(5),
            ..Balance::default()
        }),
    };
    type Mend = fn(&mut HashMap<AccountId, Account>);
    fn of<'a>(accounts: &'a mut HashMap<AccountId, Account>, name: &str) -> &'a mut Account {
        accounts
            .get_mut(&id(name))
            .expect("the account was added by an earlier row")
    }
    let add_a: Mend = |accounts| drop(accounts.insert(id("a"), accounts[&id("template")].clone()));
    let add_b: Mend = |accounts| drop(accounts.insert(id("b"), accounts[&id("template")].clone()));
    let rows: [(&str, &str, Mend); 10] = [
        ("ACCOUNT_NOT_FOUND", "a", add_a),
        ("ACCOUNT_NOT_FOUND", "b", add_b),
        ("CURRENCY_MISMATCH", "a", |all| {
            of(all, "a").currency = currency("EUR")
        }),
        ("CURRENCY_MISMATCH", "b", |all| {
            of(all, "b").currency = currency("EUR")
        }),
        ("ACCOUNT_CLOSED", "a", |all| {
            of(all, "a").flags.closed = false
        }),
        ("ACCOUNT_CLOSED", "b", |all| {
            of(all, "b").flags.closed = false
        }),
        ("ACCOUNT_FROZEN", "a", |all| {
            of(all, "a").flags.debits_frozen = false
        }),
        ("ACCOUNT_FROZEN", "b", |all| {
            of(all, "b").flags.credits_frozen = false
        }),
        ("INSUFFICIENT_FUNDS", "a", |all| {
            of(all, "a").balances.insert(
                Category::main(),
                Balance {
                    posted: 6,
                    ..Balance::default()
                },
            );
        }),
        ("BALANCE_LIMIT_EXCEEDED", "b", |all| {
            of(all, "b").balances.insert(
                Category::main(),
                Balance {
                    balance_limit: Some(6),
                    ..Balance::default()
                },
            );
        }),
    ];
    let mut accounts = HashMap::from([(id("template"), broken())]);
    for (reason, account_id, mend) in rows {
        let mut book = book(accounts.clone());
        let refusal = book
            .apply(&command("op", transfer("a", "b"), 6))
            .expect_err(reason);
        assert_eq!(
            (refusal.reason(), refusal.facts()["account_id"].as_str()),
            (reason, account_id)
        );
        let Changes {
            operations,
            balances,
            ..
        } = book.into_changes();
        assert_eq!(
            operations.len(),
            usize::from(refusal.is_recorded()),
            "{reason}"
        );
        assert!(balances.is_empty(), "{reason}");
        if refusal.is_recorded() {
            assert_eq!(Refusal::from_facts(reason, &refusal.facts()), Some(refusal));
        }
        mend(&mut accounts);
    }
    assert!(
        book(accounts)
            .apply(&command("op", transfer("a", "b"), 6))
            .is_ok()
    );
}

#[test]
fn a_replay_is_answered_before_any_rule_is_asked() {
    let mut book = book([(id("a"), account(10)), (id("b"), account(0))]);
    let first = command("op", transfer("a", "b"), 10);
    let receipt = book.apply(&first).expect("ten are there");
    let again = book.apply(&first).expect("the first answer");
    assert_eq!((receipt.replayed, again.replayed), (false, true));
    assert_eq!(again.operation, receipt.operation);

    let other = command("op", transfer("b", "nobody"), 11);
    let refusal = book.apply(&other).expect_err("the id is taken");
    assert_eq!(refusal.reason(), "OPERATION_ID_REUSED");
    assert_eq!(
        refusal.facts()["fields"],
        "source_account_id,destination_account_id,amount.minor_units"
    );

    let poor = command("poor", transfer("a", "b"), 1);
    let refused = book.apply(&poor).expect_err("nothing left");
    book.apply(&command("refill", transfer("b", "a"), 5))
        .expect("ten are there");
    assert_eq!(
        book.apply(&poor)
            .expect_err("declined once is declined for ever"),
        refused
    );
}

#[test]
fn the_first_category_that_covers_the_whole_amount_pays() {
    let pockets = |food: i64, cash: i64| {
        let mut account = account(100);
        account.balances.insert(
            category("FOOD"),
            Balance {
                posted: food,
                ..Balance::default()
            },
        );
        account.balances.insert(
            category("CASH"),
            Balance {
                posted: cash,
                ..Balance::default()
            },
        );
        account
    };
    let debit = |categories: &[&str]| Movement::Debit {
        source: source("a", categories),
    };
    let rows: [(&[&str], i64, i64, Option<&str>); 6] = [
        (&["FOOD", "CASH"], 10, 10, Some("FOOD")),
        (&["CASH", "FOOD"], 10, 10, Some("CASH")),
        (&["FOOD", "CASH"], 9, 10, Some("CASH")),
        (&["FOOD", "CASH"], 9, 9, None),
        (&["FOOD"], 9, 100, None),
        (&["NONE", "CASH"], 0, 10, Some("CASH")),
    ];
    for (categories, food, cash, payer) in rows {
        let mut book = book([(id("a"), pockets(food, cash))]);
        let answer = book.apply(&command("op", debit(categories), 10));
        let paid = answer.ok().map(|receipt| {
            receipt
                .operation
                .entries()
                .first()
                .expect("a debit has an entry")
                .balance
                .category
                .to_string()
        });
        assert_eq!(paid.as_deref(), payer, "{categories:?} {food} {cash}");
    }
}

#[test]
fn an_account_gets_no_category_beyond_the_limit() {
    let credit = |name: &str, pocket: &str| {
        let destination = key("a", pocket);
        command(name, Movement::Credit { destination }, 1)
    };
    let reason = |answer: Result<Receipt, Refusal>| answer.err().map(|refusal| refusal.reason());
    // Three of its categories were not read, and count.
    let of_five = || {
        let mut account = account(10);
        account.balances = Balances::with_unread(Balance::default(), 4);
        let is_counted = account
            .balances
            .add_read(&category("FOOD"), Balance::default());
        assert!(is_counted);
        account
    };
    let mut book = book_with_categories(6, [(id("a"), of_five())]);
    for (pocket, expected) in [
        ("FOOD", None),
        ("MEAL", None),
        ("CASH", Some("CATEGORY_LIMIT_EXCEEDED")),
        ("MEAL", None),
        ("main", None),
    ] {
        let name = format!("{pocket}-{}", book.decided.len());
        assert_eq!(
            reason(book.apply(&credit(&name, pocket))),
            expected,
            "{pocket}"
        );
    }
    let changes = book.into_changes();
    assert_eq!((changes.operations.len(), changes.balances.len()), (5, 3));

    // One that has more from before keeps what it has.
    let mut book = book_with_categories(2, [(id("a"), of_five())]);
    assert_eq!(reason(book.apply(&credit("old", "FOOD"))), None);
    let refusal = book.apply(&credit("new", "MEAL")).expect_err("one more");
    let facts: Vec<_> = refusal.facts().into_iter().collect();
    let expected = [("account_id", "a"), ("category", "MEAL"), ("limit", "2")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(facts, expected);
    let stored = Refusal::from_facts(refusal.reason(), &refusal.facts());
    assert_eq!(stored, Some(refusal));
}

#[test]
fn a_merge_brings_no_category_beyond_the_limit() {
    let with = |pockets: &[(&str, Balance)]| {
        let mut account = account(1);
        for (pocket, balance) in pockets {
            account.balances.insert(category(pocket), balance.clone());
        }
        account
    };
    let posted = |posted| Balance {
        posted,
        ..Balance::default()
    };
    let source = || {
        let pockets = ["A", "B", "C", "D"].map(|name| (name, posted(1)));
        let mut account = with(&pockets);
        account.balances.insert(category("EMPTY"), posted(0));
        account
    };
    let full = Balance {
        balance_limit: Some(0),
        ..Balance::default()
    };
    // What is there already, and what is empty, takes no room; names are looked at in their order.
    let rows = [
        (5, vec![], None),
        (4, vec![], Some(("CATEGORY_LIMIT_EXCEEDED", "D"))),
        (
            4,
            vec![("A", posted(9)), ("X", posted(9))],
            Some(("CATEGORY_LIMIT_EXCEEDED", "C")),
        ),
        (5, vec![("A", posted(9)), ("D", posted(9))], None),
        (1, vec![("C", full)], Some(("BALANCE_LIMIT_EXCEEDED", "C"))),
        (
            1,
            vec![("C", posted(9))],
            Some(("CATEGORY_LIMIT_EXCEEDED", "A")),
        ),
    ];
    for (limit, pockets, expected) in rows {
        let accounts = [(id("from"), source()), (id("to"), with(&pockets))];
        let mut book = book_with_categories(limit, accounts);
        let answer = book.apply(&merge("merge", "from", "to")).err();
        let answer = answer.map(|refusal| (refusal.reason(), refusal.facts()["category"].clone()));
        let expected = expected.map(|(reason, category)| (reason, category.to_owned()));
        assert_eq!(answer, expected, "{limit} {pockets:?}");
        let changes = book.into_changes();
        assert_eq!(changes.balances.is_empty(), expected.is_some());
        assert_eq!(changes.accounts.flags.is_empty(), expected.is_some());
    }
}

#[test]
fn what_was_not_read_is_counted_down() {
    let mut balances = Balances::with_unread(Balance::default(), 1);
    assert!(balances.add_read(&category("b"), Balance::default()));
    assert_eq!(balances.unread_count(), 0);
    assert!(!balances.add_read(&category("a"), Balance::default()));
    for name in ["c", "a", "Z"] {
        balances.insert(category(name), Balance::default());
    }
    let names: Vec<String> = balances.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["main", "Z", "a", "b", "c"]);
    assert_eq!(balances.category_count(), 5);
}

#[test]
fn arithmetic_at_the_edges_of_i64_is_refused_not_wrapped() {
    let credit = |name: &str, minor_units| {
        command(
            name,
            Movement::Credit {
                destination: key("a", "main"),
            },
            minor_units,
        )
    };
    let mut full = book([(id("a"), account(i64::MAX - 5))]);
    assert!(full.apply(&credit("fits", 5)).is_ok());
    let refusal = full.apply(&credit("over", 1)).expect_err("one too many");
    assert_eq!(refusal.facts()["limit_minor_units"], i64::MAX.to_string());

    let mut rich = account(i64::MAX);
    rich.balances
        .get_or_insert(&Category::main())
        .overdraft_limit = i64::MAX;
    assert_eq!(rich.balance(&Category::main()).available(), i64::MAX);
}

#[test]
fn time_never_stands_still_within_a_balance() {
    let mut ahead = account(10);
    ahead.balances.get_or_insert(&Category::main()).update_time = Timestamp::from_micros(5_000_000);
    let mut book = book([(id("a"), ahead), (id("b"), account(0))]);
    let times: Vec<i64> = ["1", "2", "3"]
        .map(|name| {
            let receipt = book
                .apply(&command(name, transfer("a", "b"), 1))
                .expect("ten are there");
            receipt.operation.create_time.micros()
        })
        .into();
    assert_eq!(times, [5_000_002, 5_000_004, 5_000_006]);
}

/// Whatever the clock says: what is refused comes after what changed the account before, and before what changes it next.
#[test]
fn time_never_runs_back_within_an_account() {
    for last_change in [0, 1_000_000, 5_000_000] {
        let mut a = account(10);
        // Another category was changed last.
        a.balances.get_or_insert(&category("FOOD")).update_time =
            Timestamp::from_micros(last_change);
        let mut book = book([(id("a"), a), (id("b"), account(0))]);
        let mut time = Timestamp::from_micros(last_change);
        for (index, minor_units) in [100, 1, 100, 1, 1, 100].into_iter().enumerate() {
            let name = index.to_string();
            let _refused = book.apply(&command(&name, transfer("a", "b"), minor_units));
            let decided = book.decided.last().expect("it is recorded");
            assert_eq!(decided.command.operation_id.as_str(), name);
            assert!(decided.create_time > time, "{last_change}, {index}");
            time = decided.create_time;
        }
    }
}

#[test]
fn a_group_happens_as_a_whole_and_its_members_see_each_other() {
    let mut book = book([
        (id("a"), account(10)),
        (id("b"), account(0)),
        (id("c"), account(0)),
    ]);
    let group = [
        command("1", transfer("a", "b"), 10),
        command("2", transfer("b", "c"), 7),
    ];
    let receipts = book.apply_group(&group).expect("ten are there");
    assert!(receipts.iter().all(|receipt| !receipt.replayed));
    let again = book.apply_group(&group).expect("the first answers");
    assert!(again.iter().all(|receipt| receipt.replayed));
    let operations = |receipts: &[Receipt]| -> Vec<_> {
        let operations = receipts.iter().map(|receipt| receipt.operation.clone());
        operations.collect()
    };
    assert_eq!(operations(&again), operations(&receipts));
    let changes = book.into_changes();
    assert_eq!((changes.operations.len(), changes.balances.len()), (2, 3));
}

fn change(operation: &str, account_id: &str, change: RequestedChange) -> Arc<Command> {
    Arc::new(Command {
        operation_id: OperationId::parse(operation).expect("a test's id is valid"),
        intent: Intent::Change {
            account_id: id(account_id),
            change,
        },
        currency: currency("EUR"),
        note: Note::default(),
    })
}

fn limits(overdraft_limit: i64, balance_limit: Option<i64>, allow_breach: bool) -> RequestedChange {
    RequestedChange::Update {
        limits: vec![LimitChange {
            category: category("main"),
            overdraft_limit: Some(overdraft_limit),
            balance_limit: Some(balance_limit),
        }],
        allow_breach,
    }
}

/// Changes of accounts are applied on top of each other, and taken back with their group.
#[test]
fn changes_of_accounts_are_part_of_a_group() {
    let debits = Sides {
        debits: true,
        credits: false,
    };
    let mut book = book([(id("a"), account(10)), (id("b"), account(0))]);
    for account_id in ["a", "b"] {
        let role = Role::new(OwnerId::from_stored("owner"), false);
        book.add_role(id(account_id), role);
    }
    let group = [
        change("1", "a", limits(50, None, false)),
        change("2", "a", RequestedChange::Freeze(debits)),
        change("3", "b", RequestedChange::Close),
        command("4", transfer("a", "b"), 1),
    ];
    let before = (balances(&book), book.accounts.clone(), book.roles.clone());
    let refused = book.apply_group(&group).expect_err("b is closed by then");
    assert_eq!(
        (refused.index, refused.refusal.reason()),
        (3, "ACCOUNT_CLOSED")
    );
    assert_eq!(
        (balances(&book), book.accounts.clone(), book.roles.clone()),
        before
    );
    book.apply_group(&group[..3]).expect("all happen");
    let times: Vec<Timestamp> = book.decided[1..]
        .iter()
        .map(|one| one.create_time)
        .collect();
    assert!(times[0] < times[1], "{times:?}");
    let changes = book.into_changes();
    let flags: Vec<(&str, bool, bool)> = changes
        .accounts
        .flags
        .iter()
        .map(|(id, flags)| (id.as_str(), flags.debits_frozen, flags.closed))
        .collect();
    assert_eq!(flags, [("a", true, false), ("b", false, true)]);
    let [limited] = &changes.balances[..] else {
        panic!("{:?}", changes.balances);
    };
    assert_eq!(
        (limited.breach, limited.balance.overdraft_limit),
        (Some(0), 50)
    );
}

/// Below its overdraft limit a balance only takes money, above its balance limit it only gives some.
#[test]
fn a_breach_only_gets_smaller() {
    let mut book = book([(id("a"), account(0)), (id("b"), account(100))]);
    let reason = |answer: Result<Receipt, Refusal>| answer.map(drop).map_err(|no| no.reason());
    let mut is = |command: Arc<Command>, expected: Result<(), &str>| {
        assert_eq!(reason(book.apply(&command)), expected, "{command:?}");
    };
    is(change("1", "a", limits(80, None, false)), Ok(()));
    is(command("2", transfer("a", "b"), 80), Ok(()));
    is(
        change("3", "a", limits(30, None, false)),
        Err("OVERDRAFT_IN_USE"),
    );
    is(change("4", "a", limits(30, None, true)), Ok(()));
    is(
        command("5", transfer("a", "b"), 1),
        Err("INSUFFICIENT_FUNDS"),
    );
    is(command("6", transfer("b", "a"), 20), Ok(()));
    is(
        change("7", "b", limits(0, Some(100), false)),
        Err("BALANCE_ABOVE_LIMIT"),
    );
    is(change("8", "b", limits(0, Some(100), true)), Ok(()));
    is(
        command("9", transfer("a", "b"), 1),
        Err("INSUFFICIENT_FUNDS"),
    );
    is(command("10", transfer("b", "a"), 70), Ok(()));
    is(
        command("11", transfer("a", "b"), 11),
        Err("BALANCE_LIMIT_EXCEEDED"),
    );
    is(command("12", transfer("a", "b"), 10), Ok(()));
}

/// One member is refused: the book is as before, but for that refusal, which stands for ever.
#[test]
fn a_refused_group_leaves_its_refusal_and_nothing_else() {
    let start = || {
        let mut a = account(10);
        a.balances.insert(
            category("FOOD"),
            Balance {
                posted: 3,
                ..Balance::default()
            },
        );
        [(id("a"), a), (id("b"), account(0)), (id("c"), account(0))]
    };
    let mut book = book(start());
    for (account_id, settlement) in [("a", true), ("b", false)] {
        let owner_id = OwnerId::from_stored("owner");
        book.add_role(id(account_id), Role::new(owner_id, settlement));
    }
    let new_category = Movement::Credit {
        destination: key("c", "NEW"),
    };
    let group = [
        command("1", transfer("a", "c"), 4),
        command("2", new_category, 1),
        merge("3", "a", "b"),
        command("4", transfer("b", "a"), 1),
        command("5", transfer("b", "c"), 1),
    ];
    let before = (balances(&book), book.accounts.clone(), book.roles.clone());
    let refused = book.apply_group(&group).expect_err("a is closed by then");
    assert_eq!(
        (refused.index, refused.refusal.reason()),
        (3, "ACCOUNT_CLOSED")
    );
    let after = (balances(&book), book.accounts.clone(), book.roles.clone());
    let posted = |balances: &AllBalances| -> Vec<_> {
        let of = |(key, balance): (&BalanceKey, &Balance)| (key.clone(), balance.clone());
        balances.iter().map(of).collect()
    };
    assert_eq!(posted(&after.0), posted(&before.0));
    assert_eq!((&after.1, &after.2), (&before.1, &before.2));

    // The refused member is known, and the ids of all others are free.
    let again = book.apply_group(&group).expect_err("refused for ever");
    assert_eq!(again, refused);
    let other = command("1", transfer("a", "b"), 1);
    assert!(book.apply(&other).is_ok());
    let changes = book.into_changes();
    let ids: Vec<&str> = changes
        .operations
        .iter()
        .map(|operation| operation.command.operation_id.as_str())
        .collect();
    assert_eq!(ids, ["4", "1"]);
    assert_eq!(changes.balances.len(), 2);
    assert_eq!(changes.accounts, AccountChanges::default());
}

/// A validation answers what would happen, and the book stays as it was: what comes next is answered as without it.
#[test]
fn a_validation_changes_nothing_and_takes_no_id() {
    let start = || {
        book([
            (id("a"), account(10)),
            (id("b"), account(0)),
            (id("c"), account(0)),
        ])
    };
    let (mut book, mut other) = (start(), start());
    let commands = [
        command("1", transfer("a", "b"), 8),
        command("2", transfer("a", "b"), 8),
        merge("3", "b", "c"),
    ];
    let group = [
        command("4", transfer("a", "c"), 10),
        command("5", transfer("c", "a"), 10),
    ];
    for command in &commands {
        let would = book.validate(command);
        let group_would = book.validate_group(&group);
        assert_eq!(group_would.is_ok(), command.operation_id.as_str() == "1");
        let did = book.apply(command);
        assert_eq!(would, did);
        assert_eq!(did, other.apply(command));
        // What is known is answered as known.
        let again = book.validate(command);
        assert_eq!(again.is_ok_and(|receipt| receipt.replayed), did.is_ok());
    }
    let (changes, expected) = (book.into_changes(), other.into_changes());
    assert_eq!(changes.operations, expected.operations);
    assert_eq!(changes.accounts, expected.accounts);
    assert_eq!(changes.balances.len(), expected.balances.len());
    for balance in &changes.balances {
        assert!(expected.balances.contains(balance));
    }
}

/// What is refused without being recorded leaves nothing at all.
#[test]
fn a_group_that_names_what_is_not_there_leaves_nothing() {
    let mut book = book([(id("a"), account(10)), (id("b"), account(0))]);
    let group = [
        command("1", transfer("a", "b"), 10),
        command("2", transfer("b", "nobody"), 1),
    ];
    let refused = book
        .apply_group(&group)
        .expect_err("there is no such account");
    assert_eq!(
        (refused.index, refused.refusal.reason()),
        (1, "ACCOUNT_NOT_FOUND")
    );
    let changes = book.into_changes();
    assert!(changes.operations.is_empty() && changes.balances.is_empty());
}

const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
const CATEGORIES: [&str; 2] = ["main", "FOOD"];

fn any_command() -> impl Strategy<Value = Arc<Command>> {
    let any_key = || (0..ACCOUNTS.len() + 1, 0..CATEGORIES.len());
    (
        0..40_u8,
        0..4_u8,
        any_key(),
        any_key(),
        any::<bool>(),
        1..60_i64,
    )
        .prop_map(|(operation, kind, from, to, both, minor_units)| {
            let name = |index: usize| ACCOUNTS.get(index).copied().unwrap_or("nobody");
            let destination = key(name(to.0), CATEGORIES[to.1]);
            let categories = if both {
                &CATEGORIES[..]
            } else {
                &CATEGORIES[from.1..=from.1]
            };
            let source = source(name(from.0), categories);
            if kind == 3 {
                let leg = |side, account: &str, categories: &[&str], minor_units| RequestedLeg {
                    side,
                    balance: Some(self::source(account, categories)),
                    amount: Amount::new(minor_units).expect("an amount"),
                    currency: currency("EUR"),
                };
                let third = name((from.0 + 1) % (ACCOUNTS.len() + 1));
                let half = minor_units / 2 + 1;
                let legs = vec![
                    leg(Side::Debits, name(from.0), categories, minor_units),
                    leg(Side::Credits, name(to.0), &CATEGORIES[to.1..=to.1], half),
                    RequestedLeg {
                        balance: None,
                        ..leg(Side::Credits, "a", &["main"], minor_units)
                    },
                    leg(Side::Debits, third, categories, half),
                ];
                return Arc::new(Command {
                    intent: Intent::post(legs).expect("balanced"),
                    ..(*command(&operation.to_string(), Movement::Debit { source }, 1)).clone()
                });
            }
            let movement = match kind {
                0 => Movement::Debit { source },
                1 => Movement::Credit { destination },
                _ => Movement::transfer(source, destination.clone(), None)
                    .unwrap_or(Movement::Credit { destination }),
            };
            command(&operation.to_string(), movement, minor_units)
        })
}

fn any_account() -> impl Strategy<Value = Account> {
    (
        0..100_i64,
        prop_oneof![Just(0), 0..50_i64],
        proptest::option::of(0..150_i64),
    )
        .prop_map(|(posted, overdraft_limit, balance_limit)| {
            let mut account = account(posted);
            let main = account.balances.get_or_insert(&Category::main());
            (main.overdraft_limit, main.balance_limit) = (overdraft_limit, balance_limit);
            account
        })
}

type AllBalances = BTreeMap<BalanceKey, Balance>;

fn balances(book: &Book) -> AllBalances {
    let all = book.accounts.iter().flat_map(|(account_id, account)| {
        let key = |category: Category| BalanceKey {
            account_id: account_id.clone(),
            category,
        };
        account
            .balances
            .iter()
            .map(move |(category, balance)| (key(category), balance.clone()))
    });
    all.collect()
}

fn sum(balances: &AllBalances) -> i64 {
    balances.values().map(|balance| balance.posted).sum()
}

proptest! {
    #[test]
    fn any_sequence_conserves_money_and_keeps_every_limit(
        accounts in proptest::array::uniform3(any_account()),
        commands in proptest::collection::vec(any_command(), 1..80),
    ) {
        let mut book = book(ACCOUNTS.map(id).into_iter().zip(accounts));
        let before = balances(&book);
        let mut outside = 0;
        for command in &commands {
            let answer = book.apply(command);
            if let Ok(Receipt { operation, replayed: false }) = answer {
                outside += operation.entries().iter().map(|entry| entry.amount).sum::<i64>();
            }
        }
        let after = balances(&book);
        prop_assert_eq!(sum(&after), sum(&before) + outside);
        let Changes { operations, balances: changes, .. } = book.into_changes();

        let mut posted: BTreeMap<BalanceKey, Vec<(Entry, Timestamp, Option<OperationId>)>> = BTreeMap::new();
        for operation in &operations {
            for entry in operation.entries() {
                posted.entry(entry.balance.clone()).or_default().push((entry.clone(), operation.create_time, Some(operation.command.operation_id.clone())));
            }
        }
        prop_assert_eq!(changes.len(), posted.len());
        for change in changes {
            let start = before.get(&change.key).cloned().unwrap_or_default();
            let (mut running, mut version, mut time) = (start.posted, start.version, start.update_time);
            let mut last = &start.last_operation_id;
            for (entry, create_time, operation_id) in &posted[&change.key] {
                running += entry.amount;
                version += 1;
                prop_assert_eq!((entry.posted_after, entry.version), (running, version));
                // One operation may have several entries of a balance.
                prop_assert!(*create_time > time || (*create_time == time && last == operation_id));
                time = *create_time;
                prop_assert_eq!(&entry.previous_operation_id, last);
                last = operation_id;
                prop_assert!(entry.amount > 0 || entry.available_after >= 0);
                prop_assert!(entry.amount < 0 || entry.posted_after <= start.limit());
            }
            prop_assert_eq!((change.balance.posted, change.balance.version), (running, version));
            prop_assert_eq!(&change.balance.last_operation_id, last);
        }
        prop_assert!(after.values().all(|balance| balance.available() >= 0));
    }

    /// A group answers like its members one after the other, until one is refused; then the book is as before.
    #[test]
    fn a_group_is_all_of_its_members_or_none(
        accounts in proptest::array::uniform3(any_account()),
        first in proptest::collection::vec(any_command(), 0..10),
        group in proptest::collection::vec(any_command(), 1..12),
    ) {
        let new_book = || {
            let mut book = book(ACCOUNTS.map(id).into_iter().zip(accounts.clone()));
            for command in &first {
                let _answer = book.apply(command);
            }
            book
        };
        let (mut grouped, mut single) = (new_book(), new_book());
        let before = balances(&grouped);
        let decided_before = grouped.decided.len();
        let answer = grouped.apply_group(&group);
        match answer {
            Ok(receipts) => {
                let answers: Result<Vec<_>, _> = group.iter().map(|command| single.apply(command)).collect();
                prop_assert_eq!(Ok(receipts), answers);
                prop_assert_eq!(balances(&grouped), balances(&single));
            }
            Err(refused) => {
                prop_assert_eq!(balances(&grouped), before);
                prop_assert!(grouped.decided.len() <= decided_before + 1);
                let kept = grouped.decided.get(decided_before);
                prop_assert_eq!(
                    kept.map(|kept| kept.command.clone()),
                    (grouped.decided.len() > decided_before).then(|| group[refused.index].clone())
                );
                prop_assert_eq!(grouped.apply_group(&group), Err(refused));
            }
        }
    }

    #[test]
    fn a_batch_at_once_answers_like_one_by_one(
        categories_max in 1..3_usize,
        accounts in proptest::array::uniform3(any_account()),
        commands in proptest::collection::vec(any_command(), 1..80),
    ) {
        let accounts_at_once = ACCOUNTS.map(id).into_iter().zip(accounts.clone());
        let mut at_once = book_with_categories(categories_max, accounts_at_once);
        let answers_at_once: Vec<_> = commands.iter().map(|command| at_once.apply(command)).collect();

        let mut state: HashMap<AccountId, Account> = ACCOUNTS.map(id).into_iter().zip(accounts).collect();
        let mut recorded: Vec<Arc<Operation>> = Vec::new();
        let mut answers_one_by_one = Vec::new();
        for command in &commands {
            let mut single = book_with_categories(categories_max, state.clone());
            let known = recorded.iter().filter(|known| known.command.operation_id == command.operation_id);
            known.for_each(|known| single.add_operation((**known).clone()));
            answers_one_by_one.push(single.apply(command));
            let Changes { operations, balances: changes, .. } = single.into_changes();
            recorded.extend(operations);
            for change in changes {
                let account = state.get_mut(&change.key.account_id).expect("a changed account exists");
                account.balances.insert(change.key.category, change.balance);
            }
        }
        prop_assert_eq!(&answers_at_once, &answers_one_by_one);
        prop_assert_eq!(at_once.into_changes().operations, recorded);
    }
}
