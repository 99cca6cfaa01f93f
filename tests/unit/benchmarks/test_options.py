import pytest

from benchmarks.__main__ import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["echo", "--point", "c=63"], "'c=63' is not one of 'c=1', 'c=16', 'c=64', 'c=256'"),
        (["embed", "--variant", "on"], "'on' is not one of 'not batched', 'batched'"),
        (["echo", "--without", "bear"], "'bear' is not one of 'bare', "),
    ],
)
def test_a_misspelt_load_or_peer_is_refused_with_those_that_there_are(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert said in capsys.readouterr().err
