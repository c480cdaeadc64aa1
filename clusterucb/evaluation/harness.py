"""Tasks of lm-evaluation-harness, an extra: imported where a task is asked for, and missed in one line."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

import importlib.util
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from clusterucb.config import Harness
from clusterucb.errors import ConfigError
from clusterucb.evaluation.generation import AnyModel


def check_harness(settings: Harness | None) -> None:
    """Raise ConfigError where tasks are asked for and the harness is not installed."""
    if settings is not None and importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            f"evaluation.harness names {', '.join(settings.tasks)}, but lm-evaluation-harness is not installed: "
            f"pip install 'clusterucb-service[harness]', or leave evaluation.harness out"
        )


def harness_results(
    model: AnyModel, tokenizer: PreTrainedTokenizerBase, settings: Harness
) -> dict[str, dict[str, float]]:
    """Return what each task measures, by the harness's own names."""
    check_harness(settings)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=settings.include)
    if unknown := [name for name in settings.tasks if not manager.match_tasks([name])]:
        raise ConfigError(f"lm-evaluation-harness knows no task {unknown[0]!r}: `lm_eval --tasks list` lists them")
    found: Any = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size),
        tasks=list(settings.tasks),
        num_fewshot=settings.few_shot,
        limit=settings.limit,
        task_manager=manager,
        log_samples=False,
    )
    return {
        task: {name: float(value) for name, value in measures.items() if isinstance(value, int | float)}
        for task, measures in found["results"].items()
    }
