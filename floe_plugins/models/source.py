"""What a model source is: something that turns `scheme:reference` into a checkpoint folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class ModelSource(Protocol):
    """A source of models, registered with the hook `floe_register_model_sources`.

    Attributes
    ----------
    name : str
        The scheme. A user who writes ``name:reference`` is sent here. Lower-case letters, digits
        and hyphens, unique among all sources.
    """

    @property
    def name(self) -> str:
        """The scheme, e.g. ``embedded``."""
        ...

    def references(self) -> Sequence[str]:
        """List the references on offer, or return an empty sequence if they cannot be listed."""
        ...

    def resolve(self, reference: str, *, progress: bool = True) -> Path:
        """Make the checkpoint available and return its folder.

        Parameters
        ----------
        reference : str
            What follows ``name:``.
        progress : bool, optional
            Whether to show a progress bar on standard error.

        Returns
        -------
        Path
            A complete Hugging Face checkpoint folder: configuration, weights and tokenizer.

        Raises
        ------
        ModelError
            If the reference is unknown or the checkpoint cannot be made; one sentence that says
            what to do.
        """
        ...
