"""Builds the views of a text: its possible readings once disguises are undone."""

from floe_plugins.gate.disguises.characters import normalised
from floe_plugins.gate.disguises.encodings import decoded
from floe_plugins.gate.disguises.spelled_out import closed_up, spelled_out
from floe_plugins.gate.disguises.view import View


def views_of(text: str, parent: View | None = None) -> tuple[View, ...]:
    """Return the views of a text; none for ordinary prose.

    Each view is made from the one before it, which undoes disguises within disguises, and only
    where the text has such a disguise.

    Parameters
    ----------
    text : str
        Any text without lone surrogates.
    parent : View, optional
        The view that the text is from.

    Returns
    -------
    tuple of View
        At most four, in time linear in the text, all different from the text and from each other.
    """
    views: list[View] = []

    def last() -> View | None:
        return views[-1] if views else parent

    def current() -> str:
        return views[-1].text if views else text

    plain = normalised(text, parent)
    if plain is not None:
        views.append(plain)
    once = decoded(current(), last())
    if once is not None:
        # Some texts are encoded twice, and encodings hide other disguises.
        twice = decoded(once.text, once) or once
        views.append(normalised(twice.text, twice) or twice)
    for stage in (spelled_out, closed_up):
        view = stage(current(), last())
        if view is not None:
            views.append(view.for_values())
    return tuple(view for view in views if view.text != text)
