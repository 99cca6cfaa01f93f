"""`table_profile` on the penguins, of which every figure can be looked up."""

import msgspec
import pytest

from thornback.tools import ToolFailure, tables

from .conftest import Recorded


def test_a_number_has_quantiles_mean_and_nulls(shipped: None, call: Recorded) -> None:
    profile = tables.table_profile("penguins", call.ctx, ["body_mass_g"])
    (mass,) = profile.columns
    assert (profile.rows, mass.nulls, mass.type) == (344, 2, "BIGINT")
    assert mass.quantiles == {"min": 2700, "p25": 3550, "median": 4050, "p75": 4750, "max": 6300}
    assert mass.mean == pytest.approx(4201.75, abs=0.01)
    assert mass.std == pytest.approx(801.95, abs=0.01)


def test_a_text_has_its_most_frequent_values_first(shipped: None, call: Recorded) -> None:
    (species,) = tables.table_profile("penguins", call.ctx, ["species"]).columns
    assert [(example.value, example.rows) for example in species.examples] == [
        ("Adelie", 152),
        ("Gentoo", 124),
        ("Chinstrap", 68),
    ]
    assert (species.distinct, species.quantiles, species.mean) == (3, {}, None)


def test_dates_have_quantiles_but_no_mean(shipped: None, call: Recorded) -> None:
    (date,) = tables.table_profile("weather", call.ctx, ["date"]).columns
    assert (date.quantiles["min"], date.quantiles["max"]) == ("2012-01-01", "2015-12-31")
    assert date.mean is None


def test_each_column_is_reported_as_it_is_done(shipped: None, call: Recorded) -> None:
    profile = tables.table_profile("penguins", call.ctx)
    assert [msgspec.json.decode(part.value)["name"] for part in call.partials] == [
        column.name for column in profile.columns
    ]
    assert call.progress[-1].progress == call.progress[-1].total == len(profile.columns) == 8


def test_an_unknown_column_is_answered_with_those_there_are(shipped: None, call: Recorded) -> None:
    with pytest.raises(ToolFailure, match="no column 'mass'; there are species, island"):
        tables.table_profile("penguins", call.ctx, ["mass"])


def test_a_hostile_name_is_a_name_and_not_sql(shipped: None, call: Recorded) -> None:
    with pytest.raises(ToolFailure, match="there is no dataset"):
        tables.table_profile('penguins"; DROP TABLE penguins; --', call.ctx)
