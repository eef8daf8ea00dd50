"""Metrics, trackers, step profiles, rollout samples, live progress and the HTML report of a run.

Everything meets in the run folder: the trainer writes it through :mod:`loggers` and :mod:`rollouts`, the report reads
only those files. The phases of training dynamics (Med-RLVR) are not here; they need whole-run statistics of the
rollouts and stand beside this package's readers.
"""
