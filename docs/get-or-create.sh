#!/usr/bin/env bash
# Get-or-create without duplicates, and merging what became two, by hand: needs grpcurl and a Ballast, on 127.0.0.1:50051
# unless BALLAST_TARGET names another one.
set -euo pipefail

readonly TARGET=${BALLAST_TARGET:-127.0.0.1:50051}
# All ids are new in each run.
readonly RUN=${1:-$(date +%s)}

# call METHOD JSON
call() {
    printf '\n-> %s %s\n' "$1" "$2"
    # Some of the answers are errors on purpose.
    grpcurl -plaintext -d "$2" "$TARGET" "ballast.v1.$1" 2>&1 | sed '/^ *$/d' || true
}

quietly() {
    grpcurl -plaintext -d "$2" "$TARGET" "ballast.v1.$1" >/dev/null
}

account() {
    printf '{"account_id":"%s-%s","owner_id":"%s-kim","currency_code":"EUR"}' "$RUN" "$1" "$RUN"
}

credit() {
    printf '{"operation_id":"%s-in-%s-%s","account_id":"%s-%s","category":"%s","amount":{"currency_code":"EUR","minor_units":%s}}' \
        "$RUN" "$1" "$2" "$RUN" "$1" "$2" "$3"
}

echo "Twenty callers at once, each a process of its own. How many were told that they created the account:"
for _ in $(seq 20); do
    # "created" is shown if it is true.
    grpcurl -plaintext -d "$(account web)" "$TARGET" ballast.v1.AccountService/CreateAccount &
done | grep -c '"created": true'

# The same customer by another way, under another name: two accounts.
quietly AccountService/CreateAccount "$(account app)"
quietly BalanceService/Credit "$(credit app main 1000)"
quietly BalanceService/Credit "$(credit app MEAL 250)"
quietly BalanceService/Credit "$(credit web main 70)"

readonly MERGE=$(printf '{"operation_id":"%s-merge","source_account_id":"%s-app","destination_account_id":"%s-web"}' "$RUN" "$RUN" "$RUN")
echo
echo "The same customer has a second account. All of it moves, and it closes; of the answer only the entries:"
call BalanceService/MergeAccounts "$MERGE" | sed -n '/^->/p; /"entries"/,/^  \]/p'
echo
echo "Again; of the answer only the end:"
call BalanceService/MergeAccounts "$MERGE" | sed -n '/^->/p; /"replayed"/p'
echo
echo "A late payment to the closed account:"
call BalanceService/Credit "$(credit app late 5)"
