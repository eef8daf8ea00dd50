"""Metrics, trackers, step profiles, rollout samples, live progress and the HTML report of a run.

Everything meets in the run folder: the trainer writes it through :mod:`loggers` and :mod:`rollouts`, the report reads
only those files.
"""
