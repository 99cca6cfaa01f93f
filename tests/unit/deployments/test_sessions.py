import pytest

from tests.fakes import FakeClock
from thornback.cluster.errors import HttpRefusal, InvalidParams
from thornback.cluster.principals import Principal
from thornback.cluster.revisions import REVISIONS
from thornback.deployments.seal import Seals
from thornback.deployments.sessions import SESSION_TTL_S, Sessions, session_key

ANN, BOB = Principal("default", "ann"), Principal("default", "bob")
REVISION = REVISIONS["2025-06-18"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sessions(clock: FakeClock) -> Sessions:
    return Sessions(Seals([b"k"], "cluster"), clock)


def new_id(sessions: Sessions, **info: str) -> str:
    return sessions.new_id(REVISION, {"elicitation": {}}, {"name": "old", **info}, ANN)


def test_an_id_carries_what_initialize_agreed_on(sessions: Sessions) -> None:
    session = sessions.read(new_id(sessions, version="1"), ANN)
    assert session.revision == REVISION
    assert session.capabilities == {"elicitation": {}}
    assert (session.client_name, session.client_version) == ("old", "1")


def test_an_id_is_its_own_principal_s_alone(sessions: Sessions) -> None:
    with pytest.raises(HttpRefusal) as refused:
        sessions.read(new_id(sessions), BOB)
    assert refused.value.status == 404


def test_an_id_ends_after_a_day(sessions: Sessions, clock: FakeClock) -> None:
    session_id = new_id(sessions)
    clock.advance(SESSION_TTL_S - 1)
    sessions.read(session_id, ANN)
    clock.advance(1)
    with pytest.raises(HttpRefusal):
        sessions.read(session_id, ANN)


def test_a_session_of_a_revision_we_do_not_speak_is_over(clock: FakeClock) -> None:
    later = Sessions(Seals([b"k"], "cluster"), clock)
    unknown = REVISION.__class__("2031-01-01")
    session_id = later.new_id(unknown, {}, {}, ANN)
    with pytest.raises(HttpRefusal):
        later.read(session_id, ANN)


def test_capabilities_that_no_id_can_carry_are_refused(sessions: Sessions) -> None:
    with pytest.raises(InvalidParams, match="64 bits"):
        sessions.new_id(REVISION, {"experimental": {"x": {"n": 2**64}}}, {}, ANN)


def test_a_client_s_long_name_is_cut_and_its_many_capabilities_are_refused(
    sessions: Sessions,
) -> None:
    assert len(new_id(sessions, name="n" * 100_000)) < 1000
    with pytest.raises(InvalidParams):
        sessions.new_id(REVISION, {"experimental": {"x": "y" * 10_000}}, {}, ANN)


def test_the_key_of_a_session_does_not_tell_its_id(sessions: Sessions) -> None:
    session_id = new_id(sessions)
    key = session_key(session_id)
    assert key == session_key(session_id)
    assert key not in session_id
    assert len(key) == 32
