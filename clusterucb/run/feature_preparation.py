"""The parts of the features before a cluster starts: checked, priced, and read where they exist already.

Invariant: what a part's model, encoder or file lacks is refused before the run folder is claimed or while it can be
withdrawn.
"""

from clusterucb.checkpoint.model import ModelShape
from clusterucb.config import EmbeddingFeatures, Feature, HiddenFeatures, RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.features.embedding import check_encoder
from clusterucb.features.hidden import blocks_run
from clusterucb.run.brought_features import bring_features
from clusterucb.run.feature_parts import parts_in_use, save_shares
from clusterucb.run.run_folder import RunFolder


def check_parts(config: RunConfig, shape: ModelShape) -> dict[str, float]:
    """Check the parts in use without weights; return what a pass of each costs, against the model's, by name."""
    return {part.name: _share(part.features, shape) for part in parts_in_use(config)}


def prepare_parts(config: RunConfig, shares: dict[str, float], pool: TokenStore, folder: RunFolder) -> None:
    """Write what stages of features start from into a claimed folder; what is there is kept."""
    folder.replica.put(save_shares(folder.state, shares))
    for place, part in enumerate(parts_in_use(config)):
        bring_features(part, place == 0, config.pool, pool, folder)


def _share(features: Feature, shape: ModelShape) -> float:
    match features:
        case HiddenFeatures():
            return blocks_run(features.layer, shape.num_layers) / shape.num_layers
        case EmbeddingFeatures():
            return check_encoder(features.encoder) / shape.num_parameters
        case _:
            return 1.0
