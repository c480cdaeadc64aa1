"""Keep the libraries' bars and warnings off standard error: what stands there is this program's alone.

Said at the edge, once, and only about presentation: what a library cannot do still raises.
"""

import warnings


def quieten_libraries() -> None:
    """Silence transformers' bars and log, and the one warning that peft's use of it causes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
