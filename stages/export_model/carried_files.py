"""What a fine-tuned model takes over from its base model: tokenizer, generation settings, licence, shapes."""

from pathlib import Path

from kfp_osft.shared.model.folder import model_folder
from kfp_osft.shared.reporting.log import log
from kfp_osft.stages.export_model.model_card import CARD

#: Files that say how a text becomes tokens and how answers are generated; a training changes none of them.
CARRIED_OVER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)


def base_model_folder(base_model: str, revision: str | None = None) -> Path | None:
    """The base model's folder, or None with a line in the log where there is none.

    Of a Hugging Face model only the small files are fetched; weights are there if the local cache has them.

    Args:
        base_model: path or Hugging Face model id.
        revision: commit that was trained.
    """
    folder = model_folder(base_model)
    if folder is not None:
        if folder.is_dir():
            return folder
        log(f"The base model {base_model} is not there any more: nothing is compared with it or taken from it")
        return None
    from huggingface_hub import snapshot_download

    try:
        wanted = [*CARRIED_OVER, CARD, "config.json", "model.safetensors.index.json"]
        return Path(snapshot_download(base_model, revision=revision, allow_patterns=wanted))
    # What the HTTP client raises where there is no Hub, which is another client in other versions.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log(
            f"The Hugging Face Hub does not give the small files of {base_model}, so nothing is compared with it or "
            f"taken from it: {reason}"
        )
        return None


def carried_over(folder: Path) -> dict[str, Path]:
    """The files that CARRIED_OVER names, by their paths in the folder."""
    found = (file for pattern in CARRIED_OVER for file in folder.glob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): file for file in sorted(found)}
