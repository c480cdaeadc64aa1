"""The parts of the features before a cluster starts: checked, priced, and read where they exist already.

Invariant: what a part's model, encoder or file lacks is refused before the run folder is claimed or while it can be
withdrawn.
"""

from clusterucb.checkpoint.model import ModelShape, check_model, describe, load_tokenizer
from clusterucb.config import EmbeddingFeatures, Feature, HiddenFeatures, ProxyFeatures, RunConfig
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.rows import read_rows
from clusterucb.data.target_rows import examples
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ModelError
from clusterucb.features.embedding import check_encoder
from clusterucb.features.hidden import blocks_run
from clusterucb.features.proxy import proxy_gradients, proxy_model, proxy_tokens
from clusterucb.run.brought_features import bring_features
from clusterucb.run.feature_parts import matched_in_use, parts_in_use, save_shares
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tokenisation import Progress, token_store


def check_parts(config: RunConfig, shape: ModelShape) -> dict[str, float]:
    """Check the parts in use without weights; return what a pass of each costs, against the model's, by name."""
    return {part.name: _share(part.features, shape) for part in parts_in_use(config)}


def prepare_parts(config: RunConfig, shares: dict[str, float], pool: TokenStore, folder: RunFolder) -> None:
    """Write what stages of features start from into a claimed folder; what is there is kept."""
    folder.replica.put(save_shares(folder.state, shares))
    for place, part in enumerate(parts_in_use(config)):
        bring_features(part, place == 0, config.pool, pool, folder)


def tokenise_parts(config: RunConfig, folder: RunFolder, progress: Progress) -> tuple[str, ...]:
    """Tokenise the pool for every part with a tokenizer of its own, and the target where it is matched; return what
    the user must hear."""
    notes: list[str] = []
    matched = matched_in_use(config)
    for part in parts_in_use(config):
        if isinstance(part.features, ProxyFeatures) and (own := part.own_tokens()):
            model = proxy_model(part.features)
            positions = describe(model, proxy_gradients(part.features)).max_positions
            encoder = ChatEncoder(load_tokenizer(model), proxy_tokens(part.features, config.tokens, positions))
            store = token_store(read_rows(config.pool), encoder, folder, own, progress)
            notes += [f"{part.name}: {note}" for note in encoder.notes]
            notes.append(f"{part.name}: {len(store.failures)} of {store.num_samples} samples have no tokens with loss")
            if part in matched and (own := part.own_tokens("target")):
                token_store(examples(config), encoder, folder, own, progress)
    return tuple(notes)


def own_tokens(config: RunConfig) -> tuple[str, ...]:
    """Name the stores that `tokenise_parts` writes."""
    pool = (part.own_tokens() for part in parts_in_use(config))
    target = (part.own_tokens("target") for part in matched_in_use(config))
    return tuple(own for own in (*pool, *target) if own is not None)


def _proxy_parameters(features: ProxyFeatures) -> int:
    model, gradients = proxy_model(features), proxy_gradients(features)
    try:
        check_model(model, gradients)
        return describe(model, gradients).num_parameters
    except ModelError as error:
        raise ModelError(f"the proxy of features.kind proxy: {error}") from error


def _share(features: Feature, shape: ModelShape) -> float:
    match features:
        case HiddenFeatures():
            return blocks_run(features.layer, shape.num_layers) / shape.num_layers
        case ProxyFeatures():
            return _proxy_parameters(features) / shape.num_parameters
        case EmbeddingFeatures():
            return check_encoder(features.encoder) / shape.num_parameters
        case _:
            return 1.0
