"""Every solver of the package, so that the tests for all of them take a new one along."""

from tf_neuralode import solvers

_CLASSES = {name: type(solvers.get(name)) for name in solvers.names()}
ADAPTIVE_NAMES = tuple(
    name for name, method in _CLASSES.items() if issubclass(method, solvers.AdaptiveRungeKutta)
)
ADAPTIVE = [_CLASSES[name] for name in ADAPTIVE_NAMES]
FIXED = [method for method in _CLASSES.values() if method not in ADAPTIVE]
