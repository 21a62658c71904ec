import pytest

from kfp_osft.shared.reporting.listing import listed


@pytest.mark.parametrize(("count", "text"), [(0, ""), (1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more")])
def test_names_beyond_the_first_are_counted(count: int, text: str):
    assert listed(["a", "b", "c", "d"][:count], 3) == text
