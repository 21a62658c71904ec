import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from kfp_osft.stages.export_model.tensor_names import Named, Tensor, floating_dtype, in_base_form

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _tensors(shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, Tensor]:
    """One after the other in one file, four bytes a number."""
    found, offset = {}, 100
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        found[name] = Tensor(dtype, shape, Path("model.safetensors"), offset, size)
        offset += size
    return found


def _named(
    trained: dict[str, Tensor],
    base_names: Iterable[str] = (),
    base: dict[str, Tensor] | None = None,
    *,
    model_type: str = "llama",
    is_tied: bool | None = None,
    equal: bool = True,
) -> Named:
    return in_base_form(
        trained, base_names, base or {}, model_type=model_type, is_tied=is_tied, are_equal=lambda one, other: equal
    )


_LLAMA = {
    _EMBEDDING: (8, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.rotary_emb.inv_freq": (2,),
    "model.rotary_emb.original_inv_freq": (2,),
    _HEAD: (8, 4),
}


@pytest.mark.parametrize("known", [True, False], ids=["base model known", "base model not known"])
def test_buffers_and_the_copy_of_a_tied_embedding_are_left_out(known: bool):
    base = [_EMBEDDING, "model.layers.0.self_attn.q_proj.weight"]

    named = _named(_tensors(_LLAMA), base if known else (), is_tied=True)

    assert list(named.tensors) == base and named.is_understood
    assert sorted(named.left_out) == sorted(set(_LLAMA) - set(base))


@pytest.mark.parametrize("is_tied", [False, None])
def test_a_head_of_its_own_stays_also_where_the_config_does_not_say(is_tied: bool | None):
    assert _HEAD in _named(_tensors(_LLAMA), is_tied=is_tied, equal=False).tensors


def test_a_config_that_does_not_say_is_tied_where_the_bytes_are_the_same():
    # Gemma's: True is its class's default, so its config does not write it.
    assert _HEAD not in _named(_tensors(_LLAMA), model_type="gemma2", equal=True).tensors


def test_a_head_that_the_training_made_another_than_the_embedding_is_published_and_said():
    base = [_EMBEDDING, "model.layers.0.self_attn.q_proj.weight"]

    named = _named(_tensors(_LLAMA), base, is_tied=True, equal=False)

    assert named.is_untied and _HEAD in named.tensors and _HEAD not in named.left_out


def test_a_base_model_that_holds_tied_weights_twice_gets_both():
    trained = _tensors({_EMBEDDING: (8, 4)})

    named = _named(trained, [_EMBEDDING, _HEAD], is_tied=True)

    assert named.tensors[_HEAD] == trained[_EMBEDDING]


_MIXTRAL_IN_MEMORY = {
    "model.layers.0.mlp.gate.weight": (2, 4),
    "model.layers.0.mlp.experts.gate_up_proj": (2, 6, 4),
    "model.layers.0.mlp.experts.down_proj": (2, 4, 3),
}


def _expert_names(block: str, gate: str, up: str, down: str) -> list[str]:
    return [f"{block}.experts.{expert}.{matrix}.weight" for expert in (0, 1) for matrix in (gate, up, down)]


@pytest.mark.parametrize("known", [True, False], ids=["base model known", "base model not known"])
@pytest.mark.parametrize(
    ("model_type", "block", "matrices", "gate"),
    [
        ("mixtral", "model.layers.0.block_sparse_moe", ("w1", "w3", "w2"), ".gate.weight"),
        ("qwen3_moe", "model.layers.0.mlp", ("gate_proj", "up_proj", "down_proj"), ".gate.weight"),
        ("olmoe", "model.layers.0.mlp", ("gate_proj", "up_proj", "down_proj"), ".gate.weight"),
    ],
)
def test_experts_that_are_one_tensor_in_memory_are_one_by_one_again(
    known: bool, model_type: str, block: str, matrices: tuple[str, str, str], gate: str
):
    trained = _tensors(_MIXTRAL_IN_MEMORY)
    names = [block + gate, *_expert_names(block, *matrices)]

    named = _named(trained, names if known else (), model_type=model_type)

    assert sorted(named.tensors) == sorted(names) and named.is_understood and not named.left_out
    stack, down = trained["model.layers.0.mlp.experts.gate_up_proj"], trained["model.layers.0.mlp.experts.down_proj"]
    # Rows of four numbers, of four bytes each: the second expert's begin after six, its second half after nine.
    assert named.tensors[f"{block}.experts.1.{matrices[0]}.weight"] == stack._replace(
        shape=(3, 4), offset=stack.offset + 6 * 16, size=3 * 16
    )
    assert named.tensors[f"{block}.experts.1.{matrices[1]}.weight"] == stack._replace(
        shape=(3, 4), offset=stack.offset + 9 * 16, size=3 * 16
    )
    assert named.tensors[f"{block}.experts.1.{matrices[2]}.weight"] == down._replace(
        shape=(4, 3), offset=down.offset + 12 * 4, size=12 * 4
    )


@pytest.mark.parametrize(
    ("model_type", "memory", "hub"),
    [
        (
            "granitemoe",
            "model.layers.0.block_sparse_moe.experts.gate_up_proj",
            "model.layers.0.block_sparse_moe.input_linear.weight",
        ),
        (
            "granitemoe",
            "model.layers.0.block_sparse_moe.router.weight",
            "model.layers.0.block_sparse_moe.router.layer.weight",
        ),
        ("phimoe", "model.layers.0.mlp.router.weight", "model.layers.0.block_sparse_moe.gate.weight"),
    ],
)
def test_names_of_transformers_5_are_the_hubs_again(model_type: str, memory: str, hub: str):
    trained = _tensors({memory: (2, 6, 4) if "experts" in memory else (2, 4)})

    for base_names in ([hub], ()):
        assert _named(trained, base_names, model_type=model_type).tensors == {hub: trained[memory]}


def test_experts_that_the_base_model_has_in_one_tensor_stay_so():
    # gpt_oss.
    trained = _tensors({"model.layers.0.mlp.experts.gate_up_proj": (2, 4, 6)})

    for base_names in (list(trained), ()):
        assert _named(trained, base_names, model_type="gpt_oss").tensors == trained


def test_a_base_model_saved_without_its_head_keeps_its_names():
    trained = _tensors({"transformer.wte.weight": (8, 4), "transformer.h.0.attn.c_attn.weight": (4, 12)})

    assert list(_named(trained, ["wte.weight", "h.0.attn.c_attn.weight"]).tensors) == [
        "wte.weight",
        "h.0.attn.c_attn.weight",
    ]


def test_what_the_trainer_does_not_save_is_the_base_models_or_said():
    trained = _tensors({_EMBEDDING: (8, 4)})
    base = _tensors({"mtp.fc.weight": (4, 4)})

    named = _named(trained, [_EMBEDDING, "mtp.fc.weight", "mtp.norm.weight"], base)

    assert named.tensors["mtp.fc.weight"] == base["mtp.fc.weight"]
    assert (named.of_base, named.missing) == (["mtp.fc.weight"], ["mtp.norm.weight"])


def test_names_that_do_not_fit_the_base_models_stay_the_trained_models():
    trained = _tensors(_LLAMA)
    # Of a model for text and images.
    base = ["language_model." + name for name in (_EMBEDDING, "model.layers.0.self_attn.q_proj.weight")]

    named = _named(trained, base, is_tied=True)

    assert not named.is_understood and not named.of_base
    assert list(named.tensors) == [_EMBEDDING, "model.layers.0.self_attn.q_proj.weight"]


def test_a_stack_of_which_the_base_model_names_a_part_is_not_understood():
    names = _expert_names("model.layers.0.mlp", "gate_proj", "up_proj", "down_proj")
    fewer = [name for name in names if not re.search(r"experts\.1", name)]

    trained = _tensors({name: shape for name, shape in _MIXTRAL_IN_MEMORY.items() if "experts" in name})
    assert not _named(trained, fewer, model_type="qwen3_moe").is_understood


def test_the_type_is_that_of_most_numbers():
    few, many = _tensors({"norm": (4,)}, "F32"), _tensors({"matrix": (8, 4)}, "BF16")

    assert floating_dtype([*few.values(), *many.values()]) == "bfloat16"
    assert floating_dtype(_tensors({"matrix": (8, 4)}, "F8_E4M3").values()) is None
