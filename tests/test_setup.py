"""`.ci/setup` finds what it needs, says in one line what it cannot find, and does nothing twice.

The machine is a folder of links, and uv a script that writes down how it was called: nothing is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / ".ci" / "setup"
TOOLS = ("cat", "chmod", "cksum", "dirname", "flock", "grep", "mkdir", "mv", "rm", "sed", "sh", "sleep")
OTHERS = {"airflow": "dags/requirements.txt", "function": "kubeflow/cloud_function/requirements.txt"}
"""Environments besides TFX's, and their locks."""

UV = """#!/bin/sh
[ "$1" != --version ] || { echo "uv 0.9.0"; exit; }
echo "$@" >> calls
case $1 in
sync) venv=$UV_PROJECT_ENVIRONMENT ;;
venv) eval "venv=\\${$#}" ;;
pip) venv= ;;
esac
[ "${venv+known}" ] && [ ! -e offline ] || { echo "error: offline" >&2; exit 2; }
[ "$venv" ] || exit 0
sleep 0.2
mkdir -p "$venv/bin"
echo "VIRTUAL_ENV='$PWD/$venv'" > "$venv/bin/activate"
echo "#!/bin/sh" > "$venv/bin/python"
chmod +x "$venv/bin/python"
"""
PYTHON = f"""#!/bin/sh
exec "{sys.executable}" "$@"
"""
# Says that it is what it is asked for.
ANY_PYTHON = """#!/bin/sh
echo "$0"
"""
SAYS = """#!/bin/sh
echo "{}"
"""
BROKEN = """#!/bin/sh
echo "pyenv: $0: command not found" >&2
exit 127
"""


class Machine:
    """A project in a path with a space, an empty home, and a PATH with a dozen basic commands."""

    def __init__(self, root: Path) -> None:
        self.home, self.bin, self.project = root / "home", root / "bin", root / "a project"
        self.python = self.home / ".pyenv" / "versions" / "3.10.13" / "bin" / "python"
        for folder in (self.bin, self.project / ".ci"):
            folder.mkdir(parents=True)
        for tool in TOOLS:
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        shutil.copy(SETUP, self.project / ".ci")
        self.is_a("Linux x86_64", "glibc 2.36")
        for name in ("uv.lock", "pyproject.toml", *OTHERS.values()):
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            (self.project / name).touch()

    def has(self, path: Path, script: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def is_a(self, system: str, libc: str | None) -> None:
        """Debian 12, unless a test says otherwise."""
        self.has(self.bin / "uname", SAYS.format(system))
        self.has(self.bin / "getconf", SAYS.format(libc) if libc else BROKEN)

    def start(self, *what: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", ".ci/setup", *what],
            cwd=self.project,
            env={"PATH": str(self.bin), "HOME": str(self.home), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def set_up(self, *what: str, **variables: str) -> tuple[int, list[str]]:
        process = self.start(*what, **variables)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors.splitlines()

    def calls(self) -> list[str]:
        return (self.project / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def ready(machine: Machine) -> Machine:
    machine.has(machine.bin / "uv", UV)
    machine.has(machine.python, PYTHON)
    assert machine.set_up()[0] == 0
    return machine


def test_without_python_and_uv_one_line_says_what_to_install(machine: Machine) -> None:
    code, errors = machine.set_up()
    assert code != 0
    assert len(errors) == 1
    assert "install" in errors[0] and "CPython 3.10" in errors[0] and "uv" in errors[0]


def test_with_uv_that_cannot_download_python_one_line_says_what_to_install(machine: Machine) -> None:
    machine.has(machine.bin / "uv", UV)
    code, errors = machine.set_up()
    assert code != 0
    assert len(errors) == 1
    assert "CPython 3.10" in errors[0]
    assert machine.calls() == ["python install 3.10"]


def test_with_a_python_that_can_install_no_uv_one_line_says_what_to_install(machine: Machine) -> None:
    machine.has(machine.bin / "python3", BROKEN)
    code, errors = machine.set_up()
    assert code != 0
    assert len(errors) == 1
    assert "install" in errors[0] and "uv" in errors[0]


def test_python_is_found_among_pyenvs_versions_behind_a_shim_that_fails(machine: Machine) -> None:
    machine.has(machine.bin / "uv", UV)
    machine.has(machine.bin / "python3.10", BROKEN)
    machine.has(machine.python, PYTHON)
    assert machine.set_up()[0] == 0
    [call] = machine.calls()
    assert call.startswith("sync ") and "--extra pipeline" in call
    assert call.endswith(f" --python {sys._base_executable}")  # type: ignore[attr-defined]


@pytest.mark.parametrize("script", [BROKEN, "#!/bin/sh\necho uv 0.4.30\n"], ids=["broken", "too old"])
def test_a_uv_of_no_use_is_passed_over(machine: Machine, script: str) -> None:
    machine.has(machine.bin / "uv", script)
    machine.has(machine.home / ".local" / "bin" / "uv", UV)
    machine.has(machine.python, PYTHON)
    assert machine.set_up()[0] == 0
    assert len(machine.calls()) == 1


def test_a_second_call_does_and_says_nothing(ready: Machine) -> None:
    assert ready.set_up() == (0, [])
    assert len(ready.calls()) == 1


@pytest.mark.parametrize("name", ["uv.lock", "pyproject.toml", ".ci/setup"])
def test_a_changed_file_builds_again(ready: Machine, name: str) -> None:
    with (ready.project / name).open("a") as file:
        file.write("\n")
    assert ready.set_up()[0] == 0
    assert len(ready.calls()) == 2


def test_a_deleted_environment_is_built_again(ready: Machine) -> None:
    shutil.rmtree(ready.project / ".venv")
    assert ready.set_up()[0] == 0
    assert len(ready.calls()) == 2


def test_a_moved_project_is_built_again_from_nothing(ready: Machine) -> None:
    leftover = Path(".venv") / "leftover"
    (ready.project / leftover).touch()
    ready.project = ready.project.rename(ready.project.with_name("moved"))
    assert ready.set_up()[0] == 0
    assert len(ready.calls()) == 2
    assert not (ready.project / leftover).exists()


def test_the_call_after_one_that_failed_repairs(ready: Machine) -> None:
    (ready.project / "uv.lock").write_text("another")
    (ready.project / "offline").touch()
    code, errors = ready.set_up()
    assert code != 0
    assert errors[-1] == "error: offline"
    (ready.project / "offline").unlink()
    assert ready.set_up()[0] == 0
    assert ready.set_up() == (0, [])
    assert len(ready.calls()) == 3


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock: uv's own lock keeps the two apart")
def test_of_two_at_once_one_builds(machine: Machine) -> None:
    machine.has(machine.bin / "uv", UV)
    machine.has(machine.python, PYTHON)
    both = [machine.start(), machine.start()]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    assert len(machine.calls()) == 1


def test_the_library_without_tfx_has_an_environment_of_its_own(ready: Machine) -> None:
    code, [line] = ready.set_up("core")
    assert code == 0 and ".core/venv" in line
    assert "--extra" not in ready.calls()[-1] and "--no-dev" in ready.calls()[-1]
    assert ready.set_up("core") == ready.set_up() == (0, [])


@pytest.mark.parametrize("other", OTHERS)
def test_what_cannot_share_tfxs_environment_has_a_python_and_a_lock_of_its_own(ready: Machine, other: str) -> None:
    code, errors = ready.set_up(other)
    assert code != 0
    assert len(errors) == 1
    assert "CPython 3.12" in errors[0]
    python = ready.home / ".pyenv" / "versions" / "3.12.9" / "bin" / "python"
    ready.has(python, ANY_PYTHON)
    assert ready.set_up(other)[0] == 0
    _, asked, made, filled = ready.calls()
    assert asked == "python install 3.12"
    assert made == f"venv --quiet --python {python} .{other}/venv"
    assert filled.startswith("pip sync ") and "--require-hashes" in filled and filled.endswith(OTHERS[other])
    assert ready.set_up(other) == ready.set_up() == (0, [])
    (ready.project / OTHERS[other]).write_text("another")
    assert ready.set_up() == (0, [])
    assert ready.set_up(other)[0] == 0
    assert len(ready.calls()) == 5


@pytest.mark.parametrize("other", OTHERS)
def test_a_lock_that_cannot_be_renewed_builds_nothing(ready: Machine, other: str) -> None:
    ready.has(ready.home / ".pyenv" / "versions" / "3.12.9" / "bin" / "python", ANY_PYTHON)
    ready.has(ready.bin / "curl", BROKEN)
    (ready.project / OTHERS[other]).with_suffix(".in").touch()
    (ready.project / "offline").touch()
    code, _ = ready.set_up(f"{other}-lock")
    assert code != 0
    assert ready.calls()[-1].startswith("pip compile ")


def of_pyenv(machine: Machine, *versions: str) -> None:
    for version in versions:
        machine.has(machine.home / ".pyenv" / "versions" / version / "bin" / "python", ANY_PYTHON)


@pytest.mark.parametrize(
    ("system", "libc", "tfx", "why"),
    [
        ("Linux x86_64", "glibc 2.36", "TFX 1.16 on Python 3.10", "glibc 2.39, and this system has 2.36"),
        ("Linux x86_64", "glibc 2.4", "TFX 1.16 on Python 3.10", "glibc 2.39, and this system has 2.4"),
        ("Linux x86_64", "glibc 2.38", "TFX 1.16 on Python 3.10", "glibc 2.39, and this system has 2.38"),
        ("Linux x86_64", "glibc 2.39", "TFX 1.21 on Python 3.13", "glibc 2.39"),
        ("Linux x86_64", "glibc 2.41", "TFX 1.21 on Python 3.13", "glibc 2.41"),
        ("Darwin arm64", None, "TFX 1.21 on Python 3.13", "Apple silicon"),
        ("Darwin x86_64", None, "TFX 1.16 on Python 3.10", "Intel"),
    ],
)
def test_the_system_decides_which_tfx_it_gets_and_one_line_says_why(
    machine: Machine, system: str, libc: str | None, tfx: str, why: str
) -> None:
    machine.has(machine.bin / "uv", UV)
    of_pyenv(machine, "3.10.13", "3.11.7", "3.12.9", "3.13.1")
    machine.is_a(system, libc)
    code, [line] = machine.set_up()
    assert code == 0
    assert tfx in line and why in line
    assert f"/{tfx.split()[-1]}." in machine.calls()[-1]


def test_of_the_pythons_for_todays_tfx_the_newest_that_is_here_is_taken(machine: Machine) -> None:
    machine.has(machine.bin / "uv", UV)
    of_pyenv(machine, "3.10.13", "3.11.7", "3.12.9")
    machine.is_a("Linux x86_64", "glibc 2.39")
    assert "Python 3.12" in machine.set_up()[1][0]


def test_without_a_python_for_todays_tfx_uv_is_asked_for_the_newest(machine: Machine) -> None:
    machine.has(machine.bin / "uv", UV)
    of_pyenv(machine, "3.10.13")
    machine.is_a("Linux x86_64", "glibc 2.39")
    code, [line] = machine.set_up()
    assert code != 0
    assert "CPython 3.13" in line
    assert machine.calls() == ["python install 3.13"]


def test_who_asks_for_a_python_gets_it_and_the_systems_own_afterwards(ready: Machine) -> None:
    of_pyenv(ready, "3.12.9")
    code, [line] = ready.set_up(RETAKE_PYTHON="3.12")
    assert code == 0
    assert "TFX 1.21 on Python 3.12, as RETAKE_PYTHON asks for it" in line
    assert "/3.12.9/" in ready.calls()[-1]
    assert ready.set_up(RETAKE_PYTHON="3.12") == (0, [])
    assert "TFX 1.16 on Python 3.10" in ready.set_up()[1][0]


@pytest.mark.parametrize(
    ("system", "libc", "asked"),
    [("Linux aarch64", "glibc 2.41", ""), ("Linux x86_64", None, ""), ("Linux x86_64", "glibc 2.41", "3.9")],
)
def test_what_tfx_does_not_run_on_is_told_in_one_line(
    ready: Machine, system: str, libc: str | None, asked: str
) -> None:
    ready.is_a(system, libc)
    code, [line] = ready.set_up(**({"RETAKE_PYTHON": asked} if asked else {}))
    assert code != 0
    assert (asked or system) in line
    assert len(ready.calls()) == 1


def test_a_word_that_is_no_environment_is_an_error(machine: Machine) -> None:
    code, errors = machine.set_up("airfow")
    assert code != 0
    assert len(errors) == 1
    assert "airfow" in errors[0] and "airflow" in errors[0]
