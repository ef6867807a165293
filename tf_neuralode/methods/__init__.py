"""How one step is made: the protocol of a method, and explicit Runge-Kutta as its first member."""

from tf_neuralode.methods.error_norm import NAMES, ErrorNorm, check_batch_ndims, whole
from tf_neuralode.methods.explicit import ExplicitRungeKutta
from tf_neuralode.methods.method import Method, Step
from tf_neuralode.methods.norm import Norm
from tf_neuralode.methods.tableau import ButcherTableau
