"""Processes that hold no model start without the libraries that bring one: these take longer than all the others."""

import subprocess
import sys

ROOMS = ("coordinator", "keeper", "gang", "gradient_worker", "training")


def test_no_model_library_is_imported_before_a_model_is_loaded() -> None:
    rooms = ", ".join(f"actors.{name}" for name in ROOMS)
    asked = f"import sys, {rooms}; print({{'peft', 'transformers'}} & {{*sys.modules}} or 'none')"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "none\n"
