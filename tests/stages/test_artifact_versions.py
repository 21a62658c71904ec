import inspect
from types import SimpleNamespace

import kfp_osft
from kfp_osft.stages.artifact_versions import with_version


def test_the_output_artifacts_of_a_stage_carry_the_version_and_inputs_do_not():
    def stage(dataset, path: str, output_model=None) -> str:
        output_model.metadata["name"] = path
        return "done"

    dataset, model = SimpleNamespace(metadata={}), SimpleNamespace(metadata={})
    versioned = with_version(stage)

    assert versioned(dataset=dataset, path="x", output_model=model) == "done"
    assert model.metadata == {"name": "x", "kfp_osft_version": kfp_osft.__version__} and dataset.metadata == {}
    assert inspect.getfullargspec(versioned).annotations == {"path": str, "return": str}
