"""What stands behind ``type`` in a config: a name, a name with a scope, or a class."""
import inspect


def type_name(kind) -> str:
    """The bare name of a type, such as 'CocoDataset'; '' where there is none.

    Args:
        kind: A name ('CocoDataset'), a name with its scope ('mmdet.CocoDataset'), or the class, as
            mmengine's Python configs have it.
    """
    if isinstance(kind, str):
        return kind.rsplit('.', 1)[-1]
    return getattr(kind, '__name__', '')


def is_a(kind: type, *names: str) -> bool:
    """Whether a class or one of its bases has one of these names.

    By name, for the toolkit that defines the class may not be installed.
    """
    return any(base.__name__ in names for base in inspect.getmro(kind))


def arguments(kind) -> tuple[set[str], bool]:
    """Names of the arguments that a class or function takes, and whether it takes others, too.

    ``**kwargs`` of a class are taken for those of the next class that it inherits from.
    """
    if not inspect.isclass(kind):
        return _parameters(kind)
    names, others = set(), True
    for base in inspect.getmro(kind):
        if '__init__' in vars(base) and base is not object:
            found, others = _parameters(base.__init__)
            names |= found
            if not others:
                break
    return names - {'self'}, others


def _parameters(function) -> tuple[set[str], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return set(), True
    return ({p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)},
            any(p.kind == p.VAR_KEYWORD for p in parameters))
