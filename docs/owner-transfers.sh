#!/usr/bin/env bash
# Transfers between the accounts of owners, by hand: needs grpcurl and a Ballast, on 127.0.0.1:50051 unless BALLAST_TARGET
# names another one.
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
    printf '{"account_id":"%s-%s","owner_id":"%s-%s","currency_code":"EUR","settlement":%s%s}' \
        "$RUN" "$1" "$RUN" "$2" "$3" "${4:-}"
}

# transfer ID OWNER AMOUNT [SOURCE_OWNER]: out of ann's account
transfer() {
    printf '{"operation_id":"%s-%s","source_account_id":"%s-ann-main","source_owner_id":"%s-%s",' \
        "$RUN" "$1" "$RUN" "$RUN" "${4:-ann}"
    printf '"destination_owner_id":"%s-%s","amount":{"currency_code":"EUR","minor_units":%s}}' "$RUN" "$2" "$3"
}

quietly AccountService/CreateAccount "$(account ann-main ann true)"
quietly AccountService/CreateAccount "$(account ben-main ben true ',"limits":[{"balance_limit_minor_units":5000}]')"
quietly BalanceService/Credit "$(printf '{"operation_id":"%s-in","account_id":"%s-ann-main","amount":{"currency_code":"EUR","minor_units":100000}}' "$RUN" "$RUN")"

echo "A second settlement account:"
call AccountService/CreateAccount "$(account ann-other ann true)"
echo
echo "To ben, who has room for it; of the answer only the balances:"
call BalanceService/Transfer "$(transfer t-1 ben 4000)" | sed -n '/^->/p; /"balances"/,$p'
echo
echo "Again, to a full ben:"
call BalanceService/Transfer "$(transfer t-2 ben 4000)"
echo
echo "Out of ann's account, in the name of ben:"
call BalanceService/Transfer "$(transfer t-3 ben 1 ben)"
echo
echo "What ben sees come in:"
call BalanceService/ListOperations "$(printf '{"owner_id":"%s-ben","direction":"DIRECTION_INCOMING"}' "$RUN")"
