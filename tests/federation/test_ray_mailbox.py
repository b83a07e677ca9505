"""What processes that hold no tensor have to import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["ray_mailbox", "ray_told"])
def test_the_mailbox_and_a_runs_controller_import_no_torch(module: str) -> None:
    program = f"import sys, fedkim_ray.federation.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
