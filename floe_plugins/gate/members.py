"""Chooses and checks the detectors of a gate."""

from collections.abc import Iterable, Sequence

from floe_plugins.config import is_integer
from floe_plugins.errors import ConfigError, PluginError
from floe_plugins.gate.detector import Detector
from floe_plugins.gate.runner import Member

LONGEST = 1024
"""Characters that a finding may span where its detector does not say (attribute `longest`)."""


def members_of(
    detectors: Sequence[Detector | str] | None, plugins: Iterable[str] = ()
) -> tuple[Member, ...]:
    """Resolve the detectors that a configuration names.

    Parameters
    ----------
    detectors : sequence of Detector or str, or None
        Detectors, or names of registered ones. None stands for all that are registered, save those
        whose attribute `default` is false: these are asked only where they are named.
    plugins : iterable of str, optional
        Dotted paths of plugins to load besides the installed ones.

    Returns
    -------
    tuple of Member
        Sorted by name.

    Raises
    ------
    ConfigError
        If a name is not registered or named twice, there is no detector, or one says nonsense of
        itself.
    PluginError
        If a plugin does not load, or a detector that has a method `load` does not.
    """
    # Imported here because the manager loads the built-in detectors, which live in this package.
    from floe_plugins.manager import plugin_manager

    if isinstance(detectors, str):
        raise ConfigError(f"The gate's detectors are {detectors!r}; accepted is a list of names.")
    registered = plugin_manager(plugins).detectors
    members = []
    defaults = [name for name, each in registered.items() if getattr(each.value, "default", True)]
    for detector in defaults if detectors is None else detectors:
        if not isinstance(detector, str):
            members.append(Member(detector, "caller", _labels(detector, "caller")))
        elif detector in registered:
            found = registered[detector]
            members.append(Member(found.value, found.plugin, _labels(found.value, found.plugin)))
        else:
            raise ConfigError(
                f"There is no detector {detector!r}; registered are "
                f"{', '.join(sorted(registered))}."
            )
    if not members:
        raise ConfigError("The gate has no detectors; accepted is at least one.")
    names = [member.detector.name for member in members]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"The gate names the detector {repeated[0]!r} more than once.")
    for member in members:
        _load(member)
    return tuple(sorted(members, key=lambda member: member.detector.name))


def longest_of(members: Iterable[Member]) -> int:
    """Return how many characters the longest finding of any of the detectors may span.

    Raises
    ------
    ConfigError
        If a detector gives something else than a whole number from 1.
    """
    return max(map(_longest, members))


def _load(member: Member) -> None:
    """Have a detector read its model now: what fails here would keep every text local later."""
    load = getattr(member.detector, "load", None)
    if not callable(load):
        return
    try:
        load()
    except Exception as error:  # the detector is a plugin's, which may raise anything
        raise PluginError(
            f"The detector {member.detector.name!r} of plugin {member.plugin!r} cannot be loaded: "
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error


def _longest(member: Member) -> int:
    longest: int = getattr(member.detector, "longest", LONGEST)
    if not is_integer(longest, least=1):
        raise ConfigError(
            f"The attribute longest of detector {member.detector.name!r} of plugin "
            f"{member.plugin!r} is {longest!r}; accepted are whole numbers from 1."
        )
    return longest


def _labels(detector: Detector, plugin: str) -> frozenset[str]:
    if not isinstance(detector, Detector):
        raise ConfigError(
            f"{type(detector).__name__} is no detector; accepted are a registered name or an "
            "object with name, labels and detect."
        )
    labels = detector.labels
    if (
        isinstance(labels, str)
        or not labels
        or not all(isinstance(label, str) and label.isidentifier() for label in labels)
    ):
        raise ConfigError(
            f"The labels of detector {detector.name!r} of plugin {plugin!r} are {labels!r}; "
            "accepted is a sequence of identifiers, such as ('EMAIL',)."
        )
    return frozenset(labels)
