"""Ray's dashboard as a client sees it: the declarative way into Ray Serve.

Blocking, and the only module that knows the dashboard's paths. A dashboard that does not answer,
or answers no, becomes a `LaunchError` that says so; Ray's token never appears in one.
"""

from __future__ import annotations

import time
from typing import Any

import httpx

from thornback.cluster.errors import LaunchError

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

    def wait(self, timeout_s: float) -> None:
        """Wait until Serve's part of the dashboard answers.

        Raises:
            LaunchError: if it does not within `timeout_s`, or refuses our token.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._client.get(APPLICATIONS, timeout=max(1.0, deadline - time.monotonic()))
                return
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    raise LaunchError(
                        f"Ray's dashboard at {self.url} does not answer ({type(error).__name__}); "
                        "Thornback deploys through it: start Ray with its dashboard"
                    ) from error
                time.sleep(0.1)

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
            raise LaunchError(f"Ray Serve refused: {answer.text.strip()[:2000]}")
        return answer
