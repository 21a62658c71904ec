import json
import math
from pathlib import Path

import pytest

from helpers.tiny_families import MIXTURE, save_config
from kfp_osft.shared.knowledge import family_patterns
from kfp_osft.shared.knowledge.coverage import Coverage, coverage_of, kind_of, percent
from kfp_osft.shared.reporting.errors import InputError


@pytest.mark.parametrize(
    ("family", "share"),
    [
        *[(family, 1.0) for family in ("llama", "qwen2", "qwen3", "gemma", "mistral", "granite", "phi3", "olmo2")],
        # By our own patterns; mini-trainer's reach 29 and 43 % here.
        ("phi", 1.0),
        ("starcoder2", 1.0),
        # Each layer: attention 12,288 of 110,848; the experts are fused tensors of three dimensions.
        ("mixtral", 12288 / 110848),
        ("qwen3_moe", 12288 / 110848),
        ("granitemoe", 12288 / 110848),
    ],
)
def test_the_share_of_the_layers_weights_that_osft_limits(tmp_path: Path, family: str, share: float):
    mixture = MIXTURE if "mo" in family or family == "mixtral" else {}
    coverage = coverage_of(str(save_config(tmp_path, family, **mixture)))

    assert coverage.share == pytest.approx(share, rel=0.01)
    assert (coverage.free_kinds == []) is (share == 1.0)
    # Embeddings and output layer at least.
    assert coverage.others >= 600 * 64


def test_it_counts_what_the_real_model_has(tiny_model: Path):
    from safetensors.torch import load_file

    coverage = coverage_of(str(tiny_model))

    weights = load_file(tiny_model / "model.safetensors")
    matrices = [weight for name, weight in weights.items() if name.startswith("model.layers") and weight.ndim == 2]
    assert coverage.limited == coverage.layers == sum(weight.numel() for weight in matrices)
    assert coverage.limited + coverage.others == sum(weight.numel() for weight in weights.values())
    assert {kind_of(name) for name in weights} >= set(coverage.kinds) and len(coverage.kinds) == 7
    assert Coverage.from_figures(json.loads(json.dumps(coverage.figures()))) == coverage
    assert coverage.describe() == (
        "OSFT limits 100% of the weights in the layers' matrices (73,728 of 73,728); embeddings, output layer, norms "
        "and biases (29,888 parameters) always train without limit"
    )


@pytest.mark.slow
def test_the_limited_matrices_are_those_that_mini_trainer_picks(tiny_model: Path):
    from mini_trainer.osft_utils import auto_generate_target_osft_config
    from transformers import AutoModelForCausalLM

    coverage = coverage_of(str(tiny_model))
    picked = auto_generate_target_osft_config(
        AutoModelForCausalLM.from_pretrained(tiny_model), target_patterns=coverage.patterns
    )

    assert {kind_of(name) for name in picked} == set(coverage.kinds)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", "qwen3_moe", "qwen3_5_text", "gemma3_text", "gpt_oss", "gptj", "phi4", "olmo2"]
)
def test_the_patterns_of_a_family_are_mini_trainers_for_a_path_of_its_name(name: str):
    from mini_trainer.osft_utils import get_model_patterns

    spelling = name.replace("_", "-") if name == "gpt_oss" else name
    assert family_patterns.family_patterns(name) == get_model_patterns(f"org/{spelling}")


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        ("gpt_neox", "it looks for their layers in model.layers or transformer.h, and would end with 'Cannot find"),
        ("opt", "it looks for their layers in model.layers or transformer.h, and would end with 'Cannot find"),
        ("falcon", "OSFT would limit none of its weights, because mini-trainer knows no matrices of the family falcon"),
        ("granitemoehybrid", "OSFT would limit none of its weights"),
        # mini-trainer would multiply by the transposed weights of its Conv1D.
        ("gpt2", "OSFT cannot limit h.*.attn.c_attn.weight, whose module is Conv1D"),
        ("t5", "mini-trainer cannot train models of the type t5: transformers has no causal language model for it"),
    ],
)
def test_a_family_that_mini_trainer_cannot_train_or_limit_is_refused(tmp_path: Path, family: str, problem: str):
    with pytest.raises(InputError) as error:
        coverage_of(str(save_config(tmp_path, family)))

    assert str(error.value).startswith(f"training_base_model={tmp_path}: ") and problem in str(error.value)


def test_the_patterns_that_were_asked_for_decide(tiny_model: Path):
    coverage = coverage_of(str(tiny_model), ["q_proj", "mlp.up"])

    assert coverage.kinds == ["layers.*.mlp.up_proj.weight", "layers.*.self_attn.q_proj.weight"]
    assert coverage.limited == 2 * (64 * 64 + 64 * 128)
    assert coverage.free_kinds_in_words().startswith("layers.*.mlp.") and "1 more" in coverage.free_kinds_in_words()


@pytest.mark.parametrize(
    ("patterns", "unmatched"),
    [
        (["q_porj"], "q_porj"),
        (["q_proj", "mlp.q_proj", "down"], "mlp.q_proj"),
        # A pattern is no regular expression, and neither a norm nor a bias is a matrix.
        ([".*q_proj"], ".*q_proj"),
        (["input_layernorm", "q_proj.bias"], "input_layernorm, q_proj.bias"),
        (["embed_tokens", "Q_PROJ"], "embed_tokens, Q_PROJ"),
    ],
)
def test_a_pattern_that_matches_no_matrix_is_named_with_those_there_are(
    tiny_model: Path, patterns: list[str], unmatched: str
):
    with pytest.raises(InputError) as error:
        coverage_of(str(tiny_model), patterns)

    assert str(error.value).startswith(
        f"training_target_patterns: {unmatched} matches no weight matrix of {tiny_model}; its matrices are layers.*."
    )


@pytest.mark.parametrize(("pattern", "module"), [("model.", "Embedding"), ("mlp.gate.", "MixtralTopKRouter")])
def test_a_pattern_that_takes_in_what_is_no_linear_layer_is_refused(tmp_path: Path, pattern: str, module: str):
    with pytest.raises(InputError, match=rf"whose module is {module}: mini-trainer computes as if it were a Linear"):
        coverage_of(str(save_config(tmp_path, "mixtral", **MIXTURE)), ["q_proj", pattern])


def test_a_pattern_of_fused_experts_says_why_they_cannot_be_limited(tmp_path: Path):
    with pytest.raises(InputError, match=r"experts.gate_up_proj has 3 dimensions, and OSFT splits matrices only"):
        coverage_of(str(save_config(tmp_path, "mixtral", **MIXTURE)), ["q_proj", "experts.gate_up_proj"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.3.mlp.up_proj.weight", "layers.*.mlp.up_proj.weight"),
        ("language_model.model.layers.11.mlp.up_proj.weight", "layers.*.mlp.up_proj.weight"),
        ("transformer.h.0.attn.c_attn.weight", "h.*.attn.c_attn.weight"),
        ("model.layers.0.mlp.experts.12.up_proj.weight", "layers.*.mlp.experts.*.up_proj.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight"),
    ],
)
def test_a_kind_is_the_name_without_the_numbers_from_the_layers_on(name: str, kind: str):
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100%"), (0.105, "10%"), (0.0376, "3.8%"), (0.00024, "0.02%"), (0.00002, "<0.01%"), (0.0, "0%")],
)
def test_a_share_has_two_digits(share: float, text: str):
    assert percent(share) == text and not math.isnan(share)


def test_without_mini_trainer_the_matrices_must_be_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(family_patterns.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(InputError, match="mini-trainer is not installed .* or name them with training_target_patterns"):
        family_patterns.family_patterns("qwen2")


@pytest.mark.parametrize("source", ["", "MODEL_CONFIGS = make()", "MODEL_CONFIGS = {", None])
def test_a_mini_trainer_that_keeps_its_patterns_elsewhere_is_named(tmp_path, monkeypatch, source: str | None):
    if source is not None:
        (tmp_path / "osft_utils.py").write_text(source)
    monkeypatch.setattr(family_patterns, "mini_trainer_folder", lambda: tmp_path)

    with pytest.raises(InputError, match=r"osft_utils.py does not say which matrices OSFT limits"):
        family_patterns.family_patterns("qwen2")
