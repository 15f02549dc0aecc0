#!/usr/bin/env bash
# A retry policy does not wait as long as RetryInfo says; it waits as long as a trailer says that few servers send.
#
# Version:         grpcio 1.85.3 (the C library of gRPC, as Python, Ruby, PHP and C++ use it), with a retryPolicy.
# Common guess:    google.rpc.RetryInfo is the standard detail for this, so a client with a retry policy waits for its delay.
# Real behaviour:  the client does not read RetryInfo. It tries again after its own backoff, milliseconds later. It does wait for
#                  the trailer `grpc-retry-pushback-ms`, which the details know nothing of.
# Why it matters:  a server that is overloaded says "in half a second" and gets all of the load again at once.
#
# Needs python3 with venv, and PyPI. Fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install grpcio==1.85.3
cat > "$folder/retries.py" <<'PYTHON'
import json
import time
from concurrent import futures

import grpc


def field(number, value):
    return bytes([number << 3 | 2, len(value)]) + value


# google.rpc.Status { code: 14, message: "busy", details: [google.rpc.RetryInfo { retry_delay { seconds: 2 } }] }
RETRY_INFO = field(1, b"\x08\x02")
ANY = field(1, b"type.googleapis.com/google.rpc.RetryInfo") + field(2, RETRY_INFO)
STATUS = b"\x08\x0e" + field(2, b"busy") + field(3, ANY)
TRAILERS = {
    "/t.T/RetryInfo": (("grpc-status-details-bin", STATUS),),
    "/t.T/Pushback": (("grpc-status-details-bin", STATUS), ("grpc-retry-pushback-ms", "2000")),
}
calls = {}


class BusyOnce(grpc.GenericRpcHandler):
    """Is busy at first, then answers."""

    def service(self, details):
        times = calls.setdefault(details.method, [])

        def answer(_request, context):
            times.append(time.monotonic())
            if len(times) == 1:
                context.set_trailing_metadata(TRAILERS[details.method])
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((BusyOnce(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
policy = {
    "maxAttempts": 3,
    "initialBackoff": "0.02s",
    "maxBackoff": "0.02s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.service_config", config)])
waited = {}
for method in TRAILERS:
    channel.unary_unary(method)(b"", timeout=30)
    first, second = calls[method]
    waited[method] = second - first
    print(f"{method}: told to wait 2 s, tried again after {waited[method]:.3f} s")
channel.close()
server.stop(None)
assert waited["/t.T/RetryInfo"] < 1, "RetryInfo is not read"
assert waited["/t.T/Pushback"] >= 1.9, "the trailer is"
print("as described: only grpc-retry-pushback-ms makes a client wait")
PYTHON
"$folder/venv/bin/python" "$folder/retries.py"
