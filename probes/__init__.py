"""Questions asked of one model; each file is one question, and `sweep` asks them at every loss scale of a ladder."""

from probes.induction import Induction
from probes.kinds import Kinds
from probes.patching import Patching
from probes.probe import Claim, Measure, Probe, Subject
from probes.recall import Recall
from probes.sweep import sweep

__all__ = ["Claim", "Induction", "Kinds", "Measure", "Patching", "Probe", "Recall", "Subject", "sweep"]
