"""Each training of a pipeline needs a pvc_path of its own, since each folder has one final_model.

Only what is certain when the pipeline is compiled is refused: paths that are one text. Two paths that turn out to be
the same when they run keep their checkpoints and models apart, and share final_model.
"""

import posixpath
import re
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import pipeline_channel, pipeline_context, tasks_group
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from kfp_osft.shared.reporting.errors import InputError

# kfp.dsl.pipeline_channel, _PIPELINE_CHANNEL_REGEX: how a channel stands in a text.
_CHANNEL = re.compile(r"{{channel:task=[^;]*;name=([^;]*);type=[^;]*;?}}")


class _Use(NamedTuple):
    folder: str
    group: tasks_group.TasksGroup
    tasks: set[str]


_uses: weakref.WeakKeyDictionary[pipeline_context.Pipeline, list[_Use]] = weakref.WeakKeyDictionary()


def check_own_folder(pvc_path: Any, tasks: Iterable[dsl.PipelineTask]) -> None:
    """Notes a training that was added to the pipeline that is being defined.

    Args:
        pvc_path: a text, or a channel.
        tasks: of the training.

    Raises:
        InputError: it is in a dsl.ParallelFor on whose items pvc_path does not depend, or the pipeline has a training
            with the same pvc_path that runs whenever this one does, or the other way round, and from whose outputs
            this one does not begin.
    """
    pipeline = pipeline_context.Pipeline.get_default_pipeline()
    if pipeline is None:
        return
    group = pipeline.get_parent_group()
    for loop in _chain(group):
        if isinstance(loop, tasks_group.ParallelFor) and not _depends_on(pvc_path, loop, pipeline):
            raise InputError(
                f"pvc_path={_source(pvc_path)} is one folder for all iterations of the ParallelFor, whose trainings "
                f"would replace each other's final_model; make it differ, as in pvc_path=f\"{_source(pvc_path)}/"
                f'{_item(loop)}"'
            )
    folder = posixpath.normpath(str(pvc_path).replace(dsl.WORKSPACE_PATH_PLACEHOLDER, WORKSPACE_MOUNT_PATH))
    earlier = _uses.setdefault(pipeline, [])
    names = {task.name for task in tasks}
    conditions, before = _conditions(group), _upstream(names, pipeline)
    for use in earlier:
        others = _conditions(use.group)
        if use.folder == folder and (conditions <= others or others <= conditions) and not use.tasks & before:
            raise InputError(
                f"pvc_path={_source(pvc_path)} is given to two trainings of the pipeline, which would replace each "
                f'other\'s final_model; give each a folder of its own, as in pvc_path=f"{_source(pvc_path)}/second"'
            )
    earlier.append(_Use(folder, group, names))


def _upstream(names: set[str], pipeline: pipeline_context.Pipeline) -> set[str]:
    """The tasks that end before these begin, as far as it is known by now: .after may still be called."""
    found: set[str] = set()
    left = set(names)
    while left:
        task = pipeline.tasks[left.pop()]
        inputs = {channel.task_name or "" for channel in task.channel_inputs}
        left |= ((inputs | set(task.dependent_tasks)) & pipeline.tasks.keys()) - found
        found |= left
    return found


def _chain(group: tasks_group.TasksGroup | None) -> Iterator[tasks_group.TasksGroup]:
    while group is not None:
        yield group
        group = group.parent_task_group


def _conditions(group: tasks_group.TasksGroup) -> set[int]:
    return {id(each) for each in _chain(group) if each.group_type == tasks_group.TasksGroupType.CONDITION}


def _depends_on(pvc_path: Any, loop: tasks_group.ParallelFor, pipeline: pipeline_context.Pipeline) -> bool:
    """Whether it holds the loop's item, a part of it, or the output of a task in the loop."""
    item = loop.loop_argument.name
    for channel in pipeline_channel.extract_pipeline_channels_from_any(pvc_path):
        if channel.name == item or channel.name.startswith(f"{item}-"):
            return True
        task = pipeline.tasks.get(channel.task_name or "")
        if task is not None and any(group is loop for group in _chain(task.parent_task_group)):
            return True
    return False


def _item(loop: tasks_group.ParallelFor) -> str:
    """How an f-string takes an item, or a field of it."""
    items = loop.loop_argument.items_or_pipeline_channel
    first = items[0] if isinstance(items, list) and items else None
    return f"{{item.{next(iter(first))}}}" if isinstance(first, dict) and first else "{item}"


def _source(pvc_path: Any) -> str:
    """What stands for it in an f-string of the caller's."""
    text = str(pvc_path).replace(dsl.WORKSPACE_PATH_PLACEHOLDER, "{dsl.WORKSPACE_PATH_PLACEHOLDER}")
    return _CHANNEL.sub(r"{\1}", text).rstrip("/")
