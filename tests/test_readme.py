"""The READMEs agree with the code's declarations, and everything they show runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.s3 import S3Server
from kfp_osft import stages
from kfp_osft.pipelines import osft_pipeline
from kfp_osft.shared.oci import base_image
from kfp_osft.shared.parameters.declarations import ALL_PARAMETERS
from kfp_osft.shared.parameters.parameter import Parameter
from kfp_osft.stages.component import STAGE_IMAGE

_ROOT = Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(text: str, language: str) -> list[str]:
    return [code for found, code in _BLOCK.findall(text) if found == language]


def _stage_readme(name: str) -> str:
    return (_ROOT / "stages" / name / "README.md").read_text(encoding="utf-8")


def parameter_table() -> str:
    """The README's table; `python tests/test_readme.py` writes it there."""

    def default(parameter: Parameter) -> str:
        if parameter.always_passed or not parameter.optional:
            return f"`{parameter.pipeline_default!r}`".replace("'", '"')
        return f"*`{parameter.when_left_out!r}`*".replace("'", '"')

    rows = [
        f"| `{parameter.name}` | {parameter.type.__name__} | {default(parameter)} | {parameter.doc} | "
        f"{parameter.allowed} |"
        for parameter in ALL_PARAMETERS
    ]
    return "\n".join(["| parameter | type | default | what | allowed |", "|---|---|---|---|---|", *rows])


def test_the_parameter_table_is_the_declaration():
    assert parameter_table() in _README, "write it with: python tests/test_readme.py"


@pytest.mark.parametrize("name", stages.__all__)
def test_a_stages_readme_names_all_its_inputs_and_outputs(name: str):
    text = _stage_readme(name)
    spec = getattr(stages, name).component_spec
    outputs = [output for output in spec.outputs if output != "Output" or name == "export_model"]
    inputs = [name for name in spec.inputs if not name.startswith("training_") or name == "training_config"]

    for parameter in [*inputs, *outputs]:
        assert f"| `{parameter}` |" in text
    assert "**Errors**" in text


def test_each_parameter_of_the_pipeline_is_in_a_table_once():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", _README, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\w+", row)]

    for name in osft_pipeline.component_spec.inputs:
        assert named.count(name) == 1, name


def test_the_images_to_mirror_are_those_that_the_stages_use():
    for image in (STAGE_IMAGE, base_image.DEFAULT_BASE):
        assert f"`{image}`" in _README.split("must mirror:")[1].split("\n\n")[1]


def test_each_command_is_run_by_a_test_or_needs_what_no_test_has():
    """Blocks in sh are run; so are those in yaml and python. In bash are those of other programs."""
    languages = {language for language, _ in _BLOCK.findall(_README)}
    assert languages == {"mermaid", "sh", "bash", "yaml", "python"}
    run = ("kfp-osft demo", "pytest", "kfp-osft run", "oc apply", "kfp-osft push", "kfp-osft compile", "kfp --", "grep")
    commands = _blocks(_README, "sh")
    assert [word for word in run if not [command for command in commands if word in command]] == []
    assert [command for command in commands if not [word for word in run if word in command]] == []
    assert [block.split()[0] for block in _blocks(_README, "bash")] == ["vllm", "pip", "echo"]


def test_the_links_lead_somewhere():
    for source in (_ROOT / "README.md", *_ROOT.glob("stages/*/*.md")):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", source.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (source.parent / link).exists(), f"{source}: {link}"


def test_the_messages_that_the_readme_explains_are_in_the_code():
    files = [file for room in ("shared", "stages", "pipelines") for file in (_ROOT / room).rglob("*.py")]
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    # A message may be broken over several literals of the source.
    joined = re.sub(r'"\n\s+f?"', "", sources)
    messages = re.findall(r"^\| `([^`]+)` \| ", _README.split("| it says |")[1], re.MULTILINE)

    assert len(messages) >= 9
    for message in messages:
        assert message in joined, message


def test_ci_runs_the_test_command_of_the_readme():
    """The shell finds the same block as this test, and it runs the whole suite in a new environment."""
    (command,) = _blocks(_README.split("## Run the tests")[1].split("\n## ")[0], "sh")
    awk = re.search(r"^command=\$\((.*)\)$", (_ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)[1]
    found = subprocess.run(["bash", "-c", awk], cwd=_ROOT, capture_output=True, text=True, check=True).stdout

    assert found == command
    assert command.endswith("python -m pytest -n 2\n") and "python3 -m venv" in command


def test_the_commands_install_extras_that_are_declared():
    import tomllib

    extras = set(tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for command in _blocks(_README, "sh"):
        for named in re.findall(r"\[([\w,]+)\]", command):
            assert set(named.split(",")) <= extras


@pytest.mark.parametrize("name", ["my_pipeline", "sweep", "disconnected"])
def test_the_pipelines_of_the_readme_compile(tmp_path: Path, name: str):
    (code,) = [code for code in _blocks(_README, "python") if f'"{name}.yaml")' in code]

    _run([sys.executable, _written(tmp_path / "example.py", code)], tmp_path)

    assert "export-model" in (tmp_path / f"{name}.yaml").read_text()


def test_the_compile_command_of_the_readme_writes_the_files_and_the_code_can_be_reviewed(tmp_path: Path):
    (compile_,) = [command for command in _blocks(_README, "sh") if "kfp-osft compile" in command]
    (review,) = [command for command in _blocks(_README, "sh") if "grep" in command]
    (apply,) = [command for command in _blocks(_README, "sh") if "oc apply" in command]

    _run_command(compile_, tmp_path)

    assert {file.name for file in (tmp_path / "compiled").iterdir()} == {
        "osft_pipeline.yaml",
        "kfp-osft.yaml",
        "kfp-osft-evaluate.yaml",
        *(f"{name}.yaml" for name in stages.__all__),
    }
    assert (tmp_path / apply.split()[-1]).is_file()
    listed = _run(["bash", "-c", review], tmp_path).splitlines()
    assert "kfp_osft/stages/export_model/export.py" in listed


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(
    tmp_path: Path, tiny_model: Path, chat_rows: Path, store: S3Server
):
    command, afterwards = [command for command in _blocks(_README, "sh") if "kfp-osft run" in command]
    _set_the_scene(tmp_path, tiny_model, chat_rows)

    output = _run_command(command, tmp_path)

    first = (tmp_path / "out/final_model/model.safetensors").read_bytes()
    assert (tmp_path / "out/loss_chart.html").is_file()
    for words in ("[3/6] Train with OSFT", "step 8/8", "Loss  ", "Model  ", "Chart  "):
        assert words in output
    for noise in ("KFP Executor", "executor_input", "\x1b["):
        assert noise not in output

    repeat, evaluate, check, compare, ask, train_on = afterwards.splitlines()
    _run_command(repeat, tmp_path)
    assert (tmp_path / "again/final_model/model.safetensors").read_bytes() == first
    assert "held-out rows" in _run_command(evaluate, tmp_path)
    assert "limited matrices" in _run_command(check, tmp_path)
    _run_command(compare, tmp_path)
    assert (tmp_path / "comparison.html").is_file()
    _run_command(ask, tmp_path)
    _run_command(train_on, tmp_path)
    assert len([*(tmp_path / "out/models").iterdir()]) == 2
    (push,) = [command for command in _blocks(_README, "sh") if "kfp-osft push" in command]
    _run_command(push.partition("#")[0], tmp_path)
    listed = store.client.list_objects_v2(Bucket="models", Prefix="helpdesk/")["Contents"]
    assert "helpdesk/model.safetensors" in {entry["Key"] for entry in listed}


@pytest.mark.slow
def test_the_settings_and_the_sequence_of_the_readme_are_read(tmp_path: Path, tiny_model: Path, chat_rows: Path):
    settings, tasks = _blocks(_README, "yaml")
    _set_the_scene(tmp_path, tiny_model, chat_rows)
    (tmp_path / "config.yaml").write_text(settings, encoding="utf-8")
    (tmp_path / "tasks.yaml").write_text(tasks, encoding="utf-8")

    assert "2 epochs" in _run_command("kfp-osft run config.yaml --dry-run", tmp_path)
    _run_command("kfp-osft compile --sequence tasks.yaml", tmp_path)
    assert (tmp_path / "compiled/osft_sequence.yaml").is_file()


@pytest.mark.slow
def test_the_examples_in_python_run_one_after_the_other(tmp_path: Path, tiny_model: Path, chat_rows: Path):
    _set_the_scene(tmp_path, tiny_model, chat_rows)
    examples = [code for name in stages.__all__ for code in _blocks(_stage_readme(name), "python")]
    examples += [code for code in _blocks(_README, "python") if "local.init" in code]
    assert len(examples) == len(stages.__all__) + 2

    for number, code in enumerate(examples):
        _run([sys.executable, _written(tmp_path / f"example_{number}.py", code)], tmp_path)

    assert (tmp_path / "workspace/final_model/model.safetensors").is_file()
    assert len([*tmp_path.glob("sweep/lr-*/final_model/model.safetensors")]) == 2
    assert "`kfp-osft compare sweep`" in _README
    _run_command("kfp-osft compare sweep", tmp_path)
    assert (tmp_path / "comparison.html").is_file()


def _set_the_scene(folder: Path, model: Path, rows: Path) -> None:
    (folder / "model").symlink_to(model)
    for name in ("rows.jsonl", "second.jsonl"):
        (folder / name).symlink_to(rows)


def _written(file: Path, code: str) -> str:
    file.write_text(code, encoding="utf-8")
    return str(file)


def _run_command(command: str, folder: Path) -> str:
    """Runs a line that begins with kfp-osft, with the one of this environment."""
    program, *arguments = shlex.split(command)
    return _run([str(Path(sys.executable).parent / program), *arguments], folder)


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


if __name__ == "__main__":
    marks = (
        "<!-- parameters: made from kfp_osft.shared.parameters, checked by tests/test_readme.py -->\n",
        "\n<!-- end of parameters -->",
    )
    before, rest = _README.split(marks[0])
    (_ROOT / "README.md").write_text(
        before + marks[0] + parameter_table() + marks[1] + rest.split(marks[1])[1], encoding="utf-8"
    )
