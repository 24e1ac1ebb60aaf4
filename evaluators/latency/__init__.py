"""How long a network takes in a given runtime, measured beside its uncompressed version, and predicted from a table of layers.

Protocol: fixed threads, one probe at a time per machine and user (a file lock), warm-up, then the network and the baseline run
in turns and each repeat gives one ratio; there are up to four times as many repeats until their median is known to 5 %. On one
CPU thread the clock is that thread's CPU time, which other load on the machine disturbs little; elsewhere it is wall time.
Reported are medians. They are measurements and differ from run to run; a search keeps them in its journal and beside the run, by
plan, and never measures a plan twice.
"""

from evaluators.latency.measure import Latency, latency
from evaluators.latency.probe import LatencyProbe
from evaluators.latency.runtime import Runtime, Target

__all__ = ["Latency", "LatencyProbe", "Runtime", "Target", "latency"]
