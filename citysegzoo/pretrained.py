"""Saving, loading and publishing whole models: weights, what they are of, and what is known."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from citysegzoo.arguments import check_positive
from citysegzoo.data.labels import LABEL_SETS
from citysegzoo.factory import build_model, compose, list_models, model_info, with_weights
from citysegzoo.files import replacing
from citysegzoo.model import SegmentationModel, require_label_for_each_class, require_weights
from citysegzoo.structure import difference
from citysegzoo.weights.card import check_card, was_edited, without_score, write_card
from citysegzoo.weights.checkpoint import (
    build_undrawn,
    load_checkpoint,
    read_header,
    save_checkpoint,
    stored_tensors,
    write_tensors,
)
from citysegzoo.weights.config import ModelConfig
from citysegzoo.weights.hub import (
    HubOptions,
    block_checksums,
    commit_of,
    explained,
    fetch,
    file_sha256,
    split_repository,
)

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_pretrained(
    model: SegmentationModel,
    folder: str | os.PathLike[str],
    *,
    card: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model to a folder: ``model.safetensors``, ``config.json`` and ``README.md``.

    The name of a ``.safetensors`` file gets that one file, which :func:`load` takes as well: it
    holds the configuration too, and is replaced in one go.

    Args:
        model: A model that the zoo built.
        folder: Where to; made if it does not exist. Files of these names are replaced.
        card: What is known of the weights: ``data``, ``score``, ``licence``, ``source``,
            ``citation``, ``command``. None takes the model's own without the score, with a
            warning: whether that is still the weights' is not known. ``card=model.card`` keeps it.
        dtype: Floating-point type to store, such as ``torch.float16``; None keeps theirs.

    Returns:
        The folder or file.

    Raises:
        ValueError: If the model is not as the zoo built it, or its labels are of another number.
        TypeError: If the card has a field that cards do not have.
        OSError: If the folder cannot be written to.
    """
    return _write(model, Path(folder), card, source=str(folder), dtype=dtype)


def load(
    source: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> SegmentationModel:
    """Load a model that :func:`save_pretrained` wrote or :func:`push_to_hub` published.

    Nothing in the files is executed, and nothing in them names another file.

    Args:
        source: A folder, a ``.safetensors`` file, or a repository of the Hugging Face Hub,
            ``"owner/name"`` or ``"owner/name@revision"``.
        num_classes: With another number than that of the weights, all but the classifier is
            loaded, with a warning.
        revision: Branch, tag or commit of the repository; one that is in the cache as a commit
            needs no network.
        token: Access token of the Hub; else the one of ``hf auth login`` or ``HF_TOKEN``.
        cache_dir: Where downloads are kept; else as huggingface_hub has it.
        local_files_only: Whether to use no network; ``HF_HUB_OFFLINE=1`` does the same for all.
        endpoint: Address of another Hub.

    Returns:
        The model, in evaluation mode, with its labels, preprocessing and card.

    Raises:
        FileNotFoundError: If there is no such file, repository or revision.
        ConnectionError: If it is not in the cache and the Hub cannot be reached.
        OSError: If it cannot be fetched or read otherwise.
        ValueError: If a file is damaged, or what it says does not fit the weights.
    """
    if num_classes is not None:
        num_classes = check_positive("num_classes", num_classes)
    path = Path(source)
    if path.is_dir() or path.is_file() or path.suffix == ".safetensors":
        if revision is not None:
            raise ValueError(f"{source} is here and not on the Hub: it has no revision {revision}.")
        if path.is_dir():
            return _read_folder(path, num_classes, source=str(source))
        return _read_file(path, num_classes)
    if str(source) in list_models():
        raise ValueError(
            f"{source} is a model of the zoo, and there is no folder or file of that name; "
            f"create_model({str(source)!r}, pretrained=True) loads its weights."
        )
    repository, at = split_repository(os.fspath(source))
    if at and revision and at != revision:
        raise ValueError(f"{source!r} and revision={revision!r} name two revisions; give one.")
    options = HubOptions(token, cache_dir, local_files_only, endpoint)
    try:
        config_file = fetch(repository, CONFIG, revision=at or revision, options=options)
    except (FileNotFoundError, ConnectionError) as error:
        raise type(error)(f"there is no folder or file {source} here, and {error}") from error
    name = f"{repository}@{at or revision or 'main'}"
    config = ModelConfig.from_json(config_file.read_bytes(), source=f"{CONFIG} of {name}")
    # The weights of the same commit, whatever was published in between.
    commit = commit_of(config_file)
    weights = fetch(
        repository,
        WEIGHTS,
        revision=commit,
        is_right=lambda file: config.sha256 in (None, file_sha256(file)),
        options=options,
    )
    return _build(config, weights, num_classes, source=name)


def push_to_hub(
    model: SegmentationModel,
    repo_id: str,
    *,
    card: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    readme: str | None = None,
    private: bool = False,
    tag: str | None = None,
    message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Publish a model on the Hugging Face Hub, in one commit.

    The repository is made if it does not exist. A page that a person wrote or edited there stays
    as it is, unless another one is given.

    Args:
        model: A model that the zoo built.
        repo_id: ``"owner/name"``.
        card: As for :func:`save_pretrained`.
        dtype: As for :func:`save_pretrained`.
        readme: Text of the repository's page; None has it written of the card.
        private: Whether a repository that is made now is private.
        tag: Name of a tag for the commit, such as ``"v1.0"``; None makes none.
        message: Of the commit.
        token: Access token that may write; else the one of ``hf auth login`` or ``HF_TOKEN``.
        endpoint: Address of another Hub.

    Returns:
        ``"owner/name@commit"``, which :func:`load` takes.

    Raises:
        ValueError: If the model is not as the zoo built it, or the name is none.
        FileExistsError: If the repository has a tag of that name; nothing is published then.
        OSError: If it cannot be published.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if split_repository(repo_id)[1] is not None:
        raise ValueError(f"{repo_id!r} names a revision; publish to 'owner/name'.")
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as folder:
        # All that can be wrong with the model is found before anything is sent.
        _write(model, Path(folder), card, source=repo_id, dtype=dtype)
        if readme is not None:
            Path(folder, CARD).write_text(readme, encoding="utf-8")
        names = [WEIGHTS, CONFIG, CARD]
        with _explaining(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
            tags = [known.name for known in api.list_repo_refs(repo_id).tags] if tag else []
        if tag in tags:
            raise FileExistsError(
                f"{repo_id} has a tag {tag!r} already, and nothing was published; give another "
                "one, or delete that on the Hub."
            )
        with _explaining(repo_id):
            # Asked first: what a download raises also is an EntryNotFoundError where the Hub only
            # cannot answer now, and a card that was not seen must not be replaced.
            if readme is None and api.file_exists(repo_id, CARD):
                there = api.hf_hub_download(repo_id, CARD, local_dir=f"{folder}/there")
                if was_edited(Path(there).read_text(encoding="utf-8")):
                    names.remove(CARD)
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, f"{folder}/{name}") for name in names],
                commit_message=message or f"Publish {model.name or 'a model'} with citysegzoo",
            )
            if tag is not None:
                api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return f"{repo_id}@{commit.oid}"


@contextmanager
def _explaining(repo_id: str) -> Iterator[None]:
    """Raise what the Hub's client raises as one sentence."""
    try:
        yield
    except Exception as error:
        known = explained(error, repo_id, "the model", doing="published")
        if known is None:
            raise
        raise known from error


def _write(
    model: SegmentationModel,
    target: Path,
    card: Mapping[str, Any] | None,
    *,
    source: str,
    dtype: torch.dtype | None = None,
) -> Path:
    from citysegzoo import __version__

    require_weights(model)
    if model.blueprint is None:
        raise ValueError(
            "only a model of create_model, compose or load can be saved whole; save others by "
            "their state_dict."
        )
    require_label_for_each_class(model)
    if card is None:
        card = without_score(model.card)
        if "score" in model.card:
            warnings.warn(
                "the score on the card of the weights is left out, as they may have changed since; "
                "where they have not, save or publish with card=model.card.",
                stacklevel=4,
            )
    config = ModelConfig(
        model=model.blueprint.name,
        options=model.blueprint.options,
        in_channels=model.blueprint.in_channels,
        labels=model.labels,
        preprocessing=model.preprocessing,
        card=check_card(card),
        version=__version__,
        encoder_frozen=model.encoder_frozen,
    )
    # What is written must be what is read: the same text is read, and the model built from it.
    try:
        again = ModelConfig.from_json(config.to_json(), source="the model's configuration")
    except TypeError as error:
        raise ValueError(f"the options of this model cannot be written: {error}.") from error
    changed = difference(model, build_undrawn(lambda: _rebuild(again, model.num_classes)))
    if changed:
        raise ValueError(
            f"the model is no longer what {model.name or 'compose'} builds ({changed}), so that it "
            "could not be loaded; save its state_dict instead."
        )
    readme = write_card(config, source=source)
    weights = target if target.suffix == ".safetensors" else target / WEIGHTS
    weights.parent.mkdir(parents=True, exist_ok=True)
    state, text = model.state_dict(), config.to_json()
    if weights == target:
        save_checkpoint(weights, state, config.card, config=text, dtype=dtype)
        return target
    # All is written before anything is replaced, so that files of two models are never beside each
    # other; the last one that is entered takes its place first.
    tensors = stored_tensors(state, dtype)
    needed = sum(tensor.nbytes for tensor in tensors.values())
    with ExitStack() as files:
        place = {name: files.enter_context(replacing(target / name)) for name in (CONFIG, CARD)}
        place[WEIGHTS] = files.enter_context(replacing(weights, needed=needed))
        write_tensors(place[WEIGHTS], tensors, config.card, text)
        config = replace(
            config,
            sha256=file_sha256(place[WEIGHTS]),
            checksums=block_checksums(place[WEIGHTS]),
        )
        place[CARD].write_text(readme, encoding="utf-8")
        place[CONFIG].write_text(config.to_json(), encoding="utf-8")
    return target


def _read_folder(folder: Path, num_classes: int | None, *, source: str) -> SegmentationModel:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}, so that it is no saved model; save_pretrained writes one."
            )
    config_file = folder / CONFIG
    config = ModelConfig.from_json(config_file.read_bytes(), source=str(config_file))
    return _build(config, folder / WEIGHTS, num_classes, source=source)


def _read_file(file: Path, num_classes: int | None) -> SegmentationModel:
    if file.suffix in (".bin", ".pt", ".pth"):
        raise ValueError(
            f"{file} is no saved model, which is a folder or a .safetensors file; "
            "examples/train.py writes best.safetensors, and `citysegzoo convert` makes a folder of "
            "another library's checkpoint."
        )
    header = read_header(file)
    if "citysegzoo_config" in header:
        config = ModelConfig.from_json(header["citysegzoo_config"], source=f"the header of {file}")
        return _build(config, file, num_classes, source=str(file))
    try:
        card = json.loads(header["citysegzoo"])
        info = model_info(card["model"])
        config = ModelConfig(
            info.name, info.options, 3, LABEL_SETS[card["labels"]], info.preprocessing, card
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} does not say which model it holds; build that model and use "
            "citysegzoo.weights.load_weights, or `citysegzoo convert`."
        ) from error
    return _build(config, file, num_classes, source=str(file))


def _build(
    config: ModelConfig,
    weights: Path,
    num_classes: int | None,
    *,
    source: str,
) -> SegmentationModel:
    """The model; checksums of the file are looked at while it is built."""
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(block_checksums, weights) if config.checksums else None
        try:
            model = with_weights(
                lambda classes: _rebuild(config, classes),
                load_checkpoint(weights),
                labels=config.labels,
                card=config.card,
                num_classes=num_classes,
                source=source,
            )
        except (TypeError, RuntimeError, OverflowError, AttributeError) as error:
            raise ValueError(f"the model of {source} cannot be built: {error}") from error
        finally:
            # Whatever else was found, a damaged file is the reason to name.
            if found is not None and found.result() != config.checksums:
                raise ValueError(
                    f"{weights} is not the file that was saved (its checksum differs): it is "
                    "damaged or was changed; save or fetch it again."
                )
    model.preprocessing = config.preprocessing
    if config.encoder_frozen is not None and config.encoder_frozen != model.encoder_frozen:
        (model.freeze_encoder if config.encoder_frozen else model.unfreeze_encoder)()
    return model


def _rebuild(config: ModelConfig, num_classes: int) -> SegmentationModel:
    if config.model is not None:
        return build_model(
            config.model,
            num_classes=num_classes,
            in_channels=config.in_channels,
            options=config.options,
        )
    parts = ("encoder", "decoder", "encoder_options", "decoder_options", "align_corners")
    if other := [name for name in config.options if name not in parts]:
        # Nothing in a file may have weights fetched.
        raise ValueError(f"a composed model has {', '.join(parts)}, not {other[0]!r:.50}.")
    return compose(num_classes=num_classes, in_channels=config.in_channels, **config.options)
