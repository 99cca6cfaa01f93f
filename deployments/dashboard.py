"""Ray's dashboard as a client sees it: the declarative way into Ray Serve.

Blocking, and the only module that knows the dashboard's paths. A dashboard that does not answer,
or answers no, becomes a `LaunchError` that says so; Ray's token never appears in one.
"""

from __future__ import annotations

import re
import time
from typing import Any

import httpx

from thornback.cluster.errors import LaunchError

POLL_S = 0.1
APPLICATIONS = "/api/serve/applications/"


class Dashboard:
    """One cluster's dashboard."""

    def __init__(
        self, url: str, token: str | None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(
            base_url=self.url, headers=headers, timeout=60, transport=transport, trust_env=False
        )

    def close(self) -> None:
        self._client.close()

    def wait_for_serve(self, timeout_s: float) -> None:
        """Wait until the dashboard answers and Serve's controller is there.

        Raises:
            LaunchError: if that is not so within `timeout_s`, or our token is refused.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self.serve_details().get("controller_info", {}).get("actor_id"):
                    return
                why = "Ray Serve's controller did not start"
            except LaunchError as error:
                why = str(error)
            if time.monotonic() > deadline:
                raise LaunchError(f"{why}; Thornback deploys through Ray's dashboard")
            time.sleep(POLL_S)

    def serve_details(self) -> dict[str, Any]:
        """What Serve runs: `applications` by name, proxies, and the controller."""
        found: dict[str, Any] = self._answer("GET").json()
        return found

    def put(self, document: dict[str, Any]) -> None:
        """Tell Serve everything that it shall run; what is not named is removed.

        Raises:
            LaunchError: if Serve refuses the document.
        """
        self._answer("PUT", document)

    def _answer(self, method: str, document: dict[str, Any] | None = None) -> httpx.Response:
        try:
            answer = self._client.request(method, APPLICATIONS, json=document)
        except httpx.TransportError as error:
            raise LaunchError(
                f"Ray's dashboard at {self.url} does not answer: {type(error).__name__}"
            ) from error
        if answer.status_code in (401, 403):
            raise LaunchError(f"Ray's dashboard at {self.url} does not accept the token")
        if answer.status_code == 404:
            raise LaunchError(
                f"Ray's dashboard at {self.url} has no Ray Serve: install ray[serve] there"
            )
        if answer.is_error:
            raise LaunchError(f"Ray Serve refused: {reason(answer.text)}")
        return answer


def reason(text: str, limit: int = 500) -> str:
    """What of an error of Serve's a person needs: of a traceback its last line.

    Of a document that does not fit, each place and what is wrong there.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if misfits := [at for at, line in enumerate(lines) if _MISFIT.search(line)]:
        told = (f"{lines[at - 1]}: {_MISFIT.split(lines[at])[0]}" for at in misfits)
        return "; ".join(told)[:limit]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or ["it does not say why"])[-1][:limit]


_MISFIT = re.compile(r" \[type=\w+")
"""How pydantic goes on after a sentence."""
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b.*:")
