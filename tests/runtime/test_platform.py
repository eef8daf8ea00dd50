"""On a CPU the memory of freed tensors serves the next ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Pages that the system hands out for the last of 14 tensors of 40 MiB in turn, which has 10,240 of them. glibc reuses
# aligned memory from about the tenth on only.
_FAULTS = """
import resource, sys, torch
from recipes.runtime.platform import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(14):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library than glibc")
def test_freed_memory_is_kept() -> None:
    kept, as_it_is = (
        int(subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, check=True, timeout=60).stdout)
        for how in ("kept", "as it is")
    )
    assert kept < 100
    assert as_it_is > 9000
