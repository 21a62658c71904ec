"""Part of the training script: keeps an OSFT training out of the directions that are to be kept, after each step."""

import types

from kfp_osft.stages.launch_trainjob.train_end import SAY


def project_parameters_after_each_step() -> None:
    """Has mini-trainer keep OSFT's promise in the versions before 0.8.0, which project the gradient only.

    AdamW scales each element of a projected gradient by its own history, which turns the step out of the free
    directions: part of the model's change then lies in those to keep. mini-trainer 0.8.0 projects U_low and
    V_low after each step (osft_utils.project_parameter_to_orthogonal_space); here it is done the same way.
    """
    import torch
    from mini_trainer import osft_utils

    if hasattr(osft_utils, "project_parameter_to_orthogonal_space"):
        return
    print(f"{SAY}this mini-trainer projects gradients only: projecting the parameters after each step, too")
    wrap_optimizer = osft_utils.optim_wrapper

    def optim_wrapper(optimizer, model):
        optimizer = wrap_optimizer(optimizer, model)
        step = optimizer.step

        def step_and_project(self, *args, **kwargs):
            result = step(*args, **kwargs)
            with torch.no_grad():
                for module in model.modules():
                    if hasattr(module, "osft_params") and hasattr(module, "osft_U_high"):
                        project_low_directions(module)
            return result

        optimizer.step = types.MethodType(step_and_project, optimizer)
        return optimizer

    osft_utils.optim_wrapper = optim_wrapper


def project_low_directions(module) -> None:
    """Takes out of a layer's U_low and V_low what lies in the span of U_high and V_high, in place.

    The weight is U_high diag(S_high) V_high + U_low diag(S_low) V_low, with U of (out, k), V of (k, in). FSDP2 shards
    all of them by rows: the product U_high^T U_low is then a sum over the ranks, and V_high must be gathered.
    """
    import torch
    from torch.distributed.tensor import DTensor

    def local(tensor):
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    u_high, u_low = module.osft_U_high, module.osft_params.U_low
    inside = local(u_high).T @ local(u_low)
    if isinstance(u_low, DTensor) and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(inside)
    local(u_low).sub_(local(u_high) @ inside)
    v_high, v_low = module.osft_V_high, local(module.osft_params.V_low)
    v_high = v_high.full_tensor() if isinstance(v_high, DTensor) else v_high
    v_low.sub_((v_low @ v_high.T) @ v_high)
