import pytest

from kfp_osft.shared.knowledge.coverage import Coverage, coverage_of
from kfp_osft.shared.model.folder import read_config
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.memory import check_pod, memory_need

# SmolLM2-135M-Instruct, as coverage_of and its config say.
SMOLLM2 = Coverage(106_168_320, 106_168_320, 28_346_688, [], [], [], 158_244_480)
SMOLLM2_CONFIG = {"hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49152, "intermediate_size": 1536}
EIGHT_BILLION = Coverage(6_979_321_856, 6_979_321_856, 1_050_939_392, [], [], [], 9_900_000_000)
EIGHT_BILLION_CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "intermediate_size": 14336,
}


# Sum of the PSS of all processes of the training at their peak: mini-trainer 0.9 on two CPU cores, sampled every 0.3 s.
@pytest.mark.parametrize(
    ("tokens", "ratio", "peak"),
    [(464, 0.25, 4.164e9), (1856, 0.25, 4.866e9), (1856, 0.9, 5.931e9)],
)
def test_the_estimate_is_close_to_the_measured_peak_of_a_small_model(tokens, ratio, peak):
    assert memory_need(SMOLLM2_CONFIG, SMOLLM2, ratio, tokens).on_cpu(1) == pytest.approx(peak, rel=0.1)


def test_the_estimate_is_close_to_the_measured_peak_of_a_tiny_model(tiny_model):
    need = memory_need(read_config(tiny_model), coverage_of(str(tiny_model)), 0.25, 1490)
    assert need.on_cpu(1) == pytest.approx(1.94e9, rel=0.1)


def test_a_larger_share_to_train_and_more_tokens_need_more():
    base = memory_need(SMOLLM2_CONFIG, SMOLLM2, 0.25, 512)
    assert memory_need(SMOLLM2_CONFIG, SMOLLM2, 0.9, 512).states > base.states
    assert memory_need(SMOLLM2_CONFIG, SMOLLM2, 0.25, 1024).microbatch == 2 * base.microbatch


def test_the_states_are_shared_by_the_processes_and_the_microbatch_is_not():
    need = memory_need(EIGHT_BILLION_CONFIG, EIGHT_BILLION, 0.25, 8192)
    assert need.of_process(1) - need.of_process(8) == need.states - need.states // 8


@pytest.mark.parametrize(
    ("memory", "accelerators", "pods"), [("32Gi", 1, 1), ("16Gi", 4, 2), ("160Gi", 0, 1), ("40Gi", 0, 4)]
)
def test_a_pod_in_which_it_may_fit_is_let_through(memory, accelerators, pods):
    need = memory_need(EIGHT_BILLION_CONFIG, EIGHT_BILLION, 0.25, 8192)
    check_pod(need._asdict(), memory, accelerators, pods)


@pytest.mark.parametrize(
    ("memory", "accelerators", "says"),
    [
        ("8Gi", 1, "loading the base model takes 15.0 GiB; "),
        ("32Gi", 0, "weights, gradients and optimizer states alone take "),
    ],
)
def test_a_pod_in_which_it_cannot_fit_is_refused(memory, accelerators, says):
    need = memory_need(EIGHT_BILLION_CONFIG, EIGHT_BILLION, 0.25, 1)
    with pytest.raises(InputError, match=f"^the pod's memory limit of {memory} cannot be enough: {says}"):
        check_pod(need._asdict(), memory, accelerators, 1)


def test_without_a_limit_or_a_known_need_nothing_is_refused():
    check_pod({}, "1Gi", 1, 1)
    check_pod(memory_need(EIGHT_BILLION_CONFIG, EIGHT_BILLION, 0.25, 1)._asdict(), None, 1, 1)
