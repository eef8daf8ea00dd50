"""Where the GPU tests run: on the GPU of this machine, or, asked for, in their small form on its CPU."""

from __future__ import annotations

import os

import pytest

from conversion.device import on_gpu

ON_GPU = on_gpu()
_ASKED = os.environ.get("MEDATRON_GPU_TESTS_ON_CPU") == "1"
# TF32 would part float32 from the reference by a thousandth. Transformer Engine's recipe reads its scales' format when
# it is imported. Compilers of torch.compile would be children of a rank, whose writers the tests count.
_GPU = {
    "MEDATRON_DEVICE": "",
    "OMP_NUM_THREADS": "4",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "NVTE_FP8_BLOCK_SCALING_FP32_SCALES": "1",
}
# What `tests.conftest.start` is to set beside its own, which says CPU.
ENVIRONMENT = _GPU if ON_GPU else {}

gpu_tests = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (ON_GPU or _ASKED), reason="no NVIDIA GPU here; MEDATRON_GPU_TESTS_ON_CPU=1 runs the small form on CPU"
    ),
]
