"""A PTX interpreter: runs what Triton compiled for an NVIDIA GPU, on numpy, bit by bit.

    program   text -> instructions, labels, parameters
    warp      32 lanes in lockstep: registers, predicates, branches
    block     the warps of a block, in random order; shared memory, barriers
    arithmetic, memory, copies, tensor_core
              what the instructions do
    launch    run a Triton kernel on CPU tensors

Nothing takes the time it takes on a GPU: a copy or a wgmma happens when it is issued (``early``) or when somebody
waits for it (``late``), warps run in a random order, and memory that nobody wrote holds NaN. So a missing wait, barrier
or fence changes the result. Not modelled: time, bank conflicts, the order of writes between blocks, denormal flushing.
"""
