"""Sex, age and age bands, as sources write them."""

import pytest

from fedkim_ray.data.traits import age_band, read_age, read_sex


@pytest.mark.parametrize(
    ("text", "sex"), [("F", "female"), (" Male ", "male"), ("m", "male"), ("1", None), ("", None)]
)
def test_sex(text: str, sex: str | None) -> None:
    assert read_sex(text) == sex


# Some sources write 300 for everybody over 89.
@pytest.mark.parametrize(
    ("text", "years"), [("62.8", 62), ("0", 0), ("300", None), ("-1", None), ("?", None)]
)
def test_age(text: str, years: int | None) -> None:
    assert read_age(text) == years


def test_bands_meet_without_a_gap() -> None:
    ages = {17: "0-17", 18: "18-39", 39: "18-39", 40: "40-64", 79: "65-79", 80: "80+", 101: "80+"}
    assert {years: age_band(years) for years in ages} == ages
