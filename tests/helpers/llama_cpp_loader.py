"""llama.cpp's convert_hf_to_gguf.py and llama.cpp itself (xllamacpp), for an environment of their own.

Arguments: the folder of llama.cpp's sources, prompt (JSON of ids), model folders. Prints a JSON object: by folder, the
number of tensors in its GGUF file and the ids of the tokens that llama.cpp says next.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# The converter knows real tokenizers by a digest; the tiny model's is told to it.
_CONVERTER = """
import runpy, sys
source = sys.argv[1]
sys.path[:0] = [source + "/gguf-py", source]
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = sys.argv[1:]
runpy.run_path(source + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def convert(source: Path, folder: Path) -> Path:
    """The GGUF file of a model folder, beside it.

    Raises:
        RuntimeError: what the converter says last.
    """
    gguf = folder.with_suffix(".gguf")
    options = [str(source), str(folder), "--outtype", "f32", "--outfile", str(gguf)]
    done = subprocess.run([sys.executable, "-c", _CONVERTER, *options], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return gguf


def said(gguf: Path, prompt: list[int]) -> dict[str, Any]:
    """What llama.cpp says greedily after the prompt, until an end of turn."""
    import xllamacpp
    from gguf import GGUFReader

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    # Rounded keys and values decide between two tokens that are nearly as likely.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 256, 1, False
    answer = xllamacpp.Server(parameters).handle_completions(
        # Beside the text, which has no token whose bytes are a part of a character.
        {"prompt": prompt, "n_predict": 8, "temperature": 0, "top_k": 1, "return_tokens": True, "verbose": True}
    )
    answer = answer if isinstance(answer, dict) else json.loads(answer)
    return {"tensors": len(GGUFReader(gguf).tensors), "ids": answer["__verbose"]["tokens"]}


def main() -> None:
    source, prompt, *folders = sys.argv[1:]
    found = {}
    for folder in folders:
        try:
            found[folder] = said(convert(Path(source), Path(folder)), json.loads(prompt))
        except RuntimeError as error:
            found[folder] = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
