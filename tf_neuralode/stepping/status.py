"""Why a solve ended: TFP's sign convention, negative for failure."""

SUCCESS = 0
MAX_NUM_STEPS = -1
STEP_SIZE_UNDERFLOW = -2
NOT_FINITE = -3

# One line each: the reason, and what to try.
REASONS = {
    MAX_NUM_STEPS: (
        "max_num_steps was reached. The problem may be stiff (try solver=tfp.math.ode.BDF()), the "
        "tolerances too tight for the dtype, or max_num_steps too small"
    ),
    STEP_SIZE_UNDERFLOW: (
        "the step size fell below what the time's dtype resolves. The solution may have a "
        "singularity, the problem may be stiff (try solver=tfp.math.ode.BDF()), or the tolerances "
        "may be too tight for the dtype (try larger rtol and atol, or float64)"
    ),
    NOT_FINITE: (
        "the state or the dynamics is not finite (NaN or infinity). Look for NaN in the input, a "
        "solution that blows up, or weights that have diverged"
    ),
}
