"""How time is stepped: the one loop, the control of the steps, and what is kept of them."""

from tf_neuralode.stepping.adaptive import AdaptiveSteps
from tf_neuralode.stepping.arrays import read, room_for, state_arrays, write
from tf_neuralode.stepping.control import Steps
from tf_neuralode.stepping.diagnostics import Diagnostics
from tf_neuralode.stepping.equal import EqualSteps
from tf_neuralode.stepping.history import AcceptedSteps, StepHistory
from tf_neuralode.stepping.own_rows import OwnRowsBack
from tf_neuralode.stepping.rows import output_recorder, pull_back_rows, repeat_rows
from tf_neuralode.stepping.types import NOTHING_KNOWN, Conditions, Point, Recorder, Slot
