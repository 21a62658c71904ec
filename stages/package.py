"""kfp_osft as the stages need it: archives, the same bytes on every machine, and the digests of their content.

The package is not embedded in the stages' components: Argo stores each byte of a component five times in the run's
Workflow, and four times more for each iteration of a loop. It comes from a ConfigMap, or is installed.
"""

import bz2
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import kfp_osft
from kfp_osft.stages.find_package import digest_of, package_files
from kfp_osft.stages.source_text import without_words

FOLDER = Path(next(iter(kfp_osft.__path__)))
# What makes components and these archives, which no pod does: names of files in stages/ and below it.
_ONLY_TO_COMPILE = ("component.py", "find_package.py", "package.py")


@functools.cache
def package_digest() -> str:
    """Digest of this kfp_osft's source without `pipelines`, which no stage needs; see digest_of."""
    return digest_of(package_files(FOLDER))


@dataclass(frozen=True)
class Archive:
    """The code of some stages with all that they share, in a ConfigMap of its own.

    Attributes:
        name: begins the ConfigMap's name, and is the name of the YAML file with it.
        stages: names of the stages.
    """

    name: str
    stages: tuple[str, ...]

    @property
    def config_map(self) -> str:
        """Name of the ConfigMap with exactly this code, such as kfp-osft-0-1-0-0123456789.

        KFP's driver names the pod's volume after it, and a volume's name is a DNS label: no dots.
        """
        version = re.sub("[^a-z0-9]+", "-", kfp_osft.__version__.lower())
        return f"{self.name}-{version}-{package_digest()[:10]}"

    @property
    def manifest(self) -> str:
        """Name of the YAML file with the ConfigMap."""
        return f"{self.name}.yaml"

    @functools.cached_property
    def files(self) -> dict[str, str]:
        """The modules by name. Docstrings and comments are blank lines in them: they would be a third of the size, and
        `kubectl apply` accepts at most 262,144 bytes."""
        sources = package_files(FOLDER)
        return {name: without_words(source) for name, source in sources.items() if self._holds(name)}

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the files; see digest_of."""
        return digest_of(self.files)

    def content(self) -> bytes:
        """The archive; see packed."""
        return packed(self.files)

    def _holds(self, name: str) -> bool:
        _, layer, *inner = name.split("/")
        if layer != "stages":
            return True
        return inner[-1] not in _ONLY_TO_COMPILE and (len(inner) == 1 or inner[0] in self.stages)


#: osft_pipeline.
CORE = Archive(
    "kfp-osft",
    ("resolve_dataset", "preprocess", "launch_trainjob", "collect_metrics", "render_loss_chart", "export_model"),
)
#: The optional stage, so that the archive of the others has room to grow.
EVALUATION = Archive("kfp-osft-evaluate", ("evaluate_model",))


def archive_of(stage: str) -> Archive:
    """The archive with the code of a stage."""
    return EVALUATION if stage in EVALUATION.stages else CORE


def packed(files: Mapping[str, str]) -> bytes:
    """JSON {name: source} compressed with bzip2, which has one implementation and so gives the same bytes everywhere
    (gzip's differ between zlib and zlib-ng)."""
    return bz2.compress(json.dumps(files, sort_keys=True, ensure_ascii=False).encode())
