"""Pushes a model to the Hugging Face Hub as one commit."""

from pathlib import Path

from kfp_osft.shared.network.errors import network_cause
from kfp_osft.shared.push.destination import HUB_SCHEME, WEIGHTS
from kfp_osft.shared.reporting.errors import InputError


def push_to_hub(model: Path, files: dict[str, Path], uri: str, parameter: str) -> str:
    """Commits the files to the repository's main branch; huggingface_hub sends those that the Hub does not have. See
    push_model."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name, api = uri.removeprefix(HUB_SCHEME), HfApi()
    try:
        # Whoever wants others to see it can say so on the Hub; the other way round it would be too late.
        api.create_repo(name, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=model,
            commit_message="Model trained with kfp-osft",
            allow_patterns=list(files),
            # Of an earlier model with other shards: loaders would take them too.
            delete_patterns=list(WEIGHTS),
        )
    except (HfHubHTTPError, HFValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{parameter}={uri}: the Hugging Face Hub refuses it (may the token in HF_TOKEN write there?): {reason}"
        ) from None
    # What the HTTP client raises, which is another one with each version, and what huggingface_hub finds wrong.
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines and isinstance(error, ValueError) else network_cause(error)
        raise InputError(f"{parameter}={uri}: the push to the Hugging Face Hub failed: {reason}") from None
    return f"{uri}@{commit.oid}"
