"""Hourly grids from cells of text."""

import numpy as np
import pyarrow as pa
import pytest

from fedkim_ray.data.manifest.mapping import MappedFeature, SeriesTable
from fedkim_ray.data.manifest.series import from_own_columns, from_table, rows_by_key
from fedkim_ray.data.units import conversion
from fedkim_ray.errors import RowRejectedError

HRT = MappedFeature(name="hrt", unit="1/min", low=20, high=300)
TEMP = MappedFeature(name="temp", unit="degC", low=25, high=45, source="T", source_unit="degF")
WIDE = SeriesTable(features=(HRT, TEMP), hours=3, table="v.csv", key="stay")
LONG = WIDE.model_copy(update={"layout": "long"})


def test_wide_rows_are_averaged_by_hour() -> None:
    rows = pa.table(
        {
            "hour": ["0.2", "0.9", "2", "3", "-1"],
            "hrt": ["80", "90", "", "500", "500"],
            "T": ["", "NA", "98.6", "0", "0"],
        }
    )
    grid, impossible = from_table(rows, WIDE)
    # (80 + 90) / 2 in the first hour; 98.6 F = 37 C in the third; hours -1 and 3 lie outside.
    np.testing.assert_allclose(grid, [[85, np.nan], [np.nan, np.nan], [np.nan, 37]], atol=1e-9)
    assert not impossible


def test_an_impossible_value_is_no_part_of_a_mean() -> None:
    # Limits are 20 to 300: 0 and 430 are impossible, and their mean with 80 is not.
    rows = pa.table({"hour": ["0", "0", "1", "1"], "hrt": ["80", "0", "0", "430"], "T": [""] * 4})
    grid, impossible = from_table(rows, WIDE)
    np.testing.assert_allclose(grid[:2, 0], [80, np.nan])
    assert impossible == {"hrt": 3}


def test_long_rows_name_their_feature_and_others_are_left() -> None:
    rows = pa.table(
        {
            "hour": ["1", "1", "1"],
            "name": ["hrt", "T", "spo2"],
            "value": ["70", "104", "broken"],
        }
    )
    np.testing.assert_allclose(from_table(rows, LONG)[0][1], [70, 40])


def test_no_rows_are_an_empty_grid() -> None:
    assert np.isnan(from_table(None, WIDE)[0]).all()


def test_values_of_the_row_itself() -> None:
    own = SeriesTable(features=(HRT, TEMP))
    np.testing.assert_allclose(
        from_own_columns({"hrt": " 61 ", "T": "32"}, own), [[61, 0]], atol=1e-9
    )


@pytest.mark.parametrize(
    ("cells", "reason", "column"),
    [
        (("x", "80"), "not_a_number", "hour"),
        (("0", "8O"), "not_a_number", "hrt"),
        (("0", "-inf"), "not_finite", "hrt"),
    ],
)
def test_a_bad_cell_names_its_column(cells: tuple[str, str], reason: str, column: str) -> None:
    rows = pa.table({"hour": [cells[0]], "hrt": [cells[1]], "T": [None]})
    with pytest.raises(RowRejectedError) as caught:
        from_table(rows, WIDE)
    assert (caught.value.reason, caught.value.column) == (reason, column)


def test_rows_find_their_key_in_any_order() -> None:
    stays = ["b", " a", "b", None, "", "a ", "7.0", "7", "7.5"]
    table = pa.table({"stay": stays, "v": range(1, 10)})
    found = {key: rows["v"].to_pylist() for key, rows in rows_by_key(table, "stay").items()}
    assert found == {"b": [1, 3], "a": [2, 6], "7": [7, 8], "7.5": [9]}
    assert rows_by_key(table.slice(0, 0), "stay") == {}


def test_units_are_converted_where_that_is_known() -> None:
    factor, offset = conversion("temp", "degF", "degC") or (0, 0)
    assert 212 * factor + offset == pytest.approx(100)
    assert conversion("glucose", "mmol/L", "mg/dL") == (18.016, 0.0)
    assert conversion("sodium", "mmol/L", "mg/dL") is None


def test_a_charge_is_a_mole_of_single_charged_ions_alone() -> None:
    assert conversion("sodium", "mEq/L", "mmol/L") == (1.0, 0.0)
    for name in ("magnesium", "Ionized_Calcium"):
        assert conversion(name, "mEq/L", "mmol/L") == (0.5, 0.0)
