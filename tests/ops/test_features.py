"""docs/features.md agrees with its probes."""

import pytest
import torch

from tests.support import features


@pytest.fixture(scope="module")
def page():
    return features.rows_of(features.PAGE.read_text())


@pytest.mark.parametrize("name", features.ROWS)
def test_each_row_of_the_page_is_what_one_finds(name, page):
    assert page[name][:-2] == features.cells(name)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", features.ROWS)
def test_each_row_of_the_page_is_what_one_finds_on_a_gpu(name, page):
    """If the page has GPU results; it may have been generated without a GPU."""
    found = features.on_gpu(name, page[name][:-2])
    assert page[name][-2] in ("not tried", found)


def test_the_page_has_these_rows_and_columns(page):
    assert list(page) == list(features.ROWS)
    for row in page.values():
        assert len(row) == len(features.WAYS) + 2


def test_cells_that_cannot_be_tried_here_are_kept(page, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(features, "ROWS", {"float64": features.ROWS["float64"]})
    old = features.PAGE.read_text()
    row = page["float64"]
    marked = old.replace(" | ".join(row), " | ".join([*row[:-2], "the same", "their cell"]))
    new = features.rows_of(features.page_with(features.table(marked, None), marked))
    assert new == {"float64": [*row[:-2], "the same", "their cell"]}


def test_a_probe_that_finds_a_wrong_value_fails():
    def wrong(x, alpha=1.0, weight=None):
        return 2 * features.function(x, alpha, weight)

    for name, probe in features.ROWS.items():
        if probe is features.autocast:  # only types are checked
            continue
        with pytest.raises(AssertionError):
            features.cell(probe, wrong)
        assert features.of_their_pool(name, wrong) == "wrong numbers"


def test_what_a_pool_lacks_or_drops_is_said():
    def lacking(x, alpha=1.0, weight=None):
        if weight is not None:
            raise features.LacksError("no weights")
        return features.function(x, alpha if isinstance(alpha, float) else alpha.detach())

    assert features.of_their_pool("masks", lacking) == "no weights"
    assert features.of_their_pool("gradient of alpha", lacking) == "silently None"
    assert features.of_their_pool("float64", lacking) == "yes"
