#!/usr/bin/env bash
# An error with large details arrives as another error, or does not: it depends on chance.
#
# Version:         grpcio 1.85.3 (the C library of gRPC, as Python, Ruby, PHP and C++ use it), server and client.
# Common guess:    an error arrives as it was sent, or its details are too large and the call always fails.
# Real behaviour:  with trailers of up to 8 KiB every INVALID_ARGUMENT arrives. Between 8 and 16 KiB the client throws away some
#                  of them, more the larger they are, and reports RESOURCE_EXHAUSTED, which retry policies send again. Above
#                  16 KiB it throws away all.
# Why it matters:  a request that breaks many rules has a long list of violations. Its error has to stay below 8 KiB, or a
#                  caller sends for ever what can never succeed.
#
# Needs python3 with venv, and PyPI. Fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install grpcio==1.85.3
cat > "$folder/trailers.py" <<'PYTHON'
from collections import Counter
from concurrent import futures

import grpc


class Refusing(grpc.GenericRpcHandler):
    """Answers every call with INVALID_ARGUMENT and details of the size that its path names."""

    def service(self, details):
        size = int(details.method.rsplit("/", 1)[1])

        def refuse(_request, context):
            context.set_trailing_metadata((("grpc-status-details-bin", b"x" * size),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a field breaks its rule")

        return grpc.unary_unary_rpc_method_handler(refuse)


server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Refusing(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
CALLS = 400
changed = {}
for size in (1_000, 7_000, 10_000, 13_000, 20_000):
    codes = Counter()
    for _ in range(CALLS):
        try:
            channel.unary_unary(f"/t.T/{size}")(b"")
        except grpc.RpcError as error:
            codes[error.code().name] += 1
    changed[size] = codes["RESOURCE_EXHAUSTED"]
    print(f"details of {size:>6} bytes: {dict(codes)}")
server.stop(None)
assert changed[1_000] == changed[7_000] == 0, "below 8 KiB all arrive"
assert 0 < changed[10_000] < CALLS, "above 8 KiB it is chance"
assert changed[10_000] < changed[13_000] < CALLS, "the larger, the fewer arrive"
assert changed[20_000] == CALLS, "above 16 KiB none arrives"
print("as described: the same error arrives or turns into RESOURCE_EXHAUSTED by chance")
PYTHON
"$folder/venv/bin/python" "$folder/trailers.py"
