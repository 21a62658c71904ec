import pytest

from kfp_osft.shared.reporting.durations import duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (5, "5 s"),
        (0.04, "0.0 s"),
        (4.23, "4.2 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (278, "4 min 38 s"),
        (3599.7, "1 h 0 min"),
        (43_530, "12 h 5 min"),
        (172_799, "47 h 59 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_is_told_in_two_units_at_most(seconds, text):
    assert duration_text(seconds) == text
