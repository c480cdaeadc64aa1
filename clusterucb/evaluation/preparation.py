"""What can be refused before an evaluation computes anything; then the examples as tokens.

Invariant: a new folder exists afterwards only if the evaluation can start.
"""

from clusterucb.checkpoint.model import check_model, load_tokenizer
from clusterucb.config import Gradients, RunConfig
from clusterucb.data.chat import ChatEncoder
from clusterucb.evaluation.harness import check_harness
from clusterucb.evaluation.held_out import held_out_rows, tokenise_held_out, tokens_of
from clusterucb.evaluation.questions import questions
from clusterucb.run.preparation import Claim
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tokenisation import Progress


def prepare_evaluation(config: RunConfig, folder: RunFolder, progress: Progress) -> tuple[str, ...]:
    """Check, claim the folder, and tokenise; returns what the user must hear."""
    evaluation = config.evaluation
    held_out_rows(evaluation)
    check_harness(evaluation.harness)
    check_model(config.model.model_copy(update={"moments": None}), Gradients())
    claim = Claim(config, folder, "evaluate")
    try:
        _, notes = tokenise_held_out(config, folder, progress)
        if evaluation.exact_match is not None:
            encoder = ChatEncoder(load_tokenizer(config.model), tokens_of(config.tokens, evaluation))
            questions(evaluation, evaluation.exact_match, encoder)
        return notes
    except BaseException:
        claim.withdraw()
        raise
