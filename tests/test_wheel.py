"""The built wheel alone, outside the repository and without a network, draws a picture."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel installed, which sees the dependencies of this one but not its `laur`."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    # a path in a .pth file is searched, but .pth files in it, such as an editable install's, are not
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env" / "bin" / "python"


def _without_network() -> list[str]:
    """What runs a command with no network at all, where this machine lets us; in many containers root may not."""
    command = ["unshare", "--net"]
    if shutil.which(command[0]) is None:
        return []
    allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if allowed else []


def test_the_wheel_alone_draws_a_picture(python: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LAUR_", "PYTHON", "HF_"))}
    environment |= {"LAUR_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    offline = _without_network()
    where = subprocess.run(
        [python, "-c", "import laur; print(laur.__file__)"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(python.parents[1]) in where.stdout
    command = [*offline, str(python), "-m", "laur", "generate", "a red apple", "--steps", "1", "--out", "apple.png"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "apple.png") as image:
        assert image.size == (256, 256)
