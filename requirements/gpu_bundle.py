"""Gathers what a CUDA machine without a network lacks to train and to run the GPU tests: `make gpu-bundle`.

    python requirements/gpu_bundle.py FOLDER [--target FILE] [--te-wheels FOLDER]
    python requirements/gpu_bundle.py --list

The machine is x86-64 Linux with CPython 3.12 and torch 2.11 for CUDA 13.0. FOLDER gets `wheels/`, at the versions of
requirements/runtime.txt, dev.txt (pytest alone) and gpu.txt (Transformer Engine); `medatron.tar.gz`, the commit that is
checked out; `install.sh` and README. What --target names, one package a line as `pip list --format=freeze` has it, is
there already and stays behind.

Transformer Engine's library is 180 MB for all cards, and its extension for torch has to be built where it runs;
finished wheels of its three parts, reduced to one card or built elsewhere, are taken from --te-wheels. Needs git, and
pip with an index; without --te-wheels torch and wheel, which pip asks before it hands out the extension's source.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
PYTHON_VERSION = "3.12"
# Tags that wheels on the index bear, up to the C library of Ubuntu 24.04; pip matches each to the letter.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]
_PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
# On the index as source alone, and pure Python.
_SOURCES = {"antlr4-python3-runtime"}
# Source too, but what comes of it is for one machine.
_EXTENSION = "transformer-engine-torch"
# Of dev.txt, what `pytest tests/gpu` imports.
_TESTS = {"iniconfig", "pluggy", "pytest", "pytest-timeout"}

_README = """\
Medatron {revision} for a machine with an NVIDIA GPU, Python 3.12 and torch 2.11 for CUDA 13.0, without a network.
bash install.sh FOLDER; then the line that it prints, and in FOLDER/medatron: bash benchmarks/gpu_visit.sh RESULTS
"""


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: Path) -> dict[str, str]:
    """`name==version` lines of a requirements file, by name."""
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return {normal(line.split("==")[0]): line for line in lines if line}


def lacking(target: Path) -> list[str]:
    """What is to be gathered, as `name==version`."""
    tests = {name: pin for name, pin in pins(REQUIREMENTS / "dev.txt").items() if name in _TESTS}
    wanted = {**pins(REQUIREMENTS / "runtime.txt"), **tests, **pins(REQUIREMENTS / "gpu.txt")}
    # A line may be `name @ file:...` or `name==version`.
    there = {normal(re.split(r"==| @ ", name)[0]) for name in pins(target)}
    return [pin for name, pin in sorted(wanted.items()) if name not in there]


def gather(folder: Path, wanted: list[str], te_wheels: Path | None) -> None:
    """Fills FOLDER/wheels."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    names = {normal(pin.split("==")[0]): pin for pin in wanted}
    if te_wheels is not None:
        for name in [name for name in names if name.startswith("transformer-engine")]:
            version = names.pop(name).split("==")[1]
            found = sorted(te_wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
            if len(found) != 1:
                sys.exit(
                    f"{te_wheels}: {len(found)} wheels of {name} {version}, expected one; requirements/gpu.txt pins it"
                )
            shutil.copy(found[0], wheels)
    sources = [names.pop(name) for name in sorted(_SOURCES & names.keys())]
    extension = names.pop(_EXTENSION, None)
    missing = [name for name in ("torch", "wheel") if extension and importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"{sys.executable} has no {' and no '.join(missing)}, without which pip does not fetch the source of "
            f"{extension}; set PYTHON to one that has them, or TE_WHEELS to a folder with finished wheels"
        )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    place = ["--python-version", PYTHON_VERSION, "--implementation", "cp"]
    place += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    download = [*pip, "download", "--no-deps", "--dest", str(wheels)]
    _run([*download, "--only-binary", ":all:", *place, *names.values()])
    if sources:
        _run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), *sources])
    if extension:
        _run([*download, "--no-build-isolation", "--no-binary", _EXTENSION, extension])


def _run(command: list[str]) -> None:
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(f"{' '.join(command[:5])} ... ended with {code}; its message stands above")


def _code(folder: Path) -> str:
    """Writes the commit's files into FOLDER/medatron.tar.gz, a file REVISION among them; returns what that says."""
    ask = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    revision = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    archive = ["git", "-C", str(ROOT), "archive", f"--add-virtual-file=REVISION:{revision}", "--format=tar.gz"]
    _run([*archive, f"--output={folder.resolve() / 'medatron.tar.gz'}", "HEAD"])
    return revision


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="made new; what stands there must be a bundle")
    parser.add_argument("--target", type=Path, default=REQUIREMENTS / "gpu_target.txt")
    parser.add_argument("--te-wheels", type=Path)
    parser.add_argument("--list", action="store_true", help="only print what would be gathered")
    chosen = parser.parse_args()
    wanted = lacking(chosen.target)
    if chosen.list:
        print("\n".join(wanted))
        return
    folder: Path | None = chosen.folder
    if folder is None:
        parser.error("FOLDER is missing")
    if folder.exists() and any(folder.iterdir()) and not (folder / "install.sh").is_file():
        sys.exit(f"{folder}: exists and is no bundle; choose another folder")
    # Whole or not at all: what is under way has another name.
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        gather(partial, wanted, chosen.te_wheels)
        revision = _code(partial)
        shutil.copy(REQUIREMENTS / "gpu_install.sh", partial / "install.sh")
        (partial / "README").write_text(_README.format(revision=revision))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files = [file for file in folder.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 2**20
    print(
        f"{folder}: {len(list((folder / 'wheels').iterdir()))} packages, {size:.1f} MiB in all; see {folder / 'README'}"
    )


if __name__ == "__main__":
    main()
