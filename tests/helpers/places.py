"""Where things are in the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
COMPILED = ROOT / "compiled"
#: Data beside the repository, which is not there everywhere: recorded inputs, the CRDs of Trainer.
SHARED_DATA = ROOT.parent / "shared"
