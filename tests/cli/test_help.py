"""What a new user sees first, and that it costs nothing heavy."""

import subprocess
import sys

import pytest

from laur import __version__

COMMANDS = ["generate", "reproduce", "inspect", "models", "adapters", "doctor", "bench", "train", "evaluate"]


def test_help_names_every_command(laur) -> None:
    outcome = laur("--help")
    assert outcome.code == 0
    assert outcome.err == ""
    for command in COMMANDS:
        assert command in outcome.out


def test_no_command_shows_the_same_help(laur) -> None:
    assert laur().out == laur("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_explained(laur, command) -> None:
    outcome = laur(command, "--help")
    assert outcome.code == 0
    for line in outcome.out.splitlines():
        if line.startswith("│ --"):
            assert len(line.strip("│ ").split("  ")) > 1, f"no words for {line}"


def test_version(laur) -> None:
    assert laur("--version").out == f"laur {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from laur.cli.app import run\n"
        "assert run(['generate', '--help']) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'safetensors', 'psutil'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
