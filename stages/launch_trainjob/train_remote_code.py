"""Part of the training script: whether Python code that lies beside a model may run."""

import sys


def decide_remote_code(trusted: bool) -> None:
    """Makes `trusted` the answer whenever transformers asks whether to run code that lies beside a model.

    Left undecided it asks on the terminal, and mini-trainer (0.6.1 to 0.9.0: utils.get_model_class_from_config,
    gpt_oss_utils, osft_utils) says yes by itself.
    """
    from transformers import dynamic_module_utils

    resolve = dynamic_module_utils.resolve_trust_remote_code

    def decided(trust_remote_code: bool | None, *args, **kwargs) -> bool:
        return resolve(trusted, *args, **kwargs)

    # Others have imported it by name.
    for module in list(sys.modules.values()):
        if module is not None and vars(module).get("resolve_trust_remote_code") is resolve:
            module.resolve_trust_remote_code = decided
