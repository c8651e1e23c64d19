"""How OpenMP's threads wait for each other in the commands; imported before torch, which starts them.

GNU OpenMP's threads spin for milliseconds at the end of every parallel loop, and a training step has thousands of short
ones. Where another process wants a core, each loop then waits for the scheduler: with one busy neighbour, the built-in
CycleGAN's step on two cores went from 0.21 s to between 1.2 and 5 s. Threads that spin a little and then sleep keep 0.21 s
alone and take 0.7 to 1.4 s beside that neighbour. OMP_WAIT_POLICY or GOMP_SPINCOUNT in the environment decide otherwise.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
