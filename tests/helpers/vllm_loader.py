"""vLLM's AutoWeightsLoader out of its wheel, without vLLM's engine: the other modules it imports are stand-ins.

Arguments: the wheel, and pairs of a base model's folder and a folder to load. Prints a line for each pair: "loaded",
or what vLLM says. The modules are named as the base model's tensors; vLLM's own models name theirs alike and put some
together (q, k and v) in a step of their own.
"""

import sys
import types
import zipfile
from pathlib import Path
from typing import Any

_FILE = "vllm/model_executor/models/utils.py"


def auto_weights_loader(wheel: Path) -> Any:
    """The class."""
    import torch

    class StandIn(types.ModuleType):
        __path__ = ()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (torch.nn.Module,), {})

    source = zipfile.ZipFile(wheel).read(_FILE).decode()
    for line in source.splitlines():
        if line.startswith("from vllm"):
            parts = line.split()[1].split(".")
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                sys.modules[name] = sys.modules.get(name) or StandIn(name)
    import logging

    def default_weight_loader(parameter: Any, loaded: Any) -> None:
        assert parameter.shape == loaded.shape
        parameter.data.copy_(loaded)

    sys.modules["vllm.logger"].init_logger = logging.getLogger
    sys.modules["vllm.model_executor.model_loader.weight_utils"].default_weight_loader = default_weight_loader
    same = sys.modules["vllm.model_executor.model_loader.reload"]
    same.support_quantized_model_reload_from_hp_weights = lambda function: function
    sys.modules["vllm.utils.torch_utils"].direct_register_custom_op = lambda *args, **options: None
    module = types.ModuleType("vllm.model_executor.models.utils")
    sys.modules[module.__name__] = module
    exec(compile(source, _FILE, "exec"), module.__dict__)
    return module.AutoWeightsLoader


def module_of(tensors: dict[str, Any]) -> Any:
    """Modules with a parameter for each name."""
    import torch

    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, torch.nn.Parameter(torch.zeros_like(tensor)))
    return root


def tensors_of(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's files, in the order of vLLM's default loader."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def main() -> None:
    import torch

    wheel, *folders = map(Path, sys.argv[1:])
    loader = auto_weights_loader(wheel)
    for base, tuned in zip(folders[::2], folders[1::2], strict=True):
        module, tensors = module_of(tensors_of(base)), tensors_of(tuned)
        try:
            loaded = loader(module).load_weights(tensors.items())
        except ValueError as error:
            print(str(error).splitlines()[0])
            continue
        state = module.state_dict()
        whole = loaded == set(state) and all(torch.equal(state[name], tensors[name]) for name in state)
        print("loaded" if whole else f"missing: {sorted(set(state) - set(loaded))}")


if __name__ == "__main__":
    main()
