"""Labels in the chat templates of real models, as a judge sees them that reads nothing but the rendered text."""

from collections import Counter, defaultdict

import pytest

from helpers.real_templates import KINDS, results
from kfp_osft.shared.model.torchvision import hide_broken_torchvision


@pytest.mark.slow
def test_in_real_templates_each_row_is_right_or_a_clear_error(capsys: pytest.CaptureFixture[str]):
    hide_broken_torchvision()
    table: dict[str, dict[str, str]] = defaultdict(dict)
    wrong, unclear = [], []
    for name, kind, verdict, more in results():
        table[name][kind] = verdict
        if verdict == "WRONG":
            wrong.append(f"{name}, {kind}: {more[0]}")
        if verdict == "error" and not more.startswith("row: the model's chat template "):
            unclear.append(more)
    # python -m pytest -s shows it.
    print(f"\n{'':48}" + " ".join(f"{number:>2}" for number in range(1, len(KINDS) + 1)))
    for name, verdicts in table.items():
        print(f"{name[:47]:48}" + " ".join(f"{'+' if verdicts[kind] == 'right' else 'e':>2}" for kind in KINDS))
    print("; ".join(f"{number} {kind}" for number, kind in enumerate(KINDS, start=1)))

    assert (wrong, unclear) == ([], [])
    assert len(table) == 70
    right = Counter(kind for verdicts in table.values() for kind, verdict in verdicts.items() if verdict == "right")
    # The others refuse such rows themselves, or leave a turn out.
    least = {"plain": 66, "system": 64, "call, null": 55, "call, text": 40, "reasoning": 66, "earlier reasoning": 66}
    assert {kind: right[kind] for kind, count in least.items() if right[kind] < count} == {}
