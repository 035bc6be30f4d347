"""Questions asked of one model; each file is one question, and `sweep` asks them at every loss scale of a ladder."""

from probes.ablation import Ablation
from probes.attribution import Attribution
from probes.circuit import Circuit
from probes.code import Code
from probes.faithfulness import Faithfulness
from probes.heads import Heads
from probes.induction import Induction
from probes.ioi import IOI
from probes.kinds import Kinds
from probes.lenses import LogitLens
from probes.linear_probe import LinearProbe
from probes.memorisation import Memorisation
from probes.modular_addition import ModularAddition
from probes.ngrams import Ngrams
from probes.patching import Patching
from probes.path_patching import PathPatching
from probes.probe import Claim, Measure, Probe, Subject
from probes.reading import Reading
from probes.recall import Recall
from probes.replacement import Replacement
from probes.request_patching import RequestPatching
from probes.sweep import sweep

__all__ = [
    "IOI",
    "Ablation",
    "Attribution",
    "Circuit",
    "Claim",
    "Code",
    "Faithfulness",
    "Heads",
    "Induction",
    "Kinds",
    "LinearProbe",
    "LogitLens",
    "Measure",
    "Memorisation",
    "ModularAddition",
    "Ngrams",
    "Patching",
    "PathPatching",
    "Probe",
    "Reading",
    "Recall",
    "Replacement",
    "RequestPatching",
    "Subject",
    "sweep",
]
