"""What Serve says in a process that speaks to a person."""

import pytest

from thornback.deployments.lean_serve import import_serve


def test_of_serves_warnings_only_the_one_that_up_words_itself_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import_serve()
    from ray.serve._private import api
    from ray.serve.config import HTTPOptions

    class Client:
        http_config = HTTPOptions(port=1)

    api.logger.addHandler(caplog.handler)  # Serve's logger does not propagate
    try:
        api._check_http_options(Client(), HTTPOptions(port=2))  # type: ignore[arg-type]
        api.logger.warning("another")
    finally:
        api.logger.removeHandler(caplog.handler)
    assert {record.getMessage() for record in caplog.records} == {"another"}
