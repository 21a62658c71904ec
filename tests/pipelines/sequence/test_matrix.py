"""AA and BWT of a matrix computed by hand."""

import pytest

from kfp_osft.pipelines.sequence.matrix import retention


def test_the_figures_of_three_tasks():
    found = retention([[0.9], [0.6, 0.8], [0.3, 0.6, 0.9]])
    assert found.average == pytest.approx(0.6)
    assert found.learnt == pytest.approx((0.9 + 0.8 + 0.9) / 3)
    # -0.6 of the first task and -0.2 of the second, over three tasks.
    assert found.backward_transfer == pytest.approx(-0.8 / 3)


def test_one_task_has_nothing_to_forget():
    assert retention([[0.7]]) == (0.7, 0.7, 0.0)


def test_a_later_task_that_helps_an_earlier_one_is_a_transfer_above_0():
    assert retention([[0.5], [0.7, 0.9]]).backward_transfer == pytest.approx(0.1)
