"""How a command ends, whatever stops it: the sentence, the exit code, and nothing of Python's own."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conversion import command
from conversion.errors import ConversionError
from tests.conftest import REPOSITORY

# Prints a line, so that standard output matters, and does what a test asks for.
_PROGRAM = """
import sys
from conversion import command

def main():
    print("first", flush=False)
{body}

sys.exit(command.run(main, name="told"))
"""


def _run(
    body: str, shell: str = "{}", unbuffered: bool = False, program: str = _PROGRAM
) -> subprocess.CompletedProcess[str]:
    program = program.format(body=textwrap.indent(textwrap.dedent(body) or "pass", "    "))
    line = shell.format(f"{sys.executable} -c '{program}'")
    # Unbuffered, a print fails by itself; with a buffer, its end does.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "shell", "code", "said"),
    [
        ("return 7", "{}", 7, ""),
        ("sys.exit(75)", "{}", 75, ""),
        ('sys.exit("a sentence")', "{}", 1, "a sentence\n"),
        ("pass", "{} >&-", 0, ""),
        ("pass", "{} >&- 2>&- <&-", 0, ""),
        ("pass", "{} | true", 141, ""),
        ('print("x" * 10**6)', "{} | head -c 1", 141, ""),
        ("pass", "{} >/dev/full", 1, "told: standard output: No space left on device; free some space there"),
        ('print("x" * 10**6)', "{} >/dev/full", 1, "told: standard output: No space left on device"),
        ('open("/no/where", "w")', "{}", 1, "told: /no/where: No such file or directory; check the path"),
        ('open("/dev/null/x", "w")', "{}", 1, "told: /dev/null/x: Not a directory; a file stands where a folder"),
        ('open("/dev/null/x", "w")', "{} >/dev/full", 1, "told: /dev/null/x: Not a directory"),
        (
            """
            with command.naming("/dev/full"), open("/dev/full", "w") as file:
                file.write("x")
            """,
            *(
                "{}",
                1,
                "told: /dev/full: No space left on device; free some space there, or choose a place with more\n",
            ),
        ),
        # A file that is opened takes no number of a stream that the caller closed, so that nothing is printed into it.
        (
            """
            import tempfile
            with tempfile.TemporaryFile() as file:
                print("into the file?", flush=True)
                sys.exit(file.fileno() < 3 or len(file.read()))
            """,
            *("{} >&-", 0, ""),
        ),
    ],
)
def test_every_end_is_an_exit_code_and_a_sentence(body: str, shell: str, code: int, said: str) -> None:
    done = _run(body, shell)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


@pytest.mark.parametrize(("shell", "code"), [("{} >/dev/full", 1), ("{} | true", 141)])
def test_output_without_a_buffer_fails_alike(shell: str, code: int) -> None:
    """As in the job scripts."""
    done = _run("import time; time.sleep(0.3); print()", shell, unbuffered=True)
    assert done.returncode == code
    assert done.stderr.startswith("told: standard output: No space left on device;" if code == 1 else "")
    assert done.stderr.count("\n") == (code == 1)


@pytest.mark.parametrize("shell", ["{} | true", "{} >/dev/full", "{} 2>&1 | true", "{} >/dev/full 2>&1", "{} >&- 2>&-"])
def test_work_of_hours_outlives_its_output(shell: str, tmp_path: Path) -> None:
    """Whatever is printed, buffered or at once, on either stream; what can be told is told once."""
    work = f"""
    import time
    time.sleep(0.3)
    for _ in range(3):
        print("x" * 10**6)
        print("step", flush=True)
        print("a word", file=sys.stderr)
    open("{tmp_path / "done"}", "w")
    """
    done = _run(work, shell, program=_PROGRAM.replace("print(", "command.outlive_output(); print(", 1))
    assert done.returncode == 0
    assert (tmp_path / "done").exists()
    told = 0 if "2>" in shell else 1
    assert done.stderr.count("standard output takes no more (") == told
    assert done.stderr.count("a word\n") == 3 * told


def test_an_error_that_nobody_expected_keeps_its_traceback() -> None:
    done = _run("{}[0]")
    assert (done.returncode, "KeyError: 0" in done.stderr, "Traceback" in done.stderr) == (1, True, True)


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("import time; print(1, flush=True); time.sleep(60)", ""),
        # Cleaning up after the first Ctrl-C takes no harm from the same one coming from a launcher as well.
        (
            """
            import os, signal, time
            print(1, flush=True)
            try:
                time.sleep(60)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                print("cleaned", flush=True)
            """,
            "cleaned\n",
        ),
        # An import that turns whatever happens inside it into something of its own, as some libraries do.
        (
            """
            import tempfile, pathlib
            with tempfile.TemporaryDirectory() as folder:
                text = "import time\\ntry:\\n  print(1, flush=True); time.sleep(60)\\nexcept BaseException:\\n  "
                pathlib.Path(folder, "swallows.py").write_text(text + "time.sleep(60)")
                sys.path.insert(0, folder)
                import swallows
            """,
            "",
        ),
    ],
)
def test_ctrl_c_ends_it_at_once_with_130(body: str, after: str) -> None:
    program = _PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background is deaf to Ctrl-C, and so would its children be.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "1":
        pass
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (130, after, "interrupted\n")
    assert time.monotonic() - began < 20


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().err


def test_errors_of_ours_are_told_with_the_status_that_is_asked_for(shown: Callable[[], str]) -> None:
    def refuse() -> None:
        raise ConversionError("weights: gone; copy them again")

    assert command.run(refuse) == 1
    assert shown() == "error: weights: gone; copy them again\n"
    assert command.run(refuse, name="preflight", status=2) == 2
    assert shown() == "preflight: weights: gone; copy them again\n"
    with pytest.raises(ConversionError):
        command.run(refuse, errors=(ValueError,))


def test_after_a_command_ctrl_c_is_as_it_was_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert command.run(lambda: None) == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"),
            "a/b: No space left on device; free some space there",
        ),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "a"), "free some of your quota there"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "a"), "a: Read-only file system; choose a place that can be"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "a"), "a: Permission denied; ask for access to it"),
        (OSError(errno.EISDIR, os.strerror(errno.EISDIR), "a"), "a folder stands where a file is needed"),
        (OSError(errno.EEXIST, os.strerror(errno.EEXIST), "a"), "a: File exists; something else stands there"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "a"), "choose a shorter name"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files; raise the limit of open files"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "a"), "a: Input/output error"),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "a", None, "b"), "a to b: No such file or directory"),
        (FileNotFoundError("a: no such data file; write one"), "a: no such data file; write one"),
    ],
)
def test_what_the_file_system_refuses_is_said_with_the_fix(error: OSError, said: str) -> None:
    assert said in command.explain(error)


def test_a_path_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert command.path_argument("~/a b=ü") == Path("/home/someone/a b=ü")
    assert command.path_argument("~nobody-here/x") == Path("~nobody-here/x")
    with pytest.raises(argparse.ArgumentTypeError, match="is a variable of the shell unset"):
        command.path_argument("")
