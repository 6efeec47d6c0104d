"""docs/features.md says what its probes find."""

import features
import pytest


@pytest.mark.parametrize("name", features.ROWS)
def test_each_row_of_the_page_is_what_one_finds(name):
    page = features.PAGE.read_text()
    table = page.split(features.BEGIN)[1].split(features.END)[0]
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    probe, theirs = features.ROWS[name]
    found = [features.cell(probe, pool) for pool in features.WAYS.values()]
    assert [part.strip() for part in row.strip("|").split("|")] == [name, *found, theirs]


def test_the_page_has_no_other_rows():
    page = features.PAGE.read_text()
    table = page.split(features.BEGIN)[1].split(features.END)[0]
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + len(
        features.ROWS
    )


def test_a_probe_that_finds_a_wrong_value_fails():
    def wrong(x, alpha=1.0, weight=None):
        return 2 * features.function(x, alpha, weight)

    for probe, _ in features.ROWS.values():
        if probe is not features.autocast:  # types are all it looks at
            with pytest.raises(AssertionError):
                features.cell(probe, wrong)
