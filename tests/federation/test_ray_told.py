"""What the controller of a member's run has to import."""

import subprocess
import sys


def test_a_controller_imports_no_torch() -> None:
    program = "import sys, fedkim_ray.federation.ray_told; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
