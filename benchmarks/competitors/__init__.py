"""One module for each competitor.

Each offers `build(workload, **options)`, which returns an object with

    step()        one training step, finished when it returns: the gradients of y0 and the weights,
                  or of the weights alone where the workload has them alone
    to_numpy(g)   those gradients as NumPy arrays, in the layout of `workloads`
    count()       how often f is evaluated forwards and backwards, a pair

or, where the workload is no training step, whatever a call of `step()` is to do, and some of

    steps_per_call  how many steps a call is
    reset()         makes it as it was, before a round
    to_numpy(x)     what `step()` returns, as what it is compared with
    figures()       what else there is to show, by name

Importing the module imports the framework. `build` makes tensors, so that the framework's own start
is over when the first step traces and compiles.
"""
