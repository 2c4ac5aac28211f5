"""What all tests share: the CPU, as several devices where a test asks for them."""

import os

# Before JAX starts. Eight devices let one process check that results do not depend on their number.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import settings

# Timings of a first call hold a compilation.
settings.register_profile("agcnn", deadline=None)
settings.load_profile("agcnn")
