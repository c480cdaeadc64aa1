"""Rows become tokens in a run folder, once: whoever resumes finds them, unless the rows have changed."""

from collections.abc import Callable

from clusterucb.data.chat import ChatEncoder
from clusterucb.data.tokens import RowSource, TokenStore, pool_fingerprint, tokenise
from clusterucb.errors import RunFolderError
from clusterucb.run.disk import writing
from clusterucb.run.run_folder import RunFolder

Progress = Callable[[str, int], None]
"""Called with what is being read ("pool", "target") and the rows read so far."""


def token_store(
    reader: RowSource, encoder: ChatEncoder, folder: RunFolder, name: str, progress: Progress
) -> TokenStore:
    """Tokenise, or reuse what stands there; raises RunFolderError where the rows have changed since."""
    fingerprint = pool_fingerprint(reader, encoder)
    path = folder.state / name
    whole = path / "meta.json"
    if not whole.exists():
        with writing(path):
            store = tokenise(reader, encoder, path, fingerprint, lambda read: progress(name, read))
        for file in (*(file for file in sorted(path.iterdir()) if file != whole), whole):
            folder.replica.put(file)
        return store
    store = TokenStore.open(path)
    if store.fingerprint != fingerprint:
        raise RunFolderError(
            f"{reader.name} or the tokenizer has changed since this run began: give another folder with --out, or put "
            f"the old ones back"
        )
    return store
