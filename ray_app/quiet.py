"""What stands on standard error is this program's alone: the libraries' bars and warnings are kept off it.

Said at the edge, once, and only about presentation: what a library cannot do still raises.
"""

import sys
import warnings


def quieten_libraries() -> None:
    """Silence transformers' bars and log, and the warnings that peft causes by how it calls it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)  # peft then sets it


def print_note(text: str) -> None:
    """Say something beside the progress of a run."""
    print(f"note: {text}", file=sys.stderr, flush=True)
