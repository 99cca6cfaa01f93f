"""What leaves this gateway for a replica, and how often."""

import pickle
from collections.abc import Callable

import pytest
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from thornback.deployments.transport import SentBefore, SentOnce, fault_of


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_message_arrives_as_bytes_and_does_not_leave_twice(
    dumps: Callable[[object], bytes],
) -> None:
    message = SentOnce(b"calls")
    assert pickle.loads(dumps([message])) == [b"calls"]
    with pytest.raises(SentBefore):
        dumps([message])


def test_only_what_serve_refused_was_not_begun() -> None:
    assert fault_of(BackPressureError(num_queued_requests=1, max_queued_requests=1)) == "refused"
    assert fault_of(DeploymentUnavailableError(None)) == "refused"
    assert fault_of(SentBefore()) == "lost"
    assert fault_of(ActorUnavailableError("gone", b"\0" * 16)) == "lost"
